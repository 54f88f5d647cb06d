"""Several clients on one terminal, and none: who sees what, how large the window is, and whom a slow one holds back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.interfaces import ProgramExit, StreamPosition, WindowSize
from gateway.sessions import terminal_session, viewer
from gateway.sessions.session import SessionState
from gateway.sessions.terminal import DETACH_RESET, window_size
from gateway.sessions.terminal_session import TerminalSession
from tests.unit.test_session import RememberingChannel, Stage

# A program that repeats lines and says the size of its terminal when asked.
ECHO = "stty -echo; while read x; do case $x in size) stty size;; *) echo got $x;; esac; done"
SIZE = WindowSize(80, 24)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    stage = Stage()
    yield stage
    await stage.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "a descriptor was left open"


class Desk:
    """A running terminal session with one client, and more when asked for."""

    def __init__(self, stage: Stage, command: str = ECHO) -> None:
        session, self.first = stage.start(f"echo ready; {command}", pty=True)
        assert isinstance(session, TerminalSession)
        self.stage = stage
        self.session = session
        self.ended = stage.spawn(self._run(), "run")
        self.end: ProgramExit | None = None

    async def _run(self) -> None:
        self.end = await self.session.run()
        self.session.finish(self.end)

    async def ready(self) -> None:
        await self.first.until(lambda: b"ready" in self.first.output)

    async def join(self, size: WindowSize = SIZE, notice: str = "") -> RememberingChannel:
        channel = RememberingChannel()
        await self.session.reattach(channel, size=size, term="xterm", connection_id="c2", notice=notice)
        return channel

    async def printed(self, channel: RememberingChannel, text: bytes) -> None:
        await channel.until(lambda: text in channel.output)


@pytest.fixture
async def desk(stage: Stage) -> Desk:
    desk = Desk(stage)
    await desk.ready()
    return desk


async def test_whoever_comes_later_gets_the_painting_and_then_what_follows_it(desk: Desk) -> None:
    """The painting ends where the recording was when it began: nothing twice, nothing left out."""
    screens = desk.stage.screens
    screens.gate.clear()
    joining = asyncio.create_task(desk.join(notice="hello"))
    await screens.begun.wait()
    desk.first.client.data_received(b"while it is painted\n")
    await desk.printed(desk.first, b"got while it is painted")
    screens.gate.set()
    channel = await joining
    desk.first.client.data_received(b"later\n")
    await desk.printed(channel, b"got later")
    painting, _, rest = channel.output.partition(b">")
    assert painting == b"<%d of 80x24 hello" % screens.painted[0].offset
    assert rest == desk.stage.recorder.recorded[screens.painted[0].offset :]


async def test_an_interrupt_that_is_typed_before_the_screen_is_there_does_not_reach_what_runs(desk: Desk) -> None:
    """The wait for a lost connection invites a Ctrl-C, which ended the job that had been left running."""
    screens = desk.stage.screens
    screens.gate.clear()
    joining = asyncio.create_task(desk.join())
    await screens.begun.wait()
    second = desk.session.viewers[1]
    second.data_received(b"hel\x03lo\x1c\x03one\n")
    second.data_received(b"two\n")
    desk.first.client.data_received(b"three\n")
    await desk.printed(desk.first, b"got one\r\ngot two\r\ngot three")
    screens.gate.set()
    await joining
    second.data_received(b"\x03")
    await desk.ended
    assert desk.end == ProgramExit(signal="INT")


async def test_all_of_them_see_the_same_and_may_type(desk: Desk) -> None:
    second = await desk.join()
    desk.first.client.data_received(b"one\n")
    second.client.data_received(b"two\n")
    for channel in (desk.first, second):
        await desk.printed(channel, b"got two")
        assert b"got one" in channel.output


async def test_the_window_is_the_smallest_and_grows_again(desk: Desk) -> None:
    terminal_fd = desk.session.program.terminal_fd
    assert terminal_fd is not None
    second = await desk.join(WindowSize(132, 20))
    assert window_size(terminal_fd) == WindowSize(80, 20), "the columns of one and the rows of the other"
    second.lose()
    assert window_size(terminal_fd) == WindowSize(80, 24)
    desk.first.lose()
    assert window_size(terminal_fd) == WindowSize(80, 24), "nobody's leaving changes what is left running"
    assert desk.stage.recorder.notes == [WindowSize(80, 20), WindowSize(80, 24)]


async def test_a_window_of_unknown_size_says_nothing(desk: Desk) -> None:
    await desk.join(WindowSize(0, 0))
    assert desk.session.size == WindowSize(80, 24)


async def test_who_sees_the_window_change_without_having_changed_it_is_painted_anew(desk: Desk) -> None:
    """His own terminal did not follow; what he sees would no longer be what the program draws on."""
    await desk.join(WindowSize(60, 20))
    await desk.printed(desk.first, b" of 80x24 again>")


async def test_a_size_that_changes_while_painting_is_painted_again(desk: Desk) -> None:
    desk.stage.screens.gate.clear()
    joining = asyncio.create_task(desk.join(WindowSize(100, 30)))
    await desk.stage.screens.begun.wait()
    desk.first.client.window_changed(WindowSize(50, 10))
    desk.stage.screens.gate.set()
    channel = await joining
    assert len(desk.stage.screens.painted) == 3, "one for the first client, two for the second"
    assert channel.output.count(b" of 100x30 ") == 1


async def test_a_screen_is_painted_for_the_client_s_own_terminal_which_may_be_larger(desk: Desk) -> None:
    """What its user has there must go into the scrollback, to the last row, or the picture lies over it."""
    large = await desk.join(WindowSize(132, 50))
    assert b" of 132x50 " in large.output
    unknown = await desk.join(WindowSize(0, 0))
    assert b" of 80x24 " in unknown.output


async def test_who_has_the_larger_window_is_painted_anew_when_he_changes_it(desk: Desk) -> None:
    """His terminal moved its lines about, and no program heard of it that would draw them anew."""
    large = await desk.join(WindowSize(132, 50))
    large.client.window_changed(WindowSize(132, 60))
    await desk.printed(large, b" of 132x60 ")
    assert desk.session.size == SIZE
    assert desk.stage.screens.painted[2:] == [], "nothing has changed for the other one"


async def test_a_window_that_changes_all_the_time_costs_who_does_not_read_no_memory(desk: Desk) -> None:
    """Each change is a painting for everybody, and a painting may be a megabyte."""
    stopped = await desk.join()
    stopped.is_writing_paused = True
    seen = len(stopped.output)
    for columns in range(40, 80):
        desk.first.client.window_changed(WindowSize(columns, 24))
        await desk.printed(desk.first, b" of %dx24 " % columns)
    assert len(stopped.output) == seen
    stopped.is_writing_paused = False
    stopped.client.resume_writing()
    await stopped.until(lambda: len(stopped.output) > seen)
    assert stopped.output[seen:].count(b" of ") == 1, "the newest screen"


async def test_a_painting_that_fails_costs_its_client_the_session_and_nobody_else(desk: Desk) -> None:
    class Failing:
        async def paint(self, *args: object, **keys: object) -> None:
            raise RuntimeError("cannot start a thread")

    desk.session._screens = Failing()  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        await desk.join()
    assert len(desk.session.viewers) == 1
    desk.first.lose()
    assert desk.stage.detached.is_set()


async def test_the_last_one_to_leave_detaches_and_the_program_goes_on(desk: Desk) -> None:
    second = await desk.join()
    desk.first.lose()
    assert desk.session.state is SessionState.ATTACHED and not desk.stage.detached.is_set()
    second.lose()
    assert desk.session.state is SessionState.DETACHED and desk.stage.detached.is_set()
    third = await desk.join()
    third.client.data_received(b"still here\n")
    await desk.printed(third, b"got still here")


async def test_a_detached_program_is_read_and_recorded_to_its_end(stage: Stage) -> None:
    desk = Desk(stage, "head -c 3000000 /dev/zero; echo done; exit 4")
    await desk.ready()
    desk.first.lose()
    await desk.ended
    assert desk.end == ProgramExit(exit_code=4)
    assert len(stage.recorder.recorded) == 3_000_000 + len(b"ready\r\ndone\r\n")


async def test_a_sole_slow_client_holds_the_program_back(stage: Stage) -> None:
    desk = Desk(stage, "read x; head -c 3000000 /dev/zero; echo done; read x")
    await desk.ready()
    desk.first.is_writing_paused = True
    desk.first.client.data_received(b"go\n")
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(stage.recorder.recorded) < 200_000
    desk.first.is_writing_paused = False
    desk.first.client.resume_writing()
    await desk.printed(desk.first, b"done")
    assert len(desk.first.output) >= 3_000_000


async def test_a_slow_client_beside_a_quick_one_falls_behind_and_gets_the_newest_screen(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal_session, "SLOW_SECONDS", 0.01)
    desk = Desk(stage, "read x; head -c 3000000 /dev/zero; echo done; read x")
    await desk.ready()
    slow = await desk.join()
    slow.is_writing_paused = True
    desk.first.client.data_received(b"go\n")
    await desk.printed(desk.first, b"done")
    assert len(slow.output) < 300_000, "it was sent only what it was ready for"
    seen = len(slow.output)
    slow.is_writing_paused = False
    slow.client.resume_writing()
    await slow.until(lambda: len(slow.output) > seen)
    newest = b"<%d of 80x24 >" % len(stage.recorder.recorded)
    assert slow.output[seen:].startswith(newest), "with what scrolled off meanwhile"


async def test_who_is_behind_when_the_program_ends_sees_how_it_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He was slow, not gone; the last lines are what matters most of a build."""
    monkeypatch.setattr(terminal_session, "SLOW_SECONDS", 0.01)
    desk = Desk(stage, "read x; head -c 3000000 /dev/zero; echo done")
    await desk.ready()
    slow = await desk.join()
    slow.is_writing_paused = True
    desk.first.client.data_received(b"go\n")
    await desk.printed(desk.first, b"done")
    await asyncio.wait_for(asyncio.shield(desk.session.program.exited), 10)
    stage.screens.gate.clear()
    for _ in range(100):
        await asyncio.sleep(0)
    slow.is_writing_paused = False
    slow.client.resume_writing()
    slow.changed.set()
    for _ in range(100):
        await asyncio.sleep(0)
    stage.screens.gate.set()
    await desk.ended
    assert slow.output.endswith(b"<%d of 80x24 >" % len(stage.recorder.recorded))


async def test_who_is_behind_and_goes_keeps_the_program_s_end_from_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal_session, "SLOW_SECONDS", 0.01)
    desk = Desk(stage, "read x; head -c 3000000 /dev/zero; echo done; read x")
    await desk.ready()
    slow = await desk.join()
    slow.is_writing_paused = True
    desk.first.client.data_received(b"go\n")
    await desk.printed(desk.first, b"done")
    desk.first.client.data_received(b"\n")
    desk.first.lose()
    await asyncio.wait_for(asyncio.shield(desk.session.program.exited), 10)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not desk.ended.done(), "a sole client is waited for as long as it lives"
    slow.is_writing_paused = False
    slow.changed.set()
    slow.lose()
    await desk.ended


async def test_who_comes_to_a_program_that_a_stopped_client_holds_back_sets_it_free(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stopped one may answer for years that it is there (a window in copy mode)."""
    monkeypatch.setattr(terminal_session, "SLOW_SECONDS", 0.01)
    desk = Desk(stage, "read x; head -c 3000000 /dev/zero; echo done; read x")
    await desk.ready()
    desk.first.is_writing_paused = True
    desk.first.client.data_received(b"go\n")
    while not desk.session.is_output_paused or desk.session._pump._is_reading:
        await asyncio.sleep(0)
    channel = await desk.join()
    await desk.printed(channel, b"done")


async def test_a_flood_while_painting_holds_the_program_back_and_not_our_memory(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "HELD_MAX_BYTES", 100_000)
    desk = Desk(stage, "read x; head -c 3000000 /dev/zero; echo done; read x")
    await desk.ready()
    desk.first.client.data_received(b"go\n")
    desk.first.lose()
    stage.screens.gate.clear()
    joining = asyncio.create_task(desk.join())
    while not desk.session.is_output_paused:
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    at = len(stage.recorder.recorded)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(stage.recorder.recorded) == at < 3_000_000
    stage.screens.gate.set()
    channel = await joining
    await desk.printed(channel, b"done")


async def test_a_program_s_end_reaches_every_client(stage: Stage) -> None:
    desk = Desk(stage, "read x; exit 7")
    await desk.ready()
    second = await desk.join()
    second.client.data_received(b"\n")
    await desk.ended
    assert desk.first.end == second.end == ProgramExit(exit_code=7)


async def test_a_stopped_client_keeps_the_exit_from_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_session, "LAST_WORDS_SECONDS", 0.05)
    desk = Desk(stage, "read x; exit 7")
    await desk.ready()
    stopped = await desk.join()
    stopped.is_writing_paused = True
    desk.first.client.data_received(b"\n")
    await desk.ended
    assert desk.first.end == ProgramExit(exit_code=7)


async def test_who_is_dismissed_is_told_and_left_with_a_terminal_in_order(desk: Desk) -> None:
    second = await desk.join()
    desk.session.dismiss(desk.session.viewers[1], "somebody else has it")
    assert second.output.endswith(DETACH_RESET + b"homeport: somebody else has it\r\n")
    assert second.end == ProgramExit(exit_code=255), "as a lost connection: scripts connect again"
    desk.first.client.data_received(b"on\n")
    await desk.printed(desk.first, b"got on")
    second.client.data_received(b"not mine any more\n")
    desk.first.client.data_received(b"after\n")
    await desk.printed(desk.first, b"got after")
    assert b"not mine" not in desk.first.output


async def test_a_client_that_is_gone_before_its_painting_is_ready_leaves_nothing_behind(desk: Desk) -> None:
    desk.stage.screens.gate.clear()
    joining = asyncio.create_task(desk.join())
    await desk.stage.screens.begun.wait()
    desk.session.viewers[1].channel_lost()
    desk.stage.screens.gate.set()
    channel = await joining
    assert channel.output == b""
    assert len(desk.session.viewers) == 1


async def test_without_its_screen_a_program_is_made_to_draw_anew(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_session, "REDRAW_SECONDS", 1.0)  # for a program that looks every now and then
    stage.screens.is_exact = False
    # No trap: bash forgets a signal that comes while it runs the trap of the one before.
    desk = Desk(stage, 'while :; do now=$(stty size); [ "$now" = "$old" ] || echo "$now"; old=$now; sleep 0.02; done')
    await desk.ready()
    desk.first.lose()
    channel = await desk.join()
    await desk.printed(channel, b"23 80")
    await desk.printed(channel, b"24 80")


@pytest.mark.parametrize(
    "question",
    [r"\033[c", r"\033[>c", r"\033[6n", r"\033[?6n", r"\033[?2026$p", r"\033[>q", r"\033P+q544e\033\\",
     r"\033]11;?\007", r"\033]4;1;?\007", r"\033[?u", r"\033[18t", r"\005"],
)  # fmt: skip
async def test_a_question_asked_while_nobody_is_there_is_answered_by_the_model(stage: Stage, question: str) -> None:
    desk = Desk(stage, f"stty raw -echo; read -r go; printf '{question}'; head -c 6 >/dev/null; echo answered")
    await desk.ready()
    desk.first.lose()
    os.write(desk.session.program.terminal_fd or -1, b"\n")
    await desk.ended
    assert stage.recorder.recorded.endswith(b"answered\n")
    (since, until), *more = stage.screens.asked
    assert more == []
    assert since < until <= StreamPosition(1, len(stage.recorder.recorded))


async def test_a_question_cut_in_two_is_one(stage: Stage) -> None:
    desk = Desk(
        stage, "stty raw -echo; read -r x; printf '\\033['; read -r x; printf 6n; head -c 6 >/dev/null; echo ok"
    )
    await desk.ready()
    desk.first.lose()
    fd = desk.session.program.terminal_fd or -1
    os.write(fd, b"\n")
    while not stage.recorder.recorded.endswith(b"\x1b["):
        await asyncio.sleep(0.005)
    os.write(fd, b"\n")
    await desk.ended
    assert len(stage.screens.asked) == 1


async def test_a_client_answers_for_itself(stage: Stage) -> None:
    desk = Desk(stage, "printf '\\033[6n'; read -r x")
    await desk.ready()
    await desk.printed(desk.first, b"\x1b[6n")
    assert stage.screens.asked == []


async def test_a_program_that_asks_and_never_reads_gets_no_more_answers(stage: Stage) -> None:
    """It could fill our memory with what it does not read."""
    desk = Desk(stage, "stty raw -echo; read -r x; i=0; while [ $i -lt 3000 ]; do printf '\\033[6n'; i=$((i+1)); done")
    await desk.ready()
    desk.first.lose()
    os.write(desk.session.program.terminal_fd or -1, b"\n")
    await desk.ended
    assert sum(map(len, desk.session._input._queue)) <= 6
