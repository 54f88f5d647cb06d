"""tmux as a terminal of the tests: panes that run clients, and panes that show what they are fed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.installed import DEADLINE_SECONDS, until
from tests.support.real_terminals import TERM, Cell, Seen, Size

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
