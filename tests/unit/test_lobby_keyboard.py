"""Lines typed over a channel without a kernel's terminal in between."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.errors import CommandRefused
from gateway.lobby.keyboard import TYPED_MAX_BYTES, Keyboard, TypingPerson, has_interrupt
from tests.support.lobby import Bytes


async def line(typed: bytes, *, is_secret: bool = False) -> tuple[str | None, str]:
    """What was read, and what the terminal showed of it."""
    echo = Bytes()
    keyboard = Keyboard(echo)
    keyboard.feed(typed)
    keyboard.end()
    return await keyboard.read_line(is_secret=is_secret), echo.text


@pytest.mark.parametrize(
    ("typed", "read", "shown"),
    [
        (b"yes\r", "yes", "yes\n"),
        (b"yex\x7fs\r", "yes", "yex\b \bs\n"),
        (b"\x7f\x7fno\n", "no", "no\n"),
        (b"one two\x17three\r", "one three", "one two\b \b\b \b\b \bthree\n"),
        (b"gone\x15here\r", "here", "gone" + "\b \b" * 4 + "here\n"),
        ("ä木\x7f\r".encode(), "ä", "ä木\b \b\b \b\n"),  # a wide letter takes two cells
        (b"a\x1b[Ab\x1bOPc\r", "abc", "abc\n"),  # arrows and function keys are no letters
        (b"a\x00\x07b\r", "ab", "ab\n"),
        (b"", None, ""),
        (b"\x04", None, ""),
        (b"left", "left", "left"),  # the channel ended behind it
        (b"\xff\r", "\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}\n"),
    ],
)
async def test_a_line_is_edited_as_on_a_terminal(typed: bytes, read: str | None, shown: str):
    assert await line(typed) == (read, shown)


async def test_a_secret_is_not_echoed():
    assert await line(b"hunter3\x7f2\r", is_secret=True) == ("hunter2", "\n")


async def test_letters_that_come_in_halves_are_put_together():
    keyboard = Keyboard(Bytes())
    keyboard.feed("ä".encode()[:1])
    reading = asyncio.create_task(keyboard.read_line())
    await asyncio.sleep(0)
    keyboard.feed("ä".encode()[1:] + b"\r")
    assert await reading == "ä"


async def test_what_was_typed_ahead_answers_the_next_question_too():
    keyboard = Keyboard(Bytes())
    keyboard.feed(b"one\rtwo\r")
    assert [await keyboard.read_line(), await keyboard.read_line()] == ["one", "two"]


async def test_typing_ahead_has_a_bound():
    keyboard = Keyboard(Bytes())
    keyboard.feed(b"x" * TYPED_MAX_BYTES + b"never kept")
    keyboard.end()
    assert "never" not in (await keyboard.read_line() or "")


async def test_erasing_words_of_a_long_line_holds_nobody_up():
    """All that may be typed ahead: a line of many words, then a word and Ctrl-W again and again."""
    keyboard = Keyboard(Bytes())
    keyboard.feed(b"a " * 8000 + b"x\x17" * 20_000 + b"\r")
    before = time.process_time()
    assert len(await keyboard.read_line() or "") == 16_000
    assert time.process_time() - before < 1  # a tenth of it; it was seconds


async def test_a_file_ends_with_control_d_on_a_line_of_its_own():
    keyboard = Keyboard(Bytes())
    keyboard.feed(b"one\rtwo\r\x04")
    assert await keyboard.read_all() == b"one\ntwo\n"


def test_an_interrupt_is_seen_wherever_it_stands():
    assert has_interrupt(b"abc\x03")
    assert not has_interrupt(b"abc")


async def test_a_question_cannot_move_the_cursor_and_is_asked_on_stderr():
    keyboard, stderr = Keyboard(Bytes()), Bytes()
    keyboard.feed(b"demo\r")
    assert await TypingPerson(keyboard, stderr).ask("really?\x1b[2J\nthe name:") == "demo"
    assert stderr.text == "really?\N{REPLACEMENT CHARACTER}[2J\nthe name: "


async def test_nobody_answers_with_control_d():
    keyboard = Keyboard(Bytes())
    keyboard.feed(b"\x04")
    with pytest.raises(CommandRefused, match="nobody answered"):
        await TypingPerson(keyboard, Bytes()).ask("name:")
