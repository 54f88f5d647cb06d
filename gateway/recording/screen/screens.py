"""Implements interfaces.Screens: keeps a screens process at work, hands it what it needs, and does without it.

Nothing here parses what terminals printed, but for the plain lines of the fallback. A client that attaches waits at
most a second, whatever became of the process; a few only behind others who get their screens meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.errors import GatewayError
from gateway.events import Event
from gateway.interfaces import Painting, StreamPosition, WindowSize
from gateway.log import log_event, log_warning
from gateway.recording.recordings import FileRecordings
from gateway.recording.screen import keyframe
from gateway.recording.screen.plain import APOLOGY, TAIL_BYTES, plain_lines, plain_painting
from gateway.recording.screen.process import ScreensBusy, ScreensProcess
from gateway.recording.screen.protocol import NOWHERE, UNKNOWN_SIZE, Outcome, Reply, Request, Verb
from gateway.recording.stream import Stream

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]

# Together under the second that an attach may take at worst; a painting takes some 50 ms.
PAINT_SECONDS_MAX = 0.7
TAIL_SECONDS_MAX = 0.2
ANSWERS_SECONDS_MAX = 1.0
# Requests at the process at one time. More sessions to follow stay in our queue; more clients wait for their turn:
# a hundred that come back with the network take two seconds, and their screens are worth it.
PAINTS_MAX = 4
FOLLOWS_MAX = 4
ANSWERS_MAX = 4
# Those that nobody waits for any more count too: each holds descriptors over there until its work is done. A session
# that takes long fills up its own share and not that of the others.
REQUESTS_MAX, REQUESTS_PER_SESSION_MAX = 100, 8
QUEUE_SECONDS_MAX = 3.0
# A living process says something this often while it is asked anything (it is pinged).
_LIVELY_SECONDS = 0.6
# A keyframe is made again after this many laps, and wherever somebody detaches. More often would keep a disk busy for
# a session that floods; this much is fed in 10 ms.
KEYFRAME_LAPS = 4
# A process that died at once is not started over and over.
_RESTART_SECONDS, _RESTART_SECONDS_MAX = 0.5, 30.0
_STEADY_SECONDS = 3.0
# A session whose output crashed the process this often is not shown to it again.
STRIKES_MAX = 2
_DUMB_TERMINALS = ("", "dumb", "unknown")


class ScreensUnavailable(Exception):
    """No painting from the process, for a reason that may be logged."""


class ScreensGone(ScreensUnavailable):
    """The process ended before it answered; the next one may be asked again."""


class ScreenService:
    """Belongs to the event loop. The process runs from `start`, or from the first need of it, to `close`."""

    def __init__(self, recordings: FileRecordings, *, history_lines: int, spawn: Spawn) -> None:
        self._recordings = recordings
        self._history_lines = history_lines
        self._spawn = spawn
        self._process: ScreensProcess | None = None
        self._process_there = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._is_without_library = False
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply | None]] = {}  # by request; None comes when the process ends
        self._asked: dict[int, str] = {}  # request → session, until there is a reply, also if nobody waits any more
        self._wanted: OrderedDict[str, StreamPosition] = OrderedDict()  # to be followed, in order of asking
        self._following: set[str] = set()
        self._forgotten: set[str] = set()  # of those: they have ended meanwhile
        self._keyframe_at: dict[str, StreamPosition] = {}
        self._strikes: Counter[str] = Counter()
        self._turns = asyncio.Semaphore(PAINTS_MAX)
        self._answering = asyncio.Semaphore(ANSWERS_MAX)
        self._stall_count = 0  # paintings that a silent process let time out
        recordings.lap_ended = self.follow

    # --------------------------------------------------------------------------------------- interfaces.Screens

    async def paint(
        self,
        session_id: str,
        until: StreamPosition,
        *,
        size: WindowSize,
        term: str,
        notice: str = "",
        is_again: bool = False,
    ) -> Painting:
        started = time.monotonic()
        is_dumb = term in _DUMB_TERMINALS
        reason = "the terminal can only show text" if is_dumb else ""
        if not is_dumb:
            try:
                reply = await self._ask_in_turn(session_id, until, size, notice, is_again)
                is_exact = reply.outcome is Outcome.DONE
                log_event(Event.SCREEN_PAINTED, session_id=session_id, duration_ms=_milliseconds_since(started),
                          is_exact=is_exact, size_bytes=len(reply.data))  # fmt: skip
                return Painting(reply.data, is_exact)
            except TimeoutError:
                reason = "it took too long"
            except ScreensUnavailable as error:
                reason = str(error)
        lines = await self._last_lines(session_id, until, size)
        log_warning(Event.SCREEN_APPROXIMATED, session_id=session_id, reason=reason,
                    duration_ms=_milliseconds_since(started))  # fmt: skip
        data = plain_painting(lines, size=size, notice=notice, apology="" if is_dumb else APOLOGY, is_dumb=is_dumb)
        return Painting(data, is_exact=False)

    def follow(self, session_id: str, until: StreamPosition) -> None:
        if not self._is_hopeless(session_id) and not self._closing.is_set():
            self._wanted[session_id] = until
            self._follow_next()

    async def answers(self, session_id: str, since: StreamPosition, until: StreamPosition) -> bytes:
        try:
            async with asyncio.timeout(ANSWERS_SECONDS_MAX), self._answering:
                return (await self._ask(Verb.ANSWERS, session_id, until, since=since)).data
        except (TimeoutError, ScreensUnavailable):
            return b""

    def forget(self, session_id: str) -> None:
        self._wanted.pop(session_id, None)
        if session_id in self._following:
            self._forgotten.add(session_id)
        self._keyframe_at.pop(session_id, None)
        self._strikes.pop(session_id, None)
        if self._process is not None:
            with contextlib.suppress(ScreensBusy):
                self._process.send(Request(next(self._ids), Verb.FORGET, session_id))
        self._remove_keyframe(session_id)

    def start(self) -> None:
        """Have the process up in the background before it is needed: it takes half a second to its first painting."""
        if (self._life is None or self._life.done()) and not (self._closing.is_set() or self._is_without_library):
            self._life = self._spawn(self._keep_running(), "screens")

    async def close(self) -> None:
        """End the process. Whoever waits for it is told; twice is harmless."""
        self._closing.set()
        if self._process is not None:
            self._process.end("closed")
        if self._life is not None:
            await asyncio.wait([self._life])

    # ------------------------------------------------------------------------------------------- asking the process

    async def _ask_in_turn(
        self, session_id: str, until: StreamPosition, size: WindowSize, notice: str, is_again: bool
    ) -> Reply:
        """Ask for a painting. Raises ScreensUnavailable, TimeoutError."""
        stall_count = self._stall_count
        async with asyncio.timeout(QUEUE_SECONDS_MAX):
            await self._turns.acquire()
        try:
            if self._stall_count != stall_count:
                raise ScreensUnavailable("the screens process does not answer")
            async with asyncio.timeout(PAINT_SECONDS_MAX):
                return await self._ask(Verb.PAINT, session_id, until, size=size, notice=notice, is_again=is_again)
        except TimeoutError:
            # Busy with this session, the others may go on waiting. Silent, they shall not wait in vain.
            if self._process is None or self._process.silent_seconds > _LIVELY_SECONDS:
                self._stall_count += 1
            raise
        finally:
            self._turns.release()

    async def _ask(
        self,
        verb: Verb,
        session_id: str,
        until: StreamPosition,
        *,
        since: StreamPosition = NOWHERE,
        size: WindowSize = UNKNOWN_SIZE,
        notice: str = "",
        wants_keyframe: bool = False,
        is_again: bool = False,
    ) -> Reply:
        """Raises ScreensUnavailable. Cancelling lets go of the reply; the work is done all the same."""
        process = await self._running()
        if self._is_hopeless(session_id):
            raise ScreensUnavailable("its output crashed the screens process before")
        number = next(self._ids)
        reply: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            request = Request(number, verb, session_id, since, until, size, notice, wants_keyframe, is_again)
            self._send(process, request)
            answer = await reply
        finally:
            self._waiting.pop(number, None)
        if answer is None:
            raise ScreensGone(f"the screens process ended: {process.end_reason}")
        if answer.outcome is Outcome.FAILED:
            raise ScreensUnavailable(answer.text)
        return answer

    async def _running(self) -> ScreensProcess:
        if self._is_without_library:
            raise ScreensUnavailable("the terminal library is not installed")
        if self._closing.is_set():
            raise ScreensUnavailable("the gateway is stopping")
        self.start()
        await self._process_there.wait()
        if self._process is None:
            raise ScreensUnavailable("there is no screens process")
        return self._process

    def _send(self, process: ScreensProcess, request: Request) -> None:
        """With the session's files as they are now."""
        of_session = sum(session_id == request.session_id for session_id in self._asked.values())
        if len(self._asked) >= REQUESTS_MAX or of_session >= REQUESTS_PER_SESSION_MAX:
            raise ScreensUnavailable("the screens process has too much to do")
        fds: dict[str, int] = {}
        try:
            stream = self._recordings.open_stream(request.session_id)
            named = {"recording": stream.recording, "spool": stream.spool}
            fds = {name: fd for name, fd in named.items() if fd is not None}
            with contextlib.suppress(FileNotFoundError):
                path = self._recordings.archive.keyframe_path(request.session_id)
                fds["keyframe"] = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            process.send(dataclasses.replace(request, files=tuple(fds)), list(fds.values()))
            self._asked[request.id] = request.session_id
        except (OSError, GatewayError) as error:
            raise ScreensUnavailable(f"its recording cannot be opened: {error}") from None
        except ScreensBusy:
            raise ScreensUnavailable("the screens process is busy") from None
        finally:
            for fd in fds.values():
                os.close(fd)

    def _take_reply(self, reply: Reply) -> None:
        self._asked.pop(reply.id, None)
        waiting = self._waiting.get(reply.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    # -------------------------------------------------------------------------------------------- the process's life

    async def _keep_running(self) -> None:
        pause = 0.0
        while not self._closing.is_set():
            started = time.monotonic()
            await self._live_once()
            if self._is_without_library:
                break
            if time.monotonic() - started > _STEADY_SECONDS:
                pause = 0.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._closing.wait()
            pause = min(max(2 * pause, _RESTART_SECONDS), _RESTART_SECONDS_MAX)
        self._process_there.set()  # nobody needs to wait for another

    async def _live_once(self) -> None:
        """One process, from its start to its end."""
        try:
            process = await ScreensProcess.start(history_lines=self._history_lines, on_reply=self._take_reply)
        except OSError as error:
            log_warning(Event.SCREENS_ENDED, reason=f"it cannot be started: {error}")
            return
        self._process = process
        self._process_there.set()
        log_event(Event.SCREENS_STARTED, pid=process.pid)
        self._follow_next()
        try:
            if self._closing.is_set():
                process.end("closed")
            await process.ended.wait()
        finally:
            self._process = None
            self._process_there.clear()
            session_id = self._asked.get(process.request_in_hand(), "")
            self._asked.clear()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_result(None)
            await process.close()
            self._is_without_library = process.has_no_library
            if session_id and process.has_crashed:
                self._strikes[session_id] += 1
            if not self._closing.is_set():
                log_warning(Event.SCREENS_ENDED, reason=process.end_reason, session_id=session_id)

    def _is_hopeless(self, session_id: str) -> bool:
        return self._is_without_library or self._strikes[session_id] >= STRIKES_MAX

    # ------------------------------------------------------------------------------------------------ following

    def _follow_next(self) -> None:
        """Start with those who wait longest, each session once at a time."""
        for session_id in [each for each in self._wanted if each not in self._following]:
            if len(self._following) >= FOLLOWS_MAX:
                return
            self._following.add(session_id)
            until = self._wanted.pop(session_id)
            self._spawn(self._follow_once(session_id, until), f"screen-follow:{session_id}")

    async def _follow_once(self, session_id: str, until: StreamPosition) -> None:
        try:
            last = self._keyframe_at.get(session_id)
            wants_keyframe = last is None or until.offset > 0 or until.lap - last.lap >= KEYFRAME_LAPS
            reply = await self._ask(Verb.FOLLOW, session_id, until, wants_keyframe=wants_keyframe)
            if reply.keyframe:
                await self._keep_keyframe(session_id, until, reply.keyframe)
        except ScreensGone:
            if not self._is_hopeless(session_id) and session_id not in self._forgotten:
                self._wanted.setdefault(session_id, until)  # with the next process
        except ScreensUnavailable:
            pass  # the next lap, or the next attach, asks again
        finally:
            self._following.discard(session_id)
            self._forgotten.discard(session_id)
            if self._process is not None:
                self._follow_next()

    async def _keep_keyframe(self, session_id: str, position: StreamPosition, content: bytes) -> None:
        path = self._recordings.archive.keyframe_path(session_id)
        self._keyframe_at[session_id] = position
        try:
            await asyncio.to_thread(keyframe.store, path, content)
        except OSError as error:
            log_warning(Event.SCREENS_FAILED, session_id=session_id, reason=str(error))
        if session_id in self._forgotten:
            self._keyframe_at.pop(session_id, None)
            self._remove_keyframe(session_id)

    def _remove_keyframe(self, session_id: str) -> None:
        with contextlib.suppress(OSError, GatewayError):
            self._recordings.archive.keyframe_path(session_id).unlink()

    # ------------------------------------------------------------------------------------------------- plain lines

    async def _last_lines(self, session_id: str, until: StreamPosition, size: WindowSize) -> list[str]:
        try:
            async with asyncio.timeout(TAIL_SECONDS_MAX):
                output = await asyncio.to_thread(self._read_tail, session_id, until)
        except (TimeoutError, OSError, GatewayError):
            return []
        return plain_lines(output, size=size)

    def _read_tail(self, session_id: str, until: StreamPosition) -> bytes:
        """In a thread."""
        files = self._recordings.open_stream(session_id)
        try:
            return Stream(files).output_before(until, bytes_max=TAIL_BYTES)
        finally:
            files.close()


def _milliseconds_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
