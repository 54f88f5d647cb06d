"""Tables in colour, made with rich. Only for terminals, and never imported before one asks: it takes 50 ms.

How wide the columns are, and what is cut, is decided in text.py, so that colour changes nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.lobby.text import GAP, cut, fitting_widths
from gateway.lobby.themes import Theme

_QUIET = frozenset(("-", "never"))


def painted_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, columns: int, theme: Theme) -> str:
    """As text.table makes it, with a theme's styles. Blocking: some 20 ms for two hundred rows."""
    widths = fitting_widths(headers, rows, columns)
    if widths is None:
        return _rendered(_stacked(headers, rows, theme), columns)
    table = Table(box=None, padding=(0, len(GAP), 0, 0), pad_edge=False, header_style=theme.header)
    for header, width in zip(headers, widths, strict=True):
        table.add_column(Text(cut(header, width)), width=width, no_wrap=True)
    for row in rows:
        cells = zip(row, widths, strict=True)
        table.add_row(*(Text(cut(cell, width), style=_style(theme, n, cell)) for n, (cell, width) in enumerate(cells)))
    return _rendered(table, columns)


def _style(theme: Theme, column: int, cell: str) -> str:
    if cell in _QUIET:
        return theme.quiet
    return theme.name if column == 0 else theme.text


def _stacked(headers: Sequence[str], rows: Sequence[Sequence[str]], theme: Theme) -> Text:
    """Too narrow for columns: a few lines for each row."""
    text = Text()
    for number, row in enumerate(rows):
        text.append("\n\n" if number else "")
        for column, (header, cell) in enumerate(zip(headers, row, strict=True)):
            text.append(("\n" if column else "") + f"{header.lower()}: ", style=theme.header)
            text.append(cell, style=_style(theme, column, cell))
    return text


def _rendered(what: Table | Text, columns: int) -> str:
    file = io.StringIO()
    # Every option is ours: rich would look at the environment of the gateway, which is not the caller's.
    console = Console(
        file=file,
        width=columns,
        force_terminal=True,
        color_system="standard",
        no_color=False,
        legacy_windows=False,
        markup=False,
        highlight=False,
        emoji=False,
        _environ={},
    )
    console.print(what, soft_wrap=isinstance(what, Text), end="")
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip("\n").split("\n"))
