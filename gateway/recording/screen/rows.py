"""Rows of cells, and the bytes that draw them on an empty line.

A screen with its history is a hundred thousand cells, and a client waits for them, so a row is read as one large
number: masks and shifts find its text and the places where the pen changes, and only what is out of the ordinary is
looked at cell by cell.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gateway.recording.screen.ghostty import CELL, Colour, Row, Style

_CELL_BITS = 64
_CELL_BYTES = 8
_ONLY_BACKGROUND = CELL.palette_tag & CELL.rgb_tag  # the bit that both have: a colour where others have text
_PEN = CELL.style_mask | CELL.protected | CELL.link
_COLOUR = CELL.tag_mask | CELL.content_bits
_CONTENT_SHIFT = CELL.codepoint_shift  # of colours too: a palette's number, or red, green and blue from the lowest bit

_CONTROLS = re.compile("[\x01-\x1f\x7f-\x9f]")
# Narrow, and every terminal agrees that it is: letters, punctuation, arrows, boxes, blocks, private use.
_NARROW = (
    "[ -~\u00a0-\u00ac\u00ae-\u02ff\u0370-\u0482\u2010-\u2027\u2030-\u205e\u2190-\u22ff\u2500-\u25fc\ue000-\uf8ff]"
)
# Wide, and every terminal agrees: CJK, kana, hangul, full-width forms. NUL is the second half.
_WIDE = "[\u2e80-\u303e\u3041-\u33ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff60]\0"
_PIECE = re.compile(f"(?P<gap>\0+)|(?P<certain>(?:{_NARROW}|{_WIDE})+)|.", re.DOTALL)
_SOME_BIT = re.compile(rb"[^\0]")
_EMOJI_FROM = 0x1F000  # from here on terminals count one column or two, depending on their age
_WIDE_FROM = 0x2E80  # CJK; the few wide characters before are emoji as well
# What the history may cost: a change of the pen is one, one never seen before and a cell with a link are more, since
# they are questions to the library. Beyond that its lines are plain text; this much takes a tenth of a second.
_HISTORY_COST_MAX = 60_000
_NEW_PEN_COST = 4


class _Pen(NamedTuple):
    sequence: str  # that selects it from any other
    has_background: bool = False


PEN_OFF = "\x1b[m"
_PEN_OFF = _Pen(PEN_OFF)


@dataclass(frozen=True, slots=True)
class PaintedRow:
    """The drawing of one row. It begins and ends with the pen off, and leaves cells alone that are empty."""

    data: str
    goes_on: bool = False  # its text reaches the last column and belongs to that of the next row
    begins_with_text: bool = False
    begins_with_background: bool = False
    has_doubtful_width: bool = False  # somewhere in it terminals disagree about columns


class RowPainter:
    """Draws the rows of one terminal. Keeps what styles look like between rows."""

    def __init__(self, *, columns: int, is_plain: bool = False) -> None:
        """`is_plain`: text alone, when all the rest would be too much."""
        self._columns = columns
        self._is_plain = is_plain
        self._pens: dict[tuple[int, int], _Pen] = {}
        self._cost_left = _HISTORY_COST_MAX

    def paint(self, row: Row) -> PaintedRow:
        cells = _without_empty_end(row.cells)
        count = len(cells) // _CELL_BYTES
        if not count:
            return PaintedRow("")
        text, keys = _text_and_pens(int.from_bytes(cells, "little"), count)
        is_plain = self._is_plain or (row.is_history and self._cost_left <= 0)
        drawing = _Drawing(row, memoryview(cells).cast("Q"), text, columns=self._columns, is_plain=is_plain)
        if is_plain:
            drawing.run(0, count, _PEN_OFF)
        else:
            for start, end, key in _runs(keys, count):
                self._draw_run(drawing, row, start, end, key)
        last = drawing.cells[count - 1]
        return PaintedRow(
            drawing.finish(),
            goes_on=row.wraps and count == self._columns and (text[-1] != "\0" or bool(last & CELL.wide_mask)),
            begins_with_text=text[0] != "\0",
            begins_with_background=drawing.begins_with_background,
            has_doubtful_width=drawing.has_doubtful_width,
        )

    def _draw_run(self, drawing: _Drawing, row: Row, start: int, end: int, key: int) -> None:
        self._cost_left -= 1
        pen = self._pen(row, start, key)
        drawing.protect(bool(key & CELL.protected))
        if not key & CELL.link:
            drawing.run(start, end, pen)
            return
        for first, behind, uri in self._links(row, start, end):
            drawing.link(uri)
            drawing.run(first, behind, pen)
        drawing.link("")

    def _links(self, row: Row, start: int, end: int) -> Iterator[tuple[int, int, str]]:
        """The parts of a run by where they lead to."""
        first, uri = start, self._uri(row, start)
        for column in range(start + 1, end):
            following = self._uri(row, column)
            if following != uri:
                yield first, column, uri
                first, uri = column, following
        yield first, end, uri

    def _uri(self, row: Row, column: int) -> str:
        self._cost_left -= 1
        return printable(row.link(column))

    def _pen(self, row: Row, column: int, key: int) -> _Pen:
        known = self._pens.get((row.page, key))
        if known is None:
            self._cost_left -= _NEW_PEN_COST
            known = self._pens[row.page, key] = self._make_pen(row, column, key)
        return known

    def _make_pen(self, row: Row, column: int, key: int) -> _Pen:
        if key & _ONLY_BACKGROUND:
            content = (key & CELL.content_bits) >> _CONTENT_SHIFT
            is_palette = key & CELL.tag_mask == CELL.palette_tag
            rgb = (content & 0xFF, content >> 8 & 0xFF, content >> 16 & 0xFF)
            return _Pen(f"\x1b[0;{_colour_words(content & 0xFF if is_palette else rgb, 40)}m", has_background=True)
        if not key & CELL.style_mask:
            return _PEN_OFF
        style = row.style(column)
        return _Pen(pen_sequence(style), has_background=style.background is not None)


class _Drawing:
    """One row while it is drawn."""

    def __init__(self, row: Row, cells: memoryview, text: str, *, columns: int, is_plain: bool) -> None:
        self._columns = columns
        self._is_plain = is_plain
        self._row, self.cells, self._text = row, cells, text
        self._out: list[str] = []
        self._pen = _PEN_OFF
        self._is_protected = False
        self._uri = ""
        self.has_doubtful_width = False
        self.begins_with_background = False

    def finish(self) -> str:
        self.protect(False)
        self._select(_PEN_OFF)
        return "".join(self._out)

    def protect(self, is_protected: bool) -> None:
        if is_protected != self._is_protected:
            self._is_protected = is_protected
            self._out.append('\x1b[1"q' if is_protected else '\x1b[0"q')

    def link(self, uri: str) -> None:
        if uri != self._uri:
            self._uri = uri
            self._out.append(f"\x1b]8;;{uri}\x1b\\")

    def run(self, start: int, end: int, pen: _Pen) -> None:
        """Cells of one look."""
        self._select(pen)
        if start == 0:
            self.begins_with_background = pen.has_background
        text = self._text[start:end]
        has_clusters = self._row.has_clusters
        if not has_clusters and text.isascii() and text.isprintable():
            self._out.append(text)
            return
        for piece in _PIECE.finditer(text):
            if piece.lastgroup == "gap":
                self._gap(start + piece.start(), start + piece.end())
            elif piece.lastgroup == "certain" and not has_clusters:
                self._out.append(piece.group().replace("\0", ""))
            else:
                self._characters(start + piece.start(), start + piece.end())

    def _gap(self, start: int, end: int) -> None:
        """Cells without text: empty, erased in a colour, or the second half of a wide character before them."""
        if self.cells[start] & CELL.wide_mask == CELL.spacer_tail:
            start += 1
        width = end - start
        if not width or (width == 1 and self.cells[start] & CELL.wide_mask):  # no room was left for a wide character
            return
        # Erasing takes the colour of the pen and makes cells that are empty, as the program did it.
        if self._pen.has_background and end == self._columns:
            self._out.append("\x1b[K")
            return
        if self._pen.has_background:
            self._out.append(f"\x1b[{width}X")
        self._out.append(f"\x1b[{width}C")

    def _characters(self, start: int, end: int) -> None:
        for column in range(start, end):
            cell, text = self.cells[column], self._text[column]
            if text == "\0":  # the second half of a wide one
                continue
            is_wide = cell & CELL.wide_mask == CELL.wide
            is_cluster = cell & CELL.tag_mask == CELL.cluster_tag
            if is_cluster and not self._is_plain:
                text = "".join(map(_character, self._row.cluster(column)))
            self._out.append(_CONTROLS.sub(" ", text))
            if is_cluster or ord(text[0]) >= _EMOJI_FROM or (is_wide and ord(text[0]) < _WIDE_FROM):
                # Wherever the terminal believes to be now, the next one goes where it belongs.
                self.has_doubtful_width = True
                self._out.append(f"\x1b[{min(column + 1 + is_wide, self._columns - 1) + 1}G")

    def _select(self, pen: _Pen) -> None:
        if pen != self._pen:
            self._pen = pen
            self._out.append(pen.sequence)


# ---------------------------------------------------------------------------------------------------- reading


def plain_text(row: Row) -> str:
    """What is to be read in it, without blanks at the end."""
    cells = _without_empty_end(row.cells)
    count = len(cells) // _CELL_BYTES
    text, _ = _text_and_pens(int.from_bytes(cells, "little"), count)
    read = []
    for column, (cell, character) in enumerate(zip(memoryview(cells).cast("Q"), text, strict=True)):
        if cell & CELL.tag_mask == CELL.cluster_tag:
            read.append("".join(map(_character, row.cluster(column))))
        elif character != "\0":
            read.append(character)
        elif not cell & CELL.wide_mask:
            read.append(" ")
    return _CONTROLS.sub(" ", "".join(read)).rstrip(" ")


def character_at(row: Row, column: int) -> tuple[int, str] | None:
    """The character that ends in this column: where it begins, and how it is drawn. None: there is no text."""
    cells = memoryview(row.cells).cast("Q")
    if column and cells[column] & CELL.wide_mask == CELL.spacer_tail:
        column -= 1
    cell = cells[column]
    text, _ = _text_and_pens(cell, 1)
    if text == "\0":
        return None
    if cell & CELL.tag_mask == CELL.cluster_tag:
        text = "".join(map(_character, row.cluster(column)))
    link = f"\x1b]8;;{printable(row.link(column))}\x1b\\" if cell & CELL.link else ""
    protection = '\x1b[1"q' if cell & CELL.protected else ""
    return column, link + protection + pen_sequence(row.style(column)) + _CONTROLS.sub(" ", text)


def _without_empty_end(cells: bytes) -> bytes:
    used = len(cells.rstrip(b"\0"))
    return cells[: -(-used // _CELL_BYTES) * _CELL_BYTES]


@functools.lru_cache(maxsize=4096)
def _repeated(mask: int, count: int) -> int:
    """The same 64 bits for each of so many cells."""
    return int.from_bytes(mask.to_bytes(_CELL_BYTES, "little") * count, "little")


def _text_and_pens(number: int, count: int) -> tuple[str, int]:
    """A character for each cell, NUL where there is none, and the bits that tell one look from another."""
    coloured = number & _repeated(_ONLY_BACKGROUND, count)
    # All bits of a cell that has but a background: one bit of it, times all of them.
    coloured = (coloured // _ONLY_BACKGROUND) * ((1 << _CELL_BITS) - 1) if coloured else 0
    pens = number & (_repeated(_PEN, count) | (coloured & _repeated(_COLOUR, count)))
    codepoints = ((number & ~coloured) >> CELL.codepoint_shift) & _repeated(CELL.codepoint_bits, count)
    units = memoryview(codepoints.to_bytes(count * _CELL_BYTES, "little")).cast("I")[::2]
    return units.tobytes().decode("utf-32-le", errors="replace"), pens


def _runs(keys: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Where the same key begins and ends."""
    all_bits = (1 << _CELL_BITS) - 1
    changes = (keys ^ (keys >> _CELL_BITS)) & ((1 << (count - 1) * _CELL_BITS) - 1)
    if not changes:
        yield 0, count, keys & all_bits
        return
    each_key = memoryview(keys.to_bytes(count * _CELL_BYTES, "little")).cast("Q")
    start = 0
    for changed in _SOME_BIT.finditer(changes.to_bytes(count * _CELL_BYTES, "little")):
        column = changed.start() // _CELL_BYTES + 1
        if column != start:
            yield start, column, each_key[start]
            start = column
    yield start, count, each_key[start]


def _character(codepoint: int) -> str:
    return chr(codepoint) if codepoint < 0xD800 or 0xE000 <= codepoint <= 0x10FFFF else "\ufffd"


def printable(data: bytes) -> str:
    """Text of a program that goes inside one of our sequences: nothing in it may end that or begin another."""
    return _CONTROLS.sub("", data.decode(errors="replace").replace("\0", ""))


# ----------------------------------------------------------------------------------------------------- looks


def pen_sequence(style: Style) -> str:
    """The sequence that makes the pen so, whatever it was."""
    words = ["0"]
    for word, is_on in (
        ("1", style.bold),
        ("2", style.faint),
        ("3", style.italic),
        ("4", style.underline),
        ("5", style.blink),
        ("7", style.inverse),
        ("8", style.invisible),
        ("9", style.strikethrough),
        ("53", style.overline),
    ):
        if is_on:
            words.append(word)
    if style.foreground is not None:
        words.append(_colour_words(style.foreground, 30))
    if style.background is not None:
        words.append(_colour_words(style.background, 40))
    sequence = f"\x1b[{';'.join(words)}m" if len(words) > 1 else PEN_OFF
    # On their own: a terminal that does not know colons drops the sequence that has one.
    if style.underline > 1:
        sequence += f"\x1b[4:{style.underline}m"
    if isinstance(style.underline_colour, tuple):
        sequence += "\x1b[58:2::{}:{}:{}m".format(*style.underline_colour)
    elif style.underline_colour is not None:
        sequence += f"\x1b[58:5:{style.underline_colour}m"
    return sequence


def _colour_words(colour: Colour, base: int) -> str:
    """Parameters of SGR for a colour; `base` is 30 for the foreground, 40 for the background."""
    if isinstance(colour, tuple):
        return f"{base + 8};2;{colour[0]};{colour[1]};{colour[2]}"
    assert colour is not None
    if colour < 8:
        return str(base + colour)
    if colour < 16:
        return str(base + 60 + colour - 8)
    return f"{base + 8};5;{colour}"
