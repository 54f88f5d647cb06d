"""Our end of an SSH channel that carries a command of the lobby: its streams, its person, and what the client does.

Implements `ChannelSink` (sessions/session.py). Nothing here runs or decides anything: who interrupts, or leaves, is
told to whoever set `on_interrupt`; a stream that nobody reads any more raises at the next write.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from gateway.interfaces import ProgramExit, Terminal, WindowSize
from gateway.lobby.context import Input, Nobody, Person
from gateway.lobby.keyboard import Keyboard, TypingPerson, has_interrupt
from gateway.lobby.received import ReceivedInput
from gateway.sessions.session import Channel

# `rec export ID | less` waits for a reader's eyes, but not over lunch.
STALL_SECONDS = 600.0
WRITE_BYTES = 32 * 1024
COLUMNS_USUAL = 80
ROWS_USUAL = 24
SIZE_MAX = 1000  # of what a client says its window has
# Signals of RFC 4254 §6.9 by which a person or a script means: stop it.
_INTERRUPTS = frozenset(("INT", "TERM", "HUP", "QUIT"))


class KeyTaker(Protocol):
    """Has the keys to itself for a while: the picker."""

    def feed(self, data: bytes) -> None: ...

    def resized(self) -> None: ...

    def has_room(self) -> None:
        """The client reads again."""
        ...

    def end(self) -> None:
        """Nothing more will be typed."""
        ...


class ChannelEnd:
    """Attach it to the channel; it is the sink until `leave` or `finish`."""

    def __init__(self, channel: Channel, terminal: Terminal | None) -> None:
        self.channel = channel
        self.size = terminal.size if terminal is not None else WindowSize(0, 0)
        self.is_lost = False
        self.is_unwanted = False  # whoever read our output has left
        self.on_interrupt: Callable[[], None] = _nobody_minds
        self.key_taker: KeyTaker | None = None
        self._has_ended = False
        self._has_terminal = terminal is not None
        self._has_room = asyncio.Event()
        self.stdout = ChannelOutput(self, channel.write, ends_with_reader=True)
        self.stderr = ChannelOutput(self, channel.write_stderr)
        # What programs printed has its own ends of lines, and a lone one means: straight down.
        self.screen = ChannelOutput(self, channel.write, ends_with_reader=True, is_raw=True)
        self._keyboard = Keyboard(self.stderr)
        self._received = ReceivedInput()

    @property
    def stdin(self) -> Input:
        return self._keyboard if self._has_terminal else self._received

    @property
    def person(self) -> Person:
        return TypingPerson(self._keyboard, self.stderr) if self._has_terminal else Nobody()

    def give_keys(self, taker: KeyTaker) -> None:
        """What was typed ahead, then everything as it comes, until `key_taker` is None again."""
        self.key_taker = taker
        taker.feed(self._keyboard.take())
        if self._has_ended:
            taker.end()

    @property
    def has_terminal(self) -> bool:
        return self._has_terminal

    @property
    def columns(self) -> int:
        return min(self.size.columns, SIZE_MAX) or COLUMNS_USUAL

    @property
    def rows(self) -> int:
        return min(self.size.rows, SIZE_MAX) or ROWS_USUAL

    async def room(self) -> None:
        """Wait until the client takes more. Raises ConnectionError if it is gone, or does not for STALL_SECONDS."""
        try:
            async with asyncio.timeout(STALL_SECONDS):
                while self.channel.is_writing_paused and not self.is_lost:
                    self._has_room.clear()
                    await self._has_room.wait()
        except TimeoutError:
            raise ConnectionAbortedError(f"the client took nothing in for {STALL_SECONDS:g} s") from None
        if self.is_lost:
            raise ConnectionResetError("the client is gone")

    async def finish(self, exit_status: int) -> None:
        """Everything written first, then the status, and close. A client that does not read has its time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STALL_SECONDS):
                await self.channel.drained()
        self.channel.finish(ProgramExit(exit_code=exit_status))

    # ---------------------------------------------------------------- what the channel tells us (ChannelSink)

    def data_received(self, data: bytes) -> None:
        if self.key_taker is not None:
            self.key_taker.feed(data)
        elif not self._has_terminal:
            self._received.feed(data)
        elif has_interrupt(data):
            self._interrupt()
        else:
            self._keyboard.feed(data)

    def _interrupt(self) -> None:
        if not self.channel.is_writing_paused:  # a client that reads nothing may press it without end
            self.channel.write(b"^C\r\n")
        self.on_interrupt()

    def eof_received(self) -> None:
        self._has_ended = True
        self._received.end()
        self._keyboard.end()
        if self.key_taker is not None:
            self.key_taker.end()

    def window_changed(self, size: WindowSize) -> None:
        self.size = size
        if self.key_taker is not None:
            self.key_taker.resized()

    def signal_requested(self, name: str) -> None:
        if name in _INTERRUPTS:
            self.on_interrupt()

    def output_unwanted(self) -> None:
        self.is_unwanted = True

    def resume_writing(self) -> None:
        self._has_room.set()
        if self.key_taker is not None:
            self.key_taker.has_room()

    def channel_lost(self) -> None:
        self.is_lost = True
        self._has_room.set()
        self.eof_received()
        self.on_interrupt()


class ChannelOutput:
    """One of the channel's two streams (an Output)."""

    def __init__(
        self,
        end: ChannelEnd,
        write: Callable[[bytes], None],
        *,
        ends_with_reader: bool = False,
        is_raw: bool = False,
    ) -> None:
        self._is_raw = is_raw
        self._end = end
        self._write = write
        self._ends_with_reader = ends_with_reader

    async def write(self, data: bytes) -> None:
        if self._end.has_terminal and not self._is_raw:  # the client's is raw, so a line's end is both
            data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        for start in range(0, len(data), WRITE_BYTES):
            await self._end.room()
            if self._ends_with_reader and self._end.is_unwanted:
                raise BrokenPipeError("the reader of the output went away")
            self._write(data[start : start + WRITE_BYTES])


def _nobody_minds() -> None:
    """Between commands there is nothing to interrupt."""
