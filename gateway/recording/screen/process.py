"""One screens process as the gateway sees it: started, asked, listened to, and ended when it no longer answers.

What it says is not trusted (protocol.py). It inherits its socket and a page to take notes on, nothing else: no
environment, no descriptor of ours, no terminal.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.events import Event
from gateway.log import log_event
from gateway.recording.screen import protocol
from gateway.recording.screen.protocol import (
    DESCRIPTORS_MAX,
    NO_LIBRARY_STATUS,
    READY_ID,
    Reply,
    ReplyWrong,
    Request,
    Verb,
)

# Measured: 0.3 s. Far more on a machine that is busy starting; afterwards it is taken for broken.
START_SECONDS_MAX = 20.0
# Work is cut into steps of milliseconds, and a library that hangs is ended from within (worker.py). A process that is
# silent for longer was stopped, or waits for a disk that does not answer.
SILENCE_SECONDS_MAX = 6.0
# How it ends when the library fails in it, and not when somebody ends it.
_CRASHES = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE, -signal.SIGTRAP, -signal.SIGABRT,
            -signal.SIGPROF, 1}  # fmt: skip
_WATCH_SECONDS = 0.25
_END_SECONDS = 5.0
_MESSAGE_BYTES = 1024  # of a reply: its head and text
_RIGHTS_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
_NOTE_BYTES = 8
_PING_ID = (1 << 64) - 1
_PROGRAM: tuple[str, ...] = ("-I", str(Path(__file__).resolve().with_name("__main__.py")))


class ScreensBusy(Exception):
    """The process does not read fast enough for another request."""


class ScreensProcess:
    """Owns the process and the socket to it. `on_reply` gets what it says, `ended` is set when it is of no more use,
    with `end_reason`. Requests may be sent from the start; the process reads them once it is up."""

    def __init__(self, connection: socket.socket, child: subprocess.Popen[bytes], note_fd: int) -> None:
        """Use `start`."""
        self.ended = asyncio.Event()
        self.end_reason = ""
        self.pid = child.pid
        self.abilities = ""  # what it said when it was ready
        self._on_reply: Callable[[Reply], None] = lambda reply: None
        self._connection = connection
        self._child = child
        self._note_fd = note_fd
        self._loop = asyncio.get_running_loop()
        self._waiting: set[int] = set()  # ids of requests without a reply
        self._heard_at = self._loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self._loop.add_reader(connection, self._readable)
        self._waiting.add(READY_ID)
        self._watch_soon()

    @classmethod
    async def start(cls, *, history_lines: int, on_reply: Callable[[Reply], None]) -> ScreensProcess:
        """Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        note_fd = os.memfd_create("screens", os.MFD_CLOEXEC)
        try:
            os.ftruncate(note_fd, _NOTE_BYTES)
            with theirs:
                child = await asyncio.to_thread(_start, theirs.fileno(), note_fd, history_lines)
            ours.setblocking(False)
            process = cls(ours, child, note_fd)
        except BaseException:
            ours.close()  # which ends a process that was started
            os.close(note_fd)
            raise
        process._on_reply = on_reply
        return process

    def send(self, request: Request, fds: Sequence[int] = ()) -> None:
        """The descriptors stay the caller's. Raises ScreensBusy."""
        if self.ended.is_set():
            raise ScreensBusy
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._connection.sendmsg([request.to_bytes()], rights)
        except OSError:  # full, or it has just ended, which the reader hears
            raise ScreensBusy from None
        if request.verb is not Verb.FORGET:
            if not self._waiting:
                self._heard_at = self._loop.time()
            self._waiting.add(request.id)
            self._watch_soon()

    def request_in_hand(self) -> int:
        """The id of the request it works on, 0 for none; after its end, of the one it was at. Not once it is closed."""
        return int.from_bytes(os.pread(self._note_fd, _NOTE_BYTES, 0), "little")

    @property
    def silent_seconds(self) -> float:
        """Since it said something, or since it was asked again after a rest."""
        return self._loop.time() - self._heard_at

    def end(self, reason: str) -> None:
        """It is of no more use. Twice is harmless."""
        if not self.ended.is_set():
            self.end_reason = reason
            self.ended.set()
            self._loop.remove_reader(self._connection)
            if self._watch is not None:
                self._watch.cancel()

    async def close(self) -> None:
        """End it for good and reap it. Twice is harmless."""
        self.end("closed")
        self._connection.close()
        self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel; the next start reaps it
            await asyncio.to_thread(self._child.wait, _END_SECONDS)
        if self._note_fd >= 0:
            os.close(self._note_fd)
            self._note_fd = -1

    @property
    def has_crashed(self) -> bool:
        """Once it is closed: it ended of what it worked on."""
        return self._child.returncode in _CRASHES

    @property
    def has_no_library(self) -> bool:
        return self._child.returncode == NO_LIBRARY_STATUS

    # -------------------------------------------------------------------------------------------------- listening

    def _readable(self) -> None:
        try:
            message, ancillary, flags, _ = self._connection.recvmsg(
                _MESSAGE_BYTES, _RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:  # reset: it ended with requests unread
            self.end("it ended")
            return
        fds = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        try:
            if not message:
                self.end("it ended")
            elif flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                self.end("a message larger than may be")
            else:
                self._heard(protocol.reply_from_bytes(message, list(fds)))
        except ReplyWrong as error:
            self.end(f"not a reply: {error}")
        finally:
            for fd in fds:
                os.close(fd)

    def _heard(self, reply: Reply) -> None:
        self._heard_at = self._loop.time()
        self._waiting.discard(reply.id)
        if reply.id == READY_ID:
            self.abilities = reply.text
            log_event(Event.SCREENS_READY, pid=self.pid, abilities=reply.text)
        if reply.id != _PING_ID:
            self._on_reply(reply)

    def _watch_soon(self) -> None:
        if self._watch is None:
            self._watch = self._loop.call_later(_WATCH_SECONDS, self._look)

    def _look(self) -> None:
        """While something is asked, see that it lives: a step is short, and between two of them it answers."""
        self._watch = None
        if not self._waiting or self.ended.is_set():
            return
        if self.silent_seconds > (SILENCE_SECONDS_MAX if self.abilities else START_SECONDS_MAX):
            self.end("it hangs")
            return
        if self.abilities and _PING_ID not in self._waiting and self.silent_seconds > _WATCH_SECONDS:
            with contextlib.suppress(ScreensBusy):
                self.send(Request(_PING_ID, Verb.PING))
        self._watch_soon()


def _start(socket_fd: int, note_fd: int, history_lines: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *_PROGRAM, str(socket_fd), str(note_fd), str(history_lines)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        pass_fds=(socket_fd, note_fd),
        start_new_session=True,  # Ctrl-C where the gateway was started is none of its business
    )
