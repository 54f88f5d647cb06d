"""A person at a real terminal, played by tmux: keys in, a screen out, a window that can be resized."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.installed import DEADLINE_SECONDS, until


class Terminal:
    """Runs one command in a tmux window of its own server; `with` ends both."""

    def __init__(self, command: Sequence[str | bytes], *, columns: int = 80, rows: int = 24) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hp-tmux-", dir="/tmp")
        self._socket = str(Path(self._folder.name) / "s")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": self._folder.name,
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
        }
        # tmux itself forgets the status of a command now and then, when its terminal closes first.
        self._status = Path(self._folder.name) / "status"
        wrapper = ["sh", "-c", '"$@"; echo $? > "$0.new"; mv "$0.new" "$0"', str(self._status)]
        words = wrapper + [os.fsdecode(word) for word in command]
        # The options stand in the same call as the command: it may end before another could reach the window.
        self._tmux("-f", "/dev/null", "start-server", ";", "set", "-g", "remain-on-exit", "on", ";",
                   "set", "-g", "default-terminal", "screen-256color", ";", "set", "-g", "status", "off", ";",

                   "new-session", "-d", "-x", str(columns), "-y", str(rows), "--", *words, env=environment)  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close_window()
        self._folder.cleanup()

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: `C-c`, `Enter`, `Escape`."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def enter(self, line: str) -> None:
        self.type(line)
        self.press("Enter")

    def paste(self, data: bytes) -> None:
        self._tmux("load-buffer", "-", ";", "paste-buffer", "-r", input=data)

    def resize(self, *, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> list[str]:
        return self._tmux("capture-pane", "-p").decode().split("\n")[:-1]

    def wait(self, text: str, *, seconds: float = DEADLINE_SECONDS) -> list[str]:
        """The screen, once a line has the text: of the screen, or of what scrolled off it (as tmux does at an end)."""
        try:
            until(lambda: text in self._tmux("capture-pane", "-p", "-S", "-").decode(), text, seconds=seconds)
        except AssertionError:
            raise AssertionError(f"{text!r} did not appear; the screen:\n" + "\n".join(self.screen())) from None
        return self.screen()

    def wait_ended(self) -> int:
        """The exit status of the command, once it has ended."""
        until(self._status.exists, "the command ended")
        return int(self._status.read_text())

    def close_window(self) -> None:
        """As by the button of the window: the command is hung up."""
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], capture_output=True, timeout=DEADLINE_SECONDS)

    def _tmux(self, *words: str, **options: object) -> bytes:
        settings: dict[str, object] = {"capture_output": True, "timeout": DEADLINE_SECONDS, "check": True, **options}
        done: subprocess.CompletedProcess[bytes] = subprocess.run(["tmux", "-S", self._socket, *words], **settings)
        return done.stdout
