"""Reads on in a recording from a position: what has been printed since, wherever it lies by now.

Works on descriptors, so that somebody without access to files can do it, and beside the gateway that writes. A lap is
in the spool, or in the recording file, or lost; it enters the file before it leaves the spool. So whoever looks in
that order misses none. Everything here blocks.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard

from gateway.errors import RecordingDamaged
from gateway.interfaces import StreamPosition
from gateway.recording.block_log import BlockHead, LapData, block_heads, read_file_head, read_lap
from gateway.recording.layout import EVENT, EVENT_BYTES, Kind, RecordingMeta
from gateway.recording.spool import Spool

START = StreamPosition(1, 0)
# Each time it fails, a lap was moved into the file meanwhile, where it is found then.
_ATTEMPTS_MAX = 100


@dataclass(slots=True)
class StreamFiles:
    """The descriptors of one session's recording file and spool; either may be missing."""

    recording: int | None
    spool: int | None

    def close(self) -> None:
        """Twice is harmless."""
        for fd in (self.recording, self.spool):
            if fd is not None:
                os.close(fd)
        self.recording = self.spool = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Events of one lap, all that follow each other there."""

    lap: int
    offset: int
    events: memoryview
    is_after_gap: bool  # something right before them is lost
    file_at: int  # where the recording file should be looked at next


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing for a terminal to do: take output, or (kind RESIZE, GAP) hear what happened."""

    offset_after: int  # in its stretch's lap
    kind: int
    data: bytes


class Stream:
    """One session's events by position."""

    def __init__(self, files: StreamFiles, *, file_at: int = 0) -> None:
        """`file_at`: from an earlier stretch, so that a long recording is not searched from its beginning; a wrong one
        only costs time. The descriptors stay the caller's."""
        self._files = files
        self._file_at = file_at
        self._attempts = 0
        self._decompressor = zstandard.ZstdDecompressor()

    def meta(self) -> RecordingMeta:
        """Raises RecordingDamaged."""
        if self._files.spool is not None:
            return Spool.head_of(self._files.spool).meta
        if self._files.recording is not None:
            return read_file_head(self._files.recording)[0]
        raise RecordingDamaged("there is neither a spool nor a recording")

    def stretches(self, since: StreamPosition, until: StreamPosition) -> Iterator[Stretch]:
        """What lies between the two, in order. If the end of it is lost, the last stretch is empty and behind a gap.

        Raises RecordingDamaged.
        """
        number, offset, is_after_gap = since.lap, since.offset, False
        while (number, offset) < (until.lap, until.offset):
            lap = self._lap(number)
            if lap is None:
                is_after_gap = True
                number, offset = self._next_number(number, until.lap), 0
                if number > until.lap:
                    break
                continue
            is_after_gap |= bool(lap.lost_before_bytes) and offset == 0
            end = until.offset if number == until.lap else len(lap.raw)
            events = memoryview(lap.raw)[offset:end]
            yield Stretch(number, offset, events, is_after_gap, self._file_at)
            is_after_gap = len(events) < end - offset  # less than was said to be there
            number, offset = number + 1, 0
        if is_after_gap:
            yield Stretch(until.lap, until.offset, memoryview(b""), True, self._file_at)

    def output_before(self, until: StreamPosition, *, bytes_max: int) -> bytes:
        """The newest output before `until`, from as many laps as it takes, or as there are in one piece."""
        parts: list[bytes] = []
        for number in range(until.lap, 0, -1):
            lap = self._lap(number)
            if lap is None:
                break
            events = memoryview(lap.raw)[: until.offset if number == until.lap else None]
            pieces = list(pieces_in(events, offset=0, bytes_max=bytes_max))
            last_gap = max((at for at, piece in enumerate(pieces) if piece.kind == Kind.GAP), default=-1)
            parts[:0] = [piece.data for piece in pieces[last_gap + 1 :] if piece.kind == Kind.OUTPUT]
            if sum(map(len, parts)) >= bytes_max or last_gap >= 0 or lap.lost_before_bytes:
                break
        return b"".join(parts)[-bytes_max:]

    # ------------------------------------------------------------------------------------------- where a lap lies

    def _lap(self, number: int) -> LapData | None:
        lap = Spool.read_lap(self._files.spool, number) if self._files.spool is not None else None
        return lap if lap is not None else self._lap_in_file(number)

    def _lap_in_file(self, number: int) -> LapData | None:
        head = self._head_from(number)
        if head is None or head.lap != number or head.is_last:
            return None
        assert self._files.recording is not None
        return read_lap(self._files.recording, head, self._decompressor)

    def _next_number(self, number: int, last: int) -> int:
        """The first lap from `number` on that is anywhere; above `last` if there is none."""
        spool = self._files.spool
        in_spool = Spool.head_of(spool).lap_numbers() if spool is not None else []
        head = self._head_from(number)
        in_file = [head.lap] if head is not None and not head.is_last else []
        found = min((found for found in (*in_spool, *in_file) if found >= number), default=last + 1)
        self._count_attempt(found == number)
        return found

    def _count_attempt(self, is_again: bool) -> None:
        """It can be there now though it was not a moment ago: the recorder works beside us."""
        self._attempts = self._attempts + 1 if is_again else 0
        if self._attempts > _ATTEMPTS_MAX:
            raise RecordingDamaged("the recording changed faster than it could be read")

    def _head_from(self, number: int) -> BlockHead | None:
        """The first block of lap `number` or later. Remembers where it looked: laps are asked for in order."""
        fd = self._files.recording
        if fd is None:
            return None
        heads = block_heads(fd, self._file_at) if self._file_at else iter(())
        first = next(heads, None)
        if first is None or first.lap > number:
            try:
                self._file_at = read_file_head(fd)[1]
            except RecordingDamaged:  # it is just being made, and everything is in the spool
                self._file_at = 0
                return None
            heads = block_heads(fd, self._file_at)
            first = next(heads, None)
        for head in itertools.chain([first], heads) if first is not None else ():
            if head.lap >= number:
                return head
            self._file_at = head.start_at
        return None


def pieces_in(events: memoryview, *, offset: int, bytes_max: int) -> Iterator[Piece]:
    """The events of a stretch that begins at `offset`, output joined to about `bytes_max`. Raises RecordingDamaged."""
    joined: list[memoryview] = []
    size, at, end = 0, 0, len(events)
    while at < end:
        data_at = at + EVENT_BYTES
        _, kind, data_bytes = EVENT.unpack_from(events, at) if data_at <= end else (0, 0, 0)
        next_at = data_at + data_bytes
        if kind == 0 or next_at > end:
            raise RecordingDamaged("an event is cut off", detail=f"at {at} of {end}")
        if kind == Kind.OUTPUT:
            joined.append(events[data_at:next_at])
            size += data_bytes
        elif kind in (Kind.RESIZE, Kind.GAP):
            if joined:
                yield Piece(offset + at, Kind.OUTPUT, b"".join(joined))
                joined, size = [], 0
            yield Piece(offset + next_at, kind, bytes(events[data_at:next_at]))
        at = next_at
        if size >= bytes_max or (at == end and joined):
            yield Piece(offset + at, Kind.OUTPUT, b"".join(joined))
            joined, size = [], 0
