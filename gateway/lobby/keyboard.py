"""What a person types while a command of the lobby runs: the editing of a line, which a kernel's terminal would do.

With a PTY the client's own terminal is raw and there is no terminal on our side: echo, erasing and the end of a line
are made here, and only while somebody reads. Ctrl-C is not seen here; whoever feeds it looks for that first.
"""

from __future__ import annotations

import asyncio
import codecs
from typing import TYPE_CHECKING

from gateway.errors import CommandRefused
from gateway.lobby.context import INPUT_MAX_BYTES
from gateway.lobby.text import question_text, width

if TYPE_CHECKING:
    from gateway.lobby.context import Output

# Typed and not read yet. A kernel's terminal keeps 4096 and drops what comes then; a list of keys may be pasted here.
TYPED_MAX_BYTES = 64 * 1024
LINE_MAX_CHARACTERS = 16 * 1024

_INTERRUPT = b"\x03"
_ENTER = "\r\n"
_END = "\x04"
_ERASE = "\x7f\b"
_ERASE_LINE = "\x15"
_ERASE_WORD = "\x17"
_ESCAPE = "\x1b"


def has_interrupt(data: bytes) -> bool:
    """Whether Ctrl-C is among what was typed."""
    return _INTERRUPT in data


class Keyboard:
    """Reads lines from keys. One reader at a time; `echo` goes where the person looks."""

    def __init__(self, echo: Output) -> None:
        self._echo = echo
        self._typed = bytearray()
        self._characters: list[str] = []  # decoded, the next one last
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._came = asyncio.Event()
        self._has_ended = False

    def feed(self, data: bytes) -> None:
        self._typed += data[: max(0, TYPED_MAX_BYTES - len(self._typed))]
        self._came.set()

    def end(self) -> None:
        """Nothing more will come."""
        self._has_ended = True
        self._came.set()

    def take(self) -> bytes:
        """What was typed and not read yet, for whoever has the keys from now on."""
        typed = bytes(self._typed)
        self._typed.clear()
        return typed

    async def read_line(self, *, is_secret: bool = False) -> str | None:
        """One line without its end; None: Ctrl-D on an empty line, or nothing more comes."""
        line = _Line()
        while (character := await self._next()) is not None:
            if character in _ENTER:
                await self._echo.write(b"\n")
                return line.text
            if character == _END and not line.text:
                return None
            await self._echo.write(line.typed(character, is_secret=is_secret).encode())
        return line.text or None

    async def read_all(self) -> bytes:
        """Lines until Ctrl-D: an Input for commands that read a file."""
        lines: list[str] = []
        length = 0
        while (line := await self.read_line()) is not None:
            lines.append(line + "\n")
            length += len(lines[-1])
            if length > INPUT_MAX_BYTES:
                raise CommandRefused(f"the input is longer than {INPUT_MAX_BYTES} bytes; nothing was read")
        return "".join(lines).encode()

    async def _next(self) -> str | None:
        """The next character; a key that sends an escape sequence (an arrow) is none."""
        character = await self._next_raw()
        while character == _ESCAPE:
            if await self._next_raw() in ("[", "O"):
                while (following := await self._next_raw()) is not None and not "@" <= following <= "~":
                    continue
            character = await self._next_raw()
        return character

    async def _next_raw(self) -> str | None:
        while not self._characters:
            if not self._typed and self._has_ended:
                return None
            if not self._typed:
                self._came.clear()
                await self._came.wait()
                continue
            text = self._decoder.decode(bytes(self._typed))
            self._typed.clear()
            self._characters = list(reversed(text))
            await asyncio.sleep(0)  # a long paste is worked through in turns with everybody else
        return self._characters.pop()


class _Line:
    """What stands in the line so far."""

    def __init__(self) -> None:
        self._characters: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._characters)

    def typed(self, character: str, *, is_secret: bool) -> str:
        """Take a key in; returns what the terminal shows of it."""
        if character in _ERASE:
            erased = self._characters[-1:]
        elif character == _ERASE_LINE:
            erased = list(self._characters)
        elif character == _ERASE_WORD:
            erased = self._last_word()
        elif not character.isprintable() or len(self._characters) >= LINE_MAX_CHARACTERS:
            return ""
        else:
            self._characters.append(character)
            return "" if is_secret else character
        del self._characters[len(self._characters) - len(erased) :]
        return "" if is_secret else "\b \b" * width("".join(erased))

    def _last_word(self) -> list[str]:
        """With the spaces behind it. Looked for from the end: the line may be long, and the key be pressed often."""
        start = len(self._characters)
        while start and self._characters[start - 1] == " ":
            start -= 1
        while start and self._characters[start - 1] != " ":
            start -= 1
        return self._characters[start:]


class TypingPerson:
    """A Person at the other end of a channel that has a terminal."""

    def __init__(self, keyboard: Keyboard, stderr: Output) -> None:
        self._keyboard = keyboard
        self._stderr = stderr

    async def ask(self, question: str, *, is_secret: bool = False) -> str:
        await self._stderr.write(question_text(question).encode())
        line = await self._keyboard.read_line(is_secret=is_secret)
        if line is None:
            await self._stderr.write(b"\n")
            raise CommandRefused("nobody answered")
        return line
