"""From one gateway to the next: what runs is adopted at the start, and given back to its keepers at the stop.

Order matters, so that no byte and no exit is lost: a gateway stops reading before it releases, appends the keeper's
backlog before it reads on, and lets the keeper forget an exit only when it is in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Sequence, Set
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from gateway.errors import GatewayError, KeeperGone, KeeperRefused
from gateway.events import Event
from gateway.interfaces import (
    EndReason,
    Keeper,
    Keepers,
    KeptProgram,
    ProgramExit,
    Recordings,
    SessionRow,
    Workspace,
)
from gateway.log import log_event, log_failure, log_warning
from gateway.sessions.live import Live
from gateway.sessions.session import SessionState
from gateway.sessions.sessions import Sessions, Spawn, log_ended, tell_keeper
from gateway.sessions.terminal_session import TerminalSession

# Programs of one keeper: far below the requests it lets wait, enough to keep the database's writer busy meanwhile.
ADOPTED_AT_ONCE = 64
# A keeper that is silent does it when it goes on; others wait for us meanwhile, in a reload even those who come.
RELEASE_SECONDS = 3.0

T = TypeVar("T")


class HandoverStore(Protocol):
    """What this module asks of the database (gateway/store)."""

    async def workspace(self, workspace_id: str) -> Workspace | None: ...

    async def sessions_left_open(self) -> list[SessionRow]: ...

    async def mark_paused(self, session_id: str) -> None: ...

    async def end_session(
        self, session_id: str, *, exit: ProgramExit, reason: EndReason, bytes_in: int, bytes_out: int
    ) -> bool: ...


class Handover:
    """Fills `sessions` at the start and empties it at the stop."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        store: HandoverStore,
        keepers: Keepers,
        recordings: Recordings,
        drain_seconds: float,
        spawn: Spawn,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._keepers = keepers
        self._recordings = recordings
        self._drain_seconds = drain_seconds
        self._spawn = spawn
        self._turns: dict[str, asyncio.Lock] = {}  # by workspace
        self.unreached: Set[str] = frozenset()  # workspaces of which nothing was adopted, since their keeper was silent
        self._is_in_hurry = False  # asked to stop a second time: wait for nobody

    # ------------------------------------------------------------------------------------------------ adopting

    async def adopt_all(self) -> None:
        """At the start: take over what an earlier gateway left: running terminals, exits that were not written down,
        lost rows. What another gateway has that still lives is left to it; so is what a keeper has that lives and does
        not answer (a stopped process, a machine without memory), until it does. May be asked again."""
        rows = {row.id: row for row in await self._store.sessions_left_open()}
        elsewhere: set[str] = set()
        async with asyncio.TaskGroup() as group:
            for keeper in await self._keepers.find():
                group.create_task(self._adopt_from(keeper, rows, elsewhere), name=f"adopt:{keeper.workspace_id}")
        self.unreached = self._keepers.silent()
        elsewhere |= {row.id for row in rows.values() if row.workspace_id in self.unreached}
        for row in rows.values():
            if row.id not in elsewhere and self._sessions.get(row.id) is None:
                await self._end_row(row)
        recorded = {live.session.session_id for live in self._sessions.live() if live.recorder is not None}
        await self._recordings.finish_left_over(frozenset(recorded | elsewhere))

    async def adopt_unowned(self, keepers: Iterable[Keeper]) -> None:
        """Later on: what other gateways have released, or lost. One look at each keeper, and at the rows only if there
        is something to take."""
        for keeper in keepers:
            with contextlib.suppress(KeeperGone, KeeperRefused):
                if any(self._is_free(kept) for kept in await keeper.list()):
                    rows = {row.id: row for row in await self._store.sessions_left_open()}
                    await self._adopt_from(keeper, rows, set())

    def _is_free(self, kept: KeptProgram) -> bool:
        return not kept.is_owned and self._sessions.get(kept.session_id) is None

    async def _adopt_from(self, keeper: Keeper, rows: dict[str, SessionRow], elsewhere: set[str]) -> None:
        """Takes the rows of what was adopted out of `rows`; `elsewhere` gets what other gateways have."""
        workspace = await self._store.workspace(keeper.workspace_id)
        # One at a time: two would both ask for the same programs, and the second be refused.
        async with self._turns.setdefault(keeper.workspace_id, asyncio.Lock()):
            try:
                kept_programs = await keeper.list()
                owned = {kept.session_id for kept in kept_programs if kept.is_owned}
                elsewhere |= owned
                if workspace is None and not owned:  # else another gateway is just making it
                    log_warning(Event.KEEPER_FOUND, workspace_id=keeper.workspace_id, reason="no such workspace")
                    await tell_keeper(keeper.terminate())
                elif workspace is not None:
                    free = [kept for kept in kept_programs if self._is_free(kept)]
                    for few in batched(free, ADOPTED_AT_ONCE):
                        async with asyncio.TaskGroup() as group:
                            for kept in few:
                                group.create_task(self._take(keeper, workspace, kept, rows))
            except (KeeperGone, KeeperRefused) as error:  # then its rows are lost; the others are not
                log_warning(Event.KEEPER_MISBEHAVED, workspace_id=keeper.workspace_id, reason=str(error))

    async def _take(self, keeper: Keeper, workspace: Workspace, kept: KeptProgram, rows: dict[str, SessionRow]) -> None:
        """Adopt one program or let it go; one that cannot be had must not keep the others from us."""
        row = rows.get(kept.session_id)
        try:
            if row is not None and (kept.is_terminal or kept.exit is not None):
                await self._adopt(keeper, workspace, kept, row)
                del rows[kept.session_id]
            else:
                # No row: the crash came between start and row. Pipes: they broke with the old gateway, and nobody
                # can be given their output; what still runs is a background job now, and its row ends as lost.
                if row is None:
                    await keeper.hang_up(kept.session_id)
                else:
                    await self._end_row(row)
                    del rows[kept.session_id]
                await keeper.forget(kept.session_id)
        except KeeperRefused as error:
            log_warning(Event.KEEPER_MISBEHAVED, workspace=workspace.name, reason=str(error))
        except KeeperGone:
            return  # and whoever goes on with it hears so himself
        except Exception:
            log_failure(Event.SESSION_FAILED, session_id=kept.session_id, reason="adoption")

    async def _adopt(self, keeper: Keeper, workspace: Workspace, kept: KeptProgram, row: SessionRow) -> None:
        program = await keeper.adopt(kept.session_id, until_confirmed=True)
        try:
            # Whatever it was: its client is gone with the gateway before us, so it waits for the next.
            live = self._sessions.track(
                workspace, keeper, program, kind=row.kind, owner=row.key_fingerprint or "", name=row.name, is_kept=True
            )
        except Exception:
            program.close()
            await tell_keeper(keeper.release(kept.session_id))
            raise
        live.session.bytes_in, live.session.bytes_out = row.bytes_in, row.bytes_out
        if live.recorder is not None:
            if program.backlog_lost_bytes:
                live.recorder.mark_gap(program.backlog_lost_bytes)
            live.recorder.append(program.backlog)
            keeper.confirm_backlog(kept.session_id)  # killed before this, the next gateway gets it again
            # The row is as old as its last flush; the spool counted to the end.
            live.session.bytes_out = live.recorder.output_bytes
        if isinstance(live.session, TerminalSession):
            live.session.has_nobody_yet()
            live.detached_at = row.detached_at or datetime.now(UTC)
            live.job, live.job_ended_at = row.job, row.job_ended_at
            if not program.backlog:
                live.session.last_activity_at = row.last_activity_at
            self._sessions.keep_in_mind(live)
        await self._mark_paused(kept.session_id)
        self._sessions.jobs.adopted(live)
        log_event(Event.SESSION_ADOPTED, session_id=kept.session_id, workspace=workspace.name, kind=row.kind)
        self._spawn(self._sessions.run(live), f"session:{workspace.name}:{kept.session_id}")

    async def _end_row(self, row: SessionRow) -> None:
        try:
            await self._store.end_session(row.id, exit=ProgramExit(), reason=EndReason.LOST,
                                          bytes_in=row.bytes_in, bytes_out=row.bytes_out)  # fmt: skip
        except GatewayError:  # the next start finds it again
            log_failure(Event.STORE_FAILED, session_id=row.id)

    # ----------------------------------------------------------------------------------------------- releasing

    async def drain(self, words: str) -> None:
        """No new sessions; wait for programs without a terminal, then give the terminals back to their keepers, and say
        `words` there.

        Afterwards the connections may be closed: nobody's shell ends of it.
        """
        self._sessions.is_draining = True
        self._sessions.jobs.close()
        await self._wait_for_pipes()
        await self._release_all(self._sessions.live(), words)

    def hurry(self) -> None:
        """Wait for nobody any more."""
        self._is_in_hurry = True
        self._sessions.changed.set()

    async def wait_ended(self) -> None:
        """Until every session is written down or released."""
        while self._sessions.live():
            self._sessions.changed.clear()
            await self._sessions.changed.wait()

    async def _wait_for_pipes(self) -> None:
        """Transfers and commands get `drain_seconds`, or until somebody is in a hurry."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                while not self._is_in_hurry and any(
                    live.is_attached and not live.session.is_terminal for live in self._sessions.live()
                ):
                    self._sessions.changed.clear()
                    await self._sessions.changed.wait()

    async def release_detached(self) -> None:
        """Give those terminals back that nobody looks at; who does, is served on."""
        waiting = [live for live in self._sessions.live() if live.is_kept and live.terminal and not live.is_attached]
        if waiting:
            await self._release_all(waiting, "")

    async def release(self, live: Live, text: str) -> None:
        """Give one back, whoever looks at it; they are told."""
        await self._release_all([live], text)

    async def _release_all(self, sessions: list[Live], text: str) -> None:
        """All at once: keepers that do not answer cost their deadline once, not once a session."""
        try:
            await self._sessions.flush_activity()
        except Exception:
            log_failure(Event.STORE_FAILED, reason="activity")
        async with asyncio.TaskGroup() as group:
            for live in sessions:
                group.create_task(self._release(live, text), name=f"release:{live.session.session_id}")

    async def _release(self, live: Live, text: str) -> None:
        session = live.session
        if session.state in (SessionState.ENDED, SessionState.RELEASED):
            return  # it is being written down, or on its way already
        is_terminal = live.terminal is not None
        self._sessions.give_up(live, text)
        try:
            if live.row is not None:
                await live.row
            if live.recorder is not None and is_terminal:
                # Spool and row before the terminal: whoever adopts that writes on in both.
                await live.recorder.close(is_final=False)
                await self._mark_paused(session.session_id)
                async with asyncio.timeout(RELEASE_SECONDS):
                    await live.keeper.release(session.session_id)
            else:  # on pipes, or without its terminal: nobody can be given its output any more
                live.end_reason = EndReason.SHUTDOWN
                if live.recorder is not None:
                    await live.recorder.close(is_final=True)
                log_ended(live, ProgramExit())
                await self._store.end_session(session.session_id, exit=ProgramExit(), reason=live.end_reason,
                                              bytes_in=session.bytes_in, bytes_out=session.bytes_out)  # fmt: skip
                await live.keeper.forget(session.session_id)
        except (KeeperGone, KeeperRefused, TimeoutError) as error:
            reason = str(error) or "no answer"
            log_warning(Event.KEEPER_MISBEHAVED, session_id=session.session_id, reason=reason)
        except Exception:
            log_failure(Event.SESSION_FAILED, session_id=session.session_id, reason="release")

    async def _mark_paused(self, session_id: str) -> None:
        """A row that cannot be written costs nobody a shell: one that we do not read must not stay ours."""
        try:
            await self._store.mark_paused(session_id)
        except Exception:
            log_failure(Event.STORE_FAILED, session_id=session_id)


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
