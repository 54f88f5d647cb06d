"""The file an archive is in: what was packed inside, in zstd, written as it comes and read back.

Blocking; callers use threads. What comes from a workspace is hostile: it is counted and summed, never looked into.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from gateway.errors import ArchiveDamaged, CommandRefused

PIECE_BYTES = 256 * 1024
_ZSTD_LEVEL = 3  # 300 MB/s and the usual ratio; beyond that a workspace's disk is not the slowest part any more
_SPACE_CHECK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file that was written or read: its own length and sum, and those of what is in it."""

    size_bytes: int
    sha256: str
    content_bytes: int = 0
    content_sha256: str = ""


class FileWriter:
    """Writes one new file, compressed or not. `close` is harmless at any time; only `finish` makes it whole."""

    def __init__(self, path: Path, *, is_compressed: bool, free_bytes_min: int) -> None:
        self._file = path.open("xb", buffering=0)
        self._file_digest, self._content_digest = hashlib.sha256(), hashlib.sha256()
        self._size_bytes = self._content_bytes = self._unchecked_bytes = 0
        self._free_bytes_min = free_bytes_min
        compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
        self._compressor = compressor.compressobj() if is_compressed else None

    def write(self, data: bytes) -> None:
        """Raises CommandRefused when the disk is nearly full, OSError."""
        self._content_digest.update(data)
        self._content_bytes += len(data)
        self._put(data if self._compressor is None else self._compressor.compress(data))

    def finish(self) -> FileFacts:
        """Everything is on the disk when this returns."""
        if self._compressor is not None:
            self._put(self._compressor.flush())
        os.fsync(self._file.fileno())
        self._file.close()
        return FileFacts(
            self._size_bytes, self._file_digest.hexdigest(), self._content_bytes, self._content_digest.hexdigest()
        )

    def close(self) -> None:
        self._file.close()

    def _put(self, data: bytes) -> None:
        self._unchecked_bytes += len(data)
        if self._unchecked_bytes >= _SPACE_CHECK_BYTES:
            self._unchecked_bytes = 0
            refuse_full_disk(self._file.fileno(), self._free_bytes_min)
        self._file_digest.update(data)
        self._size_bytes += len(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


def refuse_full_disk(place: int | Path, free_bytes_min: int, *, wanted_bytes: int = 0) -> None:
    """Before the disk is full for everybody: recordings and the database write to it as well."""
    found = os.statvfs(place)
    if found.f_bavail * found.f_frsize < free_bytes_min + wanted_bytes:
        raise CommandRefused("there is not enough room on the disk; nothing was changed, free some and try again")


def pieces_of(path: Path) -> Iterator[bytes]:
    """What is in an archive's file. Raises ArchiveDamaged, OSError."""
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_size=PIECE_BYTES)
        try:
            while piece := reader.read(PIECE_BYTES):
                yield piece
        except zstandard.ZstdError:
            raise ArchiveDamaged(f"the archive {path.parent.name} is damaged") from None
