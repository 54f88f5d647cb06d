"""Runs one program inside a workspace, through its keeper, and moves bytes to and from it. git.py and the archives
stand on this; nothing here knows what runs.

Output goes to sinks that are awaited before more is read, so a slow disk holds the program back and nothing piles up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import FileIO

from gateway.environment import DEFAULT_LANG, DEFAULT_PATH
from gateway.errors import KeeperGone, KeeperRefused
from gateway.ids import new_id
from gateway.interfaces import Inside, Keeper, Program, ProgramExit, ProgramSpec

READ_BYTES = 256 * 1024  # what a keeper's pipe for stdout holds
# Once the program has ended its pipes are at their end too, unless a background child of it holds them. Counted from
# the last byte that came: a sink may be slow with what was in them.
PIPE_LINGER_SECONDS = 2

Sink = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class InsideProgram:
    """What to run, and where its streams lead. Sinks never get an empty piece."""

    argv: Sequence[bytes]
    stdout: Sink
    stderr: Sink
    stdin: AsyncIterable[bytes] | None = None  # None: at its end from the start
    executable: bytes = b"/usr/bin/env"  # with argv[0] "env": finds the rest on the workspace's own PATH
    environment: Mapping[str, str] = field(default_factory=dict)  # over `plain_environment`
    read_bytes: int = READ_BYTES


def plain_environment(inside: Inside) -> dict[str, str]:
    """What every program of ours finds inside, and nothing of the gateway's own."""
    return {
        "HOME": inside.home,
        "USER": inside.user,
        "LOGNAME": inside.user,
        "PATH": DEFAULT_PATH,
        "LANG": DEFAULT_LANG,
    }


async def run_inside(keeper: Keeper, inside: Inside, program: InsideProgram, *, seconds_max: float) -> ProgramExit:
    """Run it in the tree until it has ended and its output is taken; the exit is the caller's to judge.

    A program that stops reading its stdin is only fed no more. Raises TimeoutError, KeeperGone, ProgramFailed, and
    what a sink or the source raises. Cancelled or failed, the program is hung up before this returns.
    """
    environment = plain_environment(inside) | dict(program.environment)
    spec = ProgramSpec(
        session_id=new_id(),
        argv=tuple(program.argv),
        executable=program.executable,
        environment={name.encode(): value.encode() for name, value in environment.items()},
        directory=inside.tree.encode(),
    )
    started = await keeper.start(spec)
    try:
        async with asyncio.timeout(seconds_max), _streams(started, program.read_bytes) as streams:
            return await _until_ended(started, program, streams)
    except ExceptionGroup as group:
        raise _first_of(group) from None
    finally:
        with contextlib.suppress(KeeperGone, KeeperRefused):  # it is gone, and the program with it
            if not started.exited.done():
                await keeper.hang_up(spec.session_id)
            await keeper.forget(spec.session_id)


@dataclass(slots=True)
class _Streams:
    stdin: FileIO
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    piece_count: int = 0


@contextlib.asynccontextmanager
async def _streams(program: Program, limit_bytes: int) -> AsyncIterator[_Streams]:
    """The program's pipes; owns their descriptors."""
    assert program.stdin_fd is not None and program.stdout_fd is not None and program.stderr_fd is not None
    loop = asyncio.get_running_loop()
    readers: list[asyncio.StreamReader] = []
    transports: list[asyncio.ReadTransport] = []
    stdin = FileIO(program.stdin_fd, "wb")
    try:
        for fd in (program.stdout_fd, program.stderr_fd):
            reader = asyncio.StreamReader(limit=limit_bytes)
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_read_pipe(partial(_same, protocol), os.fdopen(fd, "rb", buffering=0))
            readers.append(reader)
            transports.append(transport)
        yield _Streams(stdin, readers[0], readers[1])
    finally:
        stdin.close()
        for transport in transports:
            transport.close()


def _same(protocol: asyncio.StreamReaderProtocol) -> asyncio.StreamReaderProtocol:
    return protocol


async def _until_ended(started: Program, program: InsideProgram, streams: _Streams) -> ProgramExit:
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(_feed(streams.stdin, program.stdin), name="inside:stdin")
        reading = {
            group.create_task(_pour(streams.stdout, program.stdout, streams, program.read_bytes), name="inside:stdout"),
            group.create_task(_pour(streams.stderr, program.stderr, streams, program.read_bytes), name="inside:stderr"),
        }
        end = await asyncio.shield(started.exited)  # the future is the keeper's; cancelling us must not cancel it
        feeding.cancel()
        await _lingered(reading, streams)
    return end


async def _lingered(reading: set[asyncio.Task[None]], streams: _Streams) -> None:
    pending = reading
    while pending:
        before = streams.piece_count
        _, pending = await asyncio.wait(pending, timeout=PIPE_LINGER_SECONDS)
        if streams.piece_count == before:
            break
    for task in pending:
        task.cancel()


async def _pour(stream: asyncio.StreamReader, sink: Sink, streams: _Streams, read_bytes: int) -> None:
    while piece := await stream.read(read_bytes):
        streams.piece_count += 1
        await sink(piece)
        streams.piece_count += 1


async def _feed(stdin: FileIO, source: AsyncIterable[bytes] | None) -> None:
    """Write all that `source` has, and close. Not asyncio's transport: it cannot be closed for good in every
    state, and its buffer would hold what the program has long declined."""
    with stdin, contextlib.suppress(BrokenPipeError):
        if source is None:
            return
        async for piece in source:
            view = memoryview(piece)
            while view:
                written = stdin.write(view)
                if written is None:  # it is full
                    await _writable(stdin.fileno())
                else:
                    view = view[written:]


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)


def _first_of(group: ExceptionGroup) -> Exception:
    """A sink that fails ends the whole; its own words are what counts."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, ExceptionGroup) else first
