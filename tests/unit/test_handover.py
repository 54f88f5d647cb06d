"""From one gateway to the next: one keeper that does not play along costs its own sessions, not the start."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from gateway.errors import KeeperRefused
from gateway.handover import Handover, HandoverStore
from gateway.interfaces import EndReason, Keeper, Keepers, KeptProgram, ProgramExit, Recordings, SessionRow, Workspace
from gateway.sessions import Live, Sessions
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
