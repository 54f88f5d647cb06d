"""Where one keeper's socket, lock and notes lie: `keepers/<workspace id>/` in the runtime directory, 0700.

The lock is held by the keeper itself, and by the sandbox around it, for as long as either lives, since they inherit
it: whoever gets the lock knows that nothing of the workspace runs. The spools of recordings lie in the same
directory and are not ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import KeeperGone
from gateway.launchers.git_directory import GitDirectory
from gateway.launchers.published_socket import SOCKET_NAME, PublishedSocket
from gateway.launchers.unix_path import short_path

LISTEN_BACKLOG = 64
# Under the launcher `none` programs use the agent's path as it is, and `keepers/<workspace id>/keeper.sock` is the
# longest there may be (state.py): `agent/sock` is one byte shorter.
AGENT_DIRECTORY_NAME = "agent"
GIT_DIRECTORY_NAME = "git"
LOG_SHOWN_BYTES = 2000
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class KeeperNote:
    """What later gateways must know of a running keeper."""

    launcher: str
    pid: int | None  # of what was started: the keeper, or the sandbox around it


class KeeperPlace:
    """The directory of one workspace's keeper. All calls are short; none waits."""

    def __init__(self, runtime_dir: Path, workspace_id: str) -> None:
        if not _ID.fullmatch(workspace_id):
            raise ValueError(f"not a workspace id: {workspace_id!r}")
        self.workspace_id = workspace_id
        self.directory = runtime_dir / "keepers" / workspace_id
        self.log = self.directory / "keeper.log"
        self.status = self.directory / "status.json"  # written by the sandbox: {"child-pid": …}
        self.passwd, self.group = self.directory / "passwd", self.directory / "group"
        self.agent_directory = self.directory / AGENT_DIRECTORY_NAME  # all of it is shown inside
        self.agent_socket = self.agent_directory / SOCKET_NAME
        self.git_directory = self.directory / GIT_DIRECTORY_NAME  # and of this
        self._socket = self.directory / "keeper.sock"
        self._lock = self.directory / "keeper.lock"
        self._note = self.directory / "keeper.json"

    def make(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.agent_directory.mkdir(mode=0o700, exist_ok=True)
        self.git_directory.mkdir(mode=0o700, exist_ok=True)

    def try_lock(self) -> int | None:
        """The lock as a descriptor that the caller closes, or None: a keeper runs, starts or is about to end."""
        while True:
            fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(fd, self._lock):
                    return fd
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # locked a file that was removed meanwhile: again, with the one that is there

    def listen(self) -> socket.socket:
        """The keeper's listening socket, made out here so that no path to it exists inside. Under the lock only."""
        self._remove(self._socket)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with short_path(self._socket) as path:
                listener.bind(path)
            self._socket.chmod(0o600)
            listener.listen(LISTEN_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def connect(self) -> socket.socket:
        """A connection to the keeper. Raises KeeperGone if nobody listens (yet, or any more)."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            with short_path(self._socket) as path:
                connection.connect(path)
        except OSError as error:
            connection.close()
            raise KeeperGone("the workspace's keeper does not listen", detail=str(error)) from None
        except BaseException:
            connection.close()
            raise
        return connection

    def write_note(self, note: KeeperNote) -> None:
        self._note.write_text(json.dumps({"launcher": note.launcher, "pid": note.pid}))

    def read_note(self) -> KeeperNote:
        try:
            values = json.loads(self._note.read_text())
            return KeeperNote(str(values["launcher"]), values["pid"] if isinstance(values["pid"], int) else None)
        except (OSError, ValueError, KeyError, TypeError):
            return KeeperNote("", None)

    def kill(self) -> None:
        """End the keeper from outside. Only while the lock is held by it is the noted number its own."""
        lock = self.try_lock()
        if lock is not None:
            os.close(lock)
            return
        # A sandbox's own process would leave the keeper alive: the one it started is the one to kill.
        pid = self._sandboxed_pid() or self.read_note().pid
        if pid is not None and pid > 1:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def last_words(self) -> str:
        """What the sandbox or interpreter said on stderr, for an operator."""
        with contextlib.suppress(OSError):
            return self.log.read_bytes()[-LOG_SHOWN_BYTES:].decode(errors="replace").strip()
        return ""

    def remove_remains(self) -> None:
        """Under the lock: what a dead keeper left. The directories go too if they are empty then."""
        for path in (self._socket, self._note, self.log, self.status, self.passwd, self.group, self._lock):
            self._remove(path)
        self.remove_agent_remains()
        GitDirectory(self.git_directory).remove_remains()
        for directory in (self.agent_directory, self.git_directory, self.directory):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def remove_agent_remains(self) -> None:
        """What a dead gateway left for its keeper's programs, which may live on."""
        PublishedSocket(self.agent_directory).remove_remains()

    def _sandboxed_pid(self) -> int | None:
        try:
            pid = json.loads(self.status.read_text().splitlines()[0])["child-pid"]
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None
        return pid if isinstance(pid, int) else None

    @staticmethod
    def _remove(path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
