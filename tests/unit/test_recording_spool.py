"""The spool after a crash: what was read is there, and nothing is there that was not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.errors import RecordingDamaged
from gateway.interfaces import WindowSize
from gateway.recording.layout import EVENT, EVENT_BYTES, Kind, events_in, new_meta
from gateway.recording.recorder import SpoolRecorder
from gateway.recording.spool import POSITION_BITS, SEGMENT_COUNT, Lap, Spool, SpoolBusy
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


def new_spool(path: Path) -> Spool:
    meta = new_meta(SESSION_ID, "w1", "demo", "xterm", WindowSize(80, 24))
    return Spool.create(path, meta, segment_bytes=SEGMENT_BYTES, lap=1, is_recorded=True)[0]


def reopened(spool: Spool) -> Spool:
    """As a successor finds it."""
    assert spool.path is not None
    spool.close(is_removed=False)
    return Spool.open(spool.path)


def outputs(spool: Spool) -> list[bytes]:
    progress = spool.recover()
    data = spool.lap_data(progress.lap, end=progress.position)
    return [event.data for event in events_in(data.raw, data.start_us) if event.kind == Kind.OUTPUT]


def put(spool: Spool, data: bytes) -> int:
    """One whole event at the head, as the recorder writes it. Returns the new position."""
    position = spool.current_lap()[1]
    EVENT.pack_into(spool.view, position, 1, Kind.OUTPUT, len(data))
    spool.view[position + EVENT_BYTES : position + EVENT_BYTES + len(data)] = data
    position += EVENT_BYTES + len(data)
    spool.head[0] = spool.current_lap()[0].number << POSITION_BITS | position  # type: ignore[union-attr]
    return position


def test_bytes_read_but_not_marked_become_output(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "a.spool")
    position = put(spool, b"marked")
    spool.view[position + EVENT_BYTES : position + EVENT_BYTES + 8] = b"unmarked"
    spool = reopened(spool)
    assert outputs(spool) == [b"marked", b"unmarked"]
    assert outputs(reopened(spool)) == [b"marked", b"unmarked"], "and are found once"


def test_unmarked_bytes_lose_at_most_their_trailing_nuls(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "a.spool")
    position = put(spool, b"marked")
    spool.view[position + EVENT_BYTES : position + EVENT_BYTES + 6] = b"\0\0ab\0\0"
    assert outputs(reopened(spool)) == [b"marked", b"\0\0ab"]


def test_a_head_that_was_just_not_stored_loses_nothing_at_all(tmp_path: Path) -> None:
    """The event's own header was written already: it says how many NULs there were."""
    spool = new_spool(tmp_path / "a.spool")
    position = put(spool, b"marked")
    EVENT.pack_into(spool.view, position, 1, Kind.OUTPUT, 6)
    spool.view[position + EVENT_BYTES : position + EVENT_BYTES + 6] = b"\0\0ab\0\0"
    assert outputs(reopened(spool)) == [b"marked", b"\0\0ab\0\0"]


def test_a_mark_cut_off_by_a_crash_is_not_taken_for_output(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "a.spool")
    position = put(spool, b"marked")
    EVENT.pack_into(spool.view, position, 1, Kind.DETACH, 6)
    spool.view[position + EVENT_BYTES : position + EVENT_BYTES + 6] = b"reason"
    spool = reopened(spool)
    assert outputs(spool) == [b"marked"]
    assert bytes(spool.view[position : position + 100]) == bytes(100)


def test_bytes_of_an_older_lap_are_never_taken_for_new_ones(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "a.spool")
    assert spool.reserve(0, SEGMENT_BYTES)
    position = 0
    while position < SEGMENT_BYTES - 2000:
        position = put(spool, b"old" * 300)
    spool.end_lap(Lap(1, 0), position=position, end_us=5)
    assert spool.reserve(1, 2 * SEGMENT_BYTES)
    spool.begin_lap(Lap(2, 1), start_us=5, lost_before_bytes=0)
    spool.free(0)
    spool.begin_lap(Lap(3, 0), start_us=6, lost_before_bytes=0)
    put(spool, b"new")
    assert outputs(reopened(spool)) == [b"new"]


def test_a_lap_begun_but_never_entered_is_forgotten(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "a.spool")
    put(spool, b"marked")
    before = spool.head[0]
    spool.begin_lap(Lap(2, 1), start_us=5, lost_before_bytes=0)
    spool.head[0] = before  # killed in the instant before this store
    spool = reopened(spool)
    assert outputs(spool) == [b"marked"]
    assert spool.free_segments() == list(range(1, SEGMENT_COUNT))


def test_killed_while_a_lap_was_dropped_the_loss_is_still_known(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "a.spool")
    put(spool, b"x" * 777)
    spool.note_loss_of_current(777)
    spool.free(0)
    spool = reopened(spool)
    progress = spool.recover()
    assert spool.lap_data(progress.lap, end=progress.position).lost_before_bytes == 777


def test_a_spool_somebody_holds_is_not_taken(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "a.spool")
    with pytest.raises(SpoolBusy):
        Spool.open(tmp_path / "a.spool")
    spool.close(is_removed=True)
    assert not (tmp_path / "a.spool").exists()


def test_a_spool_of_garbage_is_refused_whatever_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.spool"
    spool = new_spool(path)
    put(spool, b"text")
    spool.close(is_removed=False)
    whole = path.read_bytes()
    for cell in range(64):
        path.write_bytes(whole[: cell * 8] + os.urandom(8) + whole[cell * 8 + 8 :])
        try:
            spool = Spool.open(path)
        except RecordingDamaged:
            continue
        try:
            spool.recover()
        except RecordingDamaged:
            pass
        finally:
            spool.close(is_removed=False)


def test_a_spool_is_private(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "a.spool")
    assert (tmp_path / "a.spool").stat().st_mode & 0o777 == 0o600
    spool.close(is_removed=True)


async def test_the_successor_of_a_killed_gateway_goes_on_in_the_same_recording(tmp_path: Path) -> None:
    """The predecessor is cut off in the middle: its mapping is dropped, nothing is flushed. Laps wait in the spool."""
    recordings, pipe = recordings_in(tmp_path), Pipe()
    recorder = recorder_of(recordings)
    fed = 0
    for _ in range(2 * SEGMENT_BYTES // 1000):
        pipe.feed(numbered_lines(1000, start=fed))
        recorder.read_from(pipe.fd, 65536)
        fed += 1000
    await recorder._job_done()
    abandon(recorder)
    recordings._forget(SESSION_ID)
    recorder = recorder_of(recordings)
    pipe.feed(numbered_lines(1000, start=fed))
    recorder.read_from(pipe.fd, 65536)
    await recorder.close(is_final=True)
    events = events_of(recordings)
    assert output_in(events) == numbered_lines(fed + 1000)
    assert lost_in_gaps(events) == 0
    await recordings.close()
    pipe.close()


def abandon(recorder: SpoolRecorder) -> None:
    recorder._is_closed = recorder._is_abandoned = True
    recorder._spool.close(is_removed=False)
