"""The recorder of one terminal session: the hot path, the marks, and when a lap changes.

A full lap is handed to the recorder thread, which compresses it into the recording file; only then is its segment
free again. If the thread falls behind or the disk is full, the oldest lap that is not in its hands is dropped and
its size becomes a gap in front of the next one: the program never waits for its recording.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from os import readv

from gateway.errors import GatewayError
from gateway.events import Event
from gateway.interfaces import ProgramExit, StreamPosition, WindowSize
from gateway.log import log_event, log_failure, log_warning
from gateway.recording.block_log import BlockWriter
from gateway.recording.layout import (
    DT_US_MAX,
    EVENT,
    EVENT_BYTES,
    Kind,
    encode_exit,
    encode_number,
    encode_size,
    encode_text,
    lost_in,
)
from gateway.recording.spool import (
    POSITION_BITS,
    RESERVE_FIRST_BYTES,
    RESERVE_STEP_BYTES,
    Lap,
    Progress,
    Spool,
    clock_us,
)

# Below this much room a read would be cut short for nothing: a terminal gives at most 4 KiB at a time.
READ_BYTES_MIN = 4096
# What one mark may need with everything around it: far more than its 1 KiB of text.
_MARK_BYTES_MAX = 2048
# Closing waits this long for the disk; afterwards the spool stays, and the next start finishes it.
CLOSE_SECONDS = 10.0
# Without a recording file: laps behind the one being filled that stay readable, for the keyframe to catch up with a
# flood.
_LAPS_KEPT_UNRECORDED = 3
# A full disk drops a lap every few milliseconds; the journal hears of it this often.
_GAP_LOG_SECONDS = 60.0

_OUTPUT = int(Kind.OUTPUT)
_pack_event = EVENT.pack_into
_clock_ns = time.clock_gettime_ns
_CLOCK = time.CLOCK_BOOTTIME  # the same as spool.clock_us, written out where every read passes


class SpoolRecorder:
    """Implements interfaces.Recorder. Belongs to the event loop; only `BlockWriter.append` runs in the thread."""

    def __init__(
        self,
        session_id: str,
        spool: Spool,
        *,
        progress: Progress,
        size: WindowSize,
        writer: BlockWriter | None,
        executor: Executor,
        lap_ended: Callable[[str, StreamPosition], None],
        closed: Callable[[str], None],
    ) -> None:
        """Continues at `progress`. Without a writer nothing is recorded and the spool holds the newest output only.

        `lap_ended` hears where the next lap begins, each time one is full.
        """
        self._session_id = session_id
        self._spool = spool
        self._writer = writer
        self._executor = executor
        self._lap_ended = lap_ended
        self._closed = closed
        self._size = size
        self._view = spool.view
        self._head = spool.head
        self._output_cell = spool.output_bytes
        self._output_bytes = spool.output_bytes[0]
        self._origin_us = min(spool.origin_us, clock_us() - progress.last_us)  # time never runs backwards
        self._last_us = progress.last_us
        self._full_laps = spool.closed_laps()  # oldest first; the first `_in_hand` of them are with the thread
        self._in_hand = 0
        self._job: asyncio.Future[None] | None = None
        self._failure_is_logged = False
        self._gap_bytes_unlogged = 0
        self._gap_logged_at: float | None = None
        self._is_closed = False
        self._is_abandoned = False  # closed while the thread still held laps
        self._lap = progress.lap
        self._position = self._room_end = 0
        self._enter(progress.lap, progress.position)
        self._hand_over()

    # ---------------------------------------------------------------------------------------------- the hot path

    def read_from(self, fd: int, limit_bytes: int) -> memoryview:
        data_at = self._position + EVENT_BYTES
        room = self._room_end - data_at
        dt_us = _clock_ns(_CLOCK) // 1000 - self._origin_us - self._last_us
        if room < READ_BYTES_MIN or dt_us > DT_US_MAX:
            dt_us = self._prepare(dt_us)
            data_at = self._position + EVENT_BYTES
            room = self._room_end - data_at
        view = self._view[data_at : data_at + (limit_bytes if limit_bytes < room else room)]
        count = readv(fd, (view,))
        if not count:
            return view[:0]
        # Until the head is stored these bytes are "behind the head", where a next gateway would look for them.
        _pack_event(self._view, data_at - EVENT_BYTES, dt_us, _OUTPUT, count)
        self._position = position = data_at + count
        self._last_us += dt_us
        self._head[0] = self._lap_bits | position
        self._output_bytes += count
        self._output_cell[0] = self._output_bytes
        return view[:count]

    @property
    def spool(self) -> Spool:
        return self._spool

    @property
    def output_bytes(self) -> int:
        """All output since the session's start, also what earlier gateways recorded."""
        return self._output_bytes

    @property
    def position(self) -> StreamPosition:
        return StreamPosition(self._lap.number, self._position - self._lap_start)

    # ---------------------------------------------------------------------------------------------------- marks

    def append(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            dt_us = self._prepare(self._dt_us())
            data_at = self._position + EVENT_BYTES
            part = data[at : at + self._room_end - data_at]
            self._view[data_at : data_at + len(part)] = part
            self._commit(dt_us, _OUTPUT, len(part))
            at += len(part)

    def mark_gap(self, lost_bytes: int) -> None:
        if lost_bytes > 0:
            self._mark(Kind.GAP, encode_number(lost_bytes))
            self._note_gap(lost_bytes, reason="keeper_ring")

    def mark_resize(self, size: WindowSize) -> None:
        self._size = size
        self._mark(Kind.RESIZE, encode_size(size))

    def mark_attach(self, principal: str, size: WindowSize) -> None:
        self._mark(Kind.ATTACH, encode_size(size) + encode_text(principal))

    def mark_detach(self, reason: str) -> None:
        self._mark(Kind.DETACH, encode_text(reason))

    def mark_exit(self, end: ProgramExit) -> None:
        self._mark(Kind.EXIT, encode_exit(end))

    def _mark(self, kind: Kind, data: bytes) -> None:
        self._put(self._prepare(self._dt_us()), kind, data)

    def _put(self, dt_us: int, kind: Kind, data: bytes) -> None:
        # Header first, unlike output: a killed mark must not be taken for output found behind the head.
        _pack_event(self._view, self._position, dt_us, kind, len(data))
        data_at = self._position + EVENT_BYTES
        self._view[data_at : data_at + len(data)] = data
        self._commit(dt_us, kind, len(data))

    def _commit(self, dt_us: int, kind: int, size: int) -> None:
        _pack_event(self._view, self._position, dt_us, kind, size)
        self._position += EVENT_BYTES + size
        self._last_us += dt_us
        self._head[0] = self._lap_bits | self._position
        if kind == Kind.OUTPUT:
            self._output_bytes += size
            self._output_cell[0] = self._output_bytes

    def _dt_us(self) -> int:
        return max(0, _clock_ns(_CLOCK) // 1000 - self._origin_us - self._last_us)

    # ----------------------------------------------------------------------------------------------------- laps

    def _prepare(self, dt_us: int) -> int:
        """Room for a read or a mark, and a dt that fits. Returns the dt that is left to say."""
        if self._is_closed:
            raise ValueError(f"the recorder of session {self._session_id} is closed")
        if self._room_end - self._position < EVENT_BYTES + READ_BYTES_MIN + _MARK_BYTES_MAX:
            self._make_room(EVENT_BYTES + READ_BYTES_MIN + _MARK_BYTES_MAX)
        if dt_us <= DT_US_MAX:
            return max(0, dt_us)
        self._put(0, Kind.PAUSE, encode_number(dt_us))
        self._last_us += dt_us
        return 0

    def _make_room(self, wanted_bytes: int) -> None:
        end = self._spool.segment_end(self._lap.segment)
        needed = self._position + wanted_bytes
        if needed <= end and (
            self._spool.reserve(self._lap.segment, min(end, needed + RESERVE_STEP_BYTES))
            or self._spool.reserve(self._lap.segment, needed)
        ):
            self._room_end = self._spool.reserved(self._lap.segment)
        else:
            self._next_lap()

    def _next_lap(self) -> None:
        """Close the full lap, begin another in a free segment or in the place of the oldest."""
        self._spool.end_lap(self._lap, position=self._position, end_us=self._last_us)
        self._full_laps.append(self._lap)
        if self._writer is None:
            self._free_laps(max(0, len(self._full_laps) - _LAPS_KEPT_UNRECORDED))
        segment = next((i for i in self._spool.free_segments() if self._has_room(i)), None)
        lost_bytes, has_gap = 0, segment is None
        if segment is None:
            segment, lost_bytes = self._drop_oldest()
        lap = Lap(self._lap.number + 1, segment)
        self._spool.begin_lap(lap, start_us=self._last_us, lost_before_bytes=lost_bytes)
        self._enter(lap, self._spool.segment_start(segment))
        if has_gap:  # resizes may have gone with it
            self._put(0, Kind.RESIZE, encode_size(self._size))
        self._hand_over()
        self._lap_ended(self._session_id, StreamPosition(lap.number, 0))

    def _has_room(self, segment: int) -> bool:
        start = self._spool.segment_start(segment)
        return self._spool.reserve(segment, min(start + RESERVE_FIRST_BYTES, self._spool.segment_end(segment)))

    def _drop_oldest(self) -> tuple[int, int]:
        """Empty the oldest segment the thread does not read. Returns it, and the bytes the next lap has to account for.

        The loss is written down before the bytes go: killed in between, a gap too many is better than a silent one.
        """
        lap = self._full_laps.pop(self._in_hand)
        data = self._spool.lap_data(lap)
        lost_bytes = data.lost_before_bytes + lost_in(data.raw)
        self._note_gap(lost_bytes, reason="recording_behind")
        if self._in_hand < len(self._full_laps):
            self._spool.add_lost(self._full_laps[self._in_hand], lost_bytes)
            self._spool.free(lap.segment)
            return lap.segment, 0
        self._spool.note_loss_of_current(lost_bytes)
        self._spool.free(lap.segment)
        return lap.segment, lost_bytes

    def _enter(self, lap: Lap, position: int) -> None:
        self._lap = lap
        self._lap_bits = lap.number << POSITION_BITS
        self._lap_start = self._spool.segment_start(lap.segment)
        self._position = position
        self._room_end = self._spool.reserved(lap.segment)

    # ----------------------------------------------------------------------------------------- the recorder thread

    def _hand_over(self) -> None:
        """Give every full lap to the thread, unless it still has some."""
        if self._writer is None or self._in_hand or not self._full_laps:
            return
        laps = tuple(self._full_laps)
        self._in_hand = len(laps)
        loop = asyncio.get_running_loop()
        self._job = loop.run_in_executor(self._executor, _record, self._writer, self._spool, laps)
        self._job.add_done_callback(self._recorded)

    def _recorded(self, job: asyncio.Future[None]) -> None:
        count, self._in_hand, self._job = self._in_hand, 0, None
        if job.cancelled():
            return
        error = job.exception()
        if self._is_abandoned:
            return
        if error is not None:  # they stay, and are tried again together with the next full lap
            self._note_failure(error)
            return
        self._failure_is_logged = False
        self._free_laps(count)
        assert self._writer is not None
        if self._writer.is_full:
            log_warning(Event.RECORDING_FAILED, session_id=self._session_id, reason="size_limit")
            self._writer = None
        elif not self._is_closed:
            self._hand_over()

    def _free_laps(self, count: int) -> None:
        for lap in self._full_laps[:count]:
            self._spool.free(lap.segment)
        del self._full_laps[:count]

    def _note_failure(self, error: BaseException) -> None:
        if not self._failure_is_logged:
            self._failure_is_logged = True
            reason = error.detail or error.code if isinstance(error, GatewayError) else str(error)
            log_failure(Event.RECORDING_FAILED, session_id=self._session_id, reason=reason)

    def _note_gap(self, lost_bytes: int, *, reason: str) -> None:
        self._gap_bytes_unlogged += lost_bytes
        now = time.monotonic()
        if self._gap_logged_at is None or now - self._gap_logged_at > _GAP_LOG_SECONDS:
            self._gap_logged_at = now
            lost_bytes, self._gap_bytes_unlogged = self._gap_bytes_unlogged, 0
            log_event(
                Event.RECORDING_GAP,
                level=logging.WARNING,
                session_id=self._session_id,
                lost_bytes=lost_bytes,
                reason=reason,
            )

    # ------------------------------------------------------------------------------------------------------ the end

    async def close(self, *, is_final: bool) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._room_end = 0  # a read after this lands in `_prepare`, which refuses
        is_done = False
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._job_done()
                is_done = is_final and await self._record_rest()
        except TimeoutError:
            self._note_failure(TimeoutError(f"the disk did not answer within {CLOSE_SECONDS:.0f} s"))
        finally:
            self._is_abandoned = self._job is not None
            self._spool.close(is_removed=is_done)
            self._closed(self._session_id)

    async def _record_rest(self) -> bool:
        """Everything to the file. False: it could not be written, so the spool must stay for the next start."""
        self._spool.end_lap(self._lap, position=self._position, end_us=self._last_us)
        self._full_laps.append(self._lap)
        self._hand_over()
        await self._job_done()
        return self._writer is None or not self._full_laps

    async def _job_done(self) -> None:
        while self._job is not None:
            await asyncio.wait([self._job])


def _record(writer: BlockWriter, spool: Spool, laps: tuple[Lap, ...]) -> None:
    """In the thread. The laps' segments are left alone by everybody else until this has returned."""
    writer.append(spool.lap_data(lap) for lap in laps)
