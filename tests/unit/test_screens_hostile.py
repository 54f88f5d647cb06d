"""What hostile programs and clients may cost the screens process, which all sessions share."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("pyghostty")

from gateway.interfaces import StreamPosition, WindowSize
from gateway.recording.recordings import FileRecordings
from gateway.recording.screen import screens
from gateway.recording.screen.model import CELLS_MAX, SIDE_MAX, SNAPSHOT_BYTES_MAX, Screen
from gateway.recording.screen.painter import paint
from gateway.recording.screen.protocol import MESSAGE_BYTES_MAX, Outcome, Request, Verb, reply_from_bytes
from gateway.recording.screen.screens import ScreenService
from gateway.recording.screen.worker import Worker
from tests.support.recording_rig import SESSION_ID, recorder_of, recordings_in
from tests.support.screens_rig import painted_exactly, running_process, screens_over

OTHER_ID = SESSION_ID[:-1] + "8"


@pytest.fixture
async def recordings(tmp_path: Path) -> AsyncIterator[FileRecordings]:
    recordings = recordings_in(tmp_path, segment_bytes=256 * 1024)
    yield recordings
    await recordings.close()


@pytest.fixture
async def service(recordings: FileRecordings) -> AsyncIterator[ScreenService]:
    async with screens_over(recordings) as service:
        yield service


def painting(output: bytes, *, client_columns: int = 0, client_rows: int = 0) -> bytes:
    screen = Screen(80, 24, history_lines=10)
    screen.feed(output)
    data = paint(screen, client_columns=client_columns, client_rows=client_rows)
    screen.close()
    return data


# ------------------------------------------------------------------------------------------------ questions, windows


async def test_hundreds_of_terminals_that_ask_at_once_are_asked_about_a_few_at_a_time(
    recordings: FileRecordings, service: ScreenService
) -> None:
    """Each question is three descriptors in a process that may hold 512; beyond, it ended, with everybody's screens."""
    recorders = [recorder_of(recordings, f"session-{number}") for number in range(60)]
    for recorder in recorders:
        recorder.append(b"\x1b[6n")
    first = recorder_of(recordings)
    first.append(b"hello")
    await painted_exactly(service, first)
    child = await running_process(service)
    asking = [
        asyncio.create_task(service.answers(f"session-{number}", StreamPosition(1, 0), recorder.position))
        for number, recorder in enumerate(recorders)
    ]
    most = 0
    while not all(task.done() for task in asking):
        most = max(most, len(service._asked))
        await asyncio.sleep(0)
    assert 0 < most <= screens.ANSWERS_MAX
    assert b"\x1b[1;1R" in [await task for task in asking]
    assert (await running_process(service)).pid == child.pid
    for recorder in (*recorders, first):
        await recorder.close(is_final=True)


async def test_a_session_that_takes_long_fills_its_own_share_of_requests(
    recordings: FileRecordings, service: ScreenService
) -> None:
    """Whoever waited for it has gone by then; the descriptors are held until the work is done."""
    recorder, other = recorder_of(recordings), recorder_of(recordings, OTHER_ID)
    other.append(b"hello")
    expected = await painted_exactly(service, other, session_id=OTHER_ID)
    for number in range(screens.REQUESTS_PER_SESSION_MAX):
        service._asked[1_000_000 + number] = SESSION_ID
    shown = await service.paint(SESSION_ID, recorder.position, size=WindowSize(80, 24), term="xterm")
    assert not shown.is_exact
    assert await painted_exactly(service, other, session_id=OTHER_ID) == expected
    await recorder.close(is_final=True)
    await other.close(is_final=True)


async def test_a_client_that_changes_its_window_ten_thousand_times_keeps_no_other_waiting(
    recordings: FileRecordings, service: ScreenService
) -> None:
    """Each change wraps all lines anew, which takes milliseconds; together they were one step, and the last one."""
    recorder, other = recorder_of(recordings), recorder_of(recordings, OTHER_ID)
    other.append(b"hello")
    expected = await painted_exactly(service, other, session_id=OTHER_ID)
    child = await running_process(service)
    recorder.append((b"0123456789" * 30 + b"\r\n") * 500)
    for number in range(5_000):
        recorder.mark_resize(WindowSize(990 if number % 2 else 40, 60))
    service.follow(SESSION_ID, recorder.position)
    await asyncio.sleep(0)
    while not child.request_in_hand():
        await asyncio.sleep(0)
    shown = await service.paint(OTHER_ID, other.position, size=WindowSize(80, 24), term="xterm")
    assert (shown.data, shown.is_exact) == (expected, True)
    assert service._asked, "the long way was over before anything was tried"
    assert (await running_process(service)).pid == child.pid
    await recorder.close(is_final=True)
    await other.close(is_final=True)


async def test_a_program_whose_every_byte_is_hard_work_keeps_no_other_waiting(
    recordings: FileRecordings, service: ScreenService
) -> None:
    """It repeats a character (REP); 64 KiB of that take some seconds, and they were one step."""
    recorder, other = recorder_of(recordings), recorder_of(recordings, OTHER_ID)
    other.append(b"hello")
    expected = await painted_exactly(service, other, session_id=OTHER_ID)
    child = await running_process(service)
    recorder.append((b"x\x1b[65535b" * 16 * 1024)[: 128 * 1024])
    service.follow(SESSION_ID, recorder.position)
    while not child.request_in_hand():
        await asyncio.sleep(0)
    shown = await service.paint(OTHER_ID, other.position, size=WindowSize(80, 24), term="xterm")
    assert (shown.data, shown.is_exact) == (expected, True)
    assert service._asked, "the long way was over before anything was tried"
    await recorder.close(is_final=True)
    await other.close(is_final=True)


def test_files_that_did_not_come_cost_their_request_alone() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    note_fd, spool_fd = os.memfd_create("note"), os.memfd_create("spool")
    with ours, theirs:
        busy = Worker(theirs, note_fd, history_lines=10)
        busy._accept(Request(7, Verb.PAINT, "s", files=("recording", "spool")), [spool_fd])
        reply = reply_from_bytes(ours.recv(MESSAGE_BYTES_MAX), [])
        assert (reply.id, reply.outcome, busy._queues) == (7, Outcome.FAILED, {})
    os.close(note_fd)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(spool_fd)


def accents(rows: int) -> bytes:
    """Restoring a copy of a terminal with 1,200 such rows took three seconds, in one step."""
    return ("e" + "\u0301" * 200).encode() * 80 * rows


@pytest.mark.parametrize("is_alternate", [False, True])
def test_a_history_of_accents_is_given_up_before_it_is_copied(is_alternate: bool) -> None:
    screen = Screen(80, 24, history_lines=1000)
    screen.feed(accents(1200) + b"\r\nthe newest line" + (b"\x1b[?1049hthe other screen" if is_alternate else b""))
    weight = len(screen.terminal.snapshot() or b"")
    data = paint(screen)
    assert weight > 4 * SNAPSHOT_BYTES_MAX > 4 * len(screen.terminal.snapshot() or b"")
    assert b"the newest line" in data
    screen.feed(b"\x1b[?1049l\r\n" + b"\r\n".join(b"line %d" % number for number in range(1500)))
    assert b"line 1400\r\n" in paint(screen), "and there is a history again"
    screen.close()


def test_what_cannot_be_given_up_is_not_copied() -> None:
    """The library drops its history by pages of some hundred lines."""
    screen = Screen(80, 24, history_lines=1000)
    screen.feed(accents(400) + b"\x1b[?1049hthe other screen")
    assert screen.terminal.copy() is None
    assert b"the other screen" in paint(screen)
    assert screen.snapshot() is None
    screen.close()


# -------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("size", [(2**32 - 1, 2**32 - 1), (1, 2**32 - 1), (2**32 - 1, 1), (1000, 1000), (1, 1)])
def test_a_terminal_of_any_size_is_modelled_within_bounds(size: tuple[int, int]) -> None:
    screen = Screen(*size, history_lines=10)
    screen.resize(80, 24)
    screen.resize(*size)
    assert 1 <= screen.columns <= SIDE_MAX and 1 <= screen.rows <= SIDE_MAX
    assert screen.columns * screen.rows <= CELLS_MAX
    screen.close()


def test_a_client_that_claims_four_billion_rows_gets_a_small_painting() -> None:
    assert len(painting(b"hello", client_columns=2**32 - 1, client_rows=2**32 - 1)) < 10_000


# ------------------------------------------------------------------------------------------ what a painting may hold


@pytest.mark.parametrize(
    "begun", [b"\x1b]0;title\x05\n\x05", b"\x1bP$q\r\x05m", b"\x1b_Gf=1\x05\x0b", b"\x1b[3\x05", b"\x1b]52;c;\x05aGk="]
)
def test_the_beginning_of_a_sequence_holds_no_control_of_its_own(begun: bytes) -> None:
    """Some terminals end a string at a line's end, and then obey what follows: ENQ would have them type."""
    data = painting(begun)
    tail = data[data.rindex(b"\x1b") + 1 :]
    assert tail, "the terminal goes on in the middle of it"
    assert not set(tail) & set(range(0x20))
