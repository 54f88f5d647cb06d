"""A socket at which the gateway answers the programs of one workspace, in a directory of its own beside the keeper's.

Outside, the gateway makes and removes it; inside, only that directory is seen, read-only where there are walls. So
the path never changes, and programs can connect to the socket, but neither remove nor replace it. There are two: one
for a forwarded agent, one for git's questions (git_directory.py).
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from gateway.ids import new_id
from gateway.launchers.unix_path import short_path

SOCKET_NAME = "sock"
LISTEN_BACKLOG = 64


class PublishedSocket:
    """Implements gateway.forwarding.agents.AgentPath. All calls are short; none waits."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / SOCKET_NAME
        self._identity: tuple[int, int] | None = None  # device and inode of ours

    @property
    def is_published(self) -> bool:
        """Whether what lies there is ours."""
        return self._identity is not None and _identity(self._path) == self._identity

    @property
    def is_free(self) -> bool:
        """Whether nobody listens there: neither we, nor another gateway of this state."""
        return not _is_listened_at(self._path)

    def publish(self) -> socket.socket:
        """Listen at the path, whatever lies there. The caller owns the socket. Raises OSError."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._directory / new_id()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with short_path(path) as name:
                listener.bind(name)
            path.chmod(0o600)
            listener.listen(LISTEN_BACKLOG)
            self._identity = _identity(path)
            path.replace(self._path)  # nobody meets a moment without a socket, or one that does not listen yet
        except BaseException:
            listener.close()
            path.unlink(missing_ok=True)
            raise
        return listener

    def withdraw(self) -> None:
        """Remove the socket, unless something else lies there by now: another gateway's, during a handover.

        Where that is not allowed any more it stays, without anybody who listens: without walls a program may have
        closed the directory.
        """
        if self.is_published:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._identity = None

    def remove_remains(self) -> None:
        """What a gateway left that was killed: sockets at which nobody listens any more."""
        with contextlib.suppress(OSError):
            for path in list(self._directory.iterdir()):
                if not _is_listened_at(path):
                    path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_listened_at(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe, short_path(path) as name:
        try:
            probe.connect(name)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
        return True
