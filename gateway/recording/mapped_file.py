"""Files mapped into memory, each by one process at a time: the mapping holds the lock, and goes with the process."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

from gateway.errors import RecordingDamaged


def map_new_file(path: Path, size: int, *, reserved_bytes: int) -> mmap.mmap:
    """A file of `size` bytes, of which the first have their space already. Raises OSError, and leaves nothing then."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, reserved_bytes)
        return _map(fd, size)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(fd)  # the mapping holds its own copy, and with it the lock


def map_file(path: Path) -> mmap.mmap:
    """An existing file, whole. Raises BlockingIOError where another process has it, RecordingDamaged, OSError."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(fd).st_size
        if not size:  # nothing there to map
            raise RecordingDamaged("the file is empty", detail=str(path))
        return _map(fd, size)
    finally:
        os.close(fd)


def _map(fd: int, size: int) -> mmap.mmap:
    mapping = mmap.mmap(fd, size)
    mapping.madvise(mmap.MADV_RANDOM)  # else the kernel brings in 64 KiB around each page of every idle session
    return mapping
