"""One session: a program's descriptors, and whoever is at the other end of them, with flow control both ways.

Nothing here knows SSH, the database or policy. Descriptors come from a keeper, channels from ssh/channel.py;
`sessions.py` decides when to make, hang up, release and forget. Everything runs on the event loop: each readable
descriptor gets one bounded turn, so a flooding program cannot starve a quiet one.

`Session` is what all of them have in common; pipe_session.py has commands and transfers, terminal_session.py what
clients may leave and come back to.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Protocol

from gateway.interfaces import Program, ProgramExit, WindowSize
from gateway.sessions.pumps import InputPump, OutputPump

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

    def detach(self, unread: bytes = b"") -> None:
        """Nobody is there for a moment: what comes waits for the next `attach`, which gets `unread` first."""
        ...

    def write(self, data: bytes) -> None: ...

    def write_stderr(self, data: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    async def drained(self) -> None:
        """Wait until everything written has left for the client, or the channel is lost."""
        ...

    async def is_answering(self, within_seconds: float) -> bool:
        """Ask the client whether it is still there (keepalive@openssh.com)."""
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
    """The life of one program. Owns its descriptors; who is told what it prints is the subclasses' matter."""

    is_terminal: bool

    def __init__(self, program: Program, *, pipe_linger_seconds: float) -> None:
        self.session_id = program.session_id
        self.program = program
        self.state = SessionState.DETACHED
        self.bytes_in = 0
        self.bytes_out = 0
        self.last_activity_at = datetime.now(UTC)
        self._pipe_linger_seconds = pipe_linger_seconds
        self._input = InputPump(program.terminal_fd if program.terminal_fd is not None else program.stdin_fd, self)
        self._outputs: list[OutputPump] = []

    @property
    def is_attached(self) -> bool:
        return self.state is SessionState.ATTACHED

    async def run(self) -> ProgramExit:
        """Pump until the program has ended and its last output is on its way to the client.

        Cancelling closes nothing: the caller releases or closes the session.
        """
        self.resume_outputs()
        # Shielded: others wait for the same end, and our cancellation must not reach them.
        end = await asyncio.shield(self.program.exited)
        if self.state is not SessionState.RELEASED:
            for output in self._outputs:
                output.program_ended()
            await self._last_output()
            await self._clients_have_it()
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

    async def _clients_have_it(self) -> None:
        """Wait until what was printed has left for the clients."""
        raise NotImplementedError

    def say(self, text: str) -> None:
        """One line of ours to whoever is attached."""
        raise NotImplementedError

    def finish(self, end: ProgramExit, *, is_abrupt: bool = False) -> None:
        """The program ended: tell the clients, and close everything. `is_abrupt`: it could not tidy its terminal."""
        raise NotImplementedError

    def stop_reading(self) -> None:
        """Stop for good, so that the keeper can read instead (`release`). The descriptors are closed."""
        self.state = SessionState.RELEASED
        self.close()

    def resume_outputs(self) -> None:
        for output in self._outputs:
            output.resume()

    def close(self) -> None:
        """Close the descriptors. Closing twice is harmless."""
        self._input.close()
        for output in self._outputs:
            output.close()

    def _count_input(self, data: bytes) -> None:
        self.bytes_in += len(data)
        self.last_activity_at = datetime.now(UTC)

    # ---------------------------------------------------------------------- what the pumps tell us

    def output(self, data: bytes, *, is_stderr: bool) -> bool:
        """Pass output on; False: the client is slow, stop reading the program."""
        raise NotImplementedError

    @property
    def is_output_paused(self) -> bool:
        raise NotImplementedError

    def input_is_full(self) -> None:
        raise NotImplementedError

    def input_is_free(self) -> None:
        raise NotImplementedError
