"""From one gateway to the next: one keeper that does not play along costs its own sessions, not the start."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from gateway.errors import KeeperRefused, StoreUnavailable
from gateway.interfaces import EndReason, Keeper, Keepers, KeptProgram, ProgramExit, Recordings, SessionRow, Workspace
from gateway.sessions.handover import Handover, HandoverStore
from gateway.sessions.session import SessionState
from gateway.sessions.sessions import Live, Sessions
from tests.support.lobby import session


class RefusingKeeper:
    """Answers, but not what was asked: a keeper in the hands of a program of its workspace."""

    workspace_id = "id-my-app"

    async def list(self) -> list[KeptProgram]:
        raise KeeperRefused("the workspace's keeper refused: no")


class OneKeeper:
    async def find(self) -> list[Keeper]:
        return [cast(Keeper, RefusingKeeper())]

    def silent(self) -> set[str]:
        return set()


class Rows:
    def __init__(self, row: SessionRow) -> None:
        self.ended: dict[str, EndReason] = {}
        self._row = row

    async def workspace(self, workspace_id: str) -> Workspace:
        return Workspace(id=workspace_id, name="my-app", home=Path("/nonexistent"), tree=Path("/nonexistent"))

    async def sessions_left_open(self) -> list[SessionRow]:
        return [self._row]

    async def end_session(
        self, session_id: str, *, exit: ProgramExit, reason: EndReason, bytes_in: int, bytes_out: int
    ) -> bool:
        self.ended[session_id] = reason
        return True


class NoSessions:
    def get(self, session_id: str) -> None:
        return None

    def live(self) -> list[Live]:
        return []


class NoRecordings:
    async def finish_left_over(self, session_ids_alive: frozenset[str]) -> None:
        assert not session_ids_alive


async def test_a_keeper_that_refuses_to_list_its_programs_does_not_stop_the_start() -> None:
    rows = Rows(session("kept"))
    handover = Handover(
        sessions=cast(Sessions, NoSessions()),
        store=cast(HandoverStore, rows),
        keepers=cast(Keepers, OneKeeper()),
        recordings=cast(Recordings, NoRecordings()),
        drain_seconds=0,
        spawn=lambda coroutine, name: None,  # type: ignore[arg-type, return-value]
    )
    await handover.adopt_all()
    assert rows.ended == {"kept": EndReason.LOST}


class LockedRows(Rows):
    """Somebody else has the database."""

    async def mark_paused(self, session_id: str) -> None:
        raise StoreUnavailable("the database is locked by another program")


class GivingUp(NoSessions):
    def give_up(self, live: Live, text: str) -> None: ...

    async def flush_activity(self) -> None: ...


async def test_a_terminal_is_given_back_also_when_its_row_cannot_be_written() -> None:
    """It stayed ours, and was read by nobody: its program stood still, and nobody could come back to it."""
    released: list[str] = []

    async def release(session_id: str) -> None:
        released.append(session_id)

    async def close(*, is_final: bool) -> None:
        assert not is_final

    live = SimpleNamespace(
        session=SimpleNamespace(session_id="kept", state=SessionState.DETACHED),
        keeper=SimpleNamespace(release=release),
        recorder=SimpleNamespace(close=close),
        terminal=object(),
        row=None,
    )
    handover = Handover(
        sessions=cast(Sessions, GivingUp()),
        store=cast(HandoverStore, LockedRows(session("kept"))),
        keepers=cast(Keepers, OneKeeper()),
        recordings=cast(Recordings, NoRecordings()),
        drain_seconds=0,
        spawn=lambda coroutine, name: None,  # type: ignore[arg-type, return-value]
    )
    await handover.release(cast(Live, live), "")
    assert released == ["kept"]
