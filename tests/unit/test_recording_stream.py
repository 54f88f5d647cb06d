"""Reading on from a position: nothing twice, nothing left out, and what is lost is said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.errors import RecordingDamaged
from gateway.interfaces import StreamPosition, WindowSize
from gateway.recording import block_log
from gateway.recording.layout import EVENT, Kind, size_of
from gateway.recording.recorder import SpoolRecorder
from gateway.recording.recordings import FileRecordings
from gateway.recording.spool import SEGMENT_COUNT, Spool
from gateway.recording.stream import START, Stream, pieces_in
from tests.support.recording_rig import SEGMENT_BYTES, SESSION_ID, numbered_lines, recorder_of, recordings_in

DEADLINE_SECONDS = 20


@pytest.fixture
async def recordings(tmp_path: Path) -> AsyncIterator[FileRecordings]:
    recordings = recordings_in(tmp_path)
    yield recordings
    await recordings.close()


@contextlib.contextmanager
def opened(recordings: FileRecordings, *, file_at: int = 0) -> Iterator[Stream]:
    files = recordings.open_stream(SESSION_ID)
    try:
        yield Stream(files, file_at=file_at)
    finally:
        files.close()


def read(stream: Stream, since: StreamPosition, until: StreamPosition) -> tuple[list[bytes], int]:
    """Output between gaps, and where the file is to be looked at next time."""
    outputs, file_at = [b""], 0
    for stretch in stream.stretches(since, until):
        file_at = stretch.file_at
        if stretch.is_after_gap:
            outputs.append(b"")
        for piece in pieces_in(stretch.events, offset=stretch.offset, bytes_max=1000):
            if piece.kind == Kind.OUTPUT:
                outputs[-1] += piece.data
            elif piece.kind == Kind.GAP:
                outputs.append(b"")
    return outputs, file_at


async def idle(recorder: SpoolRecorder) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        await recorder._job_done()


async def test_between_any_two_positions_lies_what_was_printed_between_them(recordings: FileRecordings) -> None:
    """In the spool, in the file, and across both; also with a hint of where in the file to look."""
    recorder, fed = recorder_of(recordings), 0
    seen: list[tuple[StreamPosition, int]] = [(recorder.position, 0)]
    for step in range(400):
        recorder.append(numbered_lines(700, start=fed))
        fed += 700
        if step % 7 == 0:
            recorder.mark_detach("a mark in between")
        if step % 50 == 0:
            await idle(recorder)
        seen.append((recorder.position, fed))
    assert recorder.position.lap > SEGMENT_COUNT, "some of it must be in the file alone"
    assert seen == sorted(seen)
    with opened(recordings) as stream:
        for _ in range(300):
            (since, start), (until, end) = sorted(random.choices(seen, k=2))
            outputs, file_at = read(stream, since, until)
            assert outputs == [numbered_lines(end - start, start=start)]
            with opened(recordings, file_at=file_at) as hinted:
                assert read(hinted, until, seen[-1][0])[0] == [numbered_lines(fed - end, start=end)]
    await recorder.close(is_final=True)


async def test_positions_go_on_under_the_next_gateway(recordings: FileRecordings) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"before")
    position = recorder.position
    await recorder.close(is_final=False)
    recorder = recorder_of(recordings)
    assert recorder.position == position
    recorder.append(b"after")
    with opened(recordings) as stream:
        assert read(stream, position, recorder.position)[0] == [b"after"]
    await recorder.close(is_final=True)


async def test_a_resize_has_its_place_between_the_outputs(recordings: FileRecordings) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"narrow")
    recorder.mark_resize(WindowSize(200, 50))
    recorder.append(b"wi")
    recorder.append(b"de")
    with opened(recordings) as stream:
        [stretch] = stream.stretches(START, recorder.position)
        pieces = list(pieces_in(stretch.events, offset=stretch.offset, bytes_max=1000))
    assert [(piece.kind, piece.data) for piece in pieces if piece.kind == Kind.OUTPUT] == [
        (Kind.OUTPUT, b"narrow"), (Kind.OUTPUT, b"wide")
    ]  # fmt: skip
    assert size_of(pieces[1].data) == WindowSize(200, 50)
    assert pieces[-1].offset_after == recorder.position.offset
    await recorder.close(is_final=True)


async def test_what_the_recorder_had_to_drop_is_a_gap_and_positions_behind_it_still_hold(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gap event that the file carries in front of such a lap must not shift the offsets in it."""
    recorder = recorder_of(recordings)
    with monkeypatch.context() as patched:
        patched.setattr(recorder, "_hand_over", lambda: None)
        for _ in range(3 * SEGMENT_COUNT * SEGMENT_BYTES // 1000):
            recorder.append(b"x" * 1000)
    recorder.append(b"the first")
    middle = recorder.position
    recorder.append(b"the second")
    end = recorder.position
    for is_in_file in (False, True):
        with opened(recordings) as stream:
            outputs, _ = read(stream, START, end)
            assert len(outputs) == 2 and outputs[0] == b"", is_in_file
            assert outputs[1].endswith(b"xxthe firstthe second")
            assert read(stream, middle, end)[0] == [b"the second"], is_in_file
        for _ in range(2 * SEGMENT_COUNT * SEGMENT_BYTES // 1000):
            recorder.append(b"y" * 1000)
            await idle(recorder)
    await recorder.close(is_final=True)


async def test_a_gap_of_the_keepers_ring_is_reported(recordings: FileRecordings) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"before")
    recorder.mark_gap(4095)
    recorder.append(b"after")
    with opened(recordings) as stream:
        assert read(stream, START, recorder.position)[0] == [b"before", b"after"]
    await recorder.close(is_final=True)


@pytest.mark.parametrize("is_in_memory", [False, True])
async def test_an_unrecorded_session_has_its_newest_output_and_a_gap_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_in_memory: bool
) -> None:
    recordings = recordings_in(tmp_path, enabled=False)
    if is_in_memory:
        (tmp_path / "spools").rmdir()
    recorder, fed = recorder_of(recordings), 0
    while fed < 2 * SEGMENT_COUNT * SEGMENT_BYTES:
        recorder.append(numbered_lines(1000, start=fed))
        fed += 1000
    with opened(recordings) as stream:
        nothing, newest = read(stream, START, recorder.position)[0]
    assert nothing == b""
    assert len(newest) > 2 * SEGMENT_BYTES
    assert newest == numbered_lines(len(newest), start=fed - len(newest))
    await recorder.close(is_final=True)
    await recordings.close()


async def test_a_reader_may_not_write_a_spool_in_memory(tmp_path: Path) -> None:
    recordings = recordings_in(tmp_path, enabled=False)
    (tmp_path / "spools").rmdir()
    recorder = recorder_of(recordings)
    files = recordings.open_stream(SESSION_ID)
    assert files.recording is None and files.spool is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(files.spool, b"x")
    files.close()
    await recorder.close(is_final=True)
    await recordings.close()


async def test_after_the_size_limit_the_marker_is_not_taken_for_output(tmp_path: Path) -> None:
    recordings = recordings_in(tmp_path, bytes_per_session_max=64 * 1024)
    recorder, fed = recorder_of(recordings), 0
    while recorder._writer is not None:
        recorder.append(os.urandom(1000))
        fed += 1000
        await idle(recorder)
    recorder.append(b"after")
    with opened(recordings) as stream:
        before, after = read(stream, START, recorder.position)[0]
    assert len(before) < fed, "the lap that did not fit is lost, and its place in the file holds the marker"
    assert after.endswith(b"after")
    await recorder.close(is_final=True)
    await recordings.close()


async def test_every_byte_is_read_once_while_laps_move_under_the_reader(recordings: FileRecordings) -> None:
    """The recorder's thread empties laps into the file while another reads on in small steps from where it was."""
    recorder, fed = recorder_of(recordings), 0
    position, got, file_at = recorder.position, b"", 0
    chosen = random.Random(7)
    for step in range(600):
        recorder.append(numbered_lines(900, start=fed))
        fed += 900
        if chosen.random() < 0.1:
            until = recorder.position
            with opened(recordings, file_at=file_at) as stream:
                (output,), file_at = await asyncio.to_thread(read, stream, position, until)
            got, position = got + output, until
        if step % 20 == 0:
            await idle(recorder)
    assert got == numbered_lines(len(got))
    assert len(got) > 200_000
    await recorder.close(is_final=True)


async def test_a_lap_that_is_given_up_while_it_is_read_is_not_believed(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"x" * 1000)
    spool_fd, real = recorder.spool.open_to_read(), os.pread

    def pread(fd: int, size: int, at: int) -> bytes:
        if at:
            recorder.spool.free(0)
        return real(fd, size, at)

    assert Spool.read_lap(spool_fd, 1) is not None
    monkeypatch.setattr("gateway.recording.spool.os.pread", pread)
    assert Spool.read_lap(spool_fd, 1) is None
    os.close(spool_fd)
    await recorder.close(is_final=False)


async def test_each_full_lap_is_told_with_where_the_next_begins(recordings: FileRecordings) -> None:
    told: list[StreamPosition] = []
    recorder = recorder_of(recordings)
    recordings.lap_ended = lambda session_id, position: told.append(position)
    for _ in range(4 * SEGMENT_BYTES // 1000):
        recorder.append(b"x" * 1000)
    assert told == [StreamPosition(lap, 0) for lap in range(2, recorder.position.lap + 1)]
    assert len(told) >= 3
    await recorder.close(is_final=True)


async def test_the_newest_output_is_found_across_laps(recordings: FileRecordings) -> None:
    recorder, fed = recorder_of(recordings), 0
    for _ in range(3 * SEGMENT_COUNT * SEGMENT_BYTES // 1000):
        recorder.append(numbered_lines(1000, start=fed))
        fed += 1000
        await idle(recorder)
    wanted = 3 * SEGMENT_BYTES
    with opened(recordings) as stream:
        newest = stream.output_before(recorder.position, bytes_max=wanted)
    assert newest == numbered_lines(wanted, start=fed - wanted)
    await recorder.close(is_final=True)


def test_events_that_make_no_sense_are_refused() -> None:
    good = EVENT.pack(0, Kind.OUTPUT, 3) + b"abc"
    for bad in (good[:-1], good + b"\0" * 9, good + good[:5], EVENT.pack(0, Kind.OUTPUT, 2**32 - 1)):
        with pytest.raises(RecordingDamaged):
            list(pieces_in(memoryview(bad), offset=0, bytes_max=100))


async def test_a_torn_block_and_a_wrong_hint_only_cost_time(recordings: FileRecordings) -> None:
    recorder, fed = recorder_of(recordings), 0
    for _ in range(2 * SEGMENT_COUNT * SEGMENT_BYTES // 1000):
        recorder.append(numbered_lines(1000, start=fed))
        fed += 1000
        await idle(recorder)
    with recordings.archive.recording_path(SESSION_ID).open("ab") as file:
        file.write(b"HPBK" + os.urandom(block_log._BLOCK_HEAD.size))
    for hint in (1, 5000, 10**12):
        with opened(recordings, file_at=hint) as stream:
            assert read(stream, START, recorder.position)[0] == [numbered_lines(fed)]
    recorder.append(b"more")
    await recorder.close(is_final=False)
