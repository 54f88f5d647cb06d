"""One session: joins a program's descriptors and a client's channel, with flow control both ways.

Nothing here knows SSH, the database or policy. Descriptors come from a keeper, the channel from ssh/channel.py;
`sessions.py` decides when to make, hang up, release and forget. Everything runs on the event loop: each readable
descriptor gets one bounded turn, so a flooding program cannot starve a quiet one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Protocol

from gateway.interfaces import Program, ProgramExit, Recorder, WindowSize
from gateway.pumps import InputPump, LogPump, OutputPump, PipePump, TerminalPump

# While a background child holds pipes open: how often we look whether it wrote something.
SILENCE_CHECK_SECONDS = 0.25


class Channel(Protocol):
    """The client's end. Every call is harmless after the channel has gone."""

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

    def output_unwanted(self) -> None: ...

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
        take_log: Callable[[bytes], None] | None = None,
    ) -> None:
        """`take_log`: the program's standard error is a log for the gateway (pumps.LogPump), not for the client."""
        self.session_id = program.session_id
        self.program = program
        self.state = SessionState.DETACHED
        self.is_hung_up = False  # it had a terminal, and runs on without
        self.bytes_in = 0
        self.bytes_out = 0
        self.last_activity_at = datetime.now(UTC)
        self._recorder = recorder
        self._set_window_size = set_window_size
        self._on_signal = on_signal
        self._on_detached = on_detached
        self._pipe_linger_seconds = pipe_linger_seconds
        self._channel: Channel | None = None
        self._input = InputPump(program.terminal_fd if program.terminal_fd is not None else program.stdin_fd, self)
        self._outputs: list[OutputPump] = []
        if program.terminal_fd is not None:
            assert recorder is not None
            self._outputs.append(TerminalPump(program.terminal_fd, self, recorder))
        else:
            if program.stdout_fd is not None:
                self._outputs.append(PipePump(program.stdout_fd, self, is_stderr=False))
            if program.stderr_fd is not None and take_log is not None:
                self._outputs.append(LogPump(program.stderr_fd, self, take_log))
            elif program.stderr_fd is not None:
                self._outputs.append(PipePump(program.stderr_fd, self, is_stderr=True))

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
        # Shielded: others wait for the same end, and our cancellation must not reach them.
        end = await asyncio.shield(self.program.exited)
        if self.state is not SessionState.RELEASED:
            for output in self._outputs:
                output.program_ended()
            await self._last_output()
        return end

    async def _last_output(self) -> None:
        """Wait for every output's end. A background child that holds pipes open gets a bounded silence, not forever."""
        loop = asyncio.get_running_loop()
        silent_since = loop.time()
        seen = self.bytes_out
        while not all(output.ended.is_set() for output in self._outputs):
            silence_left = silent_since + self._pipe_linger_seconds - loop.time()
            if silence_left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(silence_left, SILENCE_CHECK_SECONDS)):
                    for output in self._outputs:
                        await output.ended.wait()
            if self.bytes_out != seen or self.is_output_paused:  # a slow client is not silence
                silent_since, seen = loop.time(), self.bytes_out
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

    def drop_terminal(self) -> None:
        """Let go of the terminal though the program runs on: the kernel hangs it up, and reading from it ends."""
        self.is_hung_up = True
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

    def output_unwanted(self) -> None:
        """Whoever read the client's output has left (`ssh host yes | head`): the program learns it by a broken pipe.

        Its other streams go on. A terminal's program is not told, as nothing breaks when a window is not looked at.
        """
        for output in self._outputs:
            if isinstance(output, PipePump) and not output.is_stderr:
                output.close()

    def resume_writing(self) -> None:
        for output in self._outputs:
            output.resume()

    def channel_lost(self) -> None:
        if self.state is not SessionState.ATTACHED:
            return
        self.state = SessionState.DETACHED
        self._channel = None
        if not self.is_terminal:
            # The program sees EOF and broken pipes, as under sshd; a lock it holds through them is free at once. A log
            # is read to its end, which tells what was interrupted.
            self._input.close()
            for output in self._outputs:
                if not isinstance(output, LogPump):
                    output.close()
        else:
            self._input.discard()
            self.resume_writing()
        self._on_detached()

    # ---------------------------------------------------------------------- what the pumps tell us

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
