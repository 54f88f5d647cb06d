"""Which gateway processes of one state live: the one that serves, and those it replaced, which serve on what they have.

Each holds a locked file, `gateways/<pid>` in the runtime directory. The kernel frees the lock when the process ends,
however it ends, so the files tell the truth after any crash, to every gateway and to the command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from pathlib import Path

# How long those that were asked to stop may take (they drain as we do), and how often we look.
OTHERS_SECONDS = 20.0
OTHERS_POLL_SECONDS = 0.05


class GatewayProcesses:
    """The processes with a file in `directory`. `enter` adds this one, until `leave` or its end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own = directory / str(os.getpid())
        self._fd = -1

    def enter(self) -> None:
        """Raises OSError."""
        fresh = self._directory / f".{os.getpid()}"
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fresh.replace(self._own)  # locked before it is seen: nobody takes it for one that a dead process left
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def leave(self) -> None:
        """Twice is harmless."""
        if self._fd >= 0:
            self._own.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def others(self) -> list[int]:
        """The other living ones. Files of dead ones are removed on the way."""
        try:
            names = [name for name in os.listdir(self._directory) if name.isdigit()]  # noqa: PTH208 (names are enough)
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name != self._own.name and self._is_alive(name))

    def ask_others_to_stop(self) -> list[int]:
        """SIGTERM to all of them; returns whom it reached."""
        reached = []
        for pid in self.others():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                pidfd = os.pidfd_open(pid)
                try:
                    # Held, the number cannot come to mean another process; asked again, it still meant this one.
                    if self._is_alive(str(pid)):
                        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                        reached.append(pid)
                finally:
                    os.close(pidfd)
        return reached

    def _is_alive(self, name: str) -> bool:
        path = self._directory / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False  # it left this moment
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(fd)


async def others_gone(processes: GatewayProcesses) -> None:
    """Wait until all others have ended, but not for ever."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(OTHERS_SECONDS):
            while processes.others():  # noqa: ASYNC110 (no event comes from another process)
                await asyncio.sleep(OTHERS_POLL_SECONDS)
