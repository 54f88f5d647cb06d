"""Two real terminals that say to the cell what they show: tmux, and xterm.js as VS Code draws with it.

Each comes in two forms. A *window* runs a client, and answers what programs ask terminals. A *screen* is fed bytes:
what an uninterrupted client would show of them. Neither knows of the gateway, or of its model of a terminal.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.support.clients import node_modules
from tests.support.installed import DEADLINE_SECONDS, STOP_SECONDS, until
from tests.support.pty_client import PtyClient

XTERM = Path(__file__).parent / "xterm_js"
TERM = "xterm-256color"
CELL_PIXELS = (16, 32)

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


# ------------------------------------------------------------------------------------------------- xterm.js


class XtermJs:
    """A node with any number of xterm.js terminals; `with` ends it."""

    name = "xterm.js"

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["node", str(XTERM / "terminals.js")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/",
            env={"PATH": os.environ["PATH"], "NODE_PATH": str(node_modules(XTERM))},
        )  # fmt: skip
        self._opened = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(STOP_SECONDS)

    def screen(self, size: Size) -> XtermScreen:
        return XtermScreen(self, size)

    def window(self, command: Sequence[str | bytes], size: Size, *, term: str = TERM) -> XtermWindow:
        return XtermWindow(XtermScreen(self, size), command, size, term=term)

    def new_id(self) -> int:
        self._opened += 1
        return self._opened

    def ask(self, operation: str, **given: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"operation": operation, **given}).encode() + b"\n")
        self._process.stdin.flush()
        readable, _, _ = select.select([self._process.stdout], [], [], DEADLINE_SECONDS)
        assert readable, f"xterm.js did not answer {operation}"
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or b"null")
        assert answer is not None, f"xterm.js ended at {operation}"
        return answer


class XtermScreen:
    """One terminal of xterm.js."""

    def __init__(self, node: XtermJs, size: Size) -> None:
        self._node, self._id = node, node.new_id()
        node.ask("open", id=self._id, columns=size.columns, rows=size.rows)

    def feed(self, data: bytes) -> None:
        self.answer(data)

    def answer(self, data: bytes) -> bytes:
        """Feed it; what the terminal replies."""
        answer = self._node.ask("write", id=self._id, data=base64.b64encode(data).decode())
        return base64.b64decode(answer["replies"])

    def resize(self, size: Size) -> None:
        self._node.ask("resize", id=self._id, columns=size.columns, rows=size.rows)

    def look(self) -> Seen:
        told = self._node.ask("look", id=self._id)
        rows, behind = ([[(c, style) for c, style in row] for row in told[name]] for name in ("rows", "behind"))
        return Seen(rows, (told["cursor"][0], told["cursor"][1]), told["title"], told["modes"], behind)

    def history(self, lines: int) -> list[str]:
        """What scrolled off its top, the newest last."""
        told: list[str] = self._node.ask("look", id=self._id, history_lines=lines)["history"]
        return told

    def close(self) -> None:
        self._node.ask("close", id=self._id)


class XtermWindow(PtyClient):
    """A client whose terminal is drawn, and answered, by xterm.js; `with` kills it."""

    def __init__(self, screen: XtermScreen, command: Sequence[str | bytes], size: Size, *, term: str) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": "/", "LANG": "C.UTF-8", "TERM": term}
        super().__init__(command, environment=environment, rows=size.rows, columns=size.columns)
        self.screen = screen
        self._drawn = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def look(self) -> Seen:
        self.draw()
        return self.screen.look()

    def draw(self, *, seconds: float = 0) -> bytes:
        """Draw what the client has printed, or prints within that time; and answer what it asks."""
        while self._take(seconds):
            seconds = 0
        new = self.printed[self._drawn :]
        self._drawn = len(self.printed)
        if new and (replies := self.screen.answer(new)):
            self.type(replies)
        return new

    def resize(self, size: Size) -> None:  # type: ignore[override]
        self.screen.resize(size)
        super().resize(rows=size.rows, columns=size.columns)

    def _set_size(self, rows: int, columns: int) -> None:
        # With pixels, and the same that tmux gives: a window change is also one of pixels only.
        size = struct.pack("HHHH", rows, columns, columns * CELL_PIXELS[0], rows * CELL_PIXELS[1])
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def kill(self) -> None:
        if self.process.returncode is not None:
            return
        self.process.kill()
        self.process.wait(STOP_SECONDS)
        self.hang_up()
        self.screen.close()


# ----------------------------------------------------------------------------------------------------- tmux

# What tmux tells of a pane. Bracketed paste and the encoding of focus are not among it: xterm.js tells those.
_MODES = (
    "alternate_on", "cursor_flag", "insert_flag", "keypad_cursor_flag", "keypad_flag", "origin_flag", "wrap_flag",
    "mouse_standard_flag", "mouse_button_flag", "mouse_all_flag", "mouse_sgr_flag", "mouse_utf8_flag",
    "scroll_region_upper", "scroll_region_lower", "pane_tabs",
)  # fmt: skip
_FORMAT = "\t".join(f"#{{{name}}}" for name in ("cursor_x", "cursor_y", *_MODES, "pane_title"))
# DSR, which changes nothing: answered once everything before it is on the screen.
_ARE_YOU_THERE, _HERE = b"\x1b[5n", b"\x1b[0n"
# Bytes come by a FIFO, answers go to a file: `cat` runs in the background with the terminal as its input.
_FEEDER = 'stty raw -echo; exec 3<&0; cat <&3 >"$0.answers" & exec cat "$0"'


class Tmux:
    """A tmux server with any number of windows, each of its own size; `with` ends it."""

    name = "tmux"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hp-tmux-", dir="/tmp")
        self.directory = Path(self._folder.name)
        self._fed = 0
        environment = {"PATH": os.environ["PATH"], "HOME": self._folder.name, "LANG": "C.UTF-8"}
        options = {"remain-on-exit": "on", "status": "off", "default-terminal": TERM,
                   "history-limit": "1000", "allow-rename": "off"}  # fmt: skip
        words = [word for name, value in options.items() for word in (";", "set", "-g", name, value)]
        # With nobody attached to it, new windows have `default-size`.
        self.run("-f", "/dev/null", "start-server", *words, ";", "new-session", "-d", "--", "cat", env=environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], capture_output=True, timeout=DEADLINE_SECONDS)
        self._folder.cleanup()

    def screen(self, size: Size) -> TmuxScreen:
        self._fed += 1
        return TmuxScreen(self, self.directory / f"feed-{self._fed}", size)

    def window(self, command: Sequence[str | bytes], size: Size, *, term: str = TERM) -> TmuxWindow:
        return TmuxWindow(self, command, size, term=term)

    def open(self, command: Sequence[str | bytes], size: Size, *, term: str) -> tuple[str, int]:
        """A new window; its pane, and the process in it."""
        told = self.run("set", "-g", "default-size", str(size), ";", "set", "-g", "default-terminal", term, ";",
                        "new-window", "-d", "-P", "-F", "#{pane_id} #{pane_pid}", "--", *command)  # fmt: skip
        pane, pid = told.split()
        return pane.decode(), int(pid)

    def look(self, pane: str) -> Seen:
        """One answer for all of it, so that nothing moves in between."""
        shown = ("capture-pane", "-p", "-e", "-N", "-t", pane)
        told = self.run("display-message", "-p", "-t", pane, _FORMAT, ";", *shown, ";",
                        # The main screen, while the alternate one is shown; else an empty line (-q).
                        "display-message", "-p", "behind", ";", *shown[:1], "-a", "-q", *shown[1:])  # fmt: skip
        facts, _, rest = told.decode(errors="replace").partition("\n")
        column, row, *flags, title = facts.split("\t", 2 + len(_MODES))
        lines, alone, behind = (
            rest.rpartition("behind\n") if not rest.endswith("behind\n") else (rest[:-7], "behind", "")
        )
        assert alone, rest
        modes: dict[str, object] = dict(zip(_MODES, flags, strict=True))
        return Seen(_parsed(lines), (int(column), int(row)), title, modes,
                    _parsed(behind) if modes["alternate_on"] == "1" else [])  # fmt: skip

    def run(self, *words: str | bytes, **options: object) -> bytes:
        settings: dict[str, object] = {"capture_output": True, "timeout": DEADLINE_SECONDS, "check": True, **options}
        done: subprocess.CompletedProcess[bytes] = subprocess.run(["tmux", "-S", self._socket, *words], **settings)
        return done.stdout

    @property
    def _socket(self) -> str:
        return str(self.directory / "s")


class TmuxScreen:
    """A pane that shows what it is fed."""

    def __init__(self, tmux: Tmux, fifo: Path, size: Size) -> None:
        os.mkfifo(fifo)
        self._tmux = tmux
        self._answers = fifo.with_name(fifo.name + ".answers")
        self._asked = 0
        self.pane, _ = tmux.open(["sh", "-c", _FEEDER, str(fifo)], size, term=TERM)
        self._feed = fifo.open("wb", buffering=0)  # waits for the reader

    def feed(self, data: bytes) -> None:
        self._asked += data.count(_ARE_YOU_THERE) + 1
        data += _ARE_YOU_THERE
        while data:
            data = data[self._feed.write(data) :]
        until(lambda: self._answers.read_bytes().count(_HERE) >= self._asked, "tmux has drawn what it was fed")

    def resize(self, size: Size) -> None:
        self._tmux.run("resize-window", "-t", self.pane, "-x", str(size.columns), "-y", str(size.rows))

    def look(self) -> Seen:
        return self._tmux.look(self.pane)

    def close(self) -> None:
        self._feed.close()
        self._tmux.run("kill-window", "-t", self.pane)


class TmuxWindow:
    """A client in a pane."""

    def __init__(self, tmux: Tmux, command: Sequence[str | bytes], size: Size, *, term: str) -> None:
        self._tmux = tmux
        self.pane, self.pid = tmux.open(command, size, term=term)

    def type(self, data: bytes) -> None:
        self._tmux.run("load-buffer", "-", ";", "paste-buffer", "-d", "-r", "-t", self.pane, input=data)

    def look(self) -> Seen:
        return self._tmux.look(self.pane)

    def resize(self, size: Size) -> None:
        self._tmux.run("resize-window", "-t", self.pane, "-x", str(size.columns), "-y", str(size.rows))

    def kill(self) -> None:
        if self.pid == 0:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.pid = 0
        self._tmux.run("kill-window", "-t", self.pane)


_TOKEN = re.compile(
    r"\x1b\[(?P<pen>[0-9;:]*)m|\x1b\](?:[^\x07\x1b]*)(?:\x07|\x1b\\)|(?P<shift>[\x0e\x0f])|(?P<text>.)", re.S
)
_LINE_DRAWING = dict(zip("`afgijklmnopqrstuvwxyz{|}~", "◆▒°±␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·", strict=True))
_FLAGS = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 5: "blink", 7: "inverse", 8: "invisible", 9: "strike",
          53: "overline"}  # fmt: skip
_FLAGS_OFF = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 25: ("blink",), 27: ("inverse",),
              28: ("invisible",), 29: ("strike",), 55: ("overline",)}  # fmt: skip
# The 16 named colours and the first 16 of the palette are the same ones.
_NAMED_COLOURS = {base + n: (name, n + (8 if base >= 90 else 0))
                  for base, name in ((30, "fg"), (40, "bg"), (90, "fg"), (100, "bg")) for n in range(8)}  # fmt: skip
# These are drawn also where there is no letter.
_DRAWN_ALONE = frozenset({"inverse", "underline", "strike", "overline"})


def _parsed(printed: str) -> list[list[Cell]]:
    """Cells of `capture-pane -e`, without the blank end of each row. A row's pen goes on in the next one.

    Not counted: the background where nothing is written, as tmux prints it for some blank cells and not for others.
    """
    pen: dict[str, str] = {}
    draws_lines = False
    rows = []
    for line in printed.split("\n")[:-1]:
        row: list[Cell] = []
        for token in _TOKEN.finditer(line):
            if token["pen"] is not None:
                _move_pen(pen, token["pen"])
            elif token["shift"]:
                draws_lines = token["shift"] == "\x0e"
            elif token["text"]:
                text = _LINE_DRAWING.get(token["text"], token["text"]) if draws_lines else token["text"]
                row.append((text, _style(pen, is_blank=text == " ")))
        while row and row[-1] == (" ", ""):
            row.pop()
        rows.append(row)
    return rows


def _style(pen: dict[str, str], *, is_blank: bool) -> str:
    if is_blank and not _DRAWN_ALONE & pen.keys():
        return ""
    return " ".join(f"{name}{value}" for name, value in sorted(pen.items()))


def _move_pen(pen: dict[str, str], words: str) -> None:
    """Select Graphic Rendition (ECMA-48 §8.3.117), as tmux writes it."""
    numbers = iter(words.split(";"))
    for word in numbers:
        code = int(word.partition(":")[0] or 0)
        if code == 0:
            pen.clear()
        elif code in (38, 48, 58):
            words_left = iter(word.split(":")[1:]) if ":" in word else numbers
            is_palette = next(words_left) == "5"
            colour = [next(words_left) for _ in range(1 if is_palette else 3)]
            pen[{38: "fg", 48: "bg", 58: "ul"}[code]] = ":".join(colour)
        elif code in (39, 49, 59):
            pen.pop({39: "fg", 49: "bg", 59: "ul"}[code], None)
        elif code in _FLAGS:
            pen[_FLAGS[code]] = word.partition(":")[2]
        elif code in _FLAGS_OFF:
            for name in _FLAGS_OFF[code]:
                pen.pop(name, None)
        elif code in _NAMED_COLOURS:
            name, number = _NAMED_COLOURS[code]
            pen[name] = str(number)
        else:
            raise AssertionError(f"tmux drew with a pen we do not know: {words!r}")
