"""The recording file: readable up to whatever a lost machine left of it, and never continued behind a torn block."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.errors import RecordingDamaged
from gateway.recording.block_log import BlockReader, BlockWriter, LapData, new_compressor
from gateway.recording.layout import EVENT, Kind, RecordingMeta, events_in
from gateway.recording.reader import RecordingReader

META = RecordingMeta("s1", "w1", "demo", 1_700_000_000_000_000, "xterm", 80, 24)


def lap(number: int, text: bytes, *, lost: int = 0) -> LapData:
    raw = EVENT.pack(5, Kind.OUTPUT, len(text)) + text
    return LapData(number, number * 1000, number * 1000 + 5, lost, raw)


def writer(path: Path, *, bytes_max: int = 1 << 30) -> BlockWriter:
    return BlockWriter(path, META, bytes_max=bytes_max, compressor=new_compressor())


def texts(path: Path) -> tuple[list[bytes], str]:
    reader = RecordingReader(path, path.with_suffix(".spool"))
    return [event.data for event in reader], reader.damage


def test_a_recording_cut_anywhere_gives_its_whole_blocks_and_says_what_is_missing(tmp_path: Path) -> None:
    """Every length from nothing to everything; and a writer then goes on as if the torn block had never been."""
    path = tmp_path / "whole.hpr"
    ends = []
    for number in (1, 2, 3):
        writer(path).append([lap(number, b"text %d" % number)])
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    with BlockReader(path) as file:
        head_end = file._at
    cut = tmp_path / "cut.hpr"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        count = sum(end <= length for end in ends)
        if length < head_end:
            with pytest.raises(RecordingDamaged):
                texts(cut)
        else:
            found, damage = texts(cut)
            assert found == [b"text 1", b"text 2", b"text 3"][:count], length
            assert bool(damage) == (length not in (head_end, *ends)), length
        writer(cut).append([lap(9, b"after")])
        assert texts(cut) == ([*[b"text 1", b"text 2", b"text 3"][:count], b"after"], ""), length


def test_one_wrong_byte_in_a_block_ends_the_reading_there(tmp_path: Path) -> None:
    path = tmp_path / "one.hpr"
    writer(path).append([lap(1, b"first")])
    first_end = path.stat().st_size
    writer(path).append([lap(2, b"second")])
    whole = path.read_bytes()
    for at in range(first_end, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        found, damage = texts(path)
        assert (found, bool(damage)) == ([b"first"], True), at


def test_a_last_block_of_zeros_is_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    """A lost machine can leave a file of the right length whose last pages were never written."""
    path = tmp_path / "zeros.hpr"
    writer(path).append([lap(1, b"first")])
    end = path.stat().st_size
    writer(path).append([lap(2, b"second")])
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - 8)
        file.write(bytes(8))
    writer(path).append([lap(3, b"third")])
    assert texts(path) == ([b"first", b"third"], "")
    assert path.stat().st_size > end


def test_a_lap_that_is_in_the_file_already_is_not_written_again(tmp_path: Path) -> None:
    """The gateway may be killed between the append and the freeing of the segment."""
    path = tmp_path / "again.hpr"
    writer(path).append([lap(1, b"first"), lap(2, b"second")])
    successor = writer(path)
    successor.append([lap(1, b"first"), lap(2, b"second"), lap(3, b"third")])
    successor.append([lap(3, b"third")])
    assert texts(path) == ([b"first", b"second", b"third"], "")


def test_a_recording_is_private(tmp_path: Path) -> None:
    path = tmp_path / "private.hpr"
    writer(path).append([lap(1, b"secret")])
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "foreign.hpr"
    path.write_bytes(os.urandom(100_000))
    with pytest.raises(RecordingDamaged):
        writer(path).append([lap(1, b"first")])
    assert path.stat().st_size == 100_000


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "link.hpr").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        writer(tmp_path / "link.hpr").append([lap(1, b"first")])
    assert not target.exists()


@pytest.mark.parametrize("data", [b"\1\0\0", EVENT.pack(1, 0, 0), EVENT.pack(1, Kind.OUTPUT, 5) + b"four"])
def test_events_that_make_no_sense_are_damage(data: bytes) -> None:
    with pytest.raises(RecordingDamaged):
        list(events_in(data, 0))


def test_a_kind_of_a_later_version_is_handed_on_for_readers_to_skip() -> None:
    assert [event.kind for event in events_in(EVENT.pack(1, 200, 2) + b"??", 0)] == [200]
