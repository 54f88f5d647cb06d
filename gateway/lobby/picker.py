"""The picker on a client's terminal: prompt_toolkit reads the keys and draws, picker_state.py says what.

It is imported when the first picker is shown, in a thread, since that takes 200 ms. A key and what it changes cost one
or two milliseconds; how large the drawing may be, and how much may be typed ahead, is bounded.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TextIO, cast

from prompt_toolkit.application import Application, create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input, typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import FormattedTextControl, Layout, Window
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from gateway.errors import GatewayError
from gateway.lobby.picker_state import Choice, Entry, PickerState

if TYPE_CHECKING:
    from gateway.lobby.channel_end import ChannelEnd
    from gateway.lobby.themes import Theme

COLUMNS_MAX = 250  # drawing takes longer the more cells there are: 5 ms here
ROWS_MAX = 80
KEYS_WAITING_MAX_BYTES = 4096
KEYS_PER_TURN_BYTES = 256
# An arrow key begins with the same byte as Esc; over a slow line the rest comes a little later.
ESCAPE_SECONDS = 0.1
REFRESH_SECONDS = 3.0  # two short questions to the database
RESIZE_SECONDS = 0.05  # a window that is being dragged is drawn anew at this pace


Look = Callable[[], Awaitable[list[Entry]]]


async def pick(state: PickerState, end: ChannelEnd, *, look: Look, term: str, theme: Theme, has_colour: bool) -> Choice:
    """Show it until something is chosen. Whichever way it ends, the client's screen is as it was before."""
    # prompt_toolkit finds "the" application by a context variable. Without a session of its own each picker's keys
    # would act on the one that was opened last.
    with create_app_session():
        return await _Picker(state, end, look, term=term, theme=theme, has_colour=has_colour).run()


class _Picker:
    """One picker (a `KeyTaker` of the channel)."""

    def __init__(
        self, state: PickerState, end: ChannelEnd, look: Look, *, term: str, theme: Theme, has_colour: bool
    ) -> None:
        self._state = state
        self._look = look
        self._end = end
        self._keys = _Keys(lambda: not end.channel.is_writing_paused)
        self._screen = _Screen(end)
        self._resizing: asyncio.TimerHandle | None = None
        self._application: Application[Choice] = Application(
            layout=Layout(Window(FormattedTextControl(self._text, focusable=True, show_cursor=True), wrap_lines=False)),
            key_bindings=_bindings(state),
            style=_style(theme),
            full_screen=True,
            mouse_support=False,
            include_default_pygments_style=False,
            color_depth=ColorDepth.DEPTH_4_BIT if has_colour else ColorDepth.DEPTH_1_BIT,
            input=self._keys,
            output=Vt100_Output(cast(TextIO, self._screen), self._size, term=term, enable_bell=False, enable_cpr=False),
        )
        self._application.ttimeoutlen = ESCAPE_SECONDS
        self._application.terminal_size_polling_interval = None  # the client says so

    async def run(self) -> Choice:
        self._end.give_keys(self)
        loop = asyncio.get_running_loop()
        try:
            return await self._application.run_async(
                pre_run=self._begin,
                handle_sigint=False,
                set_exception_handler=False,
                slow_callback_duration=loop.slow_callback_duration,
            )
        except EOFError:
            return None
        finally:
            self._end.key_taker = None
            self._screen.is_closed = True
            if self._resizing is not None:
                self._resizing.cancel()
            # prompt_toolkit puts back what it found, which may be another picker's that has ended by then.
            loop.remove_signal_handler(signal.SIGWINCH)
            typeahead._buffer.pop(self._keys.typeahead_hash(), None)  # kept for ever otherwise

    def _begin(self) -> None:
        self._application.create_background_task(self._keep_fresh())  # cancelled at the end of the run

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            if self._end.channel.is_writing_paused:
                continue
            try:
                entries = await self._look()
            except GatewayError:
                continue  # the database does not answer, and is in the log; the list stays as it was
            if entries != self._state.entries:
                self._state.refresh(entries)
                self._application.invalidate()

    # ------------------------------------------------------------------------------------- the channel (KeyTaker)

    def feed(self, data: bytes) -> None:
        self._keys.feed(data)

    def resized(self) -> None:
        if self._resizing is None:
            self._resizing = asyncio.get_running_loop().call_later(RESIZE_SECONDS, self._draw_anew)

    def has_room(self) -> None:
        self._keys.go_on()

    def end(self) -> None:
        self._keys.end()

    # ------------------------------------------------------------------------------------------------- drawing

    def _draw_anew(self) -> None:
        """Not at once: a window that is dragged changes all the time, and a client that does not read waits."""
        self._resizing = None
        if self._end.channel.is_writing_paused:
            self.resized()
        elif self._application.is_running:
            self._application._on_resize()

    def _size(self) -> Size:
        return Size(rows=min(self._end.rows, ROWS_MAX), columns=min(self._end.columns, COLUMNS_MAX))

    def _text(self) -> StyleAndTextTuples:
        size = self._size()
        fragments: StyleAndTextTuples = []
        for number, line in enumerate(self._state.lines(size.columns, size.rows)):
            if number:
                fragments.append(("", "\n"))
            for part, text in line:
                fragments.append(("[SetCursorPosition]", "") if part == "cursor" else (f"class:{part}", text))
        return fragments


def _bindings(state: PickerState) -> KeyBindings:
    keys = KeyBindings()
    plain: dict[str, Callable[[], object]] = {
        "up": lambda: state.move(-1),
        "down": lambda: state.move(1),
        "c-p": lambda: state.move(-1),
        "pageup": lambda: state.move(-state.page),
        "pagedown": lambda: state.move(state.page),
        "home": lambda: state.move(-len(state.shown)),
        "end": lambda: state.move(len(state.shown)),
        "backspace": state.erase,
        "c-u": state.erase_all,
        "c-n": state.ask_for_new,
    }
    for key, act in plain.items():
        keys.add(key)(lambda _, act=act: act())

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        choice = state.choose()
        if choice is not None:
            _leave(event, choice)

    @keys.add("escape", eager=True)
    def _(event: KeyPressEvent) -> None:
        if not state.give_up_new():
            _leave(event, None)

    @keys.add("c-c")
    @keys.add("c-d")
    def _(event: KeyPressEvent) -> None:
        _leave(event, None)

    @keys.add(Keys.BracketedPaste)
    @keys.add(Keys.Any)
    def _(event: KeyPressEvent) -> None:
        is_command = not state.filter and state.typed is None
        if is_command and event.data == "q":
            _leave(event, None)
        elif is_command and event.data == "n" and state.may_make:
            state.ask_for_new()
        elif len(event.data) == 1 or event.key_sequence[0].key == Keys.BracketedPaste:
            state.type(event.data)

    return keys


def _leave(event: KeyPressEvent, choice: Choice) -> None:
    if not event.app.is_done:  # a second key of the same turn
        event.app.exit(result=choice)


# ------------------------------------------------------------------------------------------- keys and screen


class _Keys(Input):
    """Keys from the channel. No pipe in between: writing to a full one would block everybody."""

    def __init__(self, may_draw: Callable[[], bool]) -> None:
        self._may_draw = may_draw
        self._waiting = bytearray()
        self._pressed: list[KeyPress] = []
        self._parser = Vt100Parser(self._pressed.append)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ready: Callable[[], None] | None = None
        self._is_scheduled = False
        self._has_ended = False

    def feed(self, data: bytes) -> None:
        """What is typed faster than that was not meant."""
        self._waiting += data[: max(0, KEYS_WAITING_MAX_BYTES - len(self._waiting))]
        self.go_on()

    def end(self) -> None:
        self._has_ended = True
        self.go_on()

    def go_on(self) -> None:
        has_news = bool(self._waiting) or self._has_ended
        if has_news and not self._is_scheduled and self._ready is not None and self._may_draw():
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        if self._ready is not None:
            self._ready()
            if self._waiting:
                self.go_on()

    def read_keys(self) -> list[KeyPress]:
        piece = bytes(self._waiting[:KEYS_PER_TURN_BYTES])
        del self._waiting[:KEYS_PER_TURN_BYTES]
        self._parser.feed(self._decoder.decode(piece))
        return self._taken()

    def flush_keys(self) -> list[KeyPress]:
        self._parser.flush()
        return self._taken()

    def _taken(self) -> list[KeyPress]:
        pressed = list(self._pressed)
        self._pressed.clear()
        return pressed

    def attach(self, input_ready_callback: Callable[[], None]) -> AbstractContextManager[None]:
        return self._attached(input_ready_callback)

    def detach(self) -> AbstractContextManager[None]:
        return self._attached(None)

    @contextlib.contextmanager
    def _attached(self, ready: Callable[[], None] | None) -> Iterator[None]:
        before, self._ready = self._ready, ready
        self.go_on()
        try:
            yield
        finally:
            self._ready = before

    def raw_mode(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()  # the client's terminal is raw

    def cooked_mode(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    @property
    def closed(self) -> bool:
        return self._has_ended and not self._waiting

    def fileno(self) -> int:
        raise io.UnsupportedOperation("keys from a channel have no descriptor")

    def typeahead_hash(self) -> str:
        return f"lobby-{id(self)}"


class _Screen:
    """As much of a text file as Vt100_Output writes to; nothing passes any more once it is closed."""

    encoding = "utf-8"

    def __init__(self, end: ChannelEnd) -> None:
        self._end = end
        self.is_closed = False

    def write(self, text: str) -> None:
        if not self.is_closed:
            self._end.channel.write(text.encode(errors="replace"))

    def flush(self) -> None:
        """Nothing is held back here."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise io.UnsupportedOperation("a channel has no descriptor")


def _style(theme: Theme) -> Style:
    parts = ("header", "name", "text", "quiet", "chosen", "hint")
    return Style([(part, _as_drawn(getattr(theme, part))) for part in parts])


def _as_drawn(style: str) -> str:
    """rich's words for a style as prompt_toolkit's: `bold black on bright_cyan`."""
    words: list[str] = []
    ground = "fg"
    for word in style.split():
        if word == "on":
            ground = "bg"
        elif word in ("bold", "dim", "underline", "reverse"):
            words.append(word)
        else:
            words.append(f"{ground}:{_COLOURS.get(word, 'ansi' + word.replace('_', ''))}")
    return " ".join(words)


_COLOURS = {"white": "ansigray", "bright_white": "ansiwhite"}
