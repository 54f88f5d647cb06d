"""What a real terminal shows, to the cell, and how two of them are compared.

Terminals come in two forms. A *window* runs a client, and answers what programs ask terminals. A *screen* is fed bytes:
what an uninterrupted client would show of them. tmux (real_tmux.py) and xterm.js (real_xterm.py), as VS Code draws with
it, have both. Neither knows of the gateway, or of its model of a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

TERM = "xterm-256color"

Cell = tuple[str, str]  # characters, and how they are drawn


@dataclass(frozen=True, slots=True)
class Size:
    columns: int
    rows: int

    def __str__(self) -> str:
        return f"{self.columns}x{self.rows}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a terminal shows, and the state it is in."""

    rows: list[list[Cell]]
    cursor: tuple[int, int]  # column, row; from 0
    title: str
    modes: dict[str, object]
    behind: list[list[Cell]] = field(default_factory=list)  # the main screen, while the alternate one is shown

    @property
    def text(self) -> list[str]:
        return ["".join(characters for characters, _ in row).rstrip() for row in self.rows]


def differences(wanted: Seen, got: Seen) -> list[str]:
    """What is not as it should be, one line for each row or property; empty: the same."""
    found = _differing_rows("row", wanted.rows, got.rows) + _differing_rows("behind", wanted.behind, got.behind)
    for name in ("cursor", "title"):
        if getattr(wanted, name) != getattr(got, name):
            found.append(f"{name}: wanted {getattr(wanted, name)!r}, got {getattr(got, name)!r}")
    for name, value in wanted.modes.items():
        if got.modes.get(name) != value:
            found.append(f"mode {name}: wanted {value!r}, got {got.modes.get(name)!r}")
    return found


def _differing_rows(what: str, wanted: list[list[Cell]], got: list[list[Cell]]) -> list[str]:
    if len(wanted) != len(got):
        return [f"{what}: wanted {len(wanted)} rows, got {len(got)}"]
    found = []
    for number, (ours, theirs) in enumerate(zip(wanted, got, strict=True)):
        if ours != theirs:
            cells = [n for n in range(max(len(ours), len(theirs))) if ours[n : n + 1] != theirs[n : n + 1]]
            first = cells[0]
            found.append(
                f"{what} {number}: {len(cells)} cells, first {first}: wanted {ours[first : first + 1]}, "
                f"got {theirs[first : first + 1]}\n"
                f"    wanted {''.join(c for c, _ in ours)!r}\n    got    {''.join(c for c, _ in theirs)!r}"
            )
    return found


class Screen(Protocol):
    """Shows the bytes it is fed."""

    def feed(self, data: bytes) -> None:
        """Returns when all of it is on the screen."""
        ...

    def resize(self, size: Size) -> None: ...

    def look(self) -> Seen: ...

    def close(self) -> None: ...


class Window(Protocol):
    """Runs a client, and answers whatever is asked of terminals."""

    def type(self, data: bytes) -> None: ...

    def look(self) -> Seen: ...

    def resize(self, size: Size) -> None: ...

    def kill(self) -> None:
        """SIGKILL to the client, and the window is gone. Doing it twice is harmless."""
        ...


class Terminals(Protocol):
    """A maker of both forms."""

    name: str

    def screen(self, size: Size) -> Screen: ...

    def window(self, command: Sequence[str | bytes], size: Size, *, term: str = TERM) -> Window: ...
