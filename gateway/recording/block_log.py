"""The recording file `<session id>.hpr`: a head, then compressed blocks, each one lap of the spool.

    head  = magic 8 | version u16 | zero u16 | size u32 | RecordingMeta | crc32 of RecordingMeta u32
    block = magic 4 | flags u32 | lap u64 | start_us u64 | end_us u64 | raw size u32 | data size u32 | crc32 u32 | data

The crc covers the block's head before it and the data after it. The file only ever grows by whole blocks; whatever
a full disk or a lost machine left half-written at its end is cut off by the next writer and skipped by readers.
Everything here blocks and belongs into a thread.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import zstandard

from gateway.errors import RecordingDamaged
from gateway.recording.layout import RecordingMeta, gap_event, lost_in, marker_event

SUFFIX = ".hpr"

_FILE_MAGIC = b"HPREC\r\n\x1a"
_FILE_VERSION = 1
_FILE_HEAD = struct.Struct("<8sHHI")
_CRC = struct.Struct("<I")
_BLOCK_MAGIC = b"HPBK"
_BLOCK_HEAD = struct.Struct("<4sIQQQII")
_IS_LAST = 1  # flag: the size limit was reached, nothing follows
_HAS_LOSS = 2  # flag: a gap event was put before the lap's own events, whose offsets count from behind it
_META_BYTES_MAX = 64 * 1024
# Far above any spool segment: a reader must not allocate what a damaged head asks for.
_BLOCK_BYTES_MAX = 64 * 1024 * 1024
# Measured on terminal output: 525 MB/s, to a fifth of the size; higher levels cost more than they save.
_ZSTD_LEVEL = 1


class BlockHead(NamedTuple):
    """Where a block's data lies and what it says about itself."""

    flags: int
    lap: int
    start_us: int
    end_us: int
    raw_bytes: int
    data_bytes: int
    crc: int
    data_at: int

    @property
    def start_at(self) -> int:
        return self.data_at - _BLOCK_HEAD.size - _CRC.size

    @property
    def end_at(self) -> int:
        return self.data_at + self.data_bytes

    @property
    def is_last(self) -> bool:
        """Holds only the marker that the recording reached its size limit."""
        return bool(self.flags & _IS_LAST)


@dataclass(frozen=True, slots=True)
class LapData:
    """One lap on its way into a block. `raw` may be a view of the spool: it is read before the append returns."""

    lap: int
    start_us: int
    end_us: int
    lost_before_bytes: int
    raw: bytes | memoryview

    def events(self) -> bytes | memoryview:
        return gap_event(self.lost_before_bytes) + bytes(self.raw) if self.lost_before_bytes else self.raw


def new_compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL)


class BlockWriter:
    """Appends to one recording file. Holds no descriptor between appends: sessions are many and blocks are rare."""

    def __init__(
        self, path: Path, meta: RecordingMeta, *, bytes_max: int, compressor: zstandard.ZstdCompressor
    ) -> None:
        """`compressor` (`new_compressor`) is shared by all writers of one thread: each takes a megabyte."""
        self.path = path
        self.is_full = False  # the size limit was reached, now or by an earlier gateway
        self._meta = meta
        self._bytes_max = bytes_max
        self._end: int | None = None  # None: what is in the file is not known yet
        self._lap_last = 0
        self._compressor = compressor

    def append(self, laps: Iterable[LapData]) -> None:
        """Add the laps that are not in the file yet: all of them, or (OSError, a full disk for one) none.

        Raises RecordingDamaged where the file is not ours to continue.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if self._end is None:
                self._find_end(fd)
            assert self._end is not None
            is_full, lap_last, data = self._blocks(laps, self._end)
            if data:
                _write_or_undo(fd, data, self._end)
                self._end += len(data)
            self.is_full, self._lap_last = is_full, lap_last
        finally:
            os.close(fd)

    def _blocks(self, laps: Iterable[LapData], end: int) -> tuple[bool, int, bytes]:
        """What to write, as (is full, last lap, bytes). Past the size limit: one marker, and nothing ever after."""
        parts: list[bytes] = [] if end else [_file_head(self._meta)]
        size, lap_last = end + sum(map(len, parts)), self._lap_last
        for lap in laps:
            if lap.lap <= lap_last or self.is_full:
                continue
            block = self._block(lap, lap.events(), flags=_HAS_LOSS if lap.lost_before_bytes else 0)
            lap_last = lap.lap
            if size + len(block) > self._bytes_max:
                text = f"recording stopped: it reached its limit of {self._bytes_max} bytes"
                parts.append(self._block(lap, marker_event(text), flags=_IS_LAST))
                return True, lap_last, b"".join(parts)
            parts.append(block)
            size += len(block)
        return self.is_full, lap_last, b"".join(parts) if lap_last > self._lap_last else b""

    def _block(self, lap: LapData, events: bytes | memoryview, *, flags: int) -> bytes:
        data = self._compressor.compress(events)
        head = _BLOCK_HEAD.pack(_BLOCK_MAGIC, flags, lap.lap, lap.start_us, lap.end_us, len(events), len(data))
        return head + _CRC.pack(zlib.crc32(data, zlib.crc32(head))) + data

    def _find_end(self, fd: int) -> None:
        """Learn what an earlier gateway wrote, and cut off what it could not finish."""
        size = os.fstat(fd).st_size
        try:
            head_end = read_file_head(fd)[1]
        except RecordingDamaged:
            if size > _FILE_HEAD.size + _META_BYTES_MAX:  # not merely a head that was never finished
                raise
            os.ftruncate(fd, 0)
            self._end = 0
            return
        last, end = None, head_end
        for block in block_heads(fd, head_end):
            if block.end_at == size and not _is_sound(fd, block):
                break  # the length is there but the bytes are not: the machine went down
            last, end = block, block.end_at
        if end < size:
            os.ftruncate(fd, end)
        self._end = end
        if last is not None:
            self._lap_last, self.is_full = last.lap, bool(last.flags & _IS_LAST)


class BlockReader:
    """Reads one recording file, also while it grows: `blocks` may be asked again for what has come since."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError, and RecordingDamaged when the head cannot be read."""
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self.meta, self._at = read_file_head(self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        self._decompressor = zstandard.ZstdDecompressor()

    def blocks(self) -> Iterator[tuple[BlockHead, bytes]]:
        """Each further block with its events. Ends cleanly at the first that is not whole; see `unread_bytes`."""
        for head in block_heads(self._fd, self._at):
            raw = read_block(self._fd, head, self._decompressor)
            if raw is None:
                return
            self._at = head.end_at
            yield head, raw

    @property
    def unread_bytes(self) -> int:
        """What is left behind the last whole block: zero, or the size of a torn tail."""
        return os.fstat(self._fd).st_size - self._at

    def duration_us(self) -> int | None:
        """From the blocks' heads alone; None for a recording without any."""
        return max((head.end_us for head in block_heads(self._fd, self._at)), default=None)

    def lap_last(self) -> int:
        return max((head.lap for head in block_heads(self._fd, self._at)), default=0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def block_heads(fd: int, at: int) -> Iterator[BlockHead]:
    """The heads of the blocks that have all their bytes, from offset `at` on. Contents are not looked at."""
    size = os.fstat(fd).st_size
    while True:
        data = os.pread(fd, _BLOCK_HEAD.size + _CRC.size, at)
        if len(data) < _BLOCK_HEAD.size + _CRC.size:
            return
        magic, flags, lap, start_us, end_us, raw_bytes, data_bytes = _BLOCK_HEAD.unpack_from(data)
        head = BlockHead(
            flags, lap, start_us, end_us, raw_bytes, data_bytes,
            _CRC.unpack_from(data, _BLOCK_HEAD.size)[0], at + len(data),
        )  # fmt: skip
        if magic != _BLOCK_MAGIC or raw_bytes > _BLOCK_BYTES_MAX or head.end_at > size:
            return
        yield head
        at = head.end_at


def read_block(fd: int, head: BlockHead, decompressor: zstandard.ZstdDecompressor) -> bytes | None:
    """The events of a block; None: it is not whole."""
    data = os.pread(fd, head.data_bytes, head.data_at)
    if len(data) != head.data_bytes or _crc(head, data) != head.crc:
        return None
    try:
        return decompressor.decompress(data, max_output_size=max(head.raw_bytes, 1))
    except zstandard.ZstdError:
        return None


def read_lap(fd: int, head: BlockHead, decompressor: zstandard.ZstdDecompressor) -> LapData | None:
    """The lap that a block holds, with its own events as they lay in the spool; None: it is not whole."""
    raw = read_block(fd, head, decompressor)
    if raw is None:
        return None
    lost_bytes, gap_size = 0, 0
    if head.flags & _HAS_LOSS:
        lost_bytes, gap_size = lost_in(raw[: len(gap_event(0))]), len(gap_event(0))
    return LapData(head.lap, head.start_us, head.end_us, lost_bytes, memoryview(raw)[gap_size:])


def read_file_head(fd: int) -> tuple[RecordingMeta, int]:
    """The recording's meta and where its first block begins. Raises RecordingDamaged."""
    data = os.pread(fd, _FILE_HEAD.size, 0)
    if len(data) < _FILE_HEAD.size:
        raise RecordingDamaged("the recording ends within its head")
    magic, version, _, size = _FILE_HEAD.unpack(data)
    if magic != _FILE_MAGIC:
        raise RecordingDamaged("this is not a recording of ours")
    if version != _FILE_VERSION:
        raise RecordingDamaged(f"the recording has format {version}, this program reads {_FILE_VERSION}")
    rest = os.pread(fd, min(size, _META_BYTES_MAX) + _CRC.size, _FILE_HEAD.size)
    meta, crc = rest[: -_CRC.size], rest[-_CRC.size :]
    if len(meta) != size or zlib.crc32(meta) != _CRC.unpack(crc)[0]:
        raise RecordingDamaged("the head of the recording is damaged")
    return RecordingMeta.from_bytes(meta), _FILE_HEAD.size + len(rest)


def _file_head(meta: RecordingMeta) -> bytes:
    data = meta.to_bytes()
    return _FILE_HEAD.pack(_FILE_MAGIC, _FILE_VERSION, 0, len(data)) + data + _CRC.pack(zlib.crc32(data))


def _crc(head: BlockHead, data: bytes) -> int:
    packed = _BLOCK_HEAD.pack(
        _BLOCK_MAGIC, head.flags, head.lap, head.start_us, head.end_us, head.raw_bytes, head.data_bytes
    )
    return zlib.crc32(data, zlib.crc32(packed))


def _is_sound(fd: int, head: BlockHead) -> bool:
    return _crc(head, os.pread(fd, head.data_bytes, head.data_at)) == head.crc


def _write_or_undo(fd: int, data: bytes, at: int) -> None:
    """All of `data` at offset `at`, or the file as it was."""
    written = 0
    try:
        while written < len(data):
            written += os.pwrite(fd, memoryview(data)[written:], at + written)
    except OSError:
        # Cutting a file needs no space; were it to fail too, the next append writes over the same place.
        os.ftruncate(fd, at)
        raise
