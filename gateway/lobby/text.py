"""How the lobby writes: tables, sizes, ages, and text from strangers made harmless. Plain text, no colour."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from gateway.errors import UsageWrong

COLUMN_MIN = 8  # a cell is not cut shorter than this; a narrower terminal gets one line per cell
GAP = "  "
QUESTION_MAX_CHARACTERS = 1000

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def clean(text: str, *, length_max: int = 200) -> str:
    """Text that came from a client or a file, on one line and without anything a terminal would act on."""
    kept = text[: length_max + 1]
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in kept)
    return shown if len(shown) <= length_max else shown[: length_max - 1] + "…"


def shows_colour(term: str, *, no_color: str) -> bool:
    """Whether a terminal of this kind shall be sent colours; NO_COLOR counts if it is not empty (no-color.org)."""
    return has_screen(term) and not no_color


def has_screen(term: str) -> bool:
    """Whether a terminal of this kind acts on what moves its cursor."""
    return term not in ("", "dumb", "unknown")


def question_text(question: str) -> str:
    """A question as it stands before its answer: harmless, and apart from it. It may have several lines."""
    lines = question[:QUESTION_MAX_CHARACTERS].rstrip().split("\n")
    return "\n".join(clean(line, length_max=QUESTION_MAX_CHARACTERS) for line in lines) + " "


def width(text: str) -> int:
    """Terminal cells `text` takes: wide letters two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, columns_max: int | None = None) -> str:
    """Aligned columns. Where `columns_max` is too narrow, the widest cells are cut; where even that does not do,
    each row becomes a few `header: cell` lines. Without `columns_max` (a pipe) nothing is ever cut."""
    fitting = fitting_widths(headers, rows, columns_max)
    if fitting is None:
        return "\n\n".join(_stacked(headers, row) for row in rows)
    return "\n".join(_line(row, fitting) for row in (headers, *rows))


def fitting_widths(headers: Sequence[str], rows: Sequence[Sequence[str]], columns_max: int | None) -> list[int] | None:
    """How wide each column is; None: they do not fit side by side."""
    widths = [max(width(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    return _fit(widths, [width(header) for header in headers], columns_max)


def _fit(widths: list[int], header_widths: list[int], columns_max: int | None) -> list[int] | None:
    if columns_max is None:
        return widths
    floors = [min(own, max(COLUMN_MIN, header)) for own, header in zip(widths, header_widths, strict=True)]
    room = columns_max - len(GAP) * (len(widths) - 1)
    fitting = list(widths)
    while sum(fitting) > room:
        slack = [have - floor for have, floor in zip(fitting, floors, strict=True)]
        if not any(slack):
            return None
        widest = max(range(len(fitting)), key=lambda index: (slack[index] > 0, fitting[index]))
        fitting[widest] -= 1
    return fitting


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = []
    for cell, cell_width in zip(cells, widths, strict=True):
        shown = cut(cell, cell_width)
        padded.append(shown + " " * (cell_width - width(shown)))
    return GAP.join(padded).rstrip()


def _stacked(headers: Sequence[str], row: Sequence[str]) -> str:
    return "\n".join(f"{header.lower()}: {cell}" for header, cell in zip(headers, row, strict=True))


def cut(text: str, cells_max: int) -> str:
    if width(text) <= cells_max:
        return text
    kept = ""
    for letter in text:
        if width(kept + letter) > cells_max - 1:
            break
        kept += letter
    return kept + "…"


def size(byte_count: int) -> str:
    """`0 B`, `912 B`, `4.2 kB`, `1.3 GB`: decimal, as disks are sold."""
    amount = float(byte_count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """The largest unit that says enough: `42 s`, `7 min`, `3 h`, `12 days`."""
    unit, name = _unit_for(seconds)
    return f"{max(0, int(seconds // unit))} {name}"


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """`3 min ago`, `in 12 days`, `never`."""
    if moment is None:
        return "never"
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds >= 0:
        return f"{duration(seconds)} ago"
    unit, _ = _unit_for(-seconds)
    return f"in {duration(-seconds + unit / 2)}"  # the nearest: what was just made for 30 days ends in 30 days


def _unit_for(seconds: float) -> tuple[int, str]:
    """Its seconds and its name."""
    if seconds < 100:
        return 1, "s"
    if seconds < 100 * 60:
        return 60, "min"
    return (3600, "h") if seconds < 48 * 3600 else (86400, "days")


def parse_moment(text: str, now: datetime | None = None) -> datetime:
    """A point in the future: `90m`, `12h`, `30d`, `8w`, or a date `2030-12-31` (its end, UTC). Raises UsageWrong."""
    now = now or datetime.now(UTC)
    span = _parse_span(text)
    moment = _parse_day(text) + timedelta(days=1) if span is None else now + span
    if moment <= now:
        raise UsageWrong(f"{clean(text)!r} lies in the past; write for example 30d")
    return moment


def parse_past(text: str, now: datetime | None = None) -> datetime:
    """A point in the past: `90m`, `12h`, `30d`, `8w` ago, or a date `2020-12-31` (UTC). Raises UsageWrong."""
    now = now or datetime.now(UTC)
    span = _parse_span(text)
    moment = _parse_day(text) if span is None else now - span
    if moment > now:
        raise UsageWrong(f"{clean(text)!r} lies in the future; write for example 12h")
    return moment


def _parse_span(text: str) -> timedelta | None:
    match = re.fullmatch(r"([0-9]{1,5})([mhdw])", text)
    return None if match is None else timedelta(**{_UNITS[match[2]]: int(match[1])})


def _parse_day(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise UsageWrong(
            f"{clean(text)!r} is not a time; write for example 12h, 30d, 8w or a date: YYYY-MM-DD"
        ) from None


def unique_prefixes(ids: Sequence[str], *, length_min: int = 8) -> dict[str, str]:
    """For each id the shortest beginning that names it alone; such beginnings are accepted wherever an id is."""
    ordered = sorted(set(ids))
    prefixes: dict[str, str] = {}
    for index, identifier in enumerate(ordered):
        neighbours = ordered[max(0, index - 1) : index] + ordered[index + 1 : index + 2]
        needed = 1 + max((_common(identifier, other) for other in neighbours), default=0)
        prefixes[identifier] = identifier[: max(length_min, needed)]
    return prefixes


def _common(one: str, other: str) -> int:
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
