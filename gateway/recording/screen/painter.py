"""The bytes that bring a client's terminal, in whatever state it is, into that of a screen.

Nothing a program printed is sent again: a terminal would answer the questions in it, and what was drawn for another
size would land elsewhere. What is painted asks nothing. In order:

1. the terminal is reset, and shows nothing until all is painted (mode 2026);
2. the main screen's history and then our notice, each line below the one before, so that they end up in the client's
   own scrollback, behind what the client had on its screen;
3. the main screen, row by row;
4. if a program uses the alternate screen: the main one is left as leaving it would find it, and the other is painted;
5. what hides behind a screen (`hidden.py`): tab stops, margins, modes, title, colours, cursor shape, keyboard;
6. the saved cursor, the cursor, its pen; last the modes that would disturb the painting itself;
7. the terminal shows it;
8. the beginning of a sequence whose end is still to come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.recording.screen import hidden
from gateway.recording.screen.ghostty import Terminal
from gateway.recording.screen.model import SIDE_MAX, Screen
from gateway.recording.screen.rows import PaintedRow, RowPainter, printable
from gateway.sessions.terminal import TERMINAL_RESET

PAINTING_BYTES_MAX = 1024 * 1024
HISTORY_CELLS_MAX = 250_000  # more would take too long to paint
_UNFINISHED_BYTES_MAX = 64 * 1024
_CONTROLS = bytes(code for code in (*range(0x20), 0x7F) if code != 0x1B)
_AUTOWRAP_ON, _AUTOWRAP_OFF = "\x1b[?7h", "\x1b[?7l"
_SYNCHRONIZED = 2026


def paint(
    screen: Screen,
    *,
    notice: str = "",
    client_columns: int = 0,
    client_rows: int = 0,
    is_again: bool = False,
    bytes_max: int = PAINTING_BYTES_MAX,
) -> bytes:
    """The screen as it is. `notice`: one line of ours, the newest of the client's scrollback.

    `is_again`: the client shows an earlier painting, which this one takes the place of. Its scrollback stays as it is.
    The client's terminal may be larger than the screen, which is as large as the smallest; 0: it is not. Beyond
    `bytes_max` the oldest history goes, then all that is not text. The screen itself stays as it was, but for a history
    that is too heavy (`Screen.stay_light`).
    """
    # A client may claim any size; it costs a line feed a row.
    size = _ClientSize(client_columns or screen.columns, min(max(client_rows, screen.rows), SIDE_MAX))
    screen.stay_light()
    behind = _main_behind(screen.terminal) if screen.terminal.is_alternate else None
    try:
        history_lines = 0 if is_again else screen.history_lines
        picture = _picture(screen.terminal, behind, history_lines, size, is_plain=False)
        if len(picture.screens) > bytes_max:
            picture = _picture(screen.terminal, behind, history_lines, size, is_plain=True)
    finally:
        if behind is not None:
            behind.close()
    history = _newest(picture.history, bytes_max - len(picture.screens))
    # It may take several lines of a narrow terminal: they are in the scrollback, where there is room.
    line = f"{_AUTOWRAP_ON}{printable(notice.encode())}{_AUTOWRAP_OFF}\r\n" if notice else ""
    # Either nothing is left on it, or as many lines follow as it shows: then all above is in its scrollback.
    room = b"\x1b[H\x1b[J" if is_again else b"\n" * (size.rows - 1)
    return b"".join(
        (
            TERMINAL_RESET,
            f"\x1b[?{_SYNCHRONIZED}h\r\x1b[J{_AUTOWRAP_OFF}".encode(),
            history,
            line.encode(),
            room,
            picture.screens,
            # If the program is in the middle of drawing, its own end of it is still to come.
            b"" if screen.terminal.has_mode(_SYNCHRONIZED) else f"\x1b[?{_SYNCHRONIZED}l".encode(),
            _unfinished(screen.terminal),
        )
    )


@dataclass(frozen=True, slots=True)
class _ClientSize:
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class _Picture:
    history: list[bytes]
    screens: bytes


def _picture(
    shown: Terminal, behind: Terminal | None, history_lines: int, size: _ClientSize, *, is_plain: bool
) -> _Picture:
    """`behind`: a copy that has left the alternate screen, if `shown` is on it."""
    main = behind or shown
    columns = main.columns
    may_wrap = size.columns == columns
    history, rows = _rows(main, min(history_lines, HISTORY_CELLS_MAX // columns), is_plain=is_plain)
    parts = [hidden.before_painting(shown), *_screen(rows, may_wrap=may_wrap)]
    if behind is not None:
        parts.append(hidden.main_behind_alternate(behind))
        parts.append(hidden.enter_alternate(shown))
        parts += _screen(_rows(shown, 0, is_plain=is_plain)[1], may_wrap=may_wrap)
    parts.append(hidden.behind_the_screen(shown))
    return _Picture(_lines(history, may_wrap=may_wrap), "".join(parts).encode())


def _main_behind(shown: Terminal) -> Terminal | None:
    """The main screen while the alternate one is shown, as a terminal of its own. None: it cannot be had now."""
    copy = shown.copy()
    if copy is not None:
        hidden.leave_alternate(copy)
    return copy


def _rows(terminal: Terminal, history_lines: int, *, is_plain: bool) -> tuple[list[PaintedRow], list[PaintedRow]]:
    """History and screen."""
    painter = RowPainter(columns=terminal.columns, is_plain=is_plain)
    history: list[PaintedRow] = []
    screen: list[PaintedRow] = []
    for row in terminal.rows_shown(history_rows=history_lines):
        (history if row.is_history else screen).append(painter.paint(row))
    return history, screen


def _joined(rows: list[PaintedRow], *, may_wrap: bool) -> Iterator[tuple[PaintedRow, bool]]:
    """Each row, and whether the terminal shall wrap its text into the next one: then it knows them for one line, when
    the user copies it or changes the window's width."""
    for row, following in zip(rows, [*rows[1:], PaintedRow("")], strict=False):
        is_certain = not (row.has_doubtful_width or following.has_doubtful_width)
        yield row, may_wrap and row.goes_on and following.begins_with_text and is_certain


def _screen(rows: list[PaintedRow], *, may_wrap: bool) -> Iterator[str]:
    """Every row in its place on an empty screen. Autowrap is off, so that a character that is wider than thought can
    spoil its own row only, save between rows that belong together."""
    was_joined = False
    for number, (row, is_joined) in enumerate(_joined(rows, may_wrap=may_wrap), start=1):
        if is_joined and not was_joined:
            yield _AUTOWRAP_ON
        if row.data and not was_joined:
            yield f"\x1b[{number}H"
        yield row.data
        if was_joined and not is_joined:
            yield _AUTOWRAP_OFF
        was_joined = is_joined


def _lines(rows: list[PaintedRow], *, may_wrap: bool) -> list[bytes]:
    """The same for lines that are to scroll off."""
    lines = []
    was_joined = False
    for (row, is_joined), following in zip(_joined(rows, may_wrap=may_wrap), [*rows[1:], PaintedRow("")], strict=False):
        # A line that comes up by wrapping takes the colour of the pen that wraps.
        wraps = is_joined and not following.begins_with_background
        before = _AUTOWRAP_ON if wraps and not was_joined else ""
        after = _AUTOWRAP_OFF if was_joined and not wraps else ""
        end = "" if wraps else "\r\n"
        lines.append(f"{before}{row.data}{after}{end}".encode())
        was_joined = wraps
    return lines


def _newest(lines: Iterable[bytes], bytes_max: int) -> bytes:
    kept: list[bytes] = []
    for line in reversed(list(lines)):
        bytes_max -= len(line)
        if bytes_max < 0:
            break
        kept.append(line)
    return b"".join(reversed(kept))


def _unfinished(terminal: Terminal) -> bytes:
    """What begins a sequence that the program has not ended yet, so that the terminal goes on in its middle."""
    begun = terminal.unfinished()
    # A picture or a clipboard of that size: let the rest be the rest of something no terminal knows, up to its end.
    if begun is None or len(begun) > _UNFINISHED_BYTES_MAX:
        return b"\x1b]9999;"
    # Within a string they mean nothing, but to terminals that end it at some of them and obey the rest (ENQ asks).
    return begun.translate(None, _CONTROLS)
