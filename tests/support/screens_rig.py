"""What the tests of the screens share: a service over some recordings, and output that is hard on a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from gateway.interfaces import Painting, WindowSize
from gateway.log import subscribe
from gateway.recording.recorder import SpoolRecorder
from gateway.recording.recordings import FileRecordings
from gateway.recording.screen.model import Screen
from gateway.recording.screen.painter import paint
from gateway.recording.screen.process import ScreensProcess
from gateway.recording.screen.screens import ScreenService
from tests.support.recording_rig import SESSION_ID, SIZE

DEADLINE_SECONDS = 20
HISTORY_LINES = 100


@contextlib.asynccontextmanager
async def screens_over(
    recordings: FileRecordings, *, history_lines: int = HISTORY_LINES
) -> AsyncIterator[ScreenService]:
    """At the end nothing of it may be left: no task, no process."""
    tasks: set[asyncio.Task[None]] = set()

    def spawn(coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        tasks.add(task)
        return task

    service = ScreenService(recordings, history_lines=history_lines, spawn=spawn)
    try:
        yield service
    finally:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await service.close()
            await asyncio.gather(*tasks)


async def running_process(service: ScreenService) -> ScreensProcess:
    """The process once it is ready."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (process := service._process) is None or not process.abilities or process.ended.is_set():
            await asyncio.sleep(0.01)
    return process


async def followed(service: ScreenService, recordings: FileRecordings, session_id: str = SESSION_ID) -> Path:
    """The keyframe file, once everything that was asked to be followed has been."""
    path = recordings.archive.keyframe_path(session_id)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while service._wanted or service._following:
            await asyncio.sleep(0.01)
    return path


async def painted(
    service: ScreenService, recorder: SpoolRecorder, *, size: WindowSize = SIZE, session_id: str = SESSION_ID
) -> Painting:
    return await service.paint(session_id, recorder.position, size=size, term="xterm-256color")


async def painted_exactly(
    service: ScreenService, recorder: SpoolRecorder, *, size: WindowSize = SIZE, session_id: str = SESSION_ID
) -> bytes:
    """However long it takes: a machine that is busy elsewhere gets the fallback, which is not what is tested here."""
    reasons: list[object] = []
    unsubscribe = subscribe(lambda event, keys: reasons.append(keys.get("reason")))
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (painting := await painted(service, recorder, size=size, session_id=session_id)).is_exact:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"no exact painting: {reasons}") from None
    finally:
        unsubscribe()
    return painting.data


def painting_of(output: bytes, *, size: WindowSize = SIZE, history_lines: int = HISTORY_LINES) -> bytes:
    """What a model paints that was fed with everything at once."""
    screen = Screen(size.columns, size.rows, history_lines=history_lines)
    screen.feed(output)
    data = paint(screen)
    screen.close()
    return data


def terminal_output(seed: int, byte_count: int) -> bytes:
    """Text, colours, moves, both screens, titles, modes, wide and combining characters, in no order at all."""
    chosen = random.Random(seed)
    parts: list[bytes] = []
    size = 0
    while size < byte_count:
        part = chosen.choice(_PARTS)(chosen)
        parts.append(part)
        size += len(part)
    return b"".join(parts)[:byte_count]


_PARTS = [
    lambda r: bytes(r.choices(b"abcdefghij klmnop 0123", k=r.randrange(1, 90))),
    lambda r: b"\r\n",
    lambda r: b"\x1b[%d;%dH" % (r.randrange(1, 30), r.randrange(1, 100)),
    lambda r: b"\x1b[%d;3%dm" % (r.randrange(10), r.randrange(8)),
    lambda r: b"\x1b[38;2;%d;9;%dm" % (r.randrange(256), r.randrange(256)),
    lambda r: b"\x1b[%d%c" % (r.randrange(4), r.choice(b"JKLMPX@ABCD")),
    lambda r: b"\x1b[?%d%c" % (r.choice((1, 7, 25, 1000, 1006, 1049, 2004)), r.choice(b"hl")),
    lambda r: b"\x1b]0;title %d\x07" % r.randrange(100),
    lambda r: b"\x1b]8;;https://example.org/%d\x1b\\link\x1b]8;;\x1b\\" % r.randrange(9),
    lambda r: "äöü 漢字 e\u0301 ─┼─".encode(),
    lambda r: b"\x1b[%d;%dr" % (r.randrange(1, 5), r.randrange(10, 24)),
    lambda r: b"\x1b[%d q" % r.randrange(7),
]
