"""Reads a recording from its beginning to this moment: the file, then what still lies in the spool.

Works beside a running gateway, from another process too, without disturbing it, and without any gateway.
Everything here blocks; ask from a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.errors import RecordingDamaged
from gateway.recording.block_log import BlockReader, LapData
from gateway.recording.layout import RecordedEvent, RecordingMeta, events_in
from gateway.recording.spool import Spool

# Each time it fails, the recorder thread has moved a lap into the file meanwhile, where we then read it.
_ATTEMPTS_MAX = 100


class RecordingReader:
    """Iterates, once, over the events of one session. `damage` says afterwards what could not be read, if anything."""

    def __init__(self, recording: Path, spool: Path) -> None:
        """Either file may be missing, not both: raises FileNotFoundError. RecordingDamaged: nothing can be read."""
        self.damage = ""
        self._recording = recording
        self._spool = spool
        self._lap_last = 0
        self._file: BlockReader | None = None
        self.meta: RecordingMeta = self._read_meta()

    def __iter__(self) -> Iterator[RecordedEvent]:
        try:
            for lap in self._laps():
                yield from events_in(lap.events(), lap.start_us)
        except RecordingDamaged as error:
            self.damage = error.user_message
        finally:
            self.close()

    def close(self) -> None:
        """For a reader that was not read to its end."""
        if self._file is not None:
            self._file.close()

    def _read_meta(self) -> RecordingMeta:
        self._open_file()
        if self._file is None:
            try:
                return read_spool_meta(self._spool)[0]
            except FileNotFoundError:
                self._open_file()  # the session ended between our two looks
        if self._file is None:
            raise FileNotFoundError(self._recording)
        return self._file.meta

    def _laps(self) -> Iterator[LapData]:
        is_behind = False  # there are blocks in the file behind those we have
        for _ in range(_ATTEMPTS_MAX):
            is_stuck = is_behind  # and reading on finds them not whole
            for lap in self._file_laps():
                is_stuck = False
                yield lap
            # A lap enters the file before it leaves the spool. What is in neither was moved between our two looks,
            # and another look at the file finds it (unless the file is damaged there).
            tail = read_tail(self._spool, self._lap_last)
            is_behind = self._file_has_more()
            if tail is not None and (is_stuck or not is_behind):
                self._note_damage(tail)
                yield from tail
                return
        self.damage = "the recording changed faster than it could be read"

    def _file_laps(self) -> Iterator[LapData]:
        self._open_file()
        if self._file is None:
            return
        for head, raw in self._file.blocks():
            self._lap_last = head.lap
            yield LapData(head.lap, head.start_us, head.end_us, 0, raw)

    def _file_has_more(self) -> bool:
        self._open_file()
        return self._file is not None and self._file.lap_last() > self._lap_last

    def _note_damage(self, tail: list[LapData]) -> None:
        """A block half-written by a gateway that works on it is no damage: its lap is still in the spool."""
        unread_bytes = self._file.unread_bytes if self._file else 0
        is_covered = bool(tail) and (tail[0].lap == self._lap_last + 1 or tail[0].lost_before_bytes > 0)
        if unread_bytes and not is_covered:
            self.damage = f"the last {unread_bytes} bytes of the file are not whole and were left out"

    def _open_file(self) -> None:
        if self._file is not None or not self._recording.exists():
            return
        try:
            self._file = BlockReader(self._recording)
        except RecordingDamaged:
            # It may just be being made, and all there is is in the spool; or it has been finished since.
            if not self._spool.exists():
                self._file = BlockReader(self._recording)


def read_spool_meta(path: Path) -> tuple[RecordingMeta, bool]:
    """What a spool says about its session, and whether it is recorded. Raises FileNotFoundError, RecordingDamaged."""
    for _ in range(_ATTEMPTS_MAX):
        copy = Spool.copy_of(path, lap_last=1 << 60)
        if copy is not None:
            return copy.meta, copy.is_recorded
    raise RecordingDamaged("the spool has no lap under its head", detail=str(path))


def read_tail(path: Path, lap_last: int) -> list[LapData] | None:
    """The laps after `lap_last` that are in the spool, oldest first; None: they moved while we looked."""
    try:
        copy = Spool.copy_of(path, lap_last=lap_last)
    except FileNotFoundError:
        return []
    if copy is None:
        return None
    laps = [copy.lap_data(lap) for lap in copy.closed_laps()]
    current, position = copy.current_lap()
    if current is not None:
        laps.append(copy.lap_data(current, end=position))
    return [lap for lap in laps if lap.lap > lap_last]
