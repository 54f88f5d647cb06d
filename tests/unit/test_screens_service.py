"""Screens by a process of their own: exact from any cut, and an attach that never waits, whatever becomes of it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.events import Event
from gateway.interfaces import StreamPosition, WindowSize
from gateway.log import subscribe
from gateway.recording.recorder import SpoolRecorder
from gateway.recording.recordings import FileRecordings
from gateway.recording.screen import keyframe, model, plain, process, screens
from gateway.recording.screen.keyframe import Keyframe
from gateway.recording.screen.screens import ScreenService
from gateway.recording.spool import SEGMENT_COUNT
from tests.support.recording_rig import SEGMENT_BYTES, SESSION_ID, SIZE, recorder_of, recordings_in
from tests.support.screens_rig import (
    DEADLINE_SECONDS,
    followed,
    painted,
    painted_exactly,
    painting_of,
    running_process,
    screens_over,
    terminal_output,
)

pytestmark = pytest.mark.skipif(not model.is_available(), reason="the terminal library is not installed")

ROOT = Path(__file__).parents[2]
SECOND_SESSION_ID = SESSION_ID[:-1] + "8"


@pytest.fixture
async def recordings(tmp_path: Path) -> AsyncIterator[FileRecordings]:
    recordings = recordings_in(tmp_path)
    yield recordings
    await recordings.close()


@pytest.fixture
async def service(recordings: FileRecordings) -> AsyncIterator[ScreenService]:
    async with screens_over(recordings) as service:
        yield service


@pytest.fixture
def logged() -> Iterator[list[tuple[Event, dict[str, object]]]]:
    seen: list[tuple[Event, dict[str, object]]] = []
    unsubscribe = subscribe(lambda event, keys: seen.append((event, keys)))
    yield seen
    unsubscribe()


async def idle(recorder: SpoolRecorder) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        await recorder._job_done()


async def record(recorder: SpoolRecorder, output: bytes, *, step: int = 1500) -> None:
    for at in range(0, len(output), step):
        recorder.append(output[at : at + step])
        if recorder._in_hand > SEGMENT_COUNT // 2:
            await idle(recorder)


# ----------------------------------------------------------------------------------------------------- exactness


async def test_the_painting_is_that_of_a_terminal_that_saw_everything(
    recordings: FileRecordings, service: ScreenService
) -> None:
    """Most of it lies in the recording file by then, the rest in the spool."""
    recorder, output = recorder_of(recordings), terminal_output(1, 20 * SEGMENT_BYTES)
    await record(recorder, output)
    assert await painted_exactly(service, recorder) == painting_of(output)
    await recorder.close(is_final=True)


@pytest.mark.slow
async def test_painted_at_two_hundred_cuts_it_is_never_wrong(
    recordings: FileRecordings, service: ScreenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cuts fall into characters and sequences; laps end in between; every twentieth cut the process starts anew."""
    monkeypatch.setattr(screens, "_RESTART_SECONDS_MAX", 0.0)
    recorder, output, at = recorder_of(recordings), terminal_output(2, 12 * SEGMENT_BYTES), 0
    size = WindowSize(40, 10)
    recorder.mark_resize(size)
    whole = model.Screen(SIZE.columns, SIZE.rows, history_lines=100)
    whole.resize(size.columns, size.rows)
    for number, cut in enumerate(sorted(random.Random(3).sample(range(1, len(output)), 200))):
        await record(recorder, output[at:cut])
        whole.feed(output[at:cut])
        at = cut
        if number % 20 == 19:
            os.kill((await running_process(service)).pid, signal.SIGKILL)
        if number % 3 == 0:
            service.follow(SESSION_ID, recorder.position)
        assert await painted_exactly(service, recorder, size=size) == screens_paint(whole), number
    whole.close()
    await recorder.close(is_final=True)


def screens_paint(screen: model.Screen) -> bytes:
    from gateway.recording.screen.painter import paint

    return paint(screen)


async def test_the_client_s_size_counts_from_where_it_was_recorded(
    recordings: FileRecordings, service: ScreenService
) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"x" * 100)
    recorder.mark_resize(WindowSize(60, 10))
    recorder.append(b"\x1b[999;999Hcorner")
    screen = model.Screen(SIZE.columns, SIZE.rows, history_lines=100)
    screen.feed(b"x" * 100)
    screen.resize(60, 10)
    screen.feed(b"\x1b[999;999Hcorner")
    assert await painted_exactly(service, recorder, size=WindowSize(60, 10)) == screens_paint(screen)
    screen.close()
    await recorder.close(is_final=True)


async def test_a_session_without_a_spool_on_disk_is_painted_too(tmp_path: Path) -> None:
    recordings = recordings_in(tmp_path, enabled=False)
    (tmp_path / "spools").rmdir()
    async with screens_over(recordings) as service:
        recorder, output = recorder_of(recordings), terminal_output(4, SEGMENT_BYTES // 2)
        await record(recorder, output)
        assert await painted_exactly(service, recorder) == painting_of(output)
        await recorder.close(is_final=True)
    await recordings.close()


async def test_an_unrecorded_session_stays_exact_because_each_lap_is_followed(tmp_path: Path) -> None:
    recordings = recordings_in(tmp_path, enabled=False)
    async with screens_over(recordings) as service:
        recorder, output = recorder_of(recordings), terminal_output(5, 12 * SEGMENT_BYTES)
        for at in range(0, len(output), SEGMENT_BYTES):
            await record(recorder, output[at : at + SEGMENT_BYTES])
            await followed(service, recordings)
        assert await painted_exactly(service, recorder) == painting_of(output)
        await recorder.close(is_final=True)
    await recordings.close()


# ----------------------------------------------------------------------------------------------------- keyframes


async def test_a_keyframe_saves_the_way_from_the_beginning(recordings: FileRecordings) -> None:
    """The recording file goes away behind it; a new process is exact all the same."""
    recorder, output = recorder_of(recordings), terminal_output(6, 20 * SEGMENT_BYTES)
    async with screens_over(recordings) as service:
        await record(recorder, output)
        await idle(recorder)
        service.follow(SESSION_ID, recorder.position)
        assert (await followed(service, recordings)).exists()
    recordings.archive.recording_path(SESSION_ID).unlink()
    recorder.append(b"more")
    async with screens_over(recordings) as service:
        assert await painted_exactly(service, recorder) == painting_of(output + b"more")
    await recorder.close(is_final=True)


@pytest.mark.parametrize("what", ["another version", "torn", "empty", "ahead of us", "of another lap"])
async def test_a_keyframe_that_is_no_good_is_made_again_from_the_recording(
    recordings: FileRecordings, what: str
) -> None:
    recorder, output = recorder_of(recordings), terminal_output(7, 5 * SEGMENT_BYTES)
    await record(recorder, output)
    wrong = model.Screen(80, 24, history_lines=10)
    wrong.feed(b"this is not the screen")
    snapshot = wrong.snapshot()
    wrong.close()
    assert snapshot is not None
    path = recordings.archive.keyframe_path(SESSION_ID)
    position = StreamPosition(99, 5) if what == "ahead of us" else StreamPosition(recorder.position.lap, 0)
    content = keyframe.to_bytes(
        Keyframe(position, 0, False, snapshot), stamp="another" if what == "another version" else model.VERSION
    )
    keyframe.store(path, {"torn": content[:-5], "empty": b"", "of another lap": content[:40]}.get(what, content))
    async with screens_over(recordings) as service:
        assert await painted_exactly(service, recorder) == painting_of(output)
        service.follow(SESSION_ID, recorder.position)
        await followed(service, recordings)
        assert keyframe.from_bytes(path.read_bytes(), stamp=model.VERSION).position == recorder.position
    await recorder.close(is_final=True)


async def test_a_snapshot_the_library_refuses_is_made_again(recordings: FileRecordings) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"hello")
    content = keyframe.to_bytes(Keyframe(recorder.position, 0, False, b"rubbish" * 50), stamp=model.VERSION)
    keyframe.store(recordings.archive.keyframe_path(SESSION_ID), content)
    async with screens_over(recordings) as service:
        assert await painted_exactly(service, recorder) == painting_of(b"hello")
    await recorder.close(is_final=True)


async def test_each_full_lap_is_followed_by_itself_and_keyframes_come_now_and_then(
    recordings: FileRecordings, service: ScreenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[bytes] = []
    monkeypatch.setattr(keyframe, "store", lambda path, content: stored.append(content))
    recorder = recorder_of(recordings)
    for _ in range(3 * screens.KEYFRAME_LAPS):
        lap = recorder.position.lap
        while recorder.position.lap == lap:
            recorder.append(b"x" * 1000)
        await followed(service, recordings)
    laps = [keyframe.from_bytes(content, stamp=model.VERSION).position.lap for content in stored]
    assert laps == [2 + screens.KEYFRAME_LAPS * number for number in range(3)]
    await recorder.close(is_final=True)


async def test_a_session_that_ended_leaves_no_keyframe(recordings: FileRecordings, service: ScreenService) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"hello")
    service.follow(SESSION_ID, recorder.position)
    path = await followed(service, recordings)
    assert path.exists()
    service.forget(SESSION_ID)
    assert not path.exists()
    service.follow(SESSION_ID, recorder.position)
    service.forget(SESSION_ID)  # while it is being made
    await followed(service, recordings)
    assert not path.exists()
    await recorder.close(is_final=True)


async def test_keyframes_of_sessions_that_ended_while_no_gateway_ran_are_removed(recordings: FileRecordings) -> None:
    alive = recorder_of(recordings, SECOND_SESSION_ID)
    for session_id in (SESSION_ID, SECOND_SESSION_ID):
        keyframe.store(recordings.archive.keyframe_path(session_id), b"x")
    half_made = recordings.archive.keyframe_path(SESSION_ID).with_name(f"{SESSION_ID}.screen.new")
    half_made.touch()
    await recordings.finish_left_over(frozenset({SECOND_SESSION_ID}))
    assert not recordings.archive.keyframe_path(SESSION_ID).exists()
    assert not half_made.exists()
    assert recordings.archive.keyframe_path(SECOND_SESSION_ID).exists()
    await alive.close(is_final=True)


async def test_a_spool_that_begins_anew_has_no_keyframe_of_the_lost_one(recordings: FileRecordings) -> None:
    """It gives the same positions to other bytes."""
    recorder = recorder_of(recordings)
    recorder.append(b"x" * 100)
    await recorder.close(is_final=False)
    path = recordings.archive.keyframe_path(SESSION_ID)
    keyframe.store(path, b"of the lost spool")
    recordings.archive.spool_path(SESSION_ID).write_bytes(b"damaged" * 1000)
    recorder = recorder_of(recordings)
    assert not path.exists()
    await recorder.close(is_final=True)


# --------------------------------------------------------------------------------------------------- gaps, answers


async def test_after_a_gap_the_painting_says_that_it_may_be_wrong_once(
    recordings: FileRecordings, service: ScreenService
) -> None:
    """Then the program draws itself, and client and model see the same again."""
    recorder = recorder_of(recordings)
    recorder.append(b"\x1b]0;a title that never en")
    recorder.mark_gap(4095)
    recorder.append(b"after")
    await running_of(service, recorder)
    painting = await painted(service, recorder)
    assert not painting.is_exact
    assert b"after" in painting.data
    assert (await painted(service, recorder)).is_exact
    await recorder.close(is_final=True)


async def test_a_gap_is_remembered_by_the_keyframe(recordings: FileRecordings) -> None:
    recorder = recorder_of(recordings)
    recorder.mark_gap(1)
    async with screens_over(recordings) as service:
        service.follow(SESSION_ID, recorder.position)
        await followed(service, recordings)
    async with screens_over(recordings) as service:
        await running_of(service, recorder, SECOND_SESSION_ID)
        assert not (await painted(service, recorder)).is_exact
    await recorder.close(is_final=True)


async def running_of(service: ScreenService, recorder: SpoolRecorder, session_id: str = SECOND_SESSION_ID) -> None:
    """Have the process up without asking for the session that is tested."""
    service.follow(session_id, recorder.position)
    await running_process(service)


async def test_questions_are_answered_from_the_part_that_was_asked_for(
    recordings: FileRecordings, service: ScreenService
) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"abc\x1b[6n")  # a client was attached: it has answered
    detached = recorder.position
    recorder.append(b"def\x1b[6n")
    asked = recorder.position
    recorder.append(b"ghi\x1b[6n")
    await running_of(service, recorder)
    assert await service.answers(SESSION_ID, detached, asked) == b"\x1b[1;7R"
    assert await service.answers(SESSION_ID, asked, recorder.position) == b"\x1b[1;10R"
    assert await service.answers(SESSION_ID, asked, recorder.position) == b"\x1b[1;10R", "asking does not use it up"
    assert await service.answers(SESSION_ID, recorder.position, recorder.position) == b""
    await recorder.close(is_final=True)


async def test_a_question_that_was_followed_meanwhile_is_answered_still(
    recordings: FileRecordings, service: ScreenService
) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"abc\x1b[6n")
    detached = recorder.position
    service.follow(SESSION_ID, detached)
    await followed(service, recordings)
    recorder.append(b"def\x1b[6n")
    asked = recorder.position
    recorder.append(b"more")
    service.follow(SESSION_ID, recorder.position)
    await followed(service, recordings)
    assert await service.answers(SESSION_ID, detached, asked) == b"\x1b[1;7R"
    await recorder.close(is_final=True)


# --------------------------------------------------------------------------------------- when the process is no help


async def assert_fallback(service: ScreenService, recorder: SpoolRecorder, text: bytes) -> None:
    started = time.monotonic()
    painting = await painted(service, recorder)
    assert time.monotonic() - started < 1.0
    assert not painting.is_exact
    assert plain.APOLOGY.encode() in painting.data
    assert painting.data.endswith(text)


async def test_killed_during_a_painting_the_client_gets_lines_at_once_and_the_next_one_its_screen(
    recordings: FileRecordings, service: ScreenService, logged: list[tuple[Event, dict[str, object]]]
) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"one\r\n\x1b[31mtwo\x1b[m")
    await painted_exactly(service, recorder)
    logged.clear()
    child = await running_process(service)
    os.kill(child.pid, signal.SIGSTOP)
    asyncio.get_running_loop().call_later(0.1, os.kill, child.pid, signal.SIGKILL)
    await assert_fallback(service, recorder, b"one\r\ntwo")
    assert await painted_exactly(service, recorder) == painting_of(b"one\r\n\x1b[31mtwo\x1b[m")
    reasons = [keys["reason"] for event, keys in logged if event == Event.SCREEN_APPROXIMATED]
    assert reasons[0] == "the screens process ended: it ended"
    assert [event for event, _ in logged].count(Event.SCREENS_STARTED) == 1
    await recorder.close(is_final=True)


@pytest.mark.slow
async def test_being_killed_from_outside_is_held_against_no_session(
    recordings: FileRecordings, service: ScreenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "_RESTART_SECONDS_MAX", 0.0)
    recorder = recorder_of(recordings)
    recorder.append(b"hello")
    for _ in range(screens.STRIKES_MAX + 1):
        await painted_exactly(service, recorder)
        child = await running_process(service)
        os.kill(child.pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.1, os.kill, child.pid, signal.SIGKILL)
        await assert_fallback(service, recorder, b"hello")
    assert await painted_exactly(service, recorder) == painting_of(b"hello")
    await recorder.close(is_final=True)


@pytest.mark.slow
async def test_stopped_it_is_replaced(
    recordings: FileRecordings, service: ScreenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "SILENCE_SECONDS_MAX", 1.0)
    recorder = recorder_of(recordings)
    recorder.append(b"hello")
    await painted_exactly(service, recorder)
    child = await running_process(service)
    os.kill(child.pid, signal.SIGSTOP)
    await assert_fallback(service, recorder, b"hello")
    async with asyncio.timeout(DEADLINE_SECONDS):
        await child.ended.wait()
    assert child.end_reason == "it hangs"
    assert await painted_exactly(service, recorder) == painting_of(b"hello")
    await recorder.close(is_final=True)


async def test_without_the_library_there_are_lines_and_no_second_try(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch, logged: list[tuple[Event, dict[str, object]]]
) -> None:
    monkeypatch.setattr(process, "_PROGRAM", ("-I", "-c", "import sys; sys.exit(69)"))
    recorder = recorder_of(recordings)
    recorder.append(b"hello")
    async with screens_over(recordings) as service:
        for _ in range(3):
            await assert_fallback(service, recorder, b"hello")
            service.follow(SESSION_ID, recorder.position)
        assert await service.answers(SESSION_ID, StreamPosition(1, 0), recorder.position) == b""
    assert [event for event, _ in logged].count(Event.SCREENS_STARTED) == 1
    await recorder.close(is_final=True)


async def test_one_that_always_dies_is_started_ever_more_rarely(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch, logged: list[tuple[Event, dict[str, object]]]
) -> None:
    monkeypatch.setattr(process, "_PROGRAM", ("-I", "-c", "import sys; sys.exit(1)"))
    recorder = recorder_of(recordings)
    recorder.append(b"hello")
    async with screens_over(recordings) as service:
        for _ in range(4):
            await assert_fallback(service, recorder, b"hello")
    assert [event for event, _ in logged].count(Event.SCREENS_STARTED) <= 4
    await recorder.close(is_final=True)


# What the library would do with bytes it cannot take: end the process, or never come back.
POISON = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from gateway.recording.screen import model, worker
worker.STEP_CPU_SECONDS_MAX = 0.5
feed = model.Screen.feed
def poisoned(self, data):
    if b"CRASH" in data:
        worker.os._exit(1)
    while b"HANG" in data:
        pass
    feed(self, data)
model.Screen.feed = poisoned
worker.main()
"""


@pytest.mark.parametrize("poison", [b"CRASH", b"HANG"])
@pytest.mark.slow
async def test_a_session_that_crashes_the_process_twice_is_not_shown_to_it_again(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch, poison: bytes,
    logged: list[tuple[Event, dict[str, object]]],
) -> None:  # fmt: skip
    monkeypatch.setattr(process, "_PROGRAM", ("-I", "-c", POISON))
    monkeypatch.setattr(screens, "_RESTART_SECONDS", 0.1)
    monkeypatch.setattr(screens, "PAINT_SECONDS_MAX", 0.2)  # the client has gone on when the process ends
    poisoned, healthy = recorder_of(recordings), recorder_of(recordings, SECOND_SESSION_ID)
    poisoned.append(poison)
    healthy.append(b"hello")
    async with screens_over(recordings) as service:
        service.follow(SECOND_SESSION_ID, healthy.position)
        for _ in range(screens.STRIKES_MAX):
            child = await running_process(service)
            await followed(service, recordings, SECOND_SESSION_ID)
            await assert_fallback(service, poisoned, poison)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await child.ended.wait()
        child = await running_process(service)
        await assert_fallback(service, poisoned, poison)
        service.follow(SESSION_ID, poisoned.position)
        assert await painted_exactly(service, healthy, session_id=SECOND_SESSION_ID) == painting_of(b"hello")
        assert not child.ended.is_set()
    blamed = [keys["session_id"] for event, keys in logged if event == Event.SCREENS_ENDED]
    assert blamed == [SESSION_ID] * screens.STRIKES_MAX
    await poisoned.close(is_final=True)
    await healthy.close(is_final=True)


LIAR = """
import array, os, socket, struct, sys
connection = socket.socket(fileno=int(sys.argv[1]))
def send(data, *fds):
    connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
def reply(number, outcome, data_bytes, keyframe_bytes):
    return struct.pack("<QBII", number, outcome, data_bytes, keyframe_bytes)
pipe = os.pipe()[0]
memory = os.memfd_create("x")
os.write(memory, b"short")
send(reply(0, 0, 0, 0) + b"ready")
{lie}
connection.recv(100000)
connection.recv(100000)
"""


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("send(b'x')", "a message of 1 bytes"),
        ("send(b'x' * 900)", "a message of 900 bytes"),
        ("send(b'x' * 5000)", "a message larger than may be"),
        ("send(reply(1, 9, 0, 0))", "outcome 9"),
        ("send(reply(1, 0, 1 << 30, 0), memory)", "1073741824 and 0 bytes"),
        ("send(reply(1, 0, 5, 0))", "0 descriptors"),
        ("send(reply(1, 0, 5, 0), memory, memory)", "2 descriptors"),
        ("send(reply(1, 0, 5, 0), *[memory] * 50)", "a message larger than may be"),
        ("send(reply(1, 0, 5, 0), pipe)", "a descriptor that is no file"),
        ("send(reply(1, 0, 50, 0), memory)", "5 bytes instead of 50"),
    ],
)
async def test_a_process_that_lies_is_ended_and_nothing_of_it_stays(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch, lie: str, words: str
) -> None:
    monkeypatch.setattr(process, "_PROGRAM", ("-I", "-c", LIAR.format(lie=lie)))
    descriptors = len(os.listdir("/proc/self/fd"))
    recorder = recorder_of(recordings)
    recorder.append(b"hello")
    held = len(os.listdir("/proc/self/fd"))
    said: list[str] = []
    unsubscribe = subscribe(
        lambda event, keys: said.append(str(keys["reason"])) if event == Event.SCREEN_APPROXIMATED else None
    )
    async with screens_over(recordings) as service:
        await assert_fallback(service, recorder, b"hello")
    unsubscribe()
    assert words in said[0]
    assert len(os.listdir("/proc/self/fd")) == held >= descriptors
    await recorder.close(is_final=True)


async def test_a_reply_nobody_waits_for_is_thrown_away(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_PROGRAM", ("-I", "-c", LIAR.format(lie="send(reply(77, 0, 5, 0), memory)")))
    recorder = recorder_of(recordings)
    recorder.append(b"hello")
    held = len(os.listdir("/proc/self/fd"))
    async with screens_over(recordings) as service:
        await assert_fallback(service, recorder, b"hello")
        assert not (await running_process(service)).ended.is_set()
    assert len(os.listdir("/proc/self/fd")) == held
    await recorder.close(is_final=True)


async def test_a_recording_that_is_gone_costs_nobody_else_a_screen(
    recordings: FileRecordings, service: ScreenService
) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"hello")
    painting = await service.paint("no-such-session", StreamPosition(1, 50), size=SIZE, term="xterm")
    assert not painting.is_exact
    assert (await service.paint("../no id", StreamPosition(1, 50), size=SIZE, term="xterm")).data
    assert await painted_exactly(service, recorder) == painting_of(b"hello")
    await recorder.close(is_final=True)


async def test_a_dumb_terminal_gets_text(recordings: FileRecordings, service: ScreenService) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"\x1b[31mhello")
    painting = await service.paint(SESSION_ID, recorder.position, size=SIZE, term="dumb", notice="back in main")
    assert (painting.data, painting.is_exact) == (b"\r\nback in main\r\nhello", False)
    await recorder.close(is_final=True)


# ------------------------------------------------------------------------------------------------------ side by side


async def test_many_that_come_at_once_all_get_their_screens(
    recordings: FileRecordings, service: ScreenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together longer than one may take; each has its own time once it is its turn."""
    monkeypatch.setattr(screens, "QUEUE_SECONDS_MAX", 15.0)  # this machine may be busy
    recorders = {f"session-{number}": recorder_of(recordings, f"session-{number}") for number in range(40)}
    output = terminal_output(9, 60_000)
    for recorder in recorders.values():
        await record(recorder, output)
    await running_of(service, recorder_of(recordings))
    paintings = await asyncio.gather(
        *(painted(service, recorder, session_id=session_id) for session_id, recorder in recorders.items())
    )
    expected = painting_of(output)
    assert [painting.data == expected for painting in paintings] == [True] * len(recorders)
    for recorder in recorders.values():
        await recorder.close(is_final=True)


async def test_many_that_come_while_it_hangs_all_get_lines_within_the_second(
    recordings: FileRecordings, service: ScreenService
) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"hello")
    await painted_exactly(service, recorder)
    child = await running_process(service)
    os.kill(child.pid, signal.SIGSTOP)
    await asyncio.gather(*(assert_fallback(service, recorder, b"hello") for _ in range(20)))
    os.kill(child.pid, signal.SIGCONT)
    assert await painted_exactly(service, recorder) == painting_of(b"hello")
    await recorder.close(is_final=True)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_the_long_way_of_one_session_keeps_no_other_waiting(tmp_path: Path) -> None:
    """50 MB to catch up with, which takes seconds, and meanwhile another is painted again and again."""
    recordings = recordings_in(tmp_path, segment_bytes=256 * 1024)
    busy, quick = recorder_of(recordings), recorder_of(recordings, SECOND_SESSION_ID)
    output = terminal_output(8, 200_000)
    for _ in range(250):
        await record(busy, output, step=50_000)
        await idle(busy)
    quick.append(output[:5000])
    async with screens_over(recordings) as service:
        expected = await painted_exactly(service, quick, session_id=SECOND_SESSION_ID)
        alone_ms = await best_paint_ms(service, quick, expected, count=10)
        service.follow(SESSION_ID, busy.position)
        await asyncio.sleep(0)
        beside: list[float] = []
        while service._following and len(beside) < 50:
            beside.append(await best_paint_ms(service, quick, expected, count=1))
        print(f"\npainted in {alone_ms:.0f} ms alone, in {sorted(beside)[len(beside) // 2]:.0f} to {max(beside):.0f} ms"
              f" beside a catch-up ({len(beside)} times)")  # fmt: skip
        assert len(beside) > 3, "the catch-up was over before anything was measured"
        assert sorted(beside)[len(beside) // 2] < alone_ms + 150
        async with asyncio.timeout(60):
            await followed(service, recordings)
    await busy.close(is_final=True)
    await quick.close(is_final=True)
    await recordings.close()


async def best_paint_ms(service: ScreenService, recorder: SpoolRecorder, expected: bytes, *, count: int) -> float:
    best = float("inf")
    for _ in range(count):
        started = time.monotonic()
        assert (await painted(service, recorder, session_id=SECOND_SESSION_ID)).data == expected
        best = min(best, (time.monotonic() - started) * 1000)
    return best


@pytest.mark.slow
async def test_hundreds_of_sessions_are_followed_in_bounded_memory(recordings: FileRecordings) -> None:
    count = 300
    recorders = [recorder_of(recordings, f"session-{number}") for number in range(count)]
    for number, recorder in enumerate(recorders):
        recorder.append(b"session %d\r\n" % number + terminal_output(number, 12_000))
    async with screens_over(recordings, history_lines=1000) as service:
        service.follow("session-0", recorders[0].position)
        child = await running_process(service)
        before = resident_bytes(child.pid)
        for number, recorder in enumerate(recorders):
            service.follow(f"session-{number}", recorder.position)
        async with asyncio.timeout(50):
            await followed(service, recordings)
        after = resident_bytes(child.pid)
        print(f"\n{before / 1e6:.0f} MB with one session, {after / 1e6:.0f} MB after {count}")
        assert after - before < 100_000_000
        size = WindowSize(80, 24)
        for number in (0, 17, count - 1):
            output = b"session %d\r\n" % number + terminal_output(number, 12_000)
            data = await painted_exactly(service, recorders[number], size=size, session_id=f"session-{number}")
            assert data == painting_of(output, history_lines=1000)
    for recorder in recorders:
        await recorder.close(is_final=True)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_no_descriptor_and_no_process_is_left(recordings: FileRecordings) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"hello")
    held = len(os.listdir("/proc/self/fd"))
    async with screens_over(recordings) as service:
        await painted_exactly(service, recorder)
        running = len(os.listdir("/proc/self/fd"))
        child = await running_process(service)
        inside = await descriptors_of(child.pid)
        for _ in range(20):
            recorder.append(b"more")
            service.follow(SESSION_ID, recorder.position)
            await followed(service, recordings)
            await painted_exactly(service, recorder)
        assert len(os.listdir("/proc/self/fd")) == running
        assert await descriptors_of(child.pid) == inside
        os.kill(child.pid, signal.SIGKILL)
        await painted_exactly(service, recorder)
    assert len(os.listdir("/proc/self/fd")) == held
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
    await recorder.close(is_final=True)


async def descriptors_of(pid: int) -> list[str]:
    """At rest, without those of a request: it closes them right after its reply. The process is not dumpable, so only
    root looks in."""
    found: list[str] = []
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(found := sorted(os.listdir(f"/proc/{pid}/fd"))) > 5:
                await asyncio.sleep(0.01)
    except PermissionError:
        return []
    return found


async def test_it_inherits_its_socket_and_its_note_and_nothing_else(
    recordings: FileRecordings, service: ScreenService
) -> None:
    recorder = recorder_of(recordings)
    os.set_inheritable(spare := os.dup(0), True)
    await painted_exactly(service, recorder)
    child = await running_process(service)
    assert len(await descriptors_of(child.pid)) in (0, 5)
    status = Path(f"/proc/{child.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status or "no seccomp" in child.abilities
    assert os.getsid(child.pid) == child.pid
    assert os.readlink(f"/proc/{child.pid}/cwd") == "/" if os.geteuid() == 0 else True
    os.close(spare)
    await recorder.close(is_final=True)


GATEWAY = """
import asyncio, sys
from pathlib import Path
from tests.support.recording_rig import recorder_of, recordings_in
from tests.support.screens_rig import painted_exactly, running_process, screens_over
async def main():
    recordings = recordings_in(Path(sys.argv[1]))
    async with screens_over(recordings) as service:
        recorder = recorder_of(recordings)
        await painted_exactly(service, recorder)
        print((await running_process(service)).pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


def test_it_ends_with_its_gateway_also_when_that_is_killed(tmp_path: Path) -> None:
    gateway = subprocess.Popen([sys.executable, "-c", GATEWAY, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert gateway.stdout is not None
    pidfd = os.pidfd_open(int(gateway.stdout.readline()))
    gateway.kill()
    gateway.wait()
    gateway.stdout.close()
    import select

    assert select.select([pidfd], [], [], DEADLINE_SECONDS)[0], "it lives on"
    os.close(pidfd)
