"""All recordings of this gateway: makes recorders, finishes what an earlier gateway left, finds, lists and deletes.

`recordings_dir/<session id>.hpr` is the recording, `spools_dir/<session id>.spool` what has not got there yet, and
`spools_dir/<session id>.screen` the keyframe of a running session (screen/keyframe.py).
`Archive` needs no gateway and no event loop; `FileRecordings` adds what a running gateway does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.config import RecordingSettings
from gateway.errors import CommandRefused, GatewayError, RecordingDamaged
from gateway.events import Event
from gateway.interfaces import Recorder, StreamPosition, WindowSize, Workspace
from gateway.log import log_failure, log_warning
from gateway.recording import block_log, spool
from gateway.recording.block_log import BlockReader, BlockWriter, new_compressor
from gateway.recording.layout import RecordingMeta, new_meta
from gateway.recording.reader import RecordingReader, read_spool_meta
from gateway.recording.recorder import SpoolRecorder
from gateway.recording.spool import Progress, Spool, SpoolBusy
from gateway.recording.stream import StreamFiles

KEYFRAME_SUFFIX = ".screen"
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
# Stopping waits this long for the recorder thread; what it has not written is in the spools.
CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RecordingInfo:
    """One line of `rec ls`."""

    session_id: str
    workspace_name: str
    started_at: datetime
    size_bytes: int  # on disk, compressed; what is still in the spool is not counted
    duration: timedelta | None  # None: nothing has reached the file yet
    is_live: bool  # there is a spool: the session runs, or was not finished yet


class Archive:
    """The recordings on disk. Every method blocks: call it from a thread, or from a command without a gateway."""

    def __init__(self, *, recordings_dir: Path, spools_dir: Path) -> None:
        self.recordings_dir = recordings_dir
        self.spools_dir = spools_dir

    def recording_path(self, session_id: str) -> Path:
        return self.recordings_dir / (_checked_id(session_id) + block_log.SUFFIX)

    def spool_path(self, session_id: str) -> Path:
        return self.spools_dir / (_checked_id(session_id) + spool.SUFFIX)

    def keyframe_path(self, session_id: str) -> Path:
        return self.spools_dir / (_checked_id(session_id) + KEYFRAME_SUFFIX)

    def session_ids(self) -> list[str]:
        """Of every recording and spool, oldest first (the ids sort by time)."""
        return sorted({*_stems(self.recordings_dir, block_log.SUFFIX), *self.spool_ids()})

    def spool_ids(self) -> list[str]:
        return _stems(self.spools_dir, spool.SUFFIX)

    def list(self) -> list[RecordingInfo]:
        """All that can be read, oldest first; sessions that are not recorded are left out."""
        found = []
        for session_id in self.session_ids():
            # One damaged or just deleted recording must not hide the others.
            with contextlib.suppress(RecordingDamaged, OSError):
                if info := self._info(session_id):
                    found.append(info)
        return found

    def open(self, session_id: str) -> RecordingReader:
        """Raises CommandRefused when there is none, RecordingDamaged when nothing of it can be read."""
        try:
            return RecordingReader(self.recording_path(session_id), self.spool_path(session_id))
        except FileNotFoundError:
            raise CommandRefused(f'no recording "{session_id}"; list them with: homeport rec ls') from None

    def delete(self, session_ids: Iterable[str]) -> int:
        """Remove these recordings; returns how many there were. Spools are never touched here: theirs end otherwise."""
        count = 0
        for session_id in session_ids:
            with contextlib.suppress(FileNotFoundError):
                self.recording_path(session_id).unlink()
                count += 1
        return count

    def remove_stray_keyframes(self) -> None:
        """A session without a spool has ended. Its own end removes the keyframe; a crash may have come before that."""
        spooled = set(self.spool_ids())
        for path in _files(self.spools_dir, KEYFRAME_SUFFIX):
            if path.stem not in spooled:
                path.unlink(missing_ok=True)
        for path in self.spools_dir.glob(f"*{KEYFRAME_SUFFIX}.new"):  # killed while it was written
            if path.name.partition(".")[0] not in spooled:
                path.unlink(missing_ok=True)

    def unused_since(self, cutoff: datetime) -> Sequence[str]:
        """Sessions whose recording was last written before `cutoff`, without those that have a spool: they live, or
        are not finished."""
        spooled = set(self.spool_ids())
        found = []
        for path in _files(self.recordings_dir, block_log.SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                if path.stem not in spooled and path.stat().st_mtime < cutoff.timestamp():
                    found.append(path.stem)
        return sorted(found)

    def total_bytes(self) -> int:
        return sum(_size(path) for path in _files(self.recordings_dir, block_log.SUFFIX))

    def _info(self, session_id: str) -> RecordingInfo | None:
        recording = self.recording_path(session_id)
        duration_us = None
        try:
            with BlockReader(recording) as file:
                meta, duration_us = file.meta, file.duration_us()
        except (FileNotFoundError, RecordingDamaged):  # not made yet, or just being made
            meta, is_recorded = read_spool_meta(self.spool_path(session_id))
            if not is_recorded:
                return None
        return RecordingInfo(
            session_id=session_id,
            workspace_name=meta.workspace_name,
            started_at=datetime.fromtimestamp(meta.started_us / 1_000_000, UTC),
            size_bytes=_size(recording),
            duration=None if duration_us is None else timedelta(microseconds=duration_us),
            is_live=self._is_live(session_id),
        )

    def _is_live(self, session_id: str) -> bool:
        return self.spool_path(session_id).exists()


class FileRecordings:
    """Implements interfaces.Recordings. One thread compresses and writes for all sessions: each has at most one
    order with it, so the queue is as short as the list of terminals."""

    def __init__(self, *, recordings_dir: Path, spools_dir: Path, settings: RecordingSettings) -> None:
        for directory in (recordings_dir, spools_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.archive = Archive(recordings_dir=recordings_dir, spools_dir=spools_dir)
        self._settings = settings
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._compressor = new_compressor()
        self._live: dict[str, SpoolRecorder] = {}
        # Hears of each full lap, and where the next begins. On the event loop, in the middle of a read: be quick.
        self.lap_ended: Callable[[str, StreamPosition], None] = lambda session_id, position: None

    def recorder_for(self, session_id: str, *, workspace: Workspace, size: WindowSize, term: str) -> Recorder:
        assert session_id not in self._live, "a session has one recorder"
        is_recorded = self._settings.enabled and workspace.is_recorded
        meta = new_meta(session_id, workspace.id, workspace.name, term, size)
        opened, progress = self._continue(session_id) or self._begin(meta, is_recorded=is_recorded)
        # A session keeps what was decided at its start, whatever the settings say after a restart.
        writer = self._writer(opened.meta) if opened.is_recorded else None
        recorder = SpoolRecorder(
            session_id,
            opened,
            progress=progress,
            size=size,
            writer=writer,
            executor=self._executor,
            lap_ended=self._lap_ended,
            closed=self._forget,
        )
        self._live[session_id] = recorder
        return recorder

    def open_stream(self, session_id: str) -> StreamFiles:
        """What a session has printed, to be read by position; the caller closes it. Raises OSError, and CommandRefused
        for what is no session id."""
        recorder = self._live.get(session_id)
        has_recording = recorder is None or recorder.spool.is_recorded
        spool_fd = (
            _open_or_none(self.archive.spool_path(session_id)) if recorder is None else recorder.spool.open_to_read()
        )
        try:
            path = self.archive.recording_path(session_id)
            # Made here if need be: the first lap may go there while the reader, who cannot open it, looks in the spool.
            return StreamFiles(_open_or_none(path, is_made=recorder is not None) if has_recording else None, spool_fd)
        except BaseException:
            if spool_fd is not None:
                os.close(spool_fd)
            raise

    async def finish_left_over(self, session_ids_alive: frozenset[str]) -> None:
        """What cannot be finished now (a full disk, a spool another gateway holds) stays for the next time."""
        for session_id in await asyncio.to_thread(self.archive.spool_ids):
            if session_id not in session_ids_alive and session_id not in self._live:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._executor, self._finish, session_id)
        await asyncio.to_thread(self.archive.remove_stray_keyframes)

    async def list(self) -> list[RecordingInfo]:
        return await asyncio.to_thread(self.archive.list)

    async def delete(self, session_ids: Collection[str]) -> int:
        """For retention: live sessions are left alone."""
        return await asyncio.to_thread(self.archive.delete, [each for each in session_ids if each not in self._live])

    async def unused_since(self, cutoff: datetime) -> Sequence[str]:
        """For retention, see `Archive.unused_since`."""
        return await asyncio.to_thread(self.archive.unused_since, cutoff)

    async def total_bytes(self) -> int:
        return await asyncio.to_thread(self.archive.total_bytes)

    async def close(self) -> None:
        """Close what is open (the spools stay) and wait for the thread. Twice is harmless."""
        async with asyncio.TaskGroup() as group:
            for session_id, recorder in self._live.items():
                group.create_task(recorder.close(is_final=False), name=f"recorder-close:{session_id}")
        self._executor.shutdown(wait=False)
        async with asyncio.timeout(CLOSE_SECONDS):
            await asyncio.to_thread(self._executor.shutdown, wait=True)

    def _lap_ended(self, session_id: str, position: StreamPosition) -> None:
        self.lap_ended(session_id, position)  # as it is by then: whoever listens may come after the recorder

    def _forget(self, session_id: str) -> None:
        self._live.pop(session_id, None)

    def _continue(self, session_id: str) -> tuple[Spool, Progress] | None:
        """The spool an earlier gateway left for this session. One that is damaged is put aside, not deleted."""
        path = self.archive.spool_path(session_id)
        try:
            opened = Spool.open(path)
        except FileNotFoundError:
            return None
        except RecordingDamaged as error:
            _put_aside(path, session_id, error)
            return None
        except SpoolBusy:
            log_failure(Event.RECORDING_FAILED, session_id=session_id, reason="another gateway holds its spool")
            meta = read_spool_meta(path)[0]
            return self._in_memory(meta, is_recorded=False)
        try:
            opened.meta  # noqa: B018 - it raises here rather than later
            return opened, opened.recover()
        except RecordingDamaged as error:
            opened.close(is_removed=False)
            _put_aside(path, session_id, error)
            return None

    def _begin(self, meta: RecordingMeta, *, is_recorded: bool) -> tuple[Spool, Progress]:
        """A new spool; without room for one, a spool in memory: the program matters more than its recording."""
        lap = 1
        # A keyframe of the lost spool would speak of positions that this one gives to other bytes.
        self.archive.keyframe_path(meta.session_id).unlink(missing_ok=True)
        recording = self.archive.recording_path(meta.session_id)
        if recording.exists():  # its spool was lost: go on after what is there, on the same clock
            with contextlib.suppress(RecordingDamaged), BlockReader(recording) as file:
                meta, lap = file.meta, file.lap_last() + 1
        path = self.archive.spool_path(meta.session_id)
        try:
            return Spool.create(
                path, meta, segment_bytes=self._settings.segment_bytes, lap=lap, is_recorded=is_recorded
            )
        except OSError as error:
            log_failure(Event.RECORDING_FAILED, session_id=meta.session_id, reason=str(error))
            return self._in_memory(meta, is_recorded=is_recorded, lap=lap)

    def _in_memory(self, meta: RecordingMeta, *, is_recorded: bool, lap: int = 1) -> tuple[Spool, Progress]:
        return Spool.create(None, meta, segment_bytes=self._settings.segment_bytes, lap=lap, is_recorded=is_recorded)

    def _writer(self, meta: RecordingMeta) -> BlockWriter:
        return BlockWriter(
            self.archive.recording_path(meta.session_id),
            meta,
            bytes_max=self._settings.bytes_per_session_max,
            compressor=self._compressor,
        )

    def _finish(self, session_id: str) -> None:
        """In the recorder thread: fold one spool into its recording and remove it."""
        try:
            opened = Spool.open(self.archive.spool_path(session_id))
        except (FileNotFoundError, SpoolBusy):
            return
        except (RecordingDamaged, OSError) as error:
            _log_unfinished(session_id, error)
            return
        is_done = False
        try:
            progress = opened.recover()
            if opened.is_recorded:
                opened.end_lap(progress.lap, position=progress.position, end_us=progress.last_us)
                laps = [*opened.closed_laps(), progress.lap]
                self._writer(opened.meta).append(opened.lap_data(lap) for lap in laps)
            is_done = True
        except (RecordingDamaged, OSError) as error:
            _log_unfinished(session_id, error)
        finally:
            opened.close(is_removed=is_done)
        if is_done:
            self.archive.keyframe_path(session_id).unlink(missing_ok=True)


def _log_unfinished(session_id: str, error: Exception) -> None:
    reason = error.user_message if isinstance(error, GatewayError) else str(error)
    log_warning(Event.RECORDING_FAILED, session_id=session_id, reason=reason)


def _put_aside(path: Path, session_id: str, error: RecordingDamaged) -> None:
    log_failure(Event.RECORDING_FAILED, session_id=session_id, reason=error.user_message)
    path.replace(path.with_suffix(".damaged"))


def _checked_id(session_id: str) -> str:
    if not _ID.fullmatch(session_id):
        raise CommandRefused(f"{session_id!r} is not a session id; list them with: homeport rec ls")
    return session_id


def _files(directory: Path, suffix: str) -> Iterator[Path]:
    try:
        yield from (path for path in directory.iterdir() if path.suffix == suffix and _ID.fullmatch(path.stem))
    except FileNotFoundError:
        return


def _stems(directory: Path, suffix: str) -> list[str]:
    return sorted(path.stem for path in _files(directory, suffix))


def _open_or_none(path: Path, *, is_made: bool = False) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if is_made else 0), 0o600)
    except FileNotFoundError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
