"""One session: joins a program's descriptors and a client's channel, with flow control both ways.

Nothing here knows SSH, the database or policy. Descriptors come from a keeper, the channel from ssh/channel.py;
`sessions.py` decides when to make, hang up, release and forget. Everything runs on the event loop: each readable
descriptor gets one bounded turn, so a flooding program cannot starve a quiet one.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Protocol

from gateway.interfaces import Program, ProgramExit, Recorder, WindowSize

# One turn of a readable terminal. A PTY hands out at most 4 KiB a read; joining a few reads into one packet doubles
# throughput, joining many costs echo latency elsewhere (measured: 16 KiB is where both are good).
GATHER_BYTES = 16 * 1024
# A read this short emptied the terminal: asking again would only cost a system call and an exception.
SHORT_READ_BYTES = 1024
PIPE_READ_BYTES = 64 * 1024
# What the kernel can hold of a terminal's output (64 KiB of flip buffers and a 4 KiB line buffer), doubled. More than
# this after the program's end comes from a background child that keeps the terminal, and the client is not kept.
TERMINAL_TAIL_MAX_BYTES = 128 * 1024


class Channel(Protocol):
    """The client's end. Every call is harmless after the channel has gone."""

    @property
    def is_lost(self) -> bool: ...

    @property
    def is_writing_paused(self) -> bool:
        """The client is slow: do not write more until `resume_writing`."""
        ...

    def attach(self, sink: ChannelSink) -> None:
        """Hand over what arrived so far, then everything as it comes."""
        ...

    def write(self, data: bytes) -> None: ...

    def write_stderr(self, data: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    async def drained(self) -> None:
        """Wait until everything written has left for the client, or the channel is lost."""
        ...

    def finish(self, end: ProgramExit) -> None:
        """Send exit status or signal, EOF and close (RFC 4254 §6.10, §5.3)."""
        ...

    def refuse(self, message: str, exit_status: int = 255) -> None:
        """Say one line on stderr, then finish with the status."""
        ...


class ChannelSink(Protocol):
    """What a channel tells the session behind it. Called on the event loop, must not block."""

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def window_changed(self, size: WindowSize) -> None: ...

    def signal_requested(self, name: str) -> None: ...

    def resume_writing(self) -> None: ...

    def channel_lost(self) -> None: ...


class SessionState(Enum):
    """attached ⇄ detached → ended; a session is made detached and attached once its channel is known."""

    ATTACHED = auto()
    DETACHED = auto()
    RELEASED = auto()  # given back to the keeper: another gateway will go on
    ENDED = auto()


class Session:
    """The life of one program and whoever watches it. Owns the program's descriptors."""

    def __init__(
        self,
        program: Program,
        *,
        recorder: Recorder | None,
        set_window_size: Callable[[int, WindowSize], None],
        on_signal: Callable[[str], None],
        on_detached: Callable[[], None],
        pipe_linger_seconds: float,
    ) -> None:
        self.session_id = program.session_id
        self.program = program
        self.state = SessionState.DETACHED
        self.bytes_in = 0
        self.bytes_out = 0
        self.last_activity_at = datetime.now(UTC)
        self._recorder = recorder
        self._set_window_size = set_window_size
        self._on_signal = on_signal
        self._on_detached = on_detached
        self._pipe_linger_seconds = pipe_linger_seconds
        self._channel: Channel | None = None
        self._input = _Input(program.terminal_fd if program.terminal_fd is not None else program.stdin_fd, self)
        self._outputs: list[_Output] = []
        if program.terminal_fd is not None:
            assert recorder is not None
            self._outputs.append(_TerminalOutput(program.terminal_fd, self, recorder))
        else:
            for fd, is_stderr in ((program.stdout_fd, False), (program.stderr_fd, True)):
                if fd is not None:
                    self._outputs.append(_PipeOutput(fd, self, is_stderr=is_stderr))

    @property
    def is_terminal(self) -> bool:
        return self.program.terminal_fd is not None

    @property
    def channel(self) -> Channel | None:
        return self._channel

    def attach(self, channel: Channel) -> None:
        """Join a client. What it sent before is delivered now."""
        assert self.state is SessionState.DETACHED
        self.state = SessionState.ATTACHED
        self._channel = channel
        channel.attach(self)

    async def run(self) -> ProgramExit:
        """Pump until the program has ended and its last output is on its way to the client.

        Cancelling closes nothing: the caller releases or closes the session.
        """
        for output in self._outputs:
            output.resume()
        end = await self.program.exited
        if self.state is not SessionState.RELEASED:
            for output in self._outputs:
                output.program_ended()
            await self._last_output()
        return end

    async def _last_output(self) -> None:
        """Wait for every output's end. A background child that holds pipes open gets a bounded silence, not forever."""
        while not all(output.ended.is_set() for output in self._outputs):
            seen = self.bytes_out
            try:
                async with asyncio.timeout(self._pipe_linger_seconds):
                    for output in self._outputs:
                        await output.ended.wait()
            except TimeoutError:
                slow_client = self._channel is not None and self._channel.is_writing_paused
                if self.bytes_out == seen and not slow_client:
                    break
        if self._channel is not None:
            await self._channel.drained()

    def finish(self, end: ProgramExit) -> None:
        """The program ended: tell the client, if there is one, and close everything."""
        channel, self._channel = self._channel, None
        self.state = SessionState.ENDED
        self.close()
        if channel is not None:
            channel.finish(end)

    def stop_reading(self) -> None:
        """Stop for good, so that the keeper can read instead (`release`). The descriptors are closed."""
        self.state = SessionState.RELEASED
        self._channel = None
        self.close()

    def close(self) -> None:
        """Close the descriptors. Closing twice is harmless."""
        self._input.close()
        for output in self._outputs:
            output.close()

    # ---------------------------------------------------------------- what the channel tells us (ChannelSink)

    def data_received(self, data: bytes) -> None:
        self.bytes_in += len(data)
        self.last_activity_at = datetime.now(UTC)
        self._input.write(data)

    def eof_received(self) -> None:
        # On a terminal the client's EOF means nothing: a Ctrl-D typed by us would end or litter the program.
        if not self.is_terminal:
            self._input.end()

    def window_changed(self, size: WindowSize) -> None:
        fd = self.program.terminal_fd
        if fd is None or self.state is not SessionState.ATTACHED:
            return
        self._set_window_size(fd, size)
        if self._recorder is not None:
            self._recorder.mark_resize(size)

    def signal_requested(self, name: str) -> None:
        self._on_signal(name)

    def resume_writing(self) -> None:
        for output in self._outputs:
            output.resume()

    def channel_lost(self) -> None:
        if self.state is not SessionState.ATTACHED:
            return
        self.state = SessionState.DETACHED
        self._channel = None
        if not self.is_terminal:
            # The program sees EOF and broken pipes, as under sshd; a lock it holds through them is free at once.
            self.close()
        else:
            self._input.discard()
            self.resume_writing()
        self._on_detached()

    # ---------------------------------------------------------------------- what the pumps below tell us

    def output(self, data: bytes, *, is_stderr: bool) -> bool:
        """Pass output on; False: the client is slow, stop reading the program."""
        self.bytes_out += len(data)
        self.last_activity_at = datetime.now(UTC)
        channel = self._channel
        if channel is None:
            return True
        if is_stderr:
            channel.write_stderr(data)
        else:
            channel.write(data)
        return not channel.is_writing_paused

    @property
    def is_output_paused(self) -> bool:
        return self._channel is not None and self._channel.is_writing_paused

    def input_is_full(self) -> None:
        if self._channel is not None:
            self._channel.pause_reading()

    def input_is_free(self) -> None:
        if self._channel is not None:
            self._channel.resume_reading()


class _Input:
    """The client's bytes into a descriptor; what the program does not take yet waits here while the channel is paused.

    The queue is bounded by the channel: it is paused at the first byte that had to wait, and what it delivers after
    that is at most one more piece (asyncssh hands over its own buffer piece by piece).
    """

    def __init__(self, fd: int | None, session: Session) -> None:
        self._fd = fd
        self._session = session
        self._queue: deque[bytes] = deque()
        self._is_watched = False  # the loop calls _on_writable
        self._is_ending = False
        self._is_broken = False  # the program closed its stdin; keep taking input, as sshd does, and drop it

    def write(self, data: bytes) -> None:
        if self._fd is None or self._is_broken or self._is_ending:
            return
        if not self._queue:
            data = self._write_now(data)
        if data:
            self._queue.append(data)
            if not self._is_watched:
                self._is_watched = True
                asyncio.get_running_loop().add_writer(self._fd, self._on_writable)
            self._session.input_is_full()

    def end(self) -> None:
        """Close the program's stdin once everything before it is written."""
        self._is_ending = True
        if not self._queue:
            self.close()

    def discard(self) -> None:
        """Forget what was not written: nobody is there any more."""
        if self._is_watched and self._fd is not None:
            self._is_watched = False
            asyncio.get_running_loop().remove_writer(self._fd)
        self._queue.clear()

    def close(self) -> None:
        self.discard()
        fd, self._fd = self._fd, None
        # A terminal's descriptor is closed by its output.
        if fd is not None and fd != self._session.program.terminal_fd:
            os.close(fd)

    def _write_now(self, data: bytes) -> bytes:
        """Write what fits; returns the rest."""
        assert self._fd is not None
        try:
            return data[os.write(self._fd, data) :]
        except (BlockingIOError, InterruptedError):
            return data
        except OSError as error:
            # EPIPE: stdin was closed by the program. EIO: the terminal was hung up. Neither ends the session.
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            self._is_broken = True
            return b""

    def _on_writable(self) -> None:
        while self._queue:
            rest = self._write_now(self._queue[0])
            if self._is_broken:
                break
            if rest:
                self._queue[0] = rest
                return
            self._queue.popleft()
        self.discard()
        if self._is_ending:
            self.close()
        # Last, because it re-enters write(): asyncssh delivers what it buffered within this call.
        self._session.input_is_free()


class _Output:
    """A descriptor's bytes to the client, one bounded turn per event-loop round."""

    def __init__(self, fd: int, session: Session) -> None:
        self.ended = asyncio.Event()
        self._fd: int | None = fd
        self._session = session
        self._is_reading = False

    def resume(self) -> None:
        """Go on reading, unless the client is slow."""
        if self._fd is not None and not self._is_reading and not self._session.is_output_paused:
            self._is_reading = True
            asyncio.get_running_loop().add_reader(self._fd, self._on_readable)

    def pause(self) -> None:
        if self._fd is not None and self._is_reading:
            self._is_reading = False
            asyncio.get_running_loop().remove_reader(self._fd)

    def program_ended(self) -> None:
        """The program is gone; what it wrote is still in the descriptor."""

    def close(self) -> None:
        # Leave the loop first: a number closed while watched is soon somebody else's descriptor.
        self.pause()
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        self.ended.set()

    def _on_readable(self) -> None:
        raise NotImplementedError


class _PipeOutput(_Output):
    def __init__(self, fd: int, session: Session, *, is_stderr: bool) -> None:
        super().__init__(fd, session)
        self._is_stderr = is_stderr

    def _on_readable(self) -> None:
        assert self._fd is not None
        try:
            data = os.read(self._fd, PIPE_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self.close()
        elif not self._session.output(data, is_stderr=self._is_stderr):
            self.pause()


class _TerminalOutput(_Output):
    """Reads straight into the recorder's mapped memory (recording/), so that a crash loses no byte."""

    def __init__(self, fd: int, session: Session, recorder: Recorder) -> None:
        super().__init__(fd, session)
        self._recorder = recorder
        self._tail_bytes: int | None = None  # counts down after the program's end

    def program_ended(self) -> None:
        # A read that would block has first flushed what the kernel still held (n_tty_read in Linux), so reading
        # until then is the whole output: no delay, and nothing lost.
        self._tail_bytes = TERMINAL_TAIL_MAX_BYTES
        if self._fd is not None and not self._session.is_output_paused:
            self.resume()
            self._on_readable()

    def _on_readable(self) -> None:
        if self._fd is None:
            return
        data, is_empty, is_closed = self._gather(self._fd)
        is_free = self._session.output(data, is_stderr=False) if data else True
        if self._tail_bytes is not None:
            self._tail_bytes -= len(data)
            is_closed = is_closed or is_empty or self._tail_bytes <= 0
        if is_closed:
            self._finish()
        elif not is_free:
            self.pause()
        elif self._tail_bytes is not None:
            asyncio.get_running_loop().call_soon(self._on_readable)

    def _gather(self, fd: int) -> tuple[bytes, bool, bool]:
        """One turn's output, whether the terminal is now empty, and whether it is closed for good."""
        pieces: list[bytes] = []
        total = 0
        while total < GATHER_BYTES:
            try:
                view = self._recorder.read_from(fd, GATHER_BYTES)
            except (BlockingIOError, InterruptedError):
                return b"".join(pieces), True, False
            except OSError as error:
                # EIO: every program that had this terminal is gone (pty(7)).
                if error.errno != errno.EIO:
                    raise
                return b"".join(pieces), True, True
            if not view:
                return b"".join(pieces), True, True
            pieces.append(bytes(view))
            total += len(view)
            if len(view) < SHORT_READ_BYTES and self._tail_bytes is None:
                break
        return b"".join(pieces), False, False

    def _finish(self) -> None:
        """No more output. The descriptor stays open until the session closes it: closing it hangs up the terminal."""
        self.pause()
        self.ended.set()

    def resume(self) -> None:
        if not self.ended.is_set():
            super().resume()
