"""What is written down about sessions as they go on: a row at the start, then each change of it.

Only the first matters enough to end a program (no row, no program). A database that fails later is in the log, and
costs nobody a shell.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import Protocol

from gateway.errors import GatewayError
from gateway.events import Event
from gateway.interfaces import EndReason, Inside, ProgramExit, SessionRequest
from gateway.log import log_failure
from gateway.sessions.live import Live


class RowStore(Protocol):
    """What this module asks of the database (gateway/store)."""

    async def open_session(
        self,
        request: SessionRequest,
        *,
        workspace_id: str,
        shell: str,
        shell_pid: int,
        recording: str | None,
        name: str | None,
        working_directory: str | None,
    ) -> None: ...

    async def mark_paused(
        self, session_id: str, *, detached_at: datetime | None = None, job: str | None = None
    ) -> None: ...

    async def mark_active(self, session_id: str, connection_id: str) -> None: ...

    async def note_job(self, session_id: str, job: str | None, ended_at: datetime | None) -> None: ...

    async def end_session(
        self, session_id: str, *, exit: ProgramExit, reason: EndReason, bytes_in: int, bytes_out: int
    ) -> bool: ...


class SessionRows:
    """Never raises, but for `ended`. The store keeps the order of what is asked."""

    def __init__(self, store: RowStore) -> None:
        self._store = store

    async def opened(self, live: Live, request: SessionRequest, inside: Inside) -> bool:
        """The program runs. False: this cannot be recorded, which its client has been told."""
        is_recorded = live.recorder is not None and live.workspace.is_recorded
        try:
            await self._store.open_session(
                request, workspace_id=live.workspace.id, shell=inside.shell.rpartition("/")[2],
                shell_pid=live.session.program.pid, recording=request.session_id if is_recorded else None,
                name=live.name, working_directory=inside.tree,
            )  # fmt: skip
        except Exception as error:
            log_failure(Event.SESSION_FAILED, session_id=request.session_id, reason="no row")
            reason = error.user_message if isinstance(error, GatewayError) else "internal error"
            live.session.say(f"this session cannot be recorded: {reason}")
            return False
        return True

    async def paused(self, live: Live) -> None:
        await _noted(
            live.session_id, self._store.mark_paused(live.session_id, detached_at=live.detached_at, job=live.job)
        )

    async def active(self, session_id: str, connection_id: str) -> None:
        await _noted(session_id, self._store.mark_active(session_id, connection_id))

    async def job(self, session_id: str, job: str | None, ended_at: datetime | None) -> None:
        await _noted(session_id, self._store.note_job(session_id, job, ended_at))

    async def ended(self, live: Live, end: ProgramExit) -> None:
        if live.row is not None:
            await live.row
        session = live.session
        await self._store.end_session(session.session_id, exit=end, reason=live.end_reason,
                                      bytes_in=session.bytes_in, bytes_out=session.bytes_out)  # fmt: skip


async def _noted(session_id: str, write: Awaitable[None]) -> None:
    try:
        await write
    except Exception:
        log_failure(Event.STORE_FAILED, session_id=session_id)
