"""What a terminal remembers beside its cells, as the sequences that have another remember the same.

Every function returns words for a terminal that was reset, and asks it nothing. Text of programs goes through
`printable`; all other words come from fixed lists or are numbers.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from gateway.recording.screen.ghostty import Style, Terminal
from gateway.recording.screen.rows import PEN_OFF, character_at, pen_sequence, printable

_TITLE_CHARACTERS_MAX = 512
_LINK_CHARACTERS_MAX = 2048
_KITTY_STACK_MAX = 8  # what terminals keep
_TAB_COLUMNS = 8

_ORIGIN, _AUTOWRAP, _KEYPAD, _SIDE_MARGINS, _GRAPHEME_WIDTHS, _SIZE_REPORTS = 6, 7, 66, 69, 2027, 2048
_ALTERNATE_MODES = (1049, 1047, 47)
# DEC private modes that are had back by being switched. Not here: 3 and 40 (132 columns, which are the client's own to
# choose), 12 (told with the cursor's shape), and those with places of their own.
_MODES = (
    1,
    5,
    8,
    9,
    25,
    45,
    67,
    1000,
    1002,
    1003,
    1004,
    1005,
    1006,
    1007,
    1015,
    1016,
    1035,
    1036,
    1039,
    1045,
    2004,
    2031,
)
_ANSI_MODES = (2, 12, 20, 4)  # insert mode last
_SHAPES = {"default": 0, "block": 1, "underline": 3, "bar": 5}  # of DECSCUSR, blinking; steady is one more
_ASCII = "\x1b(B\x1b)B\x1b*B\x1b+B\x0f"
_PLAIN = f'\x1b]8;;\x1b\\{PEN_OFF}\x1b[0"q{_ASCII}'  # the cursor prints like a new one

_REGION = re.compile(rb"\x1b\[(\d+);\d+r")
_SIDES = re.compile(rb"\x1b\[(\d+);\d+s")
_LINK = re.compile(rb"\x1b\]8;([^;]*);(.*)\x1b\\", re.DOTALL)


def before_painting(terminal: Terminal) -> str:
    """What changes how many columns a character takes."""
    return _mode(_GRAPHEME_WIDTHS, is_on=True) if terminal.has_mode(_GRAPHEME_WIDTHS) else ""


def leave_alternate(copy: Terminal) -> None:
    """Have a copy on its main screen, just as the program's own leaving would."""
    number = next((number for number in _ALTERNATE_MODES if copy.has_mode(number)), _ALTERNATE_MODES[-1])
    copy.write(f"\x18\x1b[?{number}l".encode())


def main_behind_alternate(left: Terminal) -> str:
    """The main screen's saved cursor, its cursor and keyboard; `left` is a copy that has just come back to it."""
    # Margins are common to both screens and not set yet: here every row is absolute.
    cursor = _cursor_of(left)
    saved, stack = _saved_cursor_and_kitty_stack(left)
    return _saved(saved, top=0, left=0) + _cursor(cursor, top=0, left=0) + _kitty(stack)


def enter_alternate(shown: Terminal) -> str:
    number = next((number for number in _ALTERNATE_MODES if shown.has_mode(number)), _ALTERNATE_MODES[-1])
    return (
        f"{_mode(number, is_on=True)}{_mode(_ORIGIN, is_on=False)}{_PLAIN}\x1b[H\x1b[J{_mode(_AUTOWRAP, is_on=False)}"
    )


def behind_the_screen(terminal: Terminal) -> str:
    """All the rest of the screen that is shown, ending with the cursor in its place."""
    region = terminal.sequences("scrolling_region")
    top, left = _first_number(_REGION, region), _first_number(_SIDES, region)
    saved, stack = _saved_cursor_and_kitty_stack(terminal)
    return "".join(
        (
            _mode(_AUTOWRAP, is_on=True),
            _tab_stops(terminal),
            _modes(terminal),
            terminal.sequences("keyboard").decode(),
            _texts(terminal),
            _colours(terminal),
            _shape(terminal),
            _kitty(stack),
            _mode(_SIDE_MARGINS, is_on=True) if terminal.has_mode(_SIDE_MARGINS) else "",
            region.decode(),
            _saved(saved, top=top, left=left),
            # Before the cursor: a character that is printed in the last column leaves it there or behind, by this.
            "" if terminal.has_mode(_AUTOWRAP) else _mode(_AUTOWRAP, is_on=False),
            _cursor(_cursor_of(terminal), top=top, left=left),
            _link(terminal),
            _ansi_modes(terminal),
        )
    )


# ---------------------------------------------------------------------------------------------------- the cursor


@dataclass(frozen=True, slots=True)
class _Cursor:
    column: int
    row: int
    has_origin_mode: bool
    pen: Style
    charsets: bytes
    protection: bytes
    wraps_from: tuple[int, str] | None  # the character that a pending wrap comes from, to be printed again


def _cursor_of(terminal: Terminal) -> _Cursor:
    column, row = terminal.cursor
    wraps_from = None
    if terminal.is_wrap_pending:
        shown = terminal.rows_shown(history_rows=0)
        wraps_from = next((character_at(each, column) for number, each in enumerate(shown) if number == row), None)
    return _Cursor(
        column=column,
        row=row,
        has_origin_mode=terminal.has_mode(_ORIGIN),
        pen=terminal.pen,
        charsets=terminal.sequences("charsets"),
        protection=terminal.sequences("protection"),
        wraps_from=wraps_from,
    )


def _saved_cursor_and_kitty_stack(terminal: Terminal) -> tuple[_Cursor | None, list[int]]:
    """Of the screen it is on. Both can only be seen by using them up, so a copy does."""
    copy = terminal.copy()
    if copy is None:
        return None, []
    stack = []
    try:
        copy.write(b"\x18")
        for _ in range(_KITTY_STACK_MAX):
            stack.append(copy.kitty_flags)
            copy.write(b"\x1b[<u")
        copy.write(b"\x1b8")
        return _cursor_of(copy), stack
    finally:
        copy.close()


def _cursor(cursor: _Cursor, *, top: int, left: int) -> str:
    """`top`, `left`: of the scrolling region, from 0, which places count from in origin mode."""

    def move_to(column: int) -> str:
        row = cursor.row
        if cursor.has_origin_mode:
            row, column = max(row - top, 0), max(column - left, 0)
        return f"\x1b[{row + 1};{column + 1}H"

    parts = [_PLAIN, _mode(_ORIGIN, is_on=cursor.has_origin_mode), move_to(cursor.column)]
    if cursor.wraps_from is not None:
        column, drawing = cursor.wraps_from
        parts += move_to(column), drawing
    parts += pen_sequence(cursor.pen), cursor.protection.decode(), cursor.charsets.decode()
    return "".join(parts)


def _saved(cursor: _Cursor | None, *, top: int, left: int) -> str:
    # Resetting the terminal has saved a cursor too, so this is never left out.
    return f"{'' if cursor is None else _cursor(cursor, top=top, left=left)}\x1b7"


def _link(terminal: Terminal) -> str:
    """The one that the next character would belong to."""
    found = _LINK.fullmatch(terminal.sequences("hyperlink"))
    if found is None or len(found[0]) > _LINK_CHARACTERS_MAX:
        return ""
    return f"\x1b]8;{printable(found[1])};{printable(found[2])}\x1b\\"


def _first_number(pattern: re.Pattern[bytes], sequences: bytes) -> int:
    found = pattern.search(sequences)
    return int(found[1]) - 1 if found else 0


# --------------------------------------------------------------------------------------------- modes and the rest


def _mode(number: int, *, is_on: bool) -> str:
    return f"\x1b[?{number}{'h' if is_on else 'l'}"


@functools.cache
def _modes_of_new() -> dict[tuple[int, bool], bool]:
    """How the modes are in a terminal that was just switched on."""
    terminal = Terminal.create(1, 1, history_rows_max=0)
    modes = [(number, False) for number in _MODES] + [(number, True) for number in _ANSI_MODES]
    try:
        return {(number, is_ansi): terminal.has_mode(number, is_ansi=is_ansi) for number, is_ansi in modes}
    finally:
        terminal.close()


def _modes(terminal: Terminal) -> str:
    new = _modes_of_new()
    is_on = {number: terminal.has_mode(number) for number in _MODES}
    words = [_mode(number, is_on=is_on[number]) for number in _MODES if is_on[number] != new[number, False]]
    if terminal.has_mode(_KEYPAD):
        words.append("\x1b=")  # not every terminal knows it as a mode
    # Switched on, a terminal reports its size at once. That is no question, and a program that goes by these reports
    # would never know the size otherwise; but one that is gone without switching them off must not leave us asking.
    if terminal.has_mode(_SIZE_REPORTS) and terminal.is_alternate:
        words.append(_mode(_SIZE_REPORTS, is_on=True))
    return "".join(words)


def _ansi_modes(terminal: Terminal) -> str:
    new = _modes_of_new()
    is_on = {number: terminal.has_mode(number, is_ansi=True) for number in _ANSI_MODES}
    changed = (number for number in _ANSI_MODES if is_on[number] != new[number, True])
    return "".join(f"\x1b[{number}{'h' if is_on[number] else 'l'}" for number in changed)


def _tab_stops(terminal: Terminal) -> str:
    stops = terminal.sequences("tabstops").decode()
    usual = "".join(f"\x1b[{column}G\x1bH" for column in range(_TAB_COLUMNS + 1, terminal.columns + 1, _TAB_COLUMNS))
    return "" if stops == f"\x1b[3g{usual}\x1b[H" else stops


def _texts(terminal: Terminal) -> str:
    title, directory = printable(terminal.title), printable(terminal.directory)
    words = f"\x1b]2;{title[:_TITLE_CHARACTERS_MAX]}\x1b\\" if title else ""
    if directory and len(directory) <= _LINK_CHARACTERS_MAX:
        words += f"\x1b]7;{directory}\x1b\\"
    return words


def _colours(terminal: Terminal) -> str:
    """Only what programs have changed: all others are the user's."""
    palette = (f"\x1b]4;{number};{_rgb(colour)}\x1b\\" for number, colour in terminal.changed_palette().items())
    others = (f"\x1b]{number};{_rgb(colour)}\x1b\\" for number, colour in terminal.changed_colours().items())
    return "".join((*palette, *others))


def _rgb(colour: tuple[int, int, int]) -> str:
    return "rgb:{:02x}/{:02x}/{:02x}".format(*colour)


def _shape(terminal: Terminal) -> str:
    shape = terminal.cursor_shape
    number = _SHAPES[shape.name]
    if number and not shape.is_blinking:
        number += 1
    words = f"\x1b[{number} q" if number else ""
    return words + (_mode(12, is_on=True) if shape.is_blinking and not number else "")


def _kitty(stack: list[int]) -> str:
    """The keyboard flags, the newest first; a terminal keeps as many, and zeros below them."""
    while stack and not stack[-1]:
        stack = stack[:-1]
    return "".join(f"\x1b[>{flags}u" for flags in reversed(stack))
