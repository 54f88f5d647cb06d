"""A painting that takes the place of an earlier one: the window has changed, and nothing of it is worth keeping."""

from __future__ import annotations

import pytest

pytest.importorskip("pyghostty")

from gateway.recording.screen.model import Screen
from gateway.recording.screen.painter import paint
from gateway.recording.screen.protocol import Request, Verb

LINES = b"\r\n".join(b"line %d" % number for number in range(60))


def client_of(program: Screen) -> Screen:
    """A terminal larger than the window, full of its own lines, that has come to the program."""
    client = Screen(100, 40, history_lines=1000)
    client.feed(b"\r\n".join(b"own %d" % number for number in range(40)))
    client.feed(paint(program, notice="back", client_columns=100, client_rows=40))
    return client


def again(program: Screen) -> bytes:
    return paint(program, client_columns=100, client_rows=40, is_again=True)


@pytest.mark.parametrize("shown", [b"\r\n$ ", b"\x1b[?1049h\x1b[Ha program", b"\x1b[5;20r\x1b[?6h\x1b[4h"])
def test_it_shows_the_same_and_leaves_the_scrollback_alone(shown: bytes) -> None:
    program = Screen(80, 24, history_lines=100)
    program.feed(LINES + shown)
    client = client_of(program)
    before = client.lines(), client.terminal.history_rows, client.terminal.cursor
    for _ in range(5):
        client.feed(again(program))
    assert (client.lines(), client.terminal.history_rows, client.terminal.cursor) == before
    client.feed(b"\x1b[?1049l")
    program.feed(b"\x1b[?1049l")
    assert client.lines()[:24] == program.lines(), "behind a program as well"
    program.close()
    client.close()


def test_nothing_of_the_earlier_one_shines_through() -> None:
    program = Screen(80, 24, history_lines=100)
    program.feed(LINES)
    client = client_of(program)
    program.resize(60, 10)
    program.feed(b"\x1b[H\x1b[2Jhello")
    client.feed(again(program))
    assert client.lines() == ["hello"] + [""] * 39
    program.close()
    client.close()


def test_the_request_says_so() -> None:
    sent = Request(1, Verb.PAINT, "s", is_again=True)
    assert Request.from_bytes(sent.to_bytes()) == sent
