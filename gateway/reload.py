"""One gateway process replaces another, and no door is closed in between.

    the old one                                       the new one: the same command line, executed anew
    starts it, with copies of its listening sockets
      and of the lock of the state             ────▶  settings, migrations, database, walls
    serves on                                  ◀────  ready, or why not
    stops accepting: the kernel's queues hold who comes
    releases the terminals that nobody looks at
                                               ────▶  go: adopts them, accepts
    retires: serves on what it has             ◀────  serving

Until the last word the old one can take everything back, and does so when the new one refuses, dies or is too slow.
Nothing is ever forked without an exec, which would copy descriptors that tell a keeper its gateway lives. Here is what
the two say to each other; what a gateway does with it is in replacement.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.errors import CommandRefused, GatewayError, StartRefused

# Descriptors for the new process, as JSON. No setting: it is gone from the environment before anything is started.
INHERITANCE_VARIABLE = "_HOMEPORT_INHERITANCE"
# A migration copies the database first, and the old gateway serves on meanwhile: time enough for a large one.
READY_SECONDS = 300.0
# From here on nobody is served: adoption takes milliseconds, a keeper that hangs costs its deadline (20 s).
SERVING_SECONDS = 40.0
END_SECONDS = 5.0
MESSAGE_MAX_BYTES = 64 * 1024
WORDS_KEPT_BYTES = 4096
# Meant for the process that systemd started, by its number (sd_listen_fds(3)).
_NOT_INHERITED = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket: which one it is, and the address that the settings gave for it."""

    name: str
    asked: str
    socket: socket.socket


class Successor:
    """The new process, as the old one sees it. `start` it; then `until` it is ready, `go`, `until` it serves, and
    `let_go`; or `abandon` it at any time."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, errors_fd: int) -> None:
        self._process = process
        self._channel = channel
        self._errors = _Errors(errors_fd)

    @classmethod
    async def start(cls, doors: Sequence[Door], *, lock_fd: int) -> Successor:
        """Execute this program anew, with copies of what it shall have. Raises CommandRefused if it cannot be."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        errors, its_errors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(its_errors, True)
        # Of what the new one must go on with when we are gone: what a service manager reads.
        log_fd = os.dup(2)
        inheritance = {
            "channel": theirs.fileno(),
            "lock": lock_fd,
            "log": log_fd,
            "doors": [[door.name, door.asked, door.socket.fileno()] for door in doors],
        }
        fds = (theirs.fileno(), lock_fd, log_fd, *(door.socket.fileno() for door in doors))
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        environment[INHERITANCE_VARIABLE] = json.dumps(inheritance)
        # As a module and by the interpreter's own path, as in privileges.py: what lies there now is what runs.
        command = [sys.executable, "-P", "-m", "gateway", *sys.argv[1:]]
        try:
            process = await asyncio.to_thread(
                subprocess.Popen, command, env=environment, stdin=subprocess.DEVNULL, stderr=its_errors, pass_fds=fds
            )
        except OSError as error:
            ours.close()
            os.close(errors)
            raise CommandRefused(f"the new gateway could not be started: {error.strerror}: {sys.executable}") from None
        finally:
            theirs.close()
            os.close(its_errors)
            os.close(log_fd)
        ours.setblocking(False)
        return cls(process, ours, errors)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def until(self, word: str, seconds: float) -> Mapping[str, object]:
        """Wait for this word; what else was in the message. Raises CommandRefused with the new one's own words."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                data = await loop.sock_recv(self._channel, MESSAGE_MAX_BYTES)
                message: dict[str, object] = json.loads(data) if data else {}
                if message.get("word") == word:
                    return message
            if not data:
                await self._errors.read_to_end()
        except TimeoutError:
            raise CommandRefused(f"the new gateway was not {word} within {seconds:g} s; this one serves on") from None
        except (OSError, ValueError):
            message = {}
        reason = str(message.get("reason") or self._errors.last_words() or "it ended without a word")
        raise CommandRefused(f"the new gateway does not start, so this one serves on: {reason}")

    async def go(self) -> None:
        """Everything we do not need ourselves is the new one's from now on."""
        with contextlib.suppress(OSError):  # it died this moment: `until` tells
            await asyncio.get_running_loop().sock_sendall(self._channel, b'{"word": "go"}')

    async def abandon(self) -> None:
        """End it, and return when it is gone: only then may we take back what it had. Harmless when it is."""
        self._process.kill()
        try:
            await asyncio.to_thread(self._process.wait, END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.returncode = -signal.SIGKILL  # stuck in the kernel; it will never run a line of ours again
        self.close()

    def let_go(self) -> None:
        """It serves, and lives on without us."""
        self._process.returncode = 0  # it shall outlive this object, which would complain
        self.close()

    def reap(self) -> None:
        """It may end before us, and must not stay in the list of processes."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)

    def close(self) -> None:
        self._channel.close()
        self._errors.close()


class _Errors:
    """What the new one writes to its standard error before it serves: passed on to ours, the last of it kept."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept = bytearray()
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, self._read)

    async def read_to_end(self) -> None:
        """Until nobody can write any more; a child of the new one may have kept the pipe."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._ended.wait()

    def last_words(self) -> str:
        """Its own line to people, if there is one; else the last line, which is the last of a traceback."""
        lines = [line for line in self._kept.decode(errors="replace").splitlines() if line.strip()]
        own = [line.removeprefix("homeport: ") for line in lines if line.startswith("homeport: ")]
        return (own or lines or [""])[-1]

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._ended.set()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        self._kept += data
        del self._kept[:-WORDS_KEPT_BYTES]
        with contextlib.suppress(OSError):  # nobody reads our log; its line is kept
            os.write(2, data)


class Predecessor:
    """The gateway that this one replaces, as the new one sees it."""

    def __init__(self, channel: socket.socket, doors: list[Door], *, lock_fd: int, log_fd: int) -> None:
        self.lock_fd = lock_fd
        self._channel = channel
        self._doors = doors
        self._log_fd = log_fd

    @classmethod
    def from_environment(cls) -> Predecessor | None:
        """None: this process was started by nobody of ours. To be asked once, before anything else is started."""
        text = os.environ.pop(INHERITANCE_VARIABLE, None)
        if text is None:
            return None
        values = json.loads(text)
        fds = [values["channel"], values["lock"], values["log"], *(fd for _, _, fd in values["doors"])]
        for fd in fds:
            os.set_inheritable(fd, False)
        doors = [Door(name, asked, socket.socket(fileno=fd)) for name, asked, fd in values["doors"]]
        channel = socket.socket(fileno=values["channel"])
        channel.setblocking(False)
        return cls(channel, doors, lock_fd=values["lock"], log_fd=values["log"])

    def sockets(self, name: str, asked: str) -> list[socket.socket]:
        """The listening sockets of this name, the caller's from now on. None if the settings name another address."""
        found = [door.socket for door in self._doors if (door.name, door.asked) == (name, asked)]
        self._doors = [door for door in self._doors if door.socket not in found]
        return found

    async def ready(self, version: str) -> None:
        """Say that nothing stands in the way, and wait for the word to go. Raises StartRefused if it does not come."""
        self._say("ready", version=version)
        data = await asyncio.get_running_loop().sock_recv(self._channel, MESSAGE_MAX_BYTES)
        if not data:
            raise StartRefused("the gateway that was to be replaced has gone, or wants to stay")
        os.dup2(self._log_fd, 2, inheritable=True)  # until now it read what we wrote there

    def serving(self) -> None:
        """We accept: the last word."""
        with contextlib.suppress(OSError):  # it died meanwhile, and we serve all the same
            self._say("serving")
        self.close()

    def refuse(self, reason: str) -> None:
        with contextlib.suppress(OSError):  # it does not listen any more
            self._say("refused", reason=reason[: MESSAGE_MAX_BYTES // 8])

    def close(self) -> None:
        """Doors that nobody took close, unless the old one still has them."""
        self._channel.close()
        for door in self._doors:
            door.socket.close()
        self._doors.clear()
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1

    def _say(self, word: str, **more: object) -> None:
        self._channel.send(json.dumps({"word": word, **more}).encode())


@contextlib.contextmanager
def replacing() -> Iterator[Predecessor | None]:
    """Around a whole start: what is refused here is told to the gateway that would be replaced."""
    predecessor = Predecessor.from_environment()
    try:
        yield predecessor
    except GatewayError as error:
        if predecessor is not None:
            predecessor.refuse(error.user_message)
        raise
    finally:
        if predecessor is not None:
            predecessor.close()
