"""What a client gets when its screen cannot be painted: the last lines as plain text, and words that say so.

The text comes from what a program printed. Nothing of it but printable characters reaches the terminal.
"""

from __future__ import annotations

import re

from gateway.interfaces import WindowSize
from gateway.sessions.terminal import DETACH_RESET

TAIL_BYTES = 32 * 1024
APOLOGY = "homeport: your screen could not be restored; these are its last lines"
_ROWS_UNKNOWN, _COLUMNS_UNKNOWN = 24, 80
_ROWS_MAX = 500

# Strings (OSC, DCS, …) up to their end or the next escape, control sequences, all other escapes (ECMA-48 §5.3, 5.4).
_SEQUENCE = re.compile(r"\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]?")


def plain_lines(output: bytes, *, size: WindowSize) -> list[str]:
    """The last lines of some output, at most three fewer than fit. Each is printable and not too long."""
    text = _SEQUENCE.sub("", output.decode("utf-8", "replace"))
    columns = size.columns or _COLUMNS_UNKNOWN
    rows = min(size.rows or _ROWS_UNKNOWN, _ROWS_MAX)
    lines = text.split("\n")[-rows:]
    shown = [_shown(line)[:columns] for line in lines]
    while shown and not shown[0]:
        del shown[0]
    return shown[-max(1, rows - 3) :]


def plain_painting(lines: list[str], *, size: WindowSize, notice: str, apology: str, is_dumb: bool) -> bytes:
    """Those lines on a terminal in an unknown state; on a dumb one without any control sequence."""
    text = "\r\n".join([*filter(None, (notice, apology)), *lines]).encode()
    if is_dumb:
        return b"\r\n" + text
    # The client's own lines move up into its scrollback before the screen is cleared.
    room = b"\r\n" * min(size.rows or _ROWS_UNKNOWN, _ROWS_MAX)
    return DETACH_RESET + room + b"\x1b[H\x1b[2J" + text


def _shown(line: str) -> str:
    """A line as it ended up: what came after the last return over what stood there, without what was taken back."""
    line = line.rstrip("\r").rpartition("\r")[2].expandtabs(8)
    kept: list[str] = []
    for character in line:
        if character == "\b":
            del kept[-1:]
        elif character.isprintable():
            kept.append(character)
    return "".join(kept)
