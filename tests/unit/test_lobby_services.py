"""What the commands act on: programs in keepers, and recordings read without blocking the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.errors import CommandRefused
from gateway.interfaces import EndReason, Keeper, KeptProgram, ProgramExit, SessionRow, Workspace
from gateway.recording.recordings import Archive
from gateway.services import ArchiveShelf, Programs, _in_thread
from tests.support.lobby import session
from tests.support.local_keepers import LocalKeeper


class Kept(LocalKeeper):
    """A keeper that has one program, and remembers what it was told."""

    def __init__(self, workspace_id: str, session_id: str, end: ProgramExit | None = None) -> None:
        super().__init__(workspace_id, {})
        self.kept = KeptProgram(session_id, 7, is_terminal=True, is_owned=False, exit=end)
        self.hung_up: list[str] = []

    async def list(self) -> list[KeptProgram]:
        return [self.kept]

    async def process_count(self) -> int:
        return int(self.kept.exit is None)

    async def hang_up(self, session_id: str, *, then_kill: bool = True) -> None:
        self.hung_up.append(session_id)


@dataclass
class Keepers:
    keepers: list[Kept]

    def running(self) -> list[Keeper]:
        return [keeper for keeper in self.keepers if not keeper.closed.is_set()]

    async def find(self) -> list[Keeper]:
        return self.running()

    async def keeper_for(self, workspace: Workspace) -> Keeper:
        raise AssertionError("nothing here starts a keeper")

    async def close(self) -> None: ...


@dataclass
class Rows:
    rows: list[SessionRow]
    ended: dict[str, EndReason] = field(default_factory=dict)

    async def sessions_left_open(self) -> list[SessionRow]:
        return self.rows

    async def end_session(
        self, session_id: str, *, exit: ProgramExit, reason: EndReason, bytes_in: int, bytes_out: int
    ) -> bool:
        self.ended[session_id] = reason
        return True


@dataclass
class Live:
    killed: list[str] = field(default_factory=list)

    async def kill(self, session_id: str) -> bool:
        self.killed.append(session_id)
        return session_id == "live"


@pytest.fixture
def keepers() -> Keepers:
    return Keepers([Kept("id-my-app", "live"), Kept("id-notes", "kept")])


@pytest.fixture
def rows() -> Rows:
    return Rows([session("live"), session("kept", workspace_name="notes")])


async def test_a_session_of_the_gateway_is_killed_by_the_gateway_alone(keepers: Keepers, rows: Rows):
    await Programs(rows=rows, keepers=keepers, live=Live()).kill("live")
    assert (rows.ended, keepers.keepers[0].hung_up) == ({}, [])


async def test_a_session_that_only_a_keeper_knows_is_hung_up_and_written_down(keepers: Keepers, rows: Rows):
    await Programs(rows=rows, keepers=keepers, live=Live()).kill("kept")
    assert rows.ended == {"kept": EndReason.KILLED}
    assert (keepers.keepers[0].hung_up, keepers.keepers[1].hung_up) == ([], ["kept"])
    assert keepers.keepers[1].forgotten == ["kept"]


async def test_everything_in_one_workspace_ends_and_the_others_go_on(keepers: Keepers, rows: Rows):
    await Programs(rows=rows, keepers=keepers).kill_workspace("id-notes")
    assert rows.ended == {"kept": EndReason.KILLED}
    assert [keeper.workspace_id for keeper in keepers.running()] == ["id-my-app"]


async def test_programs_that_have_ended_are_not_counted(keepers: Keepers, rows: Rows):
    keepers.keepers.append(Kept("id-my-app", "done", ProgramExit(0)))
    assert await Programs(rows=rows, keepers=keepers).programs_in("id-my-app") == 1


async def test_stop_without_a_gateway_ends_programs_only_when_asked(keepers: Keepers, rows: Rows):
    rows.rows.append(session("pipe", columns=None))  # it broke with the gateway: nothing goes on
    programs = Programs(rows=rows, keepers=keepers)
    begun = await programs.stop_without_gateway(False)
    assert (begun.was_running, len(begun.kept), len(keepers.running())) == (False, 2, 2)
    begun = await programs.stop_without_gateway(True)
    assert (begun.ended_count, keepers.running()) == (2, [])
    assert set(rows.ended.values()) == {EndReason.SHUTDOWN}


async def test_an_unknown_recording_is_refused_by_name(tmp_path: Path):
    shelf = ArchiveShelf(Archive(recordings_dir=tmp_path, spools_dir=tmp_path))
    assert await shelf.list() == []
    with pytest.raises(CommandRefused):
        await anext(shelf.asciicast("01932b7e", version=3))


async def test_a_cancelled_reader_waits_for_the_thread_that_reads():
    """Otherwise the file would be closed, and its number given to another, in the middle of a read."""
    reading, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def blocking() -> Iterator[int]:
        reading.set()
        go_on.wait(10)
        done.set()
        yield 1

    async def read() -> None:
        async for _ in _in_thread(blocking()):
            pass

    task = asyncio.create_task(read(), name="reading")
    await asyncio.to_thread(reading.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
