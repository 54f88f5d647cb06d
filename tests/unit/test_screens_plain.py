"""The fallback's lines: what can be read of the output's end, and nothing a terminal would act on."""

from __future__ import annotations

import os
import time

import pytest

from gateway.interfaces import WindowSize
from gateway.recording.screen.plain import APOLOGY, plain_lines, plain_painting
from gateway.sessions.terminal import DETACH_RESET

SIZE = WindowSize(20, 8)


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        (b"one\r\ntwo\r\n$ ", ["one", "two", "$ "]),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07text", ["red text"]),
        (b"10%\r20%\r30%", ["30%"]),
        (b"lx\bs\r\n", ["ls", ""]),
        (b"a\tb", ["a       b"]),
        ("漢字 é".encode(), ["漢字 é"]),
        (b"cut \xc3", ["cut \ufffd"]),
        (b"\x1bPsixel\x1b\\after", ["after"]),
        (b"\x1b(B\x1b=plain\x1b[?1049h", ["plain"]),
        (b"unfinished \x1b]52;c;AAAA", ["unfinished "]),
        (b"x" * 50, ["x" * 20]),
        (b"".join(b"%d\r\n" % n for n in range(100)), ["96", "97", "98", "99", ""]),
        (b"", []),
    ],
)
def test_lines(output: bytes, lines: list[str]) -> None:
    assert plain_lines(output, size=SIZE) == lines


def test_nothing_but_printable_characters_comes_through() -> None:
    for _ in range(300):
        for line in plain_lines(os.urandom(2000), size=SIZE):
            assert line.isprintable()
    assert plain_lines("a\x9b31mb\u202ec\x85d".encode(), size=SIZE) == ["a31mbcd"]


def test_hostile_output_takes_no_time() -> None:
    started = time.monotonic()
    for hostile in (b"\x1b]" * 16_000, b"\x1b[" * 16_000, b"\x1bP" + b"\x1b" * 32_000, b"\r" * 32_000, b"\t" * 32_000):
        plain_lines(hostile, size=WindowSize(1000, 500))
    assert time.monotonic() - started < 5


def test_the_painting_resets_clears_and_ends_where_the_program_goes_on() -> None:
    data = plain_painting(["one", "$ "], size=SIZE, notice="back", apology=APOLOGY, is_dumb=False)
    assert data.startswith(DETACH_RESET)
    assert data.endswith(b"\x1b[H\x1b[2Jback\r\n" + APOLOGY.encode() + b"\r\none\r\n$ ")


def test_a_dumb_terminal_gets_no_control_sequence() -> None:
    data = plain_painting(["one"], size=SIZE, notice="", apology="", is_dumb=True)
    assert data == b"\r\none"
