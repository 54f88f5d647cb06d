"""All that can be told of a terminal model, read cell by cell, to compare two of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.recording.screen.ghostty import CELL, Row, Terminal
from gateway.recording.screen.hidden import leave_alternate
from gateway.recording.screen.model import Screen

# All that the library knows, without 132 columns (3, 40), the saving of a cursor (1048), and 2048, which is painted on
# the alternate screen only.
DEC_MODES = (1, 4, 5, 6, 7, 8, 9, 12, 25, 45, 47, 66, 67, 69, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016,
             1035, 1036, 1039, 1045, 1047, 1049, 2004, 2026, 2027, 2031)  # fmt: skip
ANSI_MODES = (2, 4, 12, 20)
KITTY_STACK_MAX = 8


def state_of(screen: Screen, *, history_lines: int = 0) -> dict[str, object]:
    """A flat picture: name → value, a name for each row."""
    terminal = screen.terminal
    state = dict(_screen(terminal, history_lines=history_lines))
    state["unfinished"] = terminal.unfinished()
    copy = terminal.copy()
    if copy is None:
        return state
    for depth in range(KITTY_STACK_MAX):
        copy.write(b"\x18" if depth == 0 else b"\x1b[<u")
        state[f"kitty keys {depth}"] = copy.kitty_flags
    copy.write(b"\x1b8")
    state["saved cursor"] = _cursor(copy)
    if terminal.is_alternate:
        behind = terminal.copy()
        assert behind is not None
        leave_alternate(behind)
        state |= {f"behind: {name}": value for name, value in _screen(behind, history_lines=history_lines)}
        behind.write(b"\x1b8")
        state["behind: saved cursor"] = _cursor(behind)
        behind.close()
    copy.close()
    return state


def differences(wanted: dict[str, object], got: dict[str, object]) -> list[str]:
    names = [*wanted, *(name for name in got if name not in wanted)]
    return [
        f"{name}:\n    wanted {wanted.get(name)!r}\n    got    {got.get(name)!r}"
        for name in names
        if wanted.get(name) != got.get(name)
    ]


def _screen(terminal: Terminal, *, history_lines: int) -> Iterator[tuple[str, object]]:
    yield "size", (terminal.columns, terminal.rows)
    yield "is alternate", terminal.is_alternate
    for number, row in enumerate(terminal.rows_shown(history_rows=history_lines)):
        yield f"{'history' if row.is_history else 'row'} {number}", list(_cells(row))
        if not row.is_history:
            # A row that is not full may be marked too: where a wrap was pending when its screen was left.
            is_full = len(row.cells.rstrip(b"\0")) > (terminal.columns - 1) * 8
            yield f"row {number} wraps", row.wraps and is_full
    yield "cursor", _cursor(terminal)
    yield "cursor shape", terminal.cursor_shape
    yield "title", terminal.title
    yield "directory", terminal.directory
    for name in ("scrolling_region", "tabstops", "keyboard", "hyperlink"):
        yield name, terminal.sequences(name)
    yield "palette", terminal.changed_palette()
    yield "colours", terminal.changed_colours()
    for number in DEC_MODES:
        yield f"mode ?{number}", terminal.has_mode(number)
    for number in ANSI_MODES:
        yield f"mode {number}", terminal.has_mode(number, is_ansi=True)


def _cursor(terminal: Terminal) -> dict[str, object]:
    return {
        "place": terminal.cursor,
        "wraps": terminal.is_wrap_pending,
        "origin": terminal.has_mode(6),
        "pen": terminal.pen,
        # "ASCII" and "never chosen" print the same.
        "charsets": re.sub(rb"\x1b[()*+]B", b"", terminal.sequences("charsets")),
        "protection": terminal.sequences("protection"),
    }


def _cells(row: Row) -> Iterator[tuple[object, ...]]:
    """What stands in each cell and how it looks, up to the last one that is not empty."""
    cells = list(memoryview(row.cells).cast("Q"))
    for column, cell in enumerate(cells):
        if not any(cells[column:]):
            return
        content: object = (cell & CELL.content_bits) >> CELL.codepoint_shift, cell & CELL.tag_mask
        if cell & CELL.tag_mask == CELL.cluster_tag:
            content = row.cluster(column)
        yield (
            content,
            cell & CELL.wide_mask,
            row.style(column) if cell & CELL.style_mask else None,
            row.link(column) if cell & CELL.link else b"",
            bool(cell & CELL.protected),
        )
