"""What hostile programs and clients may cost the screens process, which all sessions share."""

from __future__ import annotations

import asyncio
import os
import random
import re
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
@pytest.mark.slow
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


# Nothing else may be painted: moves, erasing, modes, looks, keyboard flags set; titles, folders, links, colours; text.
_MAY_BE_PAINTED = re.compile(
    rb"\x1b\[[\d;:]*[CGHJKXgmrs]|\x1b\[\??[\d;]*[hl]|\x1b\[[<>=][\d;]*[um]|\x1b\[(?:\d* q|\d\"q|!p)"
    rb"|\x1b\](?:2;|7;|8;[^;]*;|(?:4;\d+|1[012]);rgb:[\da-f/]+)(?:[ -~]|\xc2[\xa0-\xbf]|[\xc3-\xf4][\x80-\xbf]+)*\x1b\\"
    rb"|\x1b[()*+][0-9A-Z<>%=&]|\x1b[=>78HNOno|}~\\]|[ -~\r\n\x0e\x0f\x18]|\xc2[\xa0-\xbf]|[\xc3-\xf4][\x80-\xbf]+"
)
_PRINTED = (
    b"\x1b[c", b"\x1b[6n", b"\x1b[21t", b"\x1b[5i", b"\x05", b"\x1bZ", b"\x1b[?u", b"\x1b[?2026$p", b"\x1b[>q",
    b"\x1bP+q544e\x1b\\", b"\x1b_Gq=1\x1b\\", b"\x1b^x\x1b\\", b"\x1bX\x1b\\",
    b"\x1bPtmux;\x1b\x1b]52;c;AA\x07\x1b\\", b"\x1b]52;c;aGk=\x07", b"\x1b]1337;File=inline=1:AAAA\x07",
    b"\x1b]9;note\x07", b"\x1b]777;notify;a;b\x07", b"\x1b]10;?\x07", b"\x1b]11;#ff0000\x07",
    b"\x1b]4;3;?;5;rgb:1/2/3\x07", b"\x1b]22;x\x07", b"\x1b]133;A\x07", b"\x1b]2;a\xc2\x9bc\xc2\x9c\x1b\\",
    b"\x1b]7;file://h/\xc2\x9b6n\x07", b"\xc2\x9b6n", b"\xc2\x90\xc2\x9d", b"e\xcc\x81\xc2\x9b",
    b"\x1b]8;id=a\xc2\x9b6n;http://x/\xc2\x9d52;c;AA\xc2\x9c\x1b\\L", b"\x1b]8;;\x1b\\", b"\xed\xa0\x80", b"\x00\x7f",
    b"\r\n\r\n", b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[>1u", b"\x1b[>4;2m", b"\x1b(0qq\x1b(B", b"\x1b)0\x0ex",
    b'\x1b[1"qp', b"\x1b[?2048h", b"\x1b[?69h\x1b[3;9s\x1b[2;7r", b"\x1b[5;5H", b"text", b"\x1b[38;2;1;2;3mx",
    b"\x1b[4:3m\x1b[58:5:3m", b"\x1b7", b"\x1b8",
)  # fmt: skip


def test_whatever_was_printed_a_painting_asks_nothing_and_commands_nothing() -> None:
    """No question, clipboard, file, notification or control reaches the client, in whatever the program hid it."""
    chosen = random.Random(7)
    for _ in range(400):
        screen = Screen(chosen.choice((1, 20, 80)), chosen.choice((1, 3, 24)), history_lines=20)
        parts = (chosen.choice(_PRINTED) if chosen.random() < 0.8 else chosen.randbytes(8) for _ in range(40))
        screen.feed(b"".join(parts) + b"\x18")  # what is in the middle of a sequence goes on there: see above
        data = paint(screen, notice="back", is_again=chosen.random() < 0.3)
        assert _MAY_BE_PAINTED.sub(b"", data) == b""
        screen.close()
