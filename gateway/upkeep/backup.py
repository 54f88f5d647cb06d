"""Backups of the database: a consistent copy, proven, compressed, proven again, and only then counted as one.

A backup is `homeport-YYYYmmddTHHMMSSZ.db.gz` (UTC; `-2` and so on when one second sees several), 0600, in a directory
of 0700: it holds what the database holds. Whatever else lies in that directory is left alone. How the copy is made is
the store's affair; workspaces are not in here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from gateway.errors import BackupFailed
from gateway.ids import new_id
from gateway.upkeep import host

_NAME = re.compile(r"homeport-(\d{8}T\d{6}Z)(?:-(\d+))?\.db\.gz")
_STAMP = "%Y%m%dT%H%M%SZ"
_PARTIAL_PREFIX, _PARTIAL_SUFFIX = ".homeport-", ".partial"

_CHUNK_BYTES = 1024 * 1024
_SAME_SECOND_MAX = 1000
# Level 6 is gzip's own default: levels above cost twice the time for a few percent.
_GZIP_LEVEL = 6
DAY_SECONDS = 24 * 3600

_Result = TypeVar("_Result")


class CopySource(Protocol):
    """What a backup is made from: the store."""

    async def backup_to(self, path: Path) -> object:
        """Write a consistent, integrity-checked copy of the live database to `path`, which does not exist yet."""
        ...


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished backup."""

    path: Path
    made_at: datetime
    sequence: int  # 1, or more for further backups of the same second
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BackupMade:
    """What one run did."""

    path: Path
    size_bytes: int
    database_bytes: int
    duration_ms: float
    pruned_count: int


class Backups:
    """Makes backups and knows the ones there are. One at a time; a cancelled or failed run leaves nothing behind."""

    def __init__(self, directory: Path, source: CopySource, *, database_file: Path, kept: int) -> None:
        self._directory = directory
        self._source = source
        self._database_file = database_file
        self._kept = kept
        self._making = asyncio.Lock()

    async def make(self) -> BackupMade:
        """Make one, then remove the oldest beyond the number to keep. Raises BackupFailed, StoreUnavailable."""
        async with self._making:
            started = time.monotonic()
            copy, compressed = self._partial(), self._partial()
            try:
                await asyncio.to_thread(self._prepare)
                await self._source.backup_to(copy)
                backup, database_bytes = await _in_thread(lambda stop: self._finish(copy, compressed, stop))
                pruned_count = await asyncio.to_thread(self._prune)
            except OSError as error:
                raise BackupFailed(_words(error), detail=str(error)) from error
            finally:
                for partial in (copy, compressed):
                    partial.unlink(missing_ok=True)
            return BackupMade(
                path=backup.path,
                size_bytes=backup.size_bytes,
                database_bytes=database_bytes,
                duration_ms=round((time.monotonic() - started) * 1000, 1),
                pruned_count=pruned_count,
            )

    def existing(self) -> list[Backup]:
        """The backups there are, newest first. Reads the directory: call it in a thread."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in self._directory.iterdir():
                backup = _parse(path)
                if backup is not None:
                    found.append(backup)
        return sorted(found, key=lambda backup: (backup.made_at, backup.sequence), reverse=True)

    def age_seconds(self) -> float | None:
        """How old the newest backup is; None while there is none. Call it in a thread."""
        newest = next(iter(self.existing()), None)
        return None if newest is None else max(0.0, (datetime.now(UTC) - newest.made_at).total_seconds())

    async def is_overdue(self) -> bool:
        """Whether a daily run was missed: a machine that is off at two in the morning must have backups, too."""
        age_seconds = await asyncio.to_thread(self.age_seconds)
        return age_seconds is None or age_seconds > DAY_SECONDS

    # ------------------------------------------------------------------------------------------- in a thread

    def _partial(self) -> Path:
        return self._directory / f"{_PARTIAL_PREFIX}{new_id()}{_PARTIAL_SUFFIX}"

    def _prepare(self) -> None:
        """Have the directory, private, without the remains of interrupted runs and with room for a new backup."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._directory.stat().st_mode & 0o077:
            self._directory.chmod(0o700)
        for path in self._directory.iterdir():
            if path.name.startswith(_PARTIAL_PREFIX) and path.name.endswith((_PARTIAL_SUFFIX, "-journal")):
                path.unlink(missing_ok=True)
        # Asked for first, as filling the disk to the brim would stop recordings and the database itself.
        needed_bytes = host.file_bytes(self._database_file) * 3 // 2
        if host.disk(self._directory).left < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _finish(self, copy: Path, compressed: Path, stop: threading.Event) -> tuple[Backup, int]:
        """Compress, sync, read back, and only then give it its name."""
        digest, database_bytes = _compress(copy, compressed, stop)
        copy.unlink()  # here, as removing a large file takes its time; `make` removes what a failure left
        if _digest_of_content(compressed, stop) != digest:
            raise BackupFailed("the backup read back differently from what was written; check the disk")
        made_at = datetime.now(UTC).replace(microsecond=0)
        for sequence in range(1, _SAME_SECOND_MAX):
            suffix = "" if sequence == 1 else f"-{sequence}"
            path = self._directory / f"homeport-{made_at.strftime(_STAMP)}{suffix}.db.gz"
            if not path.exists():
                compressed.rename(path)
                _sync_directory(self._directory)
                return Backup(path, made_at, sequence, path.stat().st_size), database_bytes
        raise BackupFailed("too many backups within one second; try again")

    def _prune(self) -> int:
        """Remove the oldest. Runs only after a new one was verified, so the number to keep is always really there."""
        old = self.existing()[self._kept :]
        for backup in old:
            backup.path.unlink(missing_ok=True)
        return len(old)


async def _in_thread(work: Callable[[threading.Event], _Result]) -> _Result:
    """Run in a thread. If cancelled, tell it to stop and wait until it has: nothing may write behind our back."""
    stop = threading.Event()
    task = asyncio.create_task(asyncio.to_thread(work, stop), name="backup:thread")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)
        raise


class _Stopped(Exception):
    """The run was cancelled; the one who cancelled is not interested in this."""


def _compress(source: Path, target: Path, stop: threading.Event) -> tuple[bytes, int]:
    """gzip `source` into the new file `target` (0600, on disk when this returns); (digest, bytes) of the content."""
    digest, size_bytes = hashlib.sha256(), 0
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as reader, os.fdopen(descriptor, "wb") as raw:
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=_GZIP_LEVEL) as packed:
            while chunk := _read(reader, stop):
                digest.update(chunk)
                size_bytes += len(chunk)
                packed.write(chunk)
        raw.flush()
        os.fsync(raw.fileno())
    return digest.digest(), size_bytes


def _digest_of_content(path: Path, stop: threading.Event) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as unpacked:
        while chunk := _read(unpacked, stop):
            digest.update(chunk)
    return digest.digest()


def _read(reader: BinaryIO | gzip.GzipFile, stop: threading.Event) -> bytes:
    if stop.is_set():
        raise _Stopped
    return reader.read(_CHUNK_BYTES)


def _sync_directory(directory: Path) -> None:
    """Without this a crash of the machine may forget the rename."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(path: Path) -> Backup | None:
    """Read the name, not the file's times: those change when backups are copied around."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    try:
        made_at = datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)
        return Backup(path, made_at, int(match[2] or 1), path.stat().st_size)
    except (ValueError, FileNotFoundError):  # no such date, or removed while we looked
        return None


def _words(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no room for another backup; free some space, or lower backups_kept of [schedule]; the old ones are kept"
    return f"the backup could not be written: {error.strerror or error}"
