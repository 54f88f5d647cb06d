"""The screens process: follows the terminals of all sessions by their recordings, and paints them.

Started by the gateway (process.py, __main__.py). One thread; work is cut into short
steps, so that whoever waits for a painting never waits for the long way of another session. It ends with its socket,
and by itself when one step takes for ever: then the gateway starts another.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.recording.screen import keyframe
from gateway.recording.screen.confine import confine
from gateway.recording.screen.followed import FollowedScreen
from gateway.recording.screen.keyframe import KeyframeUnusable
from gateway.recording.screen.model import VERSION, Screen, SnapshotForeign, is_available
from gateway.recording.screen.painter import paint
from gateway.recording.screen.protocol import (
    DESCRIPTORS_MAX,
    KEYFRAME_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    NO_LIBRARY_STATUS,
    PAINTING_BYTES_MAX,
    READY_ID,
    Outcome,
    Reply,
    Request,
    Verb,
    reply_to_bytes,
)
from gateway.recording.stream import START, Stream, StreamFiles

STEPS_SECONDS = 0.02  # of one session, before another has its turn
# A library that never comes back would keep a core busy for ever, also after the gateway is gone: SIGPROF ends us. Of
# the processor's time, so that a busy machine is not taken for a hanging library.
STEP_CPU_SECONDS_MAX = 4.0
SCREENS_BYTES_MAX = 64 * 1024 * 1024
ANSWERS_BYTES_MAX = 4096
_NOTE_BYTES = 8
_RIGHTS_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
_URGENT = (Verb.PAINT, Verb.ANSWERS)


@dataclass(slots=True)
class Job:
    """One request, being worked on. Owns its descriptors."""

    request: Request
    files: StreamFiles
    keyframe_fd: int | None
    steps: Iterator[None]
    is_urgent: bool

    def close(self) -> None:
        self.files.close()
        if self.keyframe_fd is not None:
            os.close(self.keyframe_fd)
            self.keyframe_fd = None


@dataclass(slots=True)
class Queue:
    """The jobs of one session, which depend on each other and so are done in order."""

    jobs: deque[Job] = field(default_factory=deque)

    @property
    def is_urgent(self) -> bool:
        return any(job.is_urgent for job in self.jobs)


class Worker:
    """`note_fd`: where the id of the request in hand is written, so that the gateway knows of whom we died."""

    def __init__(self, connection: socket.socket, note_fd: int, *, history_lines: int) -> None:
        self._connection = connection
        self._note_fd = note_fd
        self._history_lines = history_lines
        self._screens: OrderedDict[str, FollowedScreen] = OrderedDict()  # the least recently used first
        self._queues: OrderedDict[str, Queue] = OrderedDict()  # whose turn it is first
        self._buffer = bytearray(MESSAGE_BYTES_MAX)

    def run(self) -> None:
        while self._receive():
            if self._queues:
                self._work()

    # -------------------------------------------------------------------------------------------- requests, replies

    def _receive(self) -> bool:
        """All requests that are there; without work, wait for one. False: the gateway is gone."""
        flags = socket.MSG_DONTWAIT if self._queues else 0
        while True:
            try:
                size, ancillary, _, _ = self._connection.recvmsg_into(
                    [self._buffer], _RIGHTS_BYTES, flags | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return True
            if size == 0:
                return False
            self._accept(Request.from_bytes(bytes(memoryview(self._buffer)[:size])), _descriptors(ancillary))
            flags = socket.MSG_DONTWAIT

    def _accept(self, request: Request, fds: list[int]) -> None:
        if request.verb is Verb.PING:
            self._send(Reply(request.id, Outcome.DONE))
        elif request.verb is Verb.FORGET:
            self._forget(request.session_id)
        elif len(fds) != len(request.files):  # more than we may hold
            for fd in fds:
                os.close(fd)
            self._send(Reply(request.id, Outcome.FAILED, "its files did not come"))
        else:
            named = dict(zip(request.files, fds, strict=True))
            files = StreamFiles(named.get("recording"), named.get("spool"))
            job = Job(request, files, named.get("keyframe"), iter(()), request.verb in _URGENT)
            job.steps = self._steps(job)
            self._queues.setdefault(request.session_id, Queue()).jobs.append(job)

    def _send(self, reply: Reply) -> None:
        data, fds = reply_to_bytes(reply)
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            self._connection.sendmsg([data], rights)
        finally:
            for fd in fds:
                os.close(fd)

    # ------------------------------------------------------------------------------------------------------- work

    def _work(self) -> None:
        """Some steps for whoever's turn it is: first those for whom somebody waits."""
        session_id = next((each for each, queue in self._queues.items() if queue.is_urgent), next(iter(self._queues)))
        queue = self._queues[session_id]
        job = queue.jobs[0]
        os.pwrite(self._note_fd, job.request.id.to_bytes(_NOTE_BYTES, "little"), 0)
        signal.setitimer(signal.ITIMER_PROF, STEP_CPU_SECONDS_MAX)
        is_done = self._advance(job)
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.pwrite(self._note_fd, bytes(_NOTE_BYTES), 0)
        if is_done:
            queue.jobs.popleft()
            job.close()
        self._queues.move_to_end(session_id)
        if not queue.jobs:
            del self._queues[session_id]
            self._stay_small()

    def _advance(self, job: Job) -> bool:
        """Some steps of a job; true once it is done, well or not."""
        end = time.monotonic() + STEPS_SECONDS
        try:
            for _ in job.steps:
                if time.monotonic() >= end:
                    return False
        except BrokenPipeError:
            raise SystemExit(0) from None  # the gateway is gone
        except Exception as error:
            self._drop_screen(job.request.session_id)
            self._send(Reply(job.request.id, Outcome.FAILED, f"{type(error).__name__}: {error}"))
        return True

    def _steps(self, job: Job) -> Iterator[None]:
        request = job.request
        followed = self._screens.get(request.session_id)
        if followed is not None and followed.position > request.until and request.verb is not Verb.PAINT:
            # Others came first. What a program asked meanwhile is known, and a keyframe further on is a better one.
            yield from ()
        else:
            followed = self._nearest(job)
            stream = Stream(job.files, file_at=followed.file_at)
            if request.verb is Verb.ANSWERS and followed.position < request.since:
                yield from followed.advance(stream, request.since)
            yield from followed.advance(stream, request.until)
        yield
        self._finish(request, followed)
        if followed is not self._screens.get(request.session_id):
            followed.screen.close()

    def _finish(self, request: Request, followed: FollowedScreen) -> None:
        outcome = Outcome.AFTER_GAP if followed.is_after_gap else Outcome.DONE
        data = made = b""
        if request.verb is Verb.PAINT:
            data = paint(followed.screen, notice=request.notice, client_columns=request.size.columns,
                         client_rows=request.size.rows, is_again=request.is_again)  # fmt: skip
            if len(data) > PAINTING_BYTES_MAX:
                raise ValueError(f"a painting of {len(data)} bytes")
            followed.is_after_gap = False  # from here on the client's screen is like ours, right or not
        elif request.verb is Verb.ANSWERS:
            data = followed.replies_between(request.since, request.until)[:ANSWERS_BYTES_MAX]
        elif request.wants_keyframe:
            frame = followed.keyframe()
            made = keyframe.to_bytes(frame, stamp=VERSION) if frame is not None else b""
        self._send(Reply(request.id, outcome, data=data, keyframe=made if len(made) <= KEYFRAME_BYTES_MAX else b""))

    # ---------------------------------------------------------------------------------------------------- screens

    def _nearest(self, job: Job) -> FollowedScreen:
        """The screen that needs the least to be at the request's position: the one at hand, the keyframe, a new one.

        A screen that is further already stays with whom it belongs to.
        """
        session_id, until = job.request.session_id, job.request.until
        followed = self._screens.get(session_id)
        if followed is not None and followed.position <= until:
            self._screens.move_to_end(session_id)
            return followed
        made = self._from_keyframe(job)
        if made is None or made.position > until:
            made = FollowedScreen.fresh(Stream(job.files), history_lines=self._history_lines)
        if followed is None:
            self._screens[session_id] = made
        return made

    def _from_keyframe(self, job: Job) -> FollowedScreen | None:
        if job.keyframe_fd is None:
            return None
        try:
            frame = keyframe.from_bytes(keyframe.read(job.keyframe_fd), stamp=VERSION)
            return FollowedScreen.restored(frame, history_lines=self._history_lines)
        except (KeyframeUnusable, SnapshotForeign):
            return None

    def _forget(self, session_id: str) -> None:
        self._drop_screen(session_id)
        queue = self._queues.pop(session_id, None)
        for job in queue.jobs if queue is not None else ():
            job.close()
            self._send(Reply(job.request.id, Outcome.FAILED, "forgotten"))

    def _drop_screen(self, session_id: str) -> None:
        followed = self._screens.pop(session_id, None)
        if followed is not None:
            followed.screen.close()

    def _stay_small(self) -> None:
        """Screens that nobody works on go, the least recently used first; their keyframes bring them back."""
        total = sum(followed.memory_bytes for followed in self._screens.values())
        for session_id in [each for each in self._screens if each not in self._queues]:
            if total <= SCREENS_BYTES_MAX:
                return
            total -= self._screens[session_id].memory_bytes
            self._drop_screen(session_id)


def warm_up() -> None:
    """Everything once, so that nothing is loaded or made executable after the walls are up."""
    screen = Screen(20, 5, history_lines=10)
    screen.feed("\x1b[?1049h\x1b[1;31mä\x1b[c".encode())
    screen.take_replies()
    snapshot = screen.snapshot()
    if snapshot is not None:
        keyframe.from_bytes(
            keyframe.to_bytes(keyframe.Keyframe(START, 0, False, snapshot), stamp=VERSION), stamp=VERSION
        )
        Screen.restore(snapshot, history_lines=10).close()
    paint(screen, notice="homeport")
    screen.close()


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    note_fd, history_lines = int(sys.argv[2]), int(sys.argv[3])
    if not is_available():
        sys.exit(NO_LIBRARY_STATUS)
    warm_up()
    is_confined = confine()
    worker = Worker(connection, note_fd, history_lines=history_lines)
    worker._send(Reply(READY_ID, Outcome.DONE, f"{VERSION}; {'confined' if is_confined else 'no seccomp here'}"))
    worker.run()
    os._exit(0)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
