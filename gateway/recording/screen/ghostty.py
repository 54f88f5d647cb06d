"""Every call into the terminal library (libghostty-vt by pyghostty), typed. Nothing else imports it.

The library is called through raw declarations, where a wrong out-type writes over the heap and nothing warns; so each
call stands here once, with the type its header names. It parses what programs print, which is hostile: values that
come back are bounded here or by their type, and text may hold anything (the painter drops controls).

Importing this module takes 0.15 s and 7 MB, and fails with ImportError or OSError where there is no library.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyghostty._ffi import GhosttyError, ffi, lib, union_fn  # type: ignore[import-untyped]

__all__ = ["GhosttyError", "Row", "Style", "Terminal"]

# An unfinished sequence is part of a snapshot, up to here; with a longer one there is none.
CONTINUATION_BYTES_MAX = 1024 * 1024
# Restoring takes 0.2 s for each megabyte where cells hold as many accents as they can.
COPY_BYTES_MAX = 2 * 1024 * 1024
# The terminal would answer a flood of questions as long as it lasts.
REPLY_BYTES_MAX = 4096
_URI_BYTES_MAX = 2048
_CLUSTER_CODEPOINTS_MAX = 32  # of one cell; a base and this many marks are more than any script needs
_HISTORY_ROWS_MAX = 0xFFFF  # the library takes 16 bits
_HISTORY_BYTES_MAX = 64 * 1024 * 1024  # by default it is less than a thousand lines take
_CELL_BYTES = 8

Colour = int | tuple[int, int, int] | None  # of the palette, red-green-blue, the terminal's own


class Style(NamedTuple):
    bold: bool
    faint: bool
    italic: bool
    underline: int  # 0 none, 1 single, 2 double, 3 curly, 4 dotted, 5 dashed
    blink: bool
    inverse: bool
    invisible: bool
    strikethrough: bool
    overline: bool
    foreground: Colour
    background: Colour
    underline_colour: Colour


class CursorShape(NamedTuple):
    name: str  # "bar", "block", "underline", or "default": whatever the user chose
    is_blinking: bool


@dataclass(frozen=True, slots=True)
class CellLayout:
    """Where a cell's 64 bits hold what. Asked from the library, which promises only what its getters answer."""

    codepoint_shift: int
    codepoint_bits: int
    content_bits: int  # the colour of a cell that has a background and no text
    tag_mask: int
    cluster_tag: int
    palette_tag: int
    rgb_tag: int
    style_shift: int
    style_mask: int
    wide_mask: int
    wide: int
    spacer_tail: int
    spacer_head: int
    protected: int
    link: int


@dataclass(frozen=True, slots=True)
class _RowLayout:
    wraps: int
    has_clusters: int
    has_links: int


def _bits(getter: Any, key: int, ctype: str) -> dict[int, int]:
    """For each bit of a cell or row that the getter looks at: what it answers if only that one is set."""
    out = ffi.new(ctype + "*")
    answers = {}
    for bit in range(64):
        if getter(1 << bit, key, out) == lib.GHOSTTY_SUCCESS and int(out[0]):
            answers[bit] = int(out[0])
    return answers


def _field(answers: dict[int, int]) -> tuple[int, int]:
    """Shift and mask of a field; ImportError if it does not lie in one piece, lowest bit first."""
    shift = min(answers)
    if answers != {shift + bit: 1 << bit for bit in range(len(answers))}:
        raise ImportError("the terminal library lays out its cells in a way that is not known here")
    return shift, ((1 << len(answers)) - 1) << shift


def _cell_layout() -> CellLayout:
    get = lib.ghostty_cell_get
    codepoint_shift, codepoint_mask = _field(_bits(get, lib.GHOSTTY_CELL_DATA_CODEPOINT, "uint32_t"))
    tag_shift, tag_mask = _field(_bits(get, lib.GHOSTTY_CELL_DATA_CONTENT_TAG, "GhosttyCellContentTag"))
    style_shift, style_mask = _field(_bits(get, lib.GHOSTTY_CELL_DATA_STYLE_ID, "uint16_t"))
    wide_shift, wide_mask = _field(_bits(get, lib.GHOSTTY_CELL_DATA_WIDE, "GhosttyCellWide"))
    return CellLayout(
        codepoint_shift=codepoint_shift,
        codepoint_bits=codepoint_mask >> codepoint_shift,
        content_bits=((1 << style_shift) - 1) & ~tag_mask,
        tag_mask=tag_mask,
        cluster_tag=lib.GHOSTTY_CELL_CONTENT_CODEPOINT_GRAPHEME << tag_shift,
        palette_tag=lib.GHOSTTY_CELL_CONTENT_BG_COLOR_PALETTE << tag_shift,
        rgb_tag=lib.GHOSTTY_CELL_CONTENT_BG_COLOR_RGB << tag_shift,
        style_shift=style_shift,
        style_mask=style_mask,
        wide_mask=wide_mask,
        wide=lib.GHOSTTY_CELL_WIDE_WIDE << wide_shift,
        spacer_tail=lib.GHOSTTY_CELL_WIDE_SPACER_TAIL << wide_shift,
        spacer_head=lib.GHOSTTY_CELL_WIDE_SPACER_HEAD << wide_shift,
        protected=_field(_bits(get, lib.GHOSTTY_CELL_DATA_PROTECTED, "bool"))[1],
        link=_field(_bits(get, lib.GHOSTTY_CELL_DATA_HAS_HYPERLINK, "bool"))[1],
    )


def _row_layout() -> _RowLayout:
    def flag(key: int) -> int:
        return _field(_bits(lib.ghostty_row_get, key, "bool"))[1]

    return _RowLayout(
        wraps=flag(lib.GHOSTTY_ROW_DATA_WRAP),
        has_clusters=flag(lib.GHOSTTY_ROW_DATA_GRAPHEME),
        has_links=flag(lib.GHOSTTY_ROW_DATA_HYPERLINK),
    )


CELL = _cell_layout()
_ROW = _row_layout()
_SHAPES = {
    lib.GHOSTTY_RENDER_STATE_CURSOR_VISUAL_STYLE_BAR: "bar",
    lib.GHOSTTY_RENDER_STATE_CURSOR_VISUAL_STYLE_BLOCK: "block",
    lib.GHOSTTY_RENDER_STATE_CURSOR_VISUAL_STYLE_UNDERLINE: "underline",
    lib.GHOSTTY_RENDER_STATE_CURSOR_VISUAL_STYLE_BLOCK_HOLLOW: "default",
}
# A GhosttyPoint is a union passed by value, which cffi cannot; the package has a twin of the same shape.
_grid_ref = union_fn("ghostty_terminal_grid_ref", "GhosttyResult(*)(GhosttyTerminal, GhosttyPointS, GhosttyGridRef*)")


@ffi.callback("GhosttyTerminalWritePtyFn")  # type: ignore[untyped-decorator]
def _on_reply(_terminal: Any, userdata: Any, data: Any, length: int) -> None:  # None, or cffi complains for ever
    ffi.from_handle(userdata).add(ffi.buffer(data, length)[:])


def _check(result: int, what: str) -> None:
    if result != lib.GHOSTTY_SUCCESS:
        raise GhosttyError(f"{what} failed: {result}")


def _sized(ctype: str) -> Any:
    """A zeroed struct of the kind that says its own size, also in the structs within."""

    def fill(struct: Any) -> None:
        for name, field in ffi.typeof(struct).item.fields:
            if name == "size":
                struct.size = ffi.sizeof(ffi.typeof(struct).item)
            elif field.type.kind == "struct":
                fill(ffi.addressof(struct[0], name))

    struct = ffi.new(ctype + "*")
    fill(struct)
    return struct


def _colour(value: Any) -> Colour:
    if value.tag == lib.GHOSTTY_STYLE_COLOR_PALETTE:
        return int(value.value.palette)
    if value.tag == lib.GHOSTTY_STYLE_COLOR_RGB:
        return value.value.rgb.r, value.value.rgb.g, value.value.rgb.b
    return None


def _style(value: Any) -> Style:
    return Style(
        bold=value.bold,
        faint=value.faint,
        italic=value.italic,
        underline=value.underline,
        blink=value.blink,
        inverse=value.inverse,
        invisible=value.invisible,
        strikethrough=value.strikethrough,
        overline=value.overline,
        foreground=_colour(value.fg_color),
        background=_colour(value.bg_color),
        underline_colour=_colour(value.underline_color),
    )


class _Replies:
    """What the terminal answered since the last look, up to REPLY_BYTES_MAX."""

    def __init__(self) -> None:
        self._received: list[bytes] = []
        self._room = REPLY_BYTES_MAX

    def add(self, reply: bytes) -> None:
        if len(reply) <= self._room:
            self._room -= len(reply)
            self._received.append(reply)

    def take_all(self) -> list[bytes]:
        received, self._received, self._room = self._received, [], REPLY_BYTES_MAX
        return received


class Terminal:
    """One terminal of the library. Owned by whoever made it; `close` frees it, and nothing may be called after."""

    def __init__(self, handle: Any, *, history_rows_max: int) -> None:
        """Takes over a GhosttyTerminal: see `create` and `restore`."""
        self._handle = handle
        self._free = weakref.finalize(self, lib.ghostty_terminal_free, handle)
        self._replies = _Replies()
        self._userdata = ffi.new_handle(self._replies)
        self._set(lib.GHOSTTY_TERMINAL_OPT_SCROLLBACK_MAX_BYTES, ffi.new("size_t*", _HISTORY_BYTES_MAX))
        self.limit_history(history_rows_max)
        # Before the first byte: of a sequence that began earlier nothing would have been kept.
        self._set(lib.GHOSTTY_TERMINAL_OPT_CONTINUATION_MAX_BYTES, ffi.new("size_t*", CONTINUATION_BYTES_MAX))
        self._set(lib.GHOSTTY_TERMINAL_OPT_KITTY_IMAGE_STORAGE_LIMIT, ffi.new("uint64_t*", 0))
        self._set(lib.GHOSTTY_TERMINAL_OPT_GLYPH_PROTOCOL, ffi.new("bool*", False))
        self._set(lib.GHOSTTY_TERMINAL_OPT_USERDATA, self._userdata)
        self._set(lib.GHOSTTY_TERMINAL_OPT_WRITE_PTY, _on_reply)

    @classmethod
    def create(cls, columns: int, rows: int, *, history_rows_max: int) -> Terminal:
        handle = ffi.new("GhosttyTerminal*")
        _check(lib.ghostty_terminal_new(ffi.NULL, handle, columns, rows), "making a terminal")
        terminal = cls(handle[0], history_rows_max=history_rows_max)
        # No program can ask for a hollow block, so this one tells that none has asked for anything. Snapshots hold it;
        # set again after a restore, it would stop a cursor that was told to blink.
        hollow = ffi.new("GhosttyTerminalCursorStyle*", lib.GHOSTTY_TERMINAL_CURSOR_STYLE_BLOCK_HOLLOW)
        terminal._set(lib.GHOSTTY_TERMINAL_OPT_DEFAULT_CURSOR_STYLE, hollow)
        return terminal

    @classmethod
    def restore(cls, snapshot: bytes, *, history_rows_max: int) -> Terminal:
        """A terminal as it was at `snapshot`, its parser too. GhosttyError: these bytes are none."""
        decoder, handle, source = (
            ffi.new("GhosttySnapshotDecoder*"),
            ffi.new("GhosttyTerminal*"),
            ffi.from_buffer(snapshot),
        )
        result = lib.ghostty_snapshot_decoder_new_buf(
            ffi.NULL, decoder, ffi.cast("const uint8_t*", source), len(snapshot)
        )
        _check(result, "reading a snapshot")
        try:
            options = (
                (
                    lib.GHOSTTY_SNAPSHOT_DECODER_OPT_MAX_CONTINUATION_BYTES,
                    ffi.new("size_t*", CONTINUATION_BYTES_MAX),
                ),
                # Without it a snapshot of the restored terminal fails in the middle of a sequence.
                (lib.GHOSTTY_SNAPSHOT_DECODER_OPT_RETAIN_CONTINUATION, ffi.new("bool*", True)),
            )
            for option, value in options:
                _check(lib.ghostty_snapshot_decoder_set(decoder[0], option, value), "reading a snapshot")
            _check(lib.ghostty_snapshot_decoder_decode(decoder[0], handle), "restoring a snapshot")
        finally:
            lib.ghostty_snapshot_decoder_free(decoder[0])
        return cls(handle[0], history_rows_max=history_rows_max)

    def copy(self) -> Terminal | None:
        """Another one just like it; None where there is no snapshot, or one that takes too long to restore."""
        snapshot = self.snapshot()
        if snapshot is None or len(snapshot) > COPY_BYTES_MAX:
            return None
        return Terminal.restore(snapshot, history_rows_max=self._history_rows_limit)

    def close(self) -> None:
        self._handle = ffi.NULL
        self._free()

    # ------------------------------------------------------------------------------------------- changing it

    def write(self, data: bytes) -> None:
        lib.ghostty_terminal_vt_write(self._handle, data, len(data))

    def resize(self, columns: int, rows: int) -> None:
        # The size of a cell in pixels matters to images and size reports alone, and there are none.
        _check(lib.ghostty_terminal_resize(self._handle, columns, rows, 8, 16), "resizing a terminal")

    def limit_history(self, rows_max: int) -> None:
        """Drop the oldest lines beyond; whole pages of some hundred lines, so that fewer may be left."""
        self._history_rows_limit = rows_max
        self._set(lib.GHOSTTY_TERMINAL_OPT_SCROLLBACK_MAX_LINES, ffi.new("size_t*", rows_max))

    def take_replies(self) -> list[bytes]:
        """What it answered to questions since the last call, one by one, REPLY_BYTES_MAX in all."""
        return self._replies.take_all()

    def snapshot(self) -> bytes | None:
        """All of it, or None in the middle of a sequence that is longer than CONTINUATION_BYTES_MAX."""
        start, length = ffi.new("uint8_t**"), ffi.new("size_t*")
        result = lib.ghostty_snapshot_encode_alloc(self._handle, ffi.NULL, start, length)
        if result == lib.GHOSTTY_INVALID_VALUE:
            return None
        _check(result, "taking a snapshot")
        try:
            return bytes(ffi.buffer(start[0], length[0]))
        finally:
            lib.ghostty_free(ffi.NULL, start[0], length[0])

    # --------------------------------------------------------------------------------------------- asking it

    @property
    def columns(self) -> int:
        return int(self._get(lib.GHOSTTY_TERMINAL_DATA_COLS, "uint16_t"))

    @property
    def rows(self) -> int:
        return int(self._get(lib.GHOSTTY_TERMINAL_DATA_ROWS, "uint16_t"))

    @property
    def history_rows(self) -> int:
        """Of the screen that is shown; the alternate one has none."""
        return int(self._get(lib.GHOSTTY_TERMINAL_DATA_SCROLLBACK_ROWS, "size_t"))

    @property
    def is_alternate(self) -> bool:
        shown = self._get(lib.GHOSTTY_TERMINAL_DATA_ACTIVE_SCREEN, "GhosttyTerminalScreen")
        return bool(shown == lib.GHOSTTY_TERMINAL_SCREEN_ALTERNATE)

    @property
    def cursor(self) -> tuple[int, int]:
        """Column and row from 0, whatever origin mode says."""
        column = self._get(lib.GHOSTTY_TERMINAL_DATA_CURSOR_X, "uint16_t")
        return int(column), int(self._get(lib.GHOSTTY_TERMINAL_DATA_CURSOR_Y, "uint16_t"))

    @property
    def is_wrap_pending(self) -> bool:
        """The last column was written: the next character goes to the next line."""
        return bool(self._get(lib.GHOSTTY_TERMINAL_DATA_CURSOR_PENDING_WRAP, "bool"))

    @property
    def pen(self) -> Style:
        """What the next character will look like."""
        style = _sized("GhosttyStyle")  # not the cursor's shape, as the name of the value suggests
        _check(lib.ghostty_terminal_get(self._handle, lib.GHOSTTY_TERMINAL_DATA_CURSOR_STYLE, style), "reading the pen")
        return _style(style)

    @property
    def kitty_flags(self) -> int:
        return int(self._get(lib.GHOSTTY_TERMINAL_DATA_KITTY_KEYBOARD_FLAGS, "uint8_t"))

    @property
    def title(self) -> bytes:
        return self._string(lib.GHOSTTY_TERMINAL_DATA_TITLE)

    @property
    def directory(self) -> bytes:
        return self._string(lib.GHOSTTY_TERMINAL_DATA_PWD)

    @property
    def cursor_shape(self) -> CursorShape:
        state = _RenderState(self._handle, rows_above=0)
        try:
            return state.cursor_shape()
        finally:
            state.close()

    def has_mode(self, number: int, *, is_ansi: bool = False) -> bool:
        config = ffi.new("GhosttyTerminalModeConfig*")
        config.mode = (number & 0x7FFF) | (is_ansi << 15)  # ghostty_mode_new is inline in C, so it is done here
        _check(lib.ghostty_terminal_get(self._handle, lib.GHOSTTY_TERMINAL_DATA_MODE, config), f"mode {number}")
        return bool(config.value)

    def changed_palette(self) -> dict[int, tuple[int, int, int]]:
        """The colours of the palette that a program has set."""
        now, default = ffi.new("GhosttyColorRgb[256]"), ffi.new("GhosttyColorRgb[256]")
        for key, colours in (
            (lib.GHOSTTY_TERMINAL_DATA_COLOR_PALETTE, now),
            (lib.GHOSTTY_TERMINAL_DATA_COLOR_PALETTE_DEFAULT, default),
        ):
            _check(lib.ghostty_terminal_get(self._handle, key, colours), "reading the palette")
        if ffi.buffer(now)[:] == ffi.buffer(default)[:]:
            return {}
        both = ((number, _rgb(now[number]), _rgb(default[number])) for number in range(256))
        return {number: is_now for number, is_now, was in both if is_now != was}

    def changed_colours(self) -> dict[int, tuple[int, int, int]]:
        """Foreground, background and cursor, if a program has set them, by the number of their OSC."""
        found = {}
        for number, key in (
            (10, lib.GHOSTTY_TERMINAL_DATA_COLOR_FOREGROUND),
            (11, lib.GHOSTTY_TERMINAL_DATA_COLOR_BACKGROUND),
            (12, lib.GHOSTTY_TERMINAL_DATA_COLOR_CURSOR),
        ):
            colour = ffi.new("GhosttyColorRgb*")
            result = lib.ghostty_terminal_get(self._handle, key, colour)
            if result != lib.GHOSTTY_NO_VALUE:
                _check(result, "reading a colour")
                found[number] = _rgb(colour)
        return found

    def unfinished(self) -> bytes | None:
        """The bytes of the sequence or character that has begun and not ended; None if they are too many."""
        length = ffi.new("size_t*")
        result = lib.ghostty_terminal_continuation_buf(self._handle, ffi.NULL, 0, length)
        if result == lib.GHOSTTY_SUCCESS:
            return b""
        if result != lib.GHOSTTY_OUT_OF_SPACE:
            return None
        buffer = ffi.new("uint8_t[]", length[0])
        _check(lib.ghostty_terminal_continuation_buf(self._handle, buffer, len(buffer), length), "reading a sequence")
        return bytes(ffi.buffer(buffer, length[0]))

    def sequences(self, *extras: str) -> bytes:
        """The library's own words for parts of the state that it has no getter for, of these:

        scrolling_region, tabstops, keyboard (modifyOtherKeys), hyperlink, protection, charsets.
        """
        bare = self._format(())
        told = self._format(extras)
        # It always prints cells as well, here one; tab stops come before it, all others behind.
        return told.removesuffix(bare) if told.endswith(bare) and extras == ("tabstops",) else told[len(bare) :]

    def rows_shown(self, *, history_rows: int) -> Iterator[Row]:
        """The newest `history_rows` lines that were scrolled off, as far as there are, then the rows of the screen.

        A row may be asked until the next one is taken. The terminal must not change in between.
        """
        scrolled_off = self.history_rows
        above = min(history_rows, scrolled_off, _HISTORY_ROWS_MAX)
        state = _RenderState(self._handle, rows_above=above)
        try:
            for index, row in enumerate(state.rows(), start=scrolled_off - above):
                row.index, row.is_history = index, index < scrolled_off
                yield row
        finally:
            state.close()

    # ------------------------------------------------------------------------------------------------ below

    def _set(self, option: int, value: Any) -> None:
        _check(lib.ghostty_terminal_set(self._handle, option, value), f"setting terminal option {option}")

    def _get(self, key: int, ctype: str) -> Any:
        out = ffi.new(ctype + "*")
        _check(lib.ghostty_terminal_get(self._handle, key, out), f"reading terminal value {key}")
        return out[0]

    def _string(self, key: int) -> bytes:
        value = self._get(key, "GhosttyString")
        return bytes(ffi.buffer(value.ptr, value.len)) if value.len else b""

    def _format(self, extras: tuple[str, ...]) -> bytes:
        options, selection, formatter = _formatter_parts()
        options.emit = lib.GHOSTTY_FORMATTER_FORMAT_VT
        for name in extras:
            of_screen = name in {"hyperlink", "protection", "charsets"}
            setattr(options.extra.screen if of_screen else options.extra, name, True)
        corner = _Places(self._handle, lib.GHOSTTY_POINT_TAG_ACTIVE).find(0, 0)
        selection.start, selection.end, options.selection = corner[0], corner[0], selection
        _check(lib.ghostty_formatter_terminal_new(ffi.NULL, formatter, self._handle, options[0]), "formatting")
        length = ffi.new("size_t*")
        try:
            lib.ghostty_formatter_format_buf(formatter[0], ffi.NULL, 0, length)
            buffer = ffi.new("uint8_t[]", max(length[0], 1))
            _check(lib.ghostty_formatter_format_buf(formatter[0], buffer, len(buffer), length), "formatting")
            return bytes(ffi.buffer(buffer, length[0]))
        finally:
            lib.ghostty_formatter_free(formatter[0])


def _formatter_parts() -> tuple[Any, Any, Any]:
    return _sized("GhosttyFormatterTerminalOptions"), _sized("GhosttySelection"), ffi.new("GhosttyFormatter*")


def _rgb(colour: Any) -> tuple[int, int, int]:
    return colour.r, colour.g, colour.b


class _Places:
    """Finds cells, by column and row from the top of what `tag` says. Each place holds until the next is found."""

    def __init__(self, terminal: Any, tag: int) -> None:
        self._terminal = terminal
        self._point, self._reference = ffi.new("GhosttyPointS*"), _sized("GhosttyGridRef")
        self._point.tag = tag

    def find(self, column: int, row: int) -> Any:
        self._point.value.x, self._point.value.y = column, row
        _check(_grid_ref(self._terminal, self._point[0], self._reference), "finding a cell")
        return self._reference


@dataclass(slots=True)
class Row:
    """One row; its cells are 64 bits each, as CELL says, the empty ones at the end cut off."""

    cells: bytes
    page: int  # in one page, equal style numbers are equal styles
    wraps: bool  # its text goes on in the next row
    has_clusters: bool
    has_links: bool
    _state: _RenderState
    index: int = 0  # from the oldest row that the terminal still has
    is_history: bool = False

    def style(self, column: int) -> Style:
        return self._state.style(column)

    def cluster(self, column: int) -> list[int]:
        """The code points of a cell that has more than one, as many as there is any use for."""
        return self._state.cluster(column)

    def link(self, column: int) -> bytes:
        """The URI of a cell that has a link; empty if it is longer than any use."""
        return self._state.link(column, self.index)


class _RenderState:
    """The library's copy of the rows that are shown, and of the cursor. `close` frees it."""

    def __init__(self, terminal: Any, *, rows_above: int) -> None:
        self._state = ffi.new("GhosttyRenderState*")
        self._iterator = ffi.new("GhosttyRenderStateRowIterator*")
        self._cells = ffi.new("GhosttyRenderStateRowCells*")
        self._are_cells_fresh = False
        self._style = _sized("GhosttyStyle")
        self._places = _Places(terminal, lib.GHOSTTY_POINT_TAG_SCREEN)
        self._uri, self._uri_length = ffi.new("uint8_t[]", _URI_BYTES_MAX), ffi.new("size_t*")
        _check(lib.ghostty_render_state_new(ffi.NULL, self._state), "making a render state")
        overscan = ffi.new("GhosttyRenderStateOverscan*")
        overscan.above = rows_above
        option = lib.GHOSTTY_RENDER_STATE_OPTION_OVERSCAN
        _check(lib.ghostty_render_state_set(self._state[0], option, overscan), "asking for history")
        _check(lib.ghostty_render_state_update(self._state[0], terminal), "reading the screen")

    def close(self) -> None:
        for pointer, free in (
            (self._cells, lib.ghostty_render_state_row_cells_free),
            (self._iterator, lib.ghostty_render_state_row_iterator_free),
            (self._state, lib.ghostty_render_state_free),
        ):
            if pointer[0] != ffi.NULL:
                free(pointer[0])
                pointer[0] = ffi.NULL

    def cursor_shape(self) -> CursorShape:
        cursor = _sized("GhosttyRenderStateCursor")
        key = lib.GHOSTTY_RENDER_STATE_DATA_CURSOR
        _check(lib.ghostty_render_state_get(self._state[0], key, cursor), "reading the cursor")
        return CursorShape(_SHAPES[cursor.visual_style], bool(cursor.blinking))

    def rows(self) -> Iterator[Row]:
        _check(lib.ghostty_render_state_row_iterator_new(ffi.NULL, self._iterator), "reading rows")
        _check(lib.ghostty_render_state_row_cells_new(ffi.NULL, self._cells), "reading rows")
        key = lib.GHOSTTY_RENDER_STATE_DATA_ROW_ITERATOR
        _check(lib.ghostty_render_state_get(self._state[0], key, self._iterator), "reading rows")
        cells, flags = ffi.new("GhosttyCellsView*"), ffi.new("GhosttyRow*")
        row_id = ffi.new("GhosttyRenderStateRowId*")
        keys = ffi.new(
            "GhosttyRenderStateRowData[]",
            [
                lib.GHOSTTY_RENDER_STATE_ROW_DATA_CELLS_RAW,
                lib.GHOSTTY_RENDER_STATE_ROW_DATA_RAW,
                lib.GHOSTTY_RENDER_STATE_ROW_DATA_ID,
            ],
        )
        values, written = ffi.new("void*[]", [cells, flags, row_id]), ffi.new("size_t*")
        iterator, buffer = self._iterator[0], ffi.buffer
        following, read = lib.ghostty_render_state_row_iterator_next, lib.ghostty_render_state_row_get_multi
        while following(iterator):
            _check(read(iterator, 3, keys, values, written), "reading a row")
            self._are_cells_fresh = False
            bits = flags[0]
            yield Row(
                cells=buffer(cells.ptr, cells.len * _CELL_BYTES)[:],
                page=row_id.bits[0],
                wraps=bool(bits & _ROW.wraps),
                has_clusters=bool(bits & _ROW.has_clusters),
                has_links=bool(bits & _ROW.has_links),
                _state=self,
            )

    def style(self, column: int) -> Style:
        self._select(column)
        key = lib.GHOSTTY_RENDER_STATE_ROW_CELLS_DATA_STYLE
        _check(lib.ghostty_render_state_row_cells_get(self._cells[0], key, self._style), "reading a style")
        return _style(self._style)

    def cluster(self, column: int) -> list[int]:
        self._select(column)
        length = ffi.new("uint32_t*")
        key = lib.GHOSTTY_RENDER_STATE_ROW_CELLS_DATA_GRAPHEMES_LEN
        _check(lib.ghostty_render_state_row_cells_get(self._cells[0], key, length), "reading a character")
        codepoints = ffi.new("uint32_t[]", max(length[0], 1))
        key = lib.GHOSTTY_RENDER_STATE_ROW_CELLS_DATA_GRAPHEMES_BUF
        _check(lib.ghostty_render_state_row_cells_get(self._cells[0], key, codepoints), "reading a character")
        return list(codepoints[0 : min(length[0], _CLUSTER_CODEPOINTS_MAX)])

    def link(self, column: int, row: int) -> bytes:
        place = self._places.find(column, row)
        result = lib.ghostty_grid_ref_hyperlink_uri(place, self._uri, _URI_BYTES_MAX, self._uri_length)
        return bytes(ffi.buffer(self._uri, self._uri_length[0])) if result == lib.GHOSTTY_SUCCESS else b""

    def _select(self, column: int) -> None:
        if not self._are_cells_fresh:
            key = lib.GHOSTTY_RENDER_STATE_ROW_DATA_CELLS
            _check(lib.ghostty_render_state_row_get(self._iterator[0], key, self._cells), "reading cells")
            self._are_cells_fresh = True
        _check(lib.ghostty_render_state_row_cells_select(self._cells[0], column), "reading cells")
