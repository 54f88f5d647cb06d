"""The recorder: what is read arrives in the recording, whatever the disk does meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.events import Event
from gateway.interfaces import ProgramExit, WindowSize
from gateway.log import subscribe
from gateway.recording import block_log
from gateway.recording import recorder as recorder_module
from gateway.recording.layout import DT_US_MAX, Kind, exit_of, principal_of, size_of, text_of
from gateway.recording.recordings import FileRecordings
from gateway.recording.spool import SEGMENT_COUNT
from tests.support.recording_rig import (
    SEGMENT_BYTES,
    SESSION_ID,
    Pipe,
    events_of,
    lost_in_gaps,
    numbered_lines,
    output_in,
    recorder_of,
    recordings_in,
)

DEADLINE_SECONDS = 20


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
async def recordings(tmp_path: Path) -> AsyncIterator[FileRecordings]:
    recordings = recordings_in(tmp_path)
    yield recordings
    await recordings.close()


@pytest.fixture
def logged() -> Iterator[list[tuple[Event, dict[str, object]]]]:
    seen: list[tuple[Event, dict[str, object]]] = []
    unsubscribe = subscribe(lambda event, keys: seen.append((event, keys)))
    yield seen
    unsubscribe()


async def idle(recorder: recorder_module.SpoolRecorder) -> None:
    """Wait until the thread has nothing in hand."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        await recorder._job_done()


async def test_what_is_read_is_returned_and_recorded(recordings: FileRecordings, pipe: Pipe) -> None:
    recorder = recorder_of(recordings)
    pipe.feed(b"hello")
    assert bytes(recorder.read_from(pipe.fd, 65536)) == b"hello"
    await recorder.close(is_final=True)
    assert output_in(events_of(recordings)) == b"hello"


async def test_a_running_session_can_be_read_from_its_spool(recordings: FileRecordings, pipe: Pipe) -> None:
    recorder = recorder_of(recordings)
    pipe.feed(b"hello")
    recorder.read_from(pipe.fd, 65536)
    assert output_in(events_of(recordings)) == b"hello"
    await recorder.close(is_final=True)


async def test_nothing_to_read_raises_and_end_of_file_is_empty(recordings: FileRecordings) -> None:
    recorder = recorder_of(recordings)
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    with pytest.raises(BlockingIOError):
        recorder.read_from(read_fd, 100)
    os.close(write_fd)
    assert len(recorder.read_from(read_fd, 100)) == 0
    os.close(read_fd)
    await recorder.close(is_final=True)
    assert events_of(recordings) == []


async def test_marks_keep_their_place_and_their_content(recordings: FileRecordings, pipe: Pipe) -> None:
    recorder = recorder_of(recordings)
    recorder.mark_attach("wörk laptop", WindowSize(120, 40))
    recorder.append(b"one")
    recorder.mark_resize(WindowSize(100, 30))
    recorder.mark_detach("the network went away")
    recorder.mark_gap(4095)
    recorder.append(b"two")
    recorder.mark_exit(ProgramExit(signal="TERM"))
    await recorder.close(is_final=True)
    events = events_of(recordings)
    assert [event.kind for event in events] == [
        Kind.ATTACH, Kind.OUTPUT, Kind.RESIZE, Kind.DETACH, Kind.GAP, Kind.OUTPUT, Kind.EXIT,
    ]  # fmt: skip
    assert (principal_of(events[0].data), size_of(events[0].data)) == ("wörk laptop", WindowSize(120, 40))
    assert text_of(events[3].data) == "the network went away"
    assert lost_in_gaps(events) == 4095
    assert exit_of(events[6].data) == ProgramExit(signal="TERM")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunks=st.lists(
        st.tuples(st.sampled_from(["read", "append", "mark", "reopen"]), st.integers(1, 9000)), max_size=60
    ),
    limit=st.sampled_from([1, 100, 4096, 65536]),
)
def test_every_byte_arrives_once_whatever_the_chunks(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[str, int]], limit: int
) -> None:
    """Also with a successor taking over anywhere. Small segments make laps and the recorder thread take part."""

    async def run(directory: Path) -> None:
        recordings, pipe, fed = recordings_in(directory), Pipe(), 0
        recorder = recorder_of(recordings)
        for kind, size in chunks:
            data = numbered_lines(size, start=fed)
            if kind == "append":
                recorder.append(data)
            elif kind == "mark":
                recorder.mark_detach("x" * size)
                continue
            elif kind == "reopen":
                await recorder.close(is_final=False)
                recorder = recorder_of(recordings)
                continue
            else:
                pipe.feed(data)
                left = size
                while left:
                    left -= len(recorder.read_from(pipe.fd, max(limit, size // 50)))
            fed += size
            await idle(recorder)
        assert recorder.output_bytes == fed
        await recorder.close(is_final=True)
        events = events_of(recordings)
        assert output_in(events) == numbered_lines(fed)
        assert lost_in_gaps(events) == 0
        assert [event.time_us for event in events] == sorted(event.time_us for event in events)
        assert recordings.archive.spool_ids() == []
        await recordings.close()
        pipe.close()

    asyncio.run(run(tmp_path_factory.mktemp("chunks")))


async def test_a_silence_longer_than_a_dt_can_say_keeps_its_length(
    recordings: FileRecordings, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recorder_of(recordings)
    recorder.append(b"one")
    ahead_us = 3 * DT_US_MAX  # nine hours
    real = time.clock_gettime_ns
    monkeypatch.setattr(recorder_module, "_clock_ns", lambda clock: real(clock) + ahead_us * 1000)
    pipe.feed(b"two")
    recorder.read_from(pipe.fd, 100)
    recorder.append(b"three")
    await recorder.close(is_final=True)
    times = [event.time_us for event in events_of(recordings)]
    assert 0 <= times[1] - times[0] - ahead_us < 60_000_000
    assert 0 <= times[2] - times[1] < 60_000_000


async def test_a_recorder_that_falls_behind_leaves_a_gap_of_the_right_size(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch, logged: list[tuple[Event, dict[str, object]]]
) -> None:
    """The thread is held while far more than the spool holds is printed: the oldest not in its hands goes."""
    is_released = threading.Event()
    append = block_log.BlockWriter.append

    def slow_append(self: block_log.BlockWriter, laps: object) -> None:
        assert is_released.wait(DEADLINE_SECONDS)
        append(self, laps)  # type: ignore[arg-type]

    monkeypatch.setattr(block_log.BlockWriter, "append", slow_append)
    recorder = recorder_of(recordings)
    fed = 0
    for _ in range(3 * SEGMENT_COUNT * SEGMENT_BYTES // 1000):
        recorder.append(numbered_lines(1000, start=fed))
        fed += 1000
    is_released.set()
    await recorder.close(is_final=True)
    events = events_of(recordings)
    output, lost = output_in(events), lost_in_gaps(events)
    assert lost > SEGMENT_COUNT * SEGMENT_BYTES
    assert len(output) + lost == fed
    gap_at = next(i for i, event in enumerate(events) if event.kind == Kind.GAP)
    before = output_in(events[:gap_at])
    assert before == numbered_lines(len(before))
    assert output_in(events[gap_at:]) == numbered_lines(fed - lost - len(before), start=len(before) + lost)
    assert [keys["reason"] for event, keys in logged if event == Event.RECORDING_GAP] == ["recording_behind"]
    assert size_of(next(e.data for e in events[gap_at:] if e.kind == Kind.RESIZE)) == WindowSize(80, 24)


class FullDisk:
    """os.pwrite of the recording file fails, the second half of each write first having gone in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = True
        self._pwrite = os.pwrite
        monkeypatch.setattr(block_log.os, "pwrite", self.pwrite)

    def pwrite(self, fd: int, data: memoryview, at: int) -> int:
        if not self.is_full:
            return self._pwrite(fd, data, at)
        if len(data) > 64:
            return self._pwrite(fd, data[: len(data) // 2], at)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_full_disk_stops_no_program_and_its_gap_is_exact(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch, logged: list[tuple[Event, dict[str, object]]]
) -> None:
    disk = FullDisk(monkeypatch)
    recorder = recorder_of(recordings)
    fed = 0
    for step in range(4 * SEGMENT_COUNT * SEGMENT_BYTES // 1000):
        recorder.append(numbered_lines(1000, start=fed))
        fed += 1000
        if step % 10 == 0:
            await idle(recorder)
            assert recordings.archive.total_bytes() == 0, "a block that did not fit is cut off again"
    disk.is_full = False
    for _ in range(2 * SEGMENT_BYTES // 1000):
        recorder.append(numbered_lines(1000, start=fed))
        fed += 1000
        await idle(recorder)
    await recorder.close(is_final=True)
    events = events_of(recordings)
    lost = lost_in_gaps(events)
    assert lost > 0
    # The newest is what was kept: first the gap, then everything to the end.
    assert output_in(events) == numbered_lines(fed - lost, start=lost)
    assert [keys["session_id"] for event, keys in logged if event == Event.RECORDING_FAILED] == [SESSION_ID]


async def test_a_disk_that_stays_full_keeps_the_spool_for_the_next_start(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    recorder = recorder_of(recordings)
    recorder.append(b"the last words")
    await recorder.close(is_final=True)
    assert recordings.archive.spool_ids() == [SESSION_ID]
    disk.is_full = False
    await recordings.finish_left_over(frozenset())
    assert recordings.archive.spool_ids() == []
    assert output_in(events_of(recordings)) == b"the last words"


async def test_a_spool_that_cannot_grow_goes_on_in_the_space_it_has(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store into space that is not there would be a SIGBUS, the end of every session: it is reserved before."""
    recorder = recorder_of(recordings)

    def no_space(fd: int, at: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gateway.recording.spool.os.posix_fallocate", no_space)
    fed = 0
    for _ in range(100):
        recorder.append(numbered_lines(3000, start=fed))
        fed += 3000
        await idle(recorder)
    await recorder.close(is_final=True)
    events = events_of(recordings)
    output, lost = output_in(events), lost_in_gaps(events)
    assert len(output) + lost == fed
    assert output.endswith(numbered_lines(3000, start=fed - 3000))


async def test_the_size_limit_ends_the_recording_with_a_marker_and_nothing_after(
    tmp_path: Path, logged: list[tuple[Event, dict[str, object]]]
) -> None:
    recordings = recordings_in(tmp_path, bytes_per_session_max=64 * 1024)
    recorder = recorder_of(recordings)
    for _ in range(200):
        recorder.append(os.urandom(1000))  # does not compress
        await idle(recorder)
    await recorder.close(is_final=False)
    recorder = recorder_of(recordings)  # a successor does not start over
    for _ in range(100):
        recorder.append(os.urandom(1000))
        await idle(recorder)
    await recorder.close(is_final=True)
    events = events_of(recordings)
    assert "limit of 65536 bytes" in text_of(events[-1].data)
    assert [event.kind for event in events].count(Kind.MARKER) == 1
    assert recordings.archive.total_bytes() <= 64 * 1024 + 200
    assert {keys["reason"] for event, keys in logged} == {"size_limit"}
    await recordings.close()


@pytest.mark.parametrize("where", ["settings", "workspace"])
async def test_unrecorded_sessions_leave_nothing_on_disk(tmp_path: Path, where: str, pipe: Pipe) -> None:
    recordings = recordings_in(tmp_path, enabled=where != "settings")
    recorder = recorder_of(recordings, is_recorded=where != "workspace")
    fed = 0
    for _ in range(3 * SEGMENT_COUNT * SEGMENT_BYTES // 1000):
        pipe.feed(numbered_lines(1000, start=fed))
        assert bytes(recorder.read_from(pipe.fd, 65536)) == numbered_lines(1000, start=fed)
        fed += 1000
    assert recordings.archive.list() == []
    await recorder.close(is_final=False)
    recorder = recorder_of(recordings)
    await recorder.close(is_final=True)
    assert list((tmp_path / "recordings").iterdir()) == []
    assert list((tmp_path / "spools").iterdir()) == []
    await recordings.close()


async def test_closing_twice_is_harmless_and_reading_afterwards_is_refused(
    recordings: FileRecordings, pipe: Pipe
) -> None:
    recorder = recorder_of(recordings)
    pipe.feed(b"hello")
    view = recorder.read_from(pipe.fd, 100)
    await recorder.close(is_final=False)
    await recorder.close(is_final=True)
    assert bytes(view) == b"hello", "a view someone still holds stays readable"
    with pytest.raises(ValueError, match="closed"):
        recorder.read_from(pipe.fd, 100)


async def test_no_descriptor_is_left_over(tmp_path: Path, pipe: Pipe) -> None:
    before = len(os.listdir("/proc/self/fd"))
    recordings = recordings_in(tmp_path)
    for number in range(5):
        recorder = recorder_of(recordings, f"session-{number}")
        recorder.append(b"x" * 3 * SEGMENT_BYTES)
        await recorder.close(is_final=number % 2 == 0)
    await recordings.finish_left_over(frozenset())
    await recordings.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("recorder")]


async def test_the_hot_path_costs_little_over_a_bare_read(tmp_path: Path, pipe: Pipe) -> None:
    """Printed, and bounded only against something absurd: this machine is shared."""
    recordings = recordings_in(tmp_path, segment_bytes=256 * 1024)
    recorder = recorder_of(recordings)
    buffer = memoryview(bytearray(65536))
    best = {"bare": 1e9, "recorded": 1e9}
    for _ in range(5):
        spent = {"bare": 0, "recorded": 0}
        for _ in range(500):
            pipe.feed(b"x" * 64)
            start = time.perf_counter_ns()
            os.readv(pipe.fd, (buffer,))
            spent["bare"] += time.perf_counter_ns() - start
            pipe.feed(b"x" * 64)
            start = time.perf_counter_ns()
            recorder.read_from(pipe.fd, 65536)
            spent["recorded"] += time.perf_counter_ns() - start
            await asyncio.sleep(0)
        best = {name: min(best[name], spent[name] / 500) for name in best}
    await recorder.close(is_final=True)
    await recordings.close()
    print(f"\nread of 64 bytes: bare {best['bare']:.0f} ns, recorded {best['recorded']:.0f} ns")
    assert best["recorded"] < best["bare"] + 50_000
