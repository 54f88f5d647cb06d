"""A person at a lasting shell, without a screen: asks it things, leaves it in every way there is, comes back.

tests/support/terminal.py has a screen; tests/support/pty_client.py is what is under this one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Sequence

from tests.support.installed import DEADLINE_SECONDS, STOP_SECONDS, WORKSPACE, InstalledGateway, until
from tests.support.pty_client import PtyClient

# What is kept of what was printed: a question's answer, never a flood.
_TAIL_BYTES = 128 * 1024
_ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TERM": "xterm-256color", "LANG": "C.UTF-8"}


class Shell(PtyClient):
    """`ssh WORKSPACE+NAME@gateway` on a terminal of its own; `with` closes the window."""

    _numbers = itertools.count(1)

    def __init__(
        self,
        gateway: InstalledGateway,
        *words: str,
        login: str = WORKSPACE,
        command: Sequence[str | bytes] | None = None,
        environment: dict[str, str] | None = None,
        rows: int = 24,
        columns: int = 200,
    ) -> None:
        """`words`: as of `InstalledGateway.ssh`; `command` instead, for another key or another way in."""
        self.received_bytes = 0
        super().__init__(
            command or gateway.ssh_command(*words, workspace=login),
            environment={**_ENVIRONMENT, **(environment or {})}, rows=rows, columns=columns,
        )  # fmt: skip

    def enter(self, line: str) -> None:
        self.type(line.encode() + b"\r")

    def ask(self, command: str, *, seconds: float = DEADLINE_SECONDS) -> str:
        """What a command prints, in a subshell. The question's own echo cannot be taken for the answer."""
        number = next(self._numbers)
        self.enter(f'echo "<{number}:$({command})>"')
        answer = re.compile(rb"<%d:([^>$]*)>" % number)
        return self.wait_match(answer, seconds=seconds)[1].decode().replace("\r\n", "\n")

    def do(self, command: str, *, seconds: float = DEADLINE_SECONDS) -> None:
        """Run a command in the shell itself, to its end."""
        number = next(self._numbers)
        self.enter(f"{command}; echo '<'{number}:done'>'")
        self.wait(b"<%d:done>" % number, seconds=seconds)

    def wait_match(self, pattern: re.Pattern[bytes], *, seconds: float = DEADLINE_SECONDS) -> re.Match[bytes]:
        deadline = time.monotonic() + seconds
        while (match := pattern.search(self.printed)) is None:
            left = deadline - time.monotonic()
            is_open = left > 0 and self._take(left)
            assert is_open or pattern.search(self.printed), f"no {pattern}; printed: {self.printed[-2000:]!r}"
        return match

    def read_for(self, question: Callable[[], bool], what: str, *, seconds: float = DEADLINE_SECONDS) -> None:
        """Read what is printed until something else has happened."""
        deadline = time.monotonic() + seconds
        while not question():
            self._take(0.02)
            assert time.monotonic() < deadline, f"not {what}; printed: {self.printed[-2000:]!r}"

    @property
    def pid(self) -> str:
        """Of the shell, as seen in the workspace."""
        return self.ask("echo $$")

    # -------------------------------------------------------------------------------------------- ways to leave

    def leave_by_tilde(self) -> None:
        self.type(b"\r~.")
        self.wait_ended()

    def leave_by_window(self) -> None:
        self.hang_up()
        self.process.wait(STOP_SECONDS)

    def leave_by_kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def exit(self, status: int = 0) -> int:
        self.enter(f"exit {status}")
        return self.wait_ended()

    def stop(self) -> None:
        """As a laptop that sleeps: nothing is answered, nothing is read."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def _take(self, seconds: float) -> bool:
        before = len(self.printed)
        is_open = super()._take(seconds)
        self.received_bytes += len(self.printed) - before
        if len(self.printed) > 2 * _TAIL_BYTES:
            self.printed = self.printed[-_TAIL_BYTES:]
        return is_open


def until_detached(gateway: InstalledGateway, count: int = 1) -> None:
    """The gateway knows that the client has gone: so many sessions wait for one."""
    until(
        lambda: len(gateway.rows("SELECT id FROM sessions WHERE status = 'paused'")) == count,
        f"{count} detached sessions",
    )


def end_sessions(gateway: InstalledGateway) -> None:
    """Whatever a test left running."""
    for row in gateway.rows("SELECT id FROM sessions WHERE status <> 'terminated'"):
        gateway.homeport("kill", str(row["id"]), check=False)
    with contextlib.suppress(AssertionError):  # said by whoever holds the module to its promises
        gateway.until_no_live_row()
