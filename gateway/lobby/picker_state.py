"""The picker without its terminal: what is listed, what is typed, which line is chosen, and what is drawn of it.

Pure: keys in, lines out. picker.py has the keys and the screen from prompt_toolkit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gateway.lobby.sessions import state_of, what
from gateway.lobby.text import GAP, clean, cut, fitting_widths, width

if TYPE_CHECKING:
    from gateway.interfaces import Principal, SessionRow, Workspace

TYPED_CHARACTERS_MAX = 200  # a URL, in the line for a new workspace
# From so many rows on there is room for these; the list has all others.
_ROWS_WITH_TITLE = 8
_ROWS_WITH_HINT = 5
_ROWS_WITH_PROMPT = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One way in."""

    login_name: str  # what stands before the @
    state: str
    note: str


@dataclass(frozen=True, slots=True)
class Attach:
    login_name: str


@dataclass(frozen=True, slots=True)
class MakeNew:
    typed: str  # the words of `new`, as typed


Choice = Attach | MakeNew | None  # None: leave

Fragment = tuple[str, str]  # a part of the theme, and text
Line = list[Fragment]


def entries_of(
    workspaces: Iterable[Workspace], sessions: Iterable[SessionRow], principal: Principal, now: datetime | None = None
) -> list[Entry]:
    """Each workspace, and below it the sessions that have a name: whoever may enter may join those. A session without
    a name is found by entering its workspace, with the key that began it alone."""
    now = now or datetime.now(UTC)
    rows = [row for row in sessions if row.status != "terminated" and row.columns is not None]
    entries = []
    for workspace in workspaces:
        own = [row for row in rows if row.workspace_id == workspace.id]
        entries.append(_workspace_entry(workspace, own, principal, now))
        named = sorted((row for row in own if row.name is not None), key=lambda row: row.name or "")
        entries += [Entry(clean(row.login_name or "-"), state_of(row, None, now), what(row)) for row in named]
    return entries


def _workspace_entry(workspace: Workspace, rows: Sequence[SessionRow], principal: Principal, now: datetime) -> Entry:
    mine = [
        row for row in rows if row.name is None and row.kind == "shell" and row.key_fingerprint == principal.fingerprint
    ]
    waiting = [row for row in mine if row.status == "paused"]
    note = clean(workspace.github_repo or workspace.github_url or workspace.description or "", length_max=100)
    if waiting:
        last = max(waiting, key=lambda row: row.detached_at or row.last_activity_at)
        job = f", {clean(last.job, length_max=40)}" if last.job is not None else ""
        return Entry(workspace.name, state_of(last, None, now) + job, note)
    attached = sum(row.status == "active" for row in rows)
    return Entry(workspace.name, f"{attached} attached" if attached else "-", note)


@dataclass(slots=True)
class PickerState:
    """Where the person is. Every key is one method."""

    entries: list[Entry]
    who: str
    may_make: bool
    filter: str = ""
    index: int = 0
    top: int = 0  # the first line of the list that is drawn
    typed: str | None = None  # the line for a new workspace, while it is asked for
    page: int = 10  # lines of the list that were drawn
    shown: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shown = list(self.entries)

    def refresh(self, entries: list[Entry]) -> None:
        """What there is by now; whoever is about to press Enter still means the same."""
        chosen = self.shown[self.index].login_name if self.shown else None
        self.entries = entries
        self.shown = self._matching()
        names = [entry.login_name for entry in self.shown]
        self.index = names.index(chosen) if chosen in names else max(0, min(self.index, len(names) - 1))

    # ------------------------------------------------------------------------------------------------------ keys

    def move(self, by: int) -> None:
        self.index = max(0, min(self.index + by, len(self.shown) - 1))

    def type(self, text: str) -> None:
        text = "".join(letter for letter in text if letter.isprintable())
        if self.typed is not None:
            self.typed = (self.typed + text)[:TYPED_CHARACTERS_MAX]
        else:
            self._look_for((self.filter + text)[:TYPED_CHARACTERS_MAX])

    def erase(self) -> None:
        if self.typed is not None:
            self.typed = self.typed[:-1]
        else:
            self._look_for(self.filter[:-1])

    def erase_all(self) -> None:
        if self.typed is not None:
            self.typed = ""
        else:
            self._look_for("")

    def ask_for_new(self) -> None:
        """What was looked for and not found is most likely its name."""
        if self.may_make and self.typed is None:
            self.typed = "" if self.shown else self.filter

    def give_up_new(self) -> bool:
        """Back to the list; False: one was there already."""
        was_asked, self.typed = self.typed is not None, None
        return was_asked

    def choose(self) -> Choice:
        """What Enter means now; None: nothing yet."""
        if self.typed is not None:
            return MakeNew(self.typed) if self.typed.strip() else None
        return Attach(self.shown[self.index].login_name) if self.shown else None

    def _look_for(self, text: str) -> None:
        self.filter = text
        self.shown = self._matching()
        self.index = self.top = 0

    def _matching(self) -> list[Entry]:
        return [entry for entry in self.entries if self.filter.lower() in entry.login_name]

    # --------------------------------------------------------------------------------------------------- drawing

    def lines(self, columns: int, rows: int) -> list[Line]:
        """Exactly as many as there are rows, none wider than the window. The chosen one is always among them."""
        above = [self._title(columns)] if rows >= _ROWS_WITH_TITLE else []
        if rows >= _ROWS_WITH_PROMPT or self.typed is not None:
            above.append(self._prompt(columns))
        below: list[Line] = [[("hint", cut(self._hint(), columns))]] if rows >= _ROWS_WITH_HINT else []
        room = max(0, rows - len(above) - len(below))
        self._scroll(room)
        listed = self._list(columns, room)
        return [*above, *listed, *([[]] * (room - len(listed))), *below][:rows]

    def _scroll(self, room: int) -> None:
        self.page = max(1, room)
        self.top = max(0, min(self.top, self.index, max(0, len(self.shown) - room)))
        self.top = max(self.top, self.index - room + 1)

    def _title(self, columns: int) -> Line:
        return [("header", cut(f"homeport  {clean(self.who, length_max=60)}", columns))]

    def _prompt(self, columns: int) -> Line:
        """The end of what is typed is what counts, so the beginning goes first."""
        label, text = ("new workspace: ", self.typed) if self.typed is not None else ("find: ", self.filter)
        label = label if width(label) < columns // 2 else ""
        while width(label + text) >= columns and text:
            text = text[1:]
        return [("hint", label), ("text", text), ("cursor", "")]

    def _list(self, columns: int, room: int) -> list[Line]:
        if not self.shown:
            return [[("quiet", cut(self._nothing(), columns))]][:room]
        widths = _columns_of(self.shown, columns)
        lines = []
        for number in range(self.top, min(self.top + room, len(self.shown))):
            lines.append(self._entry(self.shown[number], widths, columns, is_chosen=number == self.index))
        return lines

    def _entry(self, entry: Entry, widths: Sequence[int], columns: int, *, is_chosen: bool) -> Line:
        cells = zip((entry.login_name, entry.state, entry.note), widths, strict=False)
        padded = [shown + " " * (cells_wide - width(shown)) for shown, cells_wide in _cut_all(cells)]
        if is_chosen:
            text = GAP.join(padded)
            return [("chosen", cut(text, columns) + " " * max(0, columns - width(text)))]
        parts = ("name", "quiet" if entry.state == "-" else "text", "quiet")
        line: Line = []
        for part, text in zip(parts, padded, strict=False):
            line += [("", GAP if line else ""), (part, text)]
        return line

    def _nothing(self) -> str:
        if not self.entries:
            return "no workspace yet" if self.may_make else "this key may enter no workspace"
        return f"nothing has {clean(self.filter, length_max=40)} in its name"

    def _hint(self) -> str:
        if self.typed is not None:
            return "a name, or what to clone   Enter make it   Esc back   Ctrl-C leave"
        if self.filter:
            new = "   Ctrl-N new" if self.may_make else ""
            return f"Up/Down choose   Enter go there{new}   Ctrl-U all again   Esc leave"
        new = "   n new" if self.may_make else ""
        return f"Up/Down choose   Enter go there   type to find{new}   q leave"


def _cut_all(cells: Iterable[tuple[str, int]]) -> Iterable[tuple[str, int]]:
    return ((cut(text, cells_wide), cells_wide) for text, cells_wide in cells)


def _columns_of(entries: Sequence[Entry], columns: int) -> list[int]:
    """As a table has them; where that is too wide even when cut, the names alone."""
    rows = [(entry.login_name, entry.state, entry.note) for entry in entries]
    return fitting_widths(("", "", ""), rows, columns) or [columns]
