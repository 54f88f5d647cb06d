"""A terminal as the gateway knows it: fed with what a program printed, asked what its screen looks like.

The library behind it is loaded with the first screen (0.15 s, 7 MB), which should be in a process that may die: it
parses hostile bytes. What can be asked for painting lies in `ghostty.py`, the painting in `painter.py`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.recording.screen.ghostty import Terminal

_PACKAGE = "pyghostty"
# The largest terminal that is modelled: more than fits on a large monitor, and a bound to what painting it may take.
SIDE_MAX = 1000  # columns, or rows
CELLS_MAX = 128_000
SNAPSHOT_BYTES_MAX = 2 * 1024 * 1024

# History is dropped by pages, of about this many cells; so that `history_lines` are left, there must be a page more.
_PAGE_CELLS = 48_000
_PAGE_COLUMNS_MIN = 5  # pages of narrower terminals have no more rows
# Answers that are true of every terminal that may be attached later: where the cursor is, that all is well, what kind
# of terminal this is (a plain one), which modes and settings are on. What it has beyond others it must keep to
# itself (kitty's keys and graphics, colours, its name): programs would use it, and the client could not follow.
_REPLY_ALLOWED = re.compile(
    rb"\x1b\[\d+;\d+R|\x1b\[0n|\x1b\[[?>][\d;]*c|\x1b\[\??\d+;\d\$y|\x1bP[01]\$r[^\x00-\x1f]*\x1b\\|\x1bP!\|[0-9A-F]*\x1b\\"
)
# Grapheme widths, colour schemes, sizes reported in the stream: not every client has them. "0": never heard of it.
_MODE_REPORT_UNCOMMON = re.compile(rb"\x1b\[\?(20(?:27|31|33|48));\d\$y")


class SnapshotForeign(Exception):
    """These bytes are no snapshot of this version of the library."""


def _version() -> str:
    try:
        return f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        return "none"


# Snapshots are read by the version that wrote them and no other. Telling it does not load the library.
VERSION = _version()


@functools.cache
def _library() -> Any:
    return importlib.import_module("gateway.recording.screen.ghostty")


def is_available() -> bool:
    """The library can be loaded here; this does it."""
    try:
        _library()
    except (ImportError, OSError, AssertionError):
        return False
    return True


class Screen:
    """One terminal: both its screens, history, modes, title, and the sequence it is in the middle of.

    Never raises for anything it is fed. The owner closes it; closing twice is harmless.
    """

    def __init__(self, columns: int, rows: int, *, history_lines: int) -> None:
        columns, rows = _size(columns, rows)
        limit = _history_rows_max(history_lines, columns)
        self._take_over(_library().Terminal.create(columns, rows, history_rows_max=limit), history_lines)

    @classmethod
    def restore(cls, snapshot: bytes, *, history_lines: int) -> Screen:
        """The screen as it was. Raises SnapshotForeign; only bytes of the same VERSION should be given at all."""
        library = _library()
        try:
            terminal = library.Terminal.restore(snapshot, history_rows_max=_history_rows_max(history_lines, 1))
        except library.GhosttyError as error:
            raise SnapshotForeign(str(error)) from error
        screen = cls.__new__(cls)
        screen._take_over(terminal, history_lines)
        terminal.limit_history(_history_rows_max(history_lines, screen.columns))
        return screen

    def _take_over(self, terminal: Terminal, history_lines: int) -> None:
        self.terminal = terminal  # for the painter
        self.history_lines = history_lines
        self.columns, self.rows = terminal.columns, terminal.rows

    def feed(self, data: bytes) -> None:
        """Output of the program, cut anywhere."""
        self.terminal.write(data)
        if self.terminal.columns != self.columns:
            # DECCOLM. Clients hardly ever follow it; the one that does tells its new size as with every change.
            self.terminal.resize(self.columns, self.rows)

    def resize(self, columns: int, rows: int) -> None:
        """The client's new size; 0 means unknown and leaves that side alone."""
        columns, rows = _size(columns or self.columns, rows or self.rows)
        if (columns, rows) == (self.columns, self.rows):
            return
        self.terminal.resize(columns, rows)
        self.columns, self.rows = columns, rows
        self.terminal.limit_history(_history_rows_max(self.history_lines, columns))

    def take_replies(self) -> bytes:
        """What a plain terminal would have answered to the questions fed since the last call. Bounded."""
        replies = (_MODE_REPORT_UNCOMMON.sub(b"\x1b[?\\1;0$y", reply) for reply in self.terminal.take_replies())
        return b"".join(reply for reply in replies if _REPLY_ALLOWED.fullmatch(reply))

    def snapshot(self) -> bytes | None:
        """What `restore` takes, at most SNAPSHOT_BYTES_MAX; the history goes first. None: not now, a sequence that has
        begun is too long to keep, or even the screen alone is."""
        self.stay_light()
        snapshot = self.terminal.snapshot()
        return snapshot if snapshot is None or len(snapshot) <= SNAPSHOT_BYTES_MAX else None

    def stay_light(self) -> None:
        """Give up the history, as far as the library can, if there is so much in it that a copy would take too long:
        restoring 14 MB of characters with a hundred accents each takes three seconds, and a program prints them in one.
        """
        snapshot = self.terminal.snapshot()
        if snapshot is not None and len(snapshot) > SNAPSHOT_BYTES_MAX:
            self.terminal.limit_history(0)
            self.terminal.limit_history(_history_rows_max(self.history_lines, self.columns))

    def lines(self) -> list[str]:
        """The text that is visible, a string for each row, without blanks at the end."""
        from gateway.recording.screen.rows import plain_text  # needs the library

        return [plain_text(row) for row in self.terminal.rows_shown(history_rows=0)]

    def close(self) -> None:
        self.terminal.close()


def _size(columns: int, rows: int) -> tuple[int, int]:
    columns = min(max(columns, 1), SIDE_MAX)
    return columns, min(max(rows, 1), SIDE_MAX, CELLS_MAX // columns)


def _history_rows_max(history_lines: int, columns: int) -> int:
    return history_lines + _PAGE_CELLS // max(columns, _PAGE_COLUMNS_MIN) if history_lines else 0
