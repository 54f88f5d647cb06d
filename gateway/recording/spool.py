"""The spool: one mapped file per session, into which its terminal is read directly.

The kernel keeps a shared mapping when the process is killed, so what was read is never lost: a `kill -9` between the
read and the store of the head leaves the bytes behind the head, where the space is always zero, and the next gateway
finds them. The file is a few segments, filled one *lap* after the other:

    head   = magic, version, head cell, … | a row of cells per segment | RecordingMeta        first 2 KiB
    cells  = lap (0: free) | start_us | end_us | end position | lost bytes before it | reserved position

The head cell is `lap << 28 | position in the file`, one 8-byte store. A segment belongs to whichever lap its cell
says. Space is reserved (fallocate) before it is touched: a store into an unreserved page of a full file system would
be a SIGBUS, and that would end every session of the gateway.

Here is the layout and what must be written in which order; when to change laps is decided in `recorder.py`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import RecordingDamaged
from gateway.recording.block_log import LapData
from gateway.recording.layout import EVENT, EVENT_BYTES, Kind, RecordingMeta, events_in
from gateway.recording.mapped_file import map_file, map_new_file

SUFFIX = ".spool"
# One is filled while the recorder works on the others. Eight, because a thread waits up to 5 ms for the interpreter
# each time it needs it, and a terminal can fill a segment of 256 KiB in that time.
SEGMENT_COUNT = 8
# Space is reserved in steps, the first one small: most sessions are idle and few print more than this.
RESERVE_FIRST_BYTES = 16 * 1024
RESERVE_STEP_BYTES = 64 * 1024
POSITION_BITS = 28

_MAGIC = b"HPSPOOL\n"
_VERSION = 1
_POSITION_MASK = (1 << POSITION_BITS) - 1
_HEAD_BYTES = 2048
_META_AT = 512
_META = struct.Struct("<II")
_VERSION_CELL, _HEAD_CELL, _LOST_CELL, _ORIGIN_CELL, _RECORDED_CELL, _SEGMENT_CELL, _COUNT_CELL = range(1, 8)
_TABLE_CELL = 8
_LAP, _START_US, _END_US, _END, _LOST_BEFORE, _RESERVED = range(6)
_ROW_CELLS = 6
_OUTPUT_CELL = _TABLE_CELL + SEGMENT_COUNT * _ROW_CELLS  # output since the session's start, in bytes
_ZEROS = bytes(64 * 1024)


class SpoolBusy(Exception):
    """Another process holds this spool."""


def clock_us() -> int:
    """Goes on across restarts of the gateway and while the machine sleeps, as a person's clock does."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


@dataclass(frozen=True, slots=True)
class Lap:
    """One filling of a segment, complete."""

    number: int
    segment: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the lap being filled stands."""

    lap: Lap
    position: int
    last_us: int  # time of its last event


class Spool:
    """One session's mapped file. Not thread-safe, but for `lap_data` of a closed lap."""

    def __init__(self, mapping: mmap.mmap | bytearray, path: Path | None) -> None:
        """Over a mapping whose head is written; `Spool.create` and `Spool.open` are for everybody else."""
        self.mapping = mapping
        self.view = memoryview(mapping)
        self.cells = self.view[:_META_AT].cast("Q")
        self.head = self.cells[_HEAD_CELL : _HEAD_CELL + 1]
        self.path = path
        self.output_bytes = self.cells[_OUTPUT_CELL : _OUTPUT_CELL + 1]
        self._memory_fd: int | None = None  # of a spool without a file
        self.segment_bytes = self.cells[_SEGMENT_CELL]
        self.segment_count = self.cells[_COUNT_CELL]

    @classmethod
    def create(
        cls, path: Path | None, meta: RecordingMeta, segment_bytes: int, *, lap: int, is_recorded: bool
    ) -> tuple[Spool, Progress]:
        """A new spool, or (no path) one in memory, which does not outlive the process. Raises OSError."""
        size = segment_bytes * SEGMENT_COUNT
        memory_fd = None
        if path is not None:
            mapping = map_new_file(path, size, reserved_bytes=RESERVE_FIRST_BYTES)
        else:
            memory_fd = os.memfd_create("spool", os.MFD_CLOEXEC)
            os.ftruncate(memory_fd, size)
            mapping = mmap.mmap(memory_fd, size)
        _write_head(mapping, meta, segment_bytes=segment_bytes, is_recorded=is_recorded)
        spool = cls(mapping, path)
        spool._memory_fd = memory_fd
        start_us = max(0, clock_us() - spool.origin_us)
        spool.begin_lap(Lap(lap, 0), start_us=start_us, lost_before_bytes=0)
        mapping[:8] = _MAGIC  # last: without it, this is no spool
        return spool, Progress(Lap(lap, 0), spool.segment_start(0), start_us)

    @classmethod
    def open(cls, path: Path) -> Spool:
        """An existing spool, ours from now on. Raises FileNotFoundError, SpoolBusy, RecordingDamaged, OSError."""
        try:
            mapping = map_file(path)
        except BlockingIOError:
            raise SpoolBusy(str(path)) from None
        try:
            _check_head(mapping, len(mapping), path)
        except RecordingDamaged:
            mapping.close()
            raise
        return cls(mapping, path)

    @classmethod
    def copy_of(cls, path: Path, *, lap_last: int) -> Spool | None:
        """A private copy of a spool somebody else may be writing, with the laps after `lap_last`.

        None: a lap was moved while we copied. What lies before the head never changes while its lap is where it is,
        so the copy is good if the cells say the same before and after. Raises FileNotFoundError, RecordingDamaged.
        """
        with path.open("rb", buffering=0) as file:
            buffer = bytearray(os.fstat(file.fileno()).st_size)
            buffer[:_HEAD_BYTES] = _read_head(file.fileno(), path)
            copy = cls(buffer, path)
            current, position = copy.current_lap()
            for lap in [*copy.closed_laps(), *([current] if current else [])]:
                if lap.number > lap_last:
                    start = copy.segment_start(lap.segment)
                    end = position if lap == current else copy.cells[copy._row(lap.segment) + _END]
                    os.preadv(file.fileno(), [copy.view[start:end]], start)
            laps_after = cls.head_of(file.fileno())._lap_cells()
        before = copy._lap_cells()
        is_good = current is not None and all(b == a or b <= lap_last for b, a in zip(before, laps_after, strict=True))
        return copy if is_good else None

    @classmethod
    def head_of(cls, fd: int) -> Spool:
        """A copy of the head alone, which tells the laps and nothing of what is in them. Raises RecordingDamaged."""
        return cls(_read_head(fd, None), None)

    @classmethod
    def read_lap(cls, fd: int, number: int) -> LapData | None:
        """One lap of a spool that somebody else may be writing, as far as it goes; None: it is not there any more.

        Raises RecordingDamaged.
        """
        head = cls.head_of(fd)
        lap, end = head.current_lap()
        if lap is None or lap.number != number:
            lap = next((closed for closed in head.closed_laps() if closed.number == number), None)
            if lap is None:
                return None
            end = head.cells[head._row(lap.segment) + _END]
        start = head.segment_start(lap.segment)
        raw = os.pread(fd, max(0, end - start), start)
        if cls.head_of(fd)._lap_cells()[lap.segment] != number:
            return None  # its place was given to another lap while we read
        row = head._row(lap.segment)
        _, start_us, end_us, _, lost, _ = head.cells[row : row + _ROW_CELLS]
        return LapData(number, start_us, end_us, lost, memoryview(raw))

    def lap_numbers(self) -> list[int]:
        """Of all laps that are there, oldest first."""
        current = self.current_lap()[0]
        return [lap.number for lap in self.closed_laps()] + ([current.number] if current else [])

    def open_to_read(self) -> int:
        """A descriptor of its own, for somebody who may read the spool and not change it. Raises OSError."""
        path = f"/proc/self/fd/{self._memory_fd}" if self.path is None else self.path
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    # ------------------------------------------------------------------------------------------------ what it says

    @property
    def meta(self) -> RecordingMeta:
        """Raises RecordingDamaged."""
        size, crc = _META.unpack_from(self.mapping, _META_AT)
        data = bytes(self.view[_META_AT + _META.size : _META_AT + _META.size + min(size, _HEAD_BYTES)])
        if zlib.crc32(data) != crc:
            raise RecordingDamaged("the spool's head is damaged", detail=str(self.path))
        return RecordingMeta.from_bytes(data)

    @property
    def is_recorded(self) -> bool:
        return bool(self.cells[_RECORDED_CELL])

    @property
    def origin_us(self) -> int:
        """`clock_us` at the session's start."""
        return self.cells[_ORIGIN_CELL]

    def segment_start(self, segment: int) -> int:
        return segment * self.segment_bytes or _HEAD_BYTES

    def segment_end(self, segment: int) -> int:
        return (segment + 1) * self.segment_bytes

    def reserved(self, segment: int) -> int:
        """The position up to which this segment's space is ours."""
        return self.cells[self._row(segment) + _RESERVED]

    def closed_laps(self) -> list[Lap]:
        """Laps that are complete and not freed, oldest first."""
        current = self.head[0] >> POSITION_BITS
        laps = [Lap(number, segment) for segment, number in enumerate(self._lap_cells())]
        return sorted((lap for lap in laps if 0 < lap.number < current), key=lambda lap: lap.number)

    def current_lap(self) -> tuple[Lap | None, int]:
        """The lap under the head (None: it was just being dropped) and the position in the file up to which it goes."""
        number, position = self.head[0] >> POSITION_BITS, self.head[0] & _POSITION_MASK
        segment = next((i for i, found in enumerate(self._lap_cells()) if found == number), None)
        return (None if segment is None else Lap(number, segment)), position

    def free_segments(self) -> list[int]:
        return [segment for segment, number in enumerate(self._lap_cells()) if not number]

    def lap_data(self, lap: Lap, *, end: int | None = None) -> LapData:
        """A closed lap (or an open one, up to `end`), with a view of the mapping; may be called in a thread."""
        row, start = self._row(lap.segment), self.segment_start(lap.segment)
        _, start_us, end_us, closed_at, lost, _ = self.cells[row : row + _ROW_CELLS]
        return LapData(lap.number, start_us, end_us, lost, self.view[start : closed_at if end is None else end])

    # --------------------------------------------------------------------------------------------- changing the lap

    def reserve(self, segment: int, position: int) -> bool:
        """Make the segment's space ours up to `position`, or say that there is none."""
        row = self._row(segment)
        if position <= self.cells[row + _RESERVED]:
            return True
        if self.path is not None:
            start = segment * self.segment_bytes
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    os.posix_fallocate(fd, start, position - start)
                finally:
                    os.close(fd)
            except OSError:
                return False
        self.cells[row + _RESERVED] = position
        return True

    def end_lap(self, lap: Lap, *, position: int, end_us: int) -> None:
        row = self._row(lap.segment)
        self.cells[row + _END_US] = end_us
        self.cells[row + _END] = position

    def begin_lap(self, lap: Lap, *, start_us: int, lost_before_bytes: int) -> None:
        """The segment is free; from here on the head is in it. The lap's cell before the head: a head without its
        lap means that the lap before it was being dropped (see `_recover_dropped`)."""
        row = self._row(lap.segment)
        self.cells[row + _START_US] = start_us
        self.cells[row + _LOST_BEFORE] = lost_before_bytes
        self.cells[row + _LAP] = lap.number
        self.head[0] = lap.number << POSITION_BITS | self.segment_start(lap.segment)
        self.cells[_LOST_CELL] = 0

    def free(self, segment: int) -> None:
        """Forget a lap. The space is zero again, so that old bytes are never taken for unmarked new ones."""
        row = self._row(segment)
        self.cells[row + _LAP] = 0
        self._clear(self.segment_start(segment), self.cells[row + _RESERVED])

    def add_lost(self, lap: Lap, lost_bytes: int) -> None:
        """This much is missing right before `lap`."""
        self.cells[self._row(lap.segment) + _LOST_BEFORE] += lost_bytes

    def note_loss_of_current(self, lost_bytes: int) -> None:
        """Called before the lap under the head is freed: should we be killed until the next lap begins, it is known."""
        self.cells[_LOST_CELL] = lost_bytes

    # ----------------------------------------------------------------------------------------- after a crash, and end

    def recover(self) -> Progress:
        """Where an earlier gateway stopped, with bytes found behind the head made an event. Raises RecordingDamaged."""
        number = self.head[0] >> POSITION_BITS
        for segment, found in enumerate(self._lap_cells()):
            if found > number:  # it had begun, but the head never went there
                self.cells[self._row(segment) + _LAP] = 0
            if self.reserved(segment) > self.segment_end(segment):
                raise RecordingDamaged("the spool's cells make no sense", detail=f"segment {segment}")
        lap, position = self.current_lap()
        if lap is None:
            return self._recover_dropped(number)
        segment = lap.segment
        start, reserved = self.segment_start(segment), self.reserved(segment)
        if not start <= position <= reserved <= self.segment_end(segment):
            raise RecordingDamaged("the spool's head points nowhere", detail=f"{position} in segment {segment}")
        last_us = self.cells[self._row(segment) + _START_US]
        data = self.view[start:position]
        for event in events_in(data, last_us):
            last_us = event.time_us
        head, position = position, self._recover_unmarked(number, position, reserved)
        self.output_bytes[0] += max(0, position - head - EVENT_BYTES)
        for full in self.closed_laps():
            if self.cells[self._row(full.segment) + _END] > self.reserved(full.segment):
                raise RecordingDamaged("the spool's cells make no sense", detail=f"lap {full.number}")
        for free in self.free_segments():
            self._clear(self.segment_start(free), self.reserved(free))  # it may have been killed while doing so
        self._unload(segment)
        return Progress(lap, position, last_us)

    def close(self, *, is_removed: bool) -> None:
        """Unmap, and remove the file if nobody needs it again. Twice is harmless."""
        if is_removed and self.path is not None:
            self.path.unlink(missing_ok=True)
        if self._memory_fd is not None:
            os.close(self._memory_fd)
            self._memory_fd = None
        for view in (self.head, self.output_bytes, self.cells, self.view):
            view.release()
        # Someone may still hold a view of the last read; the mapping then goes with that view.
        if isinstance(self.mapping, mmap.mmap):
            with contextlib.suppress(BufferError):
                self.mapping.close()

    def _recover_unmarked(self, number: int, position: int, reserved: int) -> int:
        """Bytes behind the head were read but not marked. Only NULs at their very end cannot be told from nothing."""
        data_at = position + EVENT_BYTES
        if data_at >= reserved:
            return position
        _, kind, size = EVENT.unpack_from(self.mapping, position)
        if kind not in (0, Kind.OUTPUT):  # a mark, which is written head first: we were killed within it
            self._clear(position, reserved)
            return position
        found = len(bytes(self.view[data_at:reserved]).rstrip(b"\0"))
        if kind == Kind.OUTPUT and found <= size <= reserved - data_at:
            found = size
        if found:
            EVENT.pack_into(self.mapping, position, 0, Kind.OUTPUT, found)
            position = data_at + found
            self.head[0] = number << POSITION_BITS | position
        else:
            self._clear(position, data_at)
        return position

    def _recover_dropped(self, number: int) -> Progress:
        """Killed while the lap under the head was dropped for want of space: begin the lap that was to follow."""
        last_us = max(0, clock_us() - self.origin_us)
        segment = next((i for i in self.free_segments() if self.reserve(i, self.segment_start(i) + 4096)), None)
        if segment is None:
            raise RecordingDamaged("the spool has no lap under its head", detail=str(self.path))
        self.free(segment)
        lap = Lap(number + 1, segment)
        self.begin_lap(lap, start_us=last_us, lost_before_bytes=self.cells[_LOST_CELL])
        return Progress(lap, self.segment_start(segment), last_us)

    def _lap_cells(self) -> list[int]:
        return [self.cells[self._row(segment) + _LAP] for segment in range(self.segment_count)]

    def _row(self, segment: int) -> int:
        return _TABLE_CELL + segment * _ROW_CELLS

    def _clear(self, start: int, end: int) -> None:
        for at in range(start, end, len(_ZEROS)):
            size = min(len(_ZEROS), end - at)
            self.view[at : at + size] = _ZEROS[:size]
        self._unload(start // self.segment_bytes)

    def _unload(self, segment: int) -> None:
        """The file keeps its bytes, our memory need not: a session that printed much once is idle again."""
        if isinstance(self.mapping, mmap.mmap):
            # Not the page with the head: the next look at it would map 64 KiB again.
            start = segment * self.segment_bytes or mmap.PAGESIZE
            self.mapping.madvise(mmap.MADV_DONTNEED, start, self.segment_end(segment) - start)


def _write_head(mapping: mmap.mmap, meta: RecordingMeta, *, segment_bytes: int, is_recorded: bool) -> None:
    data = meta.to_bytes()
    assert len(data) <= _HEAD_BYTES - _META_AT - _META.size, "new_meta bounds what goes in here"
    age_us = max(0, time.time_ns() // 1000 - meta.started_us)  # a recording that goes on without its spool
    origin_us = max(0, clock_us() - age_us)
    struct.pack_into("=8Q", mapping, 0, 0, _VERSION, 0, 0, origin_us, is_recorded, segment_bytes, SEGMENT_COUNT)
    struct.pack_into("=Q", mapping, 8 * (_TABLE_CELL + _RESERVED), RESERVE_FIRST_BYTES)
    _META.pack_into(mapping, _META_AT, len(data), zlib.crc32(data))
    mapping[_META_AT + _META.size : _META_AT + _META.size + len(data)] = data


def _read_head(fd: int, path: Path | None) -> bytearray:
    head = bytearray(os.pread(fd, _HEAD_BYTES, 0))
    _check_head(head, os.fstat(fd).st_size, path)
    return head


def _check_head(head: mmap.mmap | bytearray, size: int, path: Path | None) -> None:
    if len(head) >= _HEAD_BYTES and head[:8] == _MAGIC:
        cells = struct.unpack_from("=8Q", head)
        segment_bytes, count = cells[_SEGMENT_CELL], cells[_COUNT_CELL]
        if cells[_VERSION_CELL] == _VERSION and 0 < count <= SEGMENT_COUNT and segment_bytes * count == size:
            return
    raise RecordingDamaged("this is no spool of this version", detail=str(path))
