"""The pumps between a program and a channel: real terminals and pipes, a channel that only remembers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gateway.interfaces import Painting, Program, ProgramExit, StreamPosition, WindowSize
from gateway.sessions.pipe_session import PipeSession
from gateway.sessions.session import ChannelSink, Session
from gateway.sessions.terminal import set_window_size
from gateway.sessions.terminal_session import TerminalSession


class RememberingChannel:
    """A client that takes everything, until told to be slow."""

    def __init__(self) -> None:
        self.output = b""
        self.errors = b""
        self.end: ProgramExit | None = None
        self.is_writing_paused = False
        self.is_reading_paused = False
        self.sink: ChannelSink | None = None
        self.changed = asyncio.Event()

    def attach(self, sink: ChannelSink) -> None:
        self.sink = sink

    def write(self, data: bytes) -> None:
        self.output += data
        self.changed.set()

    def write_stderr(self, data: bytes) -> None:
        self.errors += data
        self.changed.set()

    def pause_reading(self) -> None:
        self.is_reading_paused = True
        self.changed.set()

    def resume_reading(self) -> None:
        self.is_reading_paused = False
        self.changed.set()

    async def is_answering(self, within_seconds: float) -> bool:
        return self.sink is not None

    async def drained(self) -> None:
        while self.is_writing_paused:
            self.changed.clear()
            await self.changed.wait()

    def finish(self, end: ProgramExit) -> None:
        self.end = end

    def refuse(self, message: str, exit_status: int = 255) -> None:
        self.errors += message.encode()
        self.end = ProgramExit(exit_code=exit_status)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    @property
    def client(self) -> ChannelSink:
        """What the client does, it does to whoever took the channel."""
        assert self.sink is not None
        return self.sink

    def lose(self) -> None:
        self.client.channel_lost()


class MemoryRecorder:
    """A recorder without a file: what was read, and what was noted."""

    def __init__(self) -> None:
        self.recorded = b""
        self.notes: list[object] = []

    def read_from(self, fd: int, limit_bytes: int) -> memoryview:
        data = os.read(fd, limit_bytes)
        self.recorded += data
        return memoryview(data)

    @property
    def output_bytes(self) -> int:
        return len(self.recorded)

    @property
    def position(self) -> StreamPosition:
        return StreamPosition(1, len(self.recorded))

    def append(self, data: bytes) -> None:
        self.recorded += data

    def mark_gap(self, lost_bytes: int) -> None: ...

    def mark_resize(self, size: WindowSize) -> None:
        self.notes.append(size)

    def mark_attach(self, principal: str, size: WindowSize) -> None: ...

    def mark_detach(self, reason: str) -> None: ...

    def mark_exit(self, end: ProgramExit) -> None: ...

    async def close(self, *, is_final: bool) -> None: ...


class PaintedWords:
    """Screens that are words: which part of the recording was painted. Held back while `gate` is not set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.painted: list[StreamPosition] = []
        self.asked: list[tuple[StreamPosition, StreamPosition]] = []
        self.is_exact = True

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
        self.painted.append(until)
        self.begun.set()
        await self.gate.wait()
        words = f"<{until.offset} of {size.columns}x{size.rows} {notice}{'again' if is_again else ''}>"
        return Painting(words.encode(), self.is_exact)

    def follow(self, session_id: str, until: StreamPosition) -> None: ...

    async def answers(self, session_id: str, since: StreamPosition, until: StreamPosition) -> bytes:
        self.asked.append((since, until))
        return b"\x1b[1;1R"

    def forget(self, session_id: str) -> None: ...


class Stage:
    """Starts a program as a keeper would and puts a session on it."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.sessions: list[Session] = []
        self.waits: list[asyncio.Task[None]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.recorder = MemoryRecorder()
        self.screens = PaintedWords()
        self.signals: list[str] = []
        self.detached = asyncio.Event()

    def start(
        self,
        command: str,
        *,
        pty: bool = False,
        linger_seconds: float = 5.0,
        take_log: Callable[[bytes], None] | None = None,
    ) -> tuple[Session, RememberingChannel]:
        exited: asyncio.Future[ProgramExit] = asyncio.get_running_loop().create_future()
        if pty:
            master, slave = os.openpty()
            process = subprocess.Popen(
                ["setsid", "-c", "-w", "sh", "-c", command], stdin=slave, stdout=slave, stderr=slave, close_fds=True
            )
            os.close(slave)
            os.set_blocking(master, False)
            program = Program("s", process.pid, exited, terminal_fd=master)
        else:
            process = subprocess.Popen(
                ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
            )
            fds = [os.dup(stream.fileno()) for stream in (process.stdin, process.stdout, process.stderr) if stream]
            for stream, fd in zip((process.stdin, process.stdout, process.stderr), fds, strict=True):
                assert stream is not None
                stream.close()
                os.set_blocking(fd, False)
            program = Program("s", process.pid, exited, stdin_fd=fds[0], stdout_fd=fds[1], stderr_fd=fds[2])
        self.processes.append(process)
        self.waits.append(asyncio.create_task(self._wait(process, exited)))
        channel = RememberingChannel()
        session: TerminalSession | PipeSession
        if pty:
            session = TerminalSession(
                program,
                recorder=self.recorder,
                screens=self.screens,
                size=WindowSize(80, 24),
                set_window_size=set_window_size,
                on_signal=self.signals.append,
                on_detached=self.detached.set,
                spawn=self.spawn,
                pipe_linger_seconds=linger_seconds,
            )
            session.attach(channel, size=WindowSize(80, 24), term="xterm")
        else:
            session = PipeSession(
                program,
                on_signal=self.signals.append,
                on_detached=self.detached.set,
                pipe_linger_seconds=linger_seconds,
                take_log=take_log,
            )
            session.attach(channel)
        self.sessions.append(session)
        return session, channel

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self.tasks.append(task)
        return task

    async def _wait(self, process: subprocess.Popen[bytes], exited: asyncio.Future[ProgramExit]) -> None:
        code = await asyncio.to_thread(process.wait)
        if not exited.done():
            exited.set_result(
                ProgramExit(exit_code=code) if code >= 0 else ProgramExit(signal=signal.Signals(-code).name[3:])
            )

    async def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        await asyncio.gather(*self.waits)
        for task in self.tasks:  # one may wait for a client that is slow for ever
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for session in self.sessions:
            session.close()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    stage = Stage()
    yield stage
    await stage.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "a descriptor was left open"


async def run(session: Session) -> ProgramExit:
    async with asyncio.timeout(20):
        end = await session.run()
    session.finish(end)
    return end


@pytest.mark.parametrize("pty", [False, True])
async def test_output_written_just_before_exit_reaches_the_client(stage: Stage, pty: bool) -> None:
    """A fast program must not lose its tail: the exit status may not overtake the last bytes (RFC 4254 §6.10)."""
    session, channel = stage.start("head -c 300000 /dev/zero; exit 7", pty=pty)
    assert await run(session) == ProgramExit(exit_code=7)
    assert (len(channel.output), channel.end) == (300_000, ProgramExit(exit_code=7))


async def test_stdout_and_stderr_stay_apart_without_a_terminal(stage: Stage) -> None:
    session, channel = stage.start("echo out; echo err >&2")
    await run(session)
    assert (channel.output, channel.errors) == (b"out\n", b"err\n")


async def test_the_recorder_sees_every_byte_the_client_sees(stage: Stage) -> None:
    session, channel = stage.start("for i in 1 2 3; do echo line $i; done", pty=True)
    await run(session)
    assert channel.output == stage.recorder.recorded == b"line 1\r\nline 2\r\nline 3\r\n"


async def test_a_slow_client_stops_the_program_and_loses_nothing(stage: Stage) -> None:
    """Back-pressure reaches the program: what is read while the client is slow is one turn, not the whole flood."""
    session, channel = stage.start("head -c 5000000 /dev/zero")
    task = asyncio.create_task(run(session))
    await channel.until(lambda: len(channel.output) > 0)
    channel.is_writing_paused = True
    seen = len(channel.output)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(channel.output) <= seen + 64 * 1024
    channel.is_writing_paused = False
    channel.client.resume_writing()
    await task
    assert len(channel.output) == 5_000_000


async def test_input_larger_than_a_pipe_arrives_whole_while_the_channel_is_paused(stage: Stage) -> None:
    session, channel = stage.start("sleep 0.2; wc -c")
    task = asyncio.create_task(run(session))
    channel.client.data_received(b"x" * 3_000_000)
    assert channel.is_reading_paused, "more than the pipe takes must pause the client"
    channel.client.eof_received()
    await task
    assert channel.output.strip() == b"3000000"


async def test_a_descriptor_is_never_closed_while_the_loop_watches_it(stage: Stage) -> None:
    """A number closed while watched is soon somebody else's descriptor, and that connection hangs or dies: the writer
    stayed registered when the queue ran empty, and the next transport with this number failed."""
    session, channel = stage.start("sleep 0.1; cat >/dev/null")
    stdin_fd = session.program.stdin_fd
    assert stdin_fd is not None
    task = asyncio.create_task(run(session))
    channel.client.data_received(b"x" * 1_000_000)
    channel.client.eof_received()
    await task
    assert not asyncio.get_running_loop().remove_writer(stdin_fd)


async def test_half_close_ends_stdin_and_not_the_session(stage: Stage) -> None:
    session, channel = stage.start("cat; echo after eof")
    channel.client.data_received(b"before ")
    channel.client.eof_received()
    await run(session)
    assert channel.output == b"before after eof\n"


async def test_a_program_that_closes_its_stdin_does_not_break_the_session(stage: Stage) -> None:
    session, channel = stage.start("exec <&-; echo ready; sleep 0.1; exit 3")
    task = asyncio.create_task(run(session))
    await channel.until(lambda: b"ready" in channel.output)
    for _ in range(5):
        channel.client.data_received(b"nobody reads this" * 10_000)
    await task
    assert channel.end == ProgramExit(exit_code=3)


async def test_a_background_child_that_keeps_the_pipe_does_not_keep_the_client(stage: Stage) -> None:
    session, channel = stage.start("sleep 60 & echo started", linger_seconds=0.2)
    await run(session)
    assert (channel.output, channel.end) == (b"started\n", ProgramExit(exit_code=0))


async def test_death_by_signal_is_a_signal(stage: Stage) -> None:
    session, channel = stage.start("kill -TERM $$")
    await run(session)
    assert channel.end == ProgramExit(signal="TERM")


async def test_output_nobody_wants_any_more_breaks_the_program_s_pipe_and_leaves_the_rest(stage: Stage) -> None:
    session, channel = stage.start("trap '' PIPE; while echo more 2>/dev/null; do :; done; cat >&2; exit 7")
    waiting = asyncio.create_task(session.run())
    await channel.until(lambda: b"more" in channel.output)
    channel.client.output_unwanted()
    channel.client.data_received(b"input still arrives")
    channel.client.eof_received()
    assert await waiting == ProgramExit(exit_code=7)
    assert channel.errors.endswith(b"input still arrives")


async def test_terminal_goes_on_when_nobody_wants_its_output(stage: Stage) -> None:
    session, channel = stage.start("read line; echo got $line; exit 3", pty=True)
    waiting = asyncio.create_task(session.run())
    channel.client.output_unwanted()
    channel.client.data_received(b"it\n")
    assert await waiting == ProgramExit(exit_code=3)
    assert b"got it" in stage.recorder.recorded


async def test_a_lost_client_closes_the_pipes_and_reports_detached(stage: Stage) -> None:
    """A lock held through an inherited stdin must be free as soon as the line drops."""
    session, channel = stage.start("cat >/dev/null; exit 4")
    task = asyncio.create_task(run(session))
    channel.lose()
    assert stage.detached.is_set()
    assert await task == ProgramExit(exit_code=4)
    assert channel.end is None


async def test_a_terminal_goes_on_being_recorded_after_its_client_went(stage: Stage) -> None:
    session, channel = stage.start("read x; echo got $x; sleep 0.1; echo later", pty=True)
    task = asyncio.create_task(run(session))
    channel.client.data_received(b"hello\n")
    await channel.until(lambda: b"got hello" in channel.output)
    channel.lose()
    await task
    assert b"later" in stage.recorder.recorded
    assert b"later" not in channel.output


async def test_a_window_change_reaches_the_terminal_and_the_recording(stage: Stage) -> None:
    session, channel = stage.start(
        "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done", pty=True
    )
    task = asyncio.create_task(run(session))
    await channel.until(lambda: b"ready" in channel.output)
    channel.client.window_changed(WindowSize(132, 43))
    await task
    assert b"43 132" in channel.output
    assert stage.recorder.notes == [WindowSize(132, 43)]


async def test_absurd_window_sizes_are_clamped_and_not_an_error(stage: Stage) -> None:
    session, channel = stage.start("exit 0", pty=True)
    channel.client.window_changed(WindowSize(2**32 - 1, 0))
    assert (await run(session)).exit_code == 0


async def test_signals_are_passed_on_by_name(stage: Stage) -> None:
    session, channel = stage.start("exit 0")
    channel.client.signal_requested("USR1")
    await run(session)
    assert stage.signals == ["USR1"]


async def test_a_log_is_for_the_gateway_and_not_for_the_client(stage: Stage) -> None:
    log: list[bytes] = []
    session, channel = stage.start("echo to the client; echo to the gateway >&2", take_log=log.append)
    await run(session)
    assert (channel.output, channel.errors) == (b"to the client\n", b"")
    assert (b"".join(log), log[-1], log.count(b"")) == (b"to the gateway\n", b"", 1)


async def test_a_log_is_read_though_the_client_is_slow(stage: Stage) -> None:
    """A full pipe would stop the program, and its client with it."""
    log: list[bytes] = []
    command = "head -c 1000000 /dev/zero >&2; echo done; head -c 1000000 /dev/zero >&2"
    session, channel = stage.start(command, take_log=log.append)
    channel.is_writing_paused = True
    task = asyncio.create_task(run(session))
    async with asyncio.timeout(20):
        await asyncio.shield(session.program.exited)
    channel.is_writing_paused = False
    channel.client.resume_writing()
    channel.changed.set()
    await task
    assert (len(b"".join(log)), channel.output) == (2_000_000, b"done\n")


async def test_a_log_is_read_to_its_end_after_the_client_was_lost(stage: Stage) -> None:
    """What a server says as its client vanishes is the news: which files it was in the middle of."""
    log: list[bytes] = []
    session, channel = stage.start("cat; echo forced >&2; head -c 500000 /dev/zero >&2", take_log=log.append)
    task = asyncio.create_task(run(session))
    channel.lose()
    await task
    assert b"".join(log).startswith(b"forced\n")
    assert (len(b"".join(log)), log[-1]) == (500_007, b"")


async def test_a_log_ends_with_a_session_that_is_given_up(stage: Stage) -> None:
    log: list[bytes] = []
    session, _ = stage.start("sleep 60", take_log=log.append)
    session.stop_reading()
    session.close()
    assert log == [b""]
