"""A keyframe: one session's screen at one position of its recording, as bytes, and the folder where they are kept.

    head  = magic 8 | format u16 | flags u16 | stamp size u16 | zero u16 | lap u64 | offset u64 | file position u64
            | snapshot size u32 | data size u32 | crc32 of all else u32
    then  = stamp | data: the snapshot, zstd

A keyframe is a cache: one of another library version (the stamp), a damaged or a missing one is made again from the
recording. The gateway stores it and never looks into it; the screens process reads it.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import zstandard

from gateway.interfaces import StreamPosition
from gateway.recording.screen.protocol import KEYFRAME_BYTES_MAX

SNAPSHOT_BYTES_MAX = 8 * 1024 * 1024

_MAGIC = b"HPSCREEN"
_FORMAT = 1
_IS_AFTER_GAP = 1
_HEAD = struct.Struct("<8sHHHHQQQII")
_CRC = struct.Struct("<I")
_ZSTD_LEVEL = 1


class KeyframeUnusable(ValueError):
    """Not a keyframe, or not of this version."""


@dataclass(frozen=True, slots=True)
class Keyframe:
    position: StreamPosition
    file_at: int  # where the recording file goes on, about
    is_after_gap: bool  # something is missing that nobody was told of yet
    snapshot: bytes


def to_bytes(keyframe: Keyframe, *, stamp: str) -> bytes:
    data, stamp_bytes = zstandard.compress(keyframe.snapshot, _ZSTD_LEVEL), stamp.encode()
    head = _HEAD.pack(
        _MAGIC, _FORMAT, _IS_AFTER_GAP if keyframe.is_after_gap else 0, len(stamp_bytes), 0, keyframe.position.lap,
        keyframe.position.offset, keyframe.file_at, len(keyframe.snapshot), len(data),
    )  # fmt: skip
    rest = stamp_bytes + data
    return head + _CRC.pack(zlib.crc32(rest, zlib.crc32(head))) + rest


def from_bytes(content: bytes, *, stamp: str) -> Keyframe:
    """Raises KeyframeUnusable."""
    if len(content) < _HEAD.size + _CRC.size:
        raise KeyframeUnusable("shorter than its head")
    magic, version, flags, stamp_size, _, lap, offset, file_at, size, data_size = _HEAD.unpack_from(content)
    if magic != _MAGIC or version != _FORMAT:
        raise KeyframeUnusable("another format")
    rest = memoryview(content)[_HEAD.size + _CRC.size :]
    if len(rest) != stamp_size + data_size or size > SNAPSHOT_BYTES_MAX:
        raise KeyframeUnusable("cut off")
    if zlib.crc32(rest, zlib.crc32(content[: _HEAD.size])) != _CRC.unpack_from(content, _HEAD.size)[0]:
        raise KeyframeUnusable("damaged")
    if bytes(rest[:stamp_size]) != stamp.encode():
        raise KeyframeUnusable("made by another version")
    try:
        snapshot = zstandard.decompress(rest[stamp_size:], max_output_size=size)
    except zstandard.ZstdError as error:
        raise KeyframeUnusable(str(error)) from None
    return Keyframe(StreamPosition(lap, offset), file_at, bool(flags & _IS_AFTER_GAP), snapshot)


def read(fd: int) -> bytes:
    """What a descriptor of a keyframe file holds."""
    return os.pread(fd, KEYFRAME_BYTES_MAX + 1, 0)


def store(path: Path, content: bytes) -> None:
    """Whole or not at all. Raises OSError, with the old one left as it was."""
    new = path.with_name(path.name + ".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
