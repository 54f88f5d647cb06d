"""Asks whoever sits at this process's own terminal. Blocking, and the standard library only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

READ_BYTES = 4096  # what a terminal gives at once at most (termios(3), canonical mode)
ANSWER_MAX_BYTES = 64 * 1024


def can_ask(*, stdin_fd: int = 0, stderr_fd: int = 2) -> bool:
    """Whether a question would be seen and could be answered."""
    return os.isatty(stdin_fd) and os.isatty(stderr_fd)


def read_line(fd: int) -> str | None:
    """One line without its end; None: Ctrl-D. Ctrl-C raises KeyboardInterrupt."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) <= ANSWER_MAX_BYTES:
        piece = os.read(fd, READ_BYTES)
        line += piece
        if not piece:
            break
    return answer_of(line)


def answer_of(line: bytes | bytearray) -> str | None:
    """What was typed, None if nothing was and no line ended."""
    return line.decode(errors="replace").rstrip("\r\n") if line else None


@contextlib.contextmanager
def echo(fd: int, *, is_on: bool) -> Iterator[None]:
    """Off for secrets, from before the question is shown: what was typed ahead of it is dropped, as getpass does."""
    if is_on:
        yield
        return
    import termios

    before = termios.tcgetattr(fd)
    silent = list(before)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSAFLUSH, silent)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)
