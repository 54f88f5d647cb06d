"""What a person sees of git's work: its percentages as one line that is drawn anew, everything else as it is."""

from __future__ import annotations

import re
import time
from typing import Protocol

PHASES = {
    "Counting objects": "counting",
    "Compressing objects": "compressing",
    "Receiving objects": "receiving",
    "Resolving deltas": "resolving",
    "Checking out files": "writing files",
    "Updating files": "writing files",
}
LABEL_COLUMNS = max(map(len, PHASES.values()))
BAR_COLUMNS_MAX = 40
BAR_COLUMNS_MIN = 5  # without room for it, there is only the percentage
REDRAW_SECONDS = 0.1
LINES_MAX = 50  # of the far side's words; it may have many
LINE_CHARACTERS_MAX = 500

_PERCENTAGE = re.compile(
    r"(?:remote: )?(?P<phase>[A-Z][a-z]+ (?:objects|deltas|files)): +(?P<percent>\d{1,3})% \(\d+/\d+\)"
    r"(?:, (?P<size>[0-9.]+ [KMGTi]*B|[0-9]+ bytes)(?: \| (?P<speed>[0-9.]+ [KMGTi]*B/s|[0-9]+ bytes/s))?)?"
)
# git's own account of what it does, and what a refusal repeats in one sentence.
_NOT_SHOWN = (
    "Cloning into",
    "remote: Enumerating",
    "remote: Total",
    "fatal:",
    "error:",
    "fetch-pack:",
    "From ",
    "homeport:",
)
_UNFINISHED_PHASES = tuple(f"{prefix}{phase}" for phase in PHASES for prefix in ("", "remote: "))


class Output(Protocol):
    async def write(self, data: bytes) -> None: ...


class GitProgress:
    """Reads git's stderr as it comes. Its text has been cleaned before (git.py); on no terminal there is no bar."""

    def __init__(self, output: Output, *, is_terminal: bool, columns: int = 80, line_end: str = "\n") -> None:
        """`line_end`: "\\r\\n" for a terminal that nobody translates for."""
        self._output = output
        self.is_terminal = is_terminal
        self._columns = columns
        self._line_end = line_end
        self._unfinished = ""
        self._drawn_columns = 0
        self._drawn_at = 0.0
        self._lines_left = LINES_MAX

    async def feed(self, text: str) -> None:
        *lines, self._unfinished = (self._unfinished + text).replace("\r", "\n").split("\n")
        self._unfinished = self._unfinished[-LINE_CHARACTERS_MAX:]
        for line in lines:
            await self._take(line.strip())

    async def say(self, text: str) -> None:
        """A line of ours, above the bar."""
        await self._write(f"{self._erased()}homeport: {text}{self._line_end}")

    async def end(self) -> None:
        """git is done: the bar goes, and the cursor is where a line begins."""
        if self._unfinished.strip():
            await self._take(self._unfinished.strip())
        self._unfinished = ""
        await self._write(self._erased())

    async def _take(self, line: str) -> None:
        found = _PERCENTAGE.match(line)
        if found is not None and found["phase"] in PHASES:
            await self._draw(PHASES[found["phase"]], int(found["percent"]), found["size"], found["speed"])
        elif line and not line.startswith((*_NOT_SHOWN, *_UNFINISHED_PHASES)) and self._lines_left:
            self._lines_left -= 1
            await self._write(f"{self._erased()}{line[:LINE_CHARACTERS_MAX]}{self._line_end}")

    async def _draw(self, label: str, percent: int, size: str | None, speed: str | None) -> None:
        now = time.monotonic()
        if not self.is_terminal or (percent < 100 and now - self._drawn_at < REDRAW_SECONDS):
            return
        self._drawn_at = now
        line = bar_line(label, min(percent, 100), size, speed, columns=self._columns)
        padding = " " * max(0, self._drawn_columns - len(line))
        self._drawn_columns = len(line)
        await self._write(f"\r{line}{padding}")

    def _erased(self) -> str:
        """Spaces rather than an escape sequence: they work on every terminal."""
        columns, self._drawn_columns = self._drawn_columns, 0
        return f"\r{' ' * columns}\r" if columns else ""

    async def _write(self, text: str) -> None:
        if text:
            await self._output.write(text.encode())


def bar_line(label: str, percent: int, size: str | None, speed: str | None, *, columns: int) -> str:
    """As much of label, bar, percentage and size as fits; never in the last column, where terminals would wrap."""
    room = max(columns - 1, 1)
    amount = ", ".join(word for word in (size, speed) if word is not None)
    tail = f"{percent:3}%" + (f"  {amount}" if amount else "")
    head = f"{label:{LABEL_COLUMNS}}  "
    bar_columns = min(room - len(head) - len(tail) - 3, BAR_COLUMNS_MAX)
    if bar_columns >= BAR_COLUMNS_MIN:
        filled = bar_columns * percent // 100
        return f"{head}[{'#' * filled}{'-' * (bar_columns - filled)}] {tail}"
    return f"{label} {percent}%"[:room]
