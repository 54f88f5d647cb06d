"""xterm.js, which draws VS Code's terminal, as a terminal of the tests: its bytes go through a node of ours."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.clients import node_modules
from tests.support.installed import DEADLINE_SECONDS, STOP_SECONDS
from tests.support.pty_client import PtyClient
from tests.support.real_terminals import TERM, Seen, Size

FOLDER = Path(__file__).parent / "xterm_js"
CELL_PIXELS = (16, 32)  # as tmux has them: a window change is also one of pixels only


class XtermJs:
    """A node with any number of xterm.js terminals; `with` ends it."""

    name = "xterm.js"

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["node", str(FOLDER / "terminals.js")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/",
            env={"PATH": os.environ["PATH"], "NODE_PATH": str(node_modules(FOLDER))},
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
        size = struct.pack("HHHH", rows, columns, columns * CELL_PIXELS[0], rows * CELL_PIXELS[1])
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def kill(self) -> None:
        if self.process.returncode is not None:
            return
        self.process.kill()
        self.process.wait(STOP_SECONDS)
        self.hang_up()
        self.screen.close()
