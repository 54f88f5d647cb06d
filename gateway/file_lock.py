"""A lock between processes of one state: the gateway, one that was replaced, a command without a gateway."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

POLL_SECONDS = 0.05


@contextlib.asynccontextmanager
async def file_lock(path: Path, *, seconds: float) -> AsyncIterator[None]:
    """Hold the lock inside the block. Raises TimeoutError if others hold it for so long.

    Asked for again and again, because a thread that waits in flock(2) cannot be cancelled. The kernel frees it when the
    process ends; the file stays.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while not _taken(fd):
            if time.monotonic() > deadline:
                raise TimeoutError
            await asyncio.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(fd)


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
