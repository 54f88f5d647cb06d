"""All recordings together: found again after a crash, listed, deleted, and closed in order."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import CommandRefused
from gateway.events import Event
from gateway.interfaces import ProgramExit
from gateway.log import subscribe
from gateway.recording.layout import Kind, RecordedEvent
from gateway.recording.recordings import FileRecordings
from tests.support.recording_rig import (
    SEGMENT_BYTES,
    SESSION_ID,
    events_of,
    lost_in_gaps,
    numbered_lines,
    output_in,
    recorder_of,
    recordings_in,
)


@pytest.fixture
async def recordings(tmp_path: Path) -> AsyncIterator[FileRecordings]:
    recordings = recordings_in(tmp_path)
    yield recordings
    await recordings.close()


async def test_left_over_spools_are_folded_and_those_alive_are_not(recordings: FileRecordings) -> None:
    for session_id in ("dead", "alive", "open"):
        recorder = recorder_of(recordings, session_id)
        recorder.append(b"text of " + session_id.encode())
        if session_id != "open":
            await recorder.close(is_final=False)
    await recordings.finish_left_over(frozenset({"alive"}))
    assert recordings.archive.spool_ids() == ["alive", "open"]
    assert output_in(events_of(recordings, "dead")) == b"text of dead"
    assert output_in(events_of(recordings, "alive")) == b"text of alive"


async def test_a_left_over_spool_of_many_laps_is_folded_whole(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    recorder = recorder_of(recordings)
    with monkeypatch.context() as full_disk:
        full_disk.setattr("gateway.recording.block_log.BlockWriter.append", no_space)
        recorder.append(numbered_lines(5 * SEGMENT_BYTES))
        await recorder.close(is_final=False)
    await recordings.finish_left_over(frozenset())
    events = events_of(recordings)
    assert (output_in(events), lost_in_gaps(events)) == (numbered_lines(5 * SEGMENT_BYTES), 0)


async def test_a_damaged_spool_costs_its_bytes_and_not_the_session(recordings: FileRecordings) -> None:
    recorder = recorder_of(recordings)
    recorder.append(numbered_lines(3 * SEGMENT_BYTES))
    await recorder.close(is_final=False)
    in_file = output_in(events_of(recordings))
    recordings.archive.spool_path(SESSION_ID).write_bytes(os.urandom(5000))
    await recordings.finish_left_over(frozenset())
    assert recordings.archive.spool_ids() == [SESSION_ID], "kept, for someone to look at"
    recorder = recorder_of(recordings)
    recorder.append(b"and on")
    await recorder.close(is_final=True)
    output = output_in(events_of(recordings))
    assert output.endswith(b"and on")
    assert in_file.startswith(output.removesuffix(b"and on"))
    assert recordings.archive.spool_path(SESSION_ID).with_suffix(".damaged").exists()


async def test_a_session_without_its_spool_goes_on_behind_its_recording_on_the_same_clock(
    recordings: FileRecordings,
) -> None:
    recorder = recorder_of(recordings)
    recorder.append(numbered_lines(1000))
    await recorder.close(is_final=True)
    recorder = recorder_of(recordings)
    recorder.append(numbered_lines(1000, start=1000))
    await recorder.close(is_final=True)
    events = events_of(recordings)
    assert output_in(events) == numbered_lines(2000)
    assert [event.time_us for event in events] == sorted(event.time_us for event in events)


async def test_without_room_for_a_spool_the_session_is_recorded_from_memory(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(fd: int, at: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    logged: list[Event] = []
    unsubscribe = subscribe(lambda event, keys: logged.append(event))
    monkeypatch.setattr("gateway.recording.spool.os.posix_fallocate", no_space)
    recorder = recorder_of(recordings)
    recorder.append(numbered_lines(3 * SEGMENT_BYTES))
    await recorder.close(is_final=True)
    unsubscribe()
    assert output_in(events_of(recordings)) == numbered_lines(3 * SEGMENT_BYTES)
    assert logged == [Event.RECORDING_FAILED]


async def test_a_spool_another_gateway_holds_is_left_to_it(tmp_path: Path, recordings: FileRecordings) -> None:
    owner = recorder_of(recordings)
    owner.append(b"of the owner")
    other = recordings_in(tmp_path)
    intruder = recorder_of(other)
    intruder.append(b"of the intruder")
    await intruder.close(is_final=True)
    await other.finish_left_over(frozenset())
    await other.close()
    await owner.close(is_final=True)
    assert output_in(events_of(recordings)) == b"of the owner"


async def test_the_list_says_when_how_long_how_big_and_what_runs(recordings: FileRecordings) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    for session_id in ("a-ended", "b-running"):
        recorder = recorder_of(recordings, session_id)
        recorder.append(b"text")
        recorder.mark_exit(ProgramExit(exit_code=0))
        if session_id == "a-ended":
            await recorder.close(is_final=True)
    ended, running = await recordings.list()
    assert (ended.session_id, ended.workspace_name, ended.is_live) == ("a-ended", "demo", False)
    assert before < ended.started_at < datetime.now(UTC)
    assert ended.duration is not None
    assert timedelta(0) <= ended.duration < timedelta(minutes=1)
    assert 0 < ended.size_bytes == await recordings.total_bytes()
    assert (running.session_id, running.is_live, running.duration, running.size_bytes) == ("b-running", True, None, 0)


async def test_one_damaged_recording_does_not_hide_the_others(recordings: FileRecordings) -> None:
    recorder = recorder_of(recordings)
    await recorder.close(is_final=True)
    recordings.archive.recording_path("broken").write_bytes(b"nonsense")
    assert [info.session_id for info in await recordings.list()] == [SESSION_ID]


@pytest.mark.parametrize("session_id", ["../../etc/passwd", "", "a/b", ".", "a\0b", "x" * 200])
def test_an_id_never_becomes_another_path(recordings: FileRecordings, session_id: str) -> None:
    with pytest.raises(CommandRefused):
        recordings.archive.open(session_id)


async def test_deleting_leaves_live_sessions_and_counts_what_was_there(recordings: FileRecordings) -> None:
    recorder = recorder_of(recordings, "ended")
    await recorder.close(is_final=True)
    live = recorder_of(recordings, "live")
    live.append(numbered_lines(3 * SEGMENT_BYTES))
    await live._job_done()
    assert await recordings.delete(["ended", "live", "never"]) == 1
    assert [info.session_id for info in await recordings.list()] == ["live"]
    await live.close(is_final=True)
    assert output_in(events_of(recordings, "live")) == numbered_lines(3 * SEGMENT_BYTES)


async def test_recordings_not_written_since_are_named_without_those_still_spooled(recordings: FileRecordings) -> None:
    for session_id in ("old", "new", "spooled"):
        recorder = recorder_of(recordings, session_id)
        recorder.append(numbered_lines(2 * SEGMENT_BYTES))
        await recorder.close(is_final=session_id != "spooled")
        if session_id != "new":
            os.utime(recordings.archive.recording_path(session_id), (1000, 1000))
    assert list(await recordings.unused_since(datetime.now(UTC) - timedelta(days=1))) == ["old"]


async def test_reading_beside_a_writer_sees_each_byte_once(tmp_path: Path) -> None:
    """Laps move from the spool into the file under the reader's hands."""
    recordings = recordings_in(tmp_path)
    recorder = recorder_of(recordings)
    is_over = threading.Event()

    def read_again_and_again() -> int:
        count = 0
        while not is_over.is_set():
            events: list[RecordedEvent] = events_of(recordings)
            output = output_in(events)
            assert output == numbered_lines(len(output))
            assert all(event.kind == Kind.OUTPUT for event in events)
            count += 1
        return count

    reading = asyncio.create_task(asyncio.to_thread(read_again_and_again), name="reader")
    fed = 0
    while fed < 20 * SEGMENT_BYTES and not reading.done():
        recorder.append(numbered_lines(700, start=fed))
        fed += 700
        await recorder._job_done()
        await asyncio.sleep(0)
    is_over.set()
    assert await reading > 1
    await recorder.close(is_final=True)
    await recordings.close()


async def test_close_closes_what_is_open_and_keeps_the_spools(tmp_path: Path) -> None:
    recordings = recordings_in(tmp_path)
    for number in range(3):
        recorder_of(recordings, f"s{number}").append(b"text")
    await recordings.close()
    await recordings.close()
    successor = recordings_in(tmp_path)
    assert successor.archive.spool_ids() == ["s0", "s1", "s2"]
    for number in range(3):
        recorder = recorder_of(successor, f"s{number}")
        recorder.append(b" and on")
        await recorder.close(is_final=True)
        assert output_in(events_of(successor, f"s{number}")) == b"text and on"
    await successor.close()
