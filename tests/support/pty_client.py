"""A client on a terminal of our own making: every byte it prints, every mode it was given, every size we choose.

tests/support/terminal.py has a screen; this has what is under it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tests.support.installed import DEADLINE_SECONDS, STOP_SECONDS

_READ_BYTES = 64 * 1024


class PtyClient:
    """Runs one command as the leader of a session on a new terminal; `with` ends both."""

    def __init__(
        self,
        command: Sequence[str | bytes],
        *,
        environment: dict[str, str],
        rows: int = 24,
        columns: int = 80,
        stty: Sequence[str] = (),
    ) -> None:
        """`stty`: words for stty(1), applied to the client's own terminal before the client starts."""
        self.printed = b""
        self._master, slave = os.openpty()
        try:
            self._set_size(rows, columns)
            if stty:
                subprocess.run(["stty", *stty], stdin=slave, check=True)
            self.process = subprocess.Popen(
                # Opened by the new session's leader, the terminal becomes the one that controls it.
                ["setsid", "-c", "-w", *command], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd="/",
                start_new_session=False,
            )  # fmt: skip
        except BaseException:
            os.close(self._master)
            raise
        finally:
            os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.hang_up()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(STOP_SECONDS)

    def type(self, data: bytes) -> None:
        """Write all of it, reading meanwhile what the client prints: a terminal holds 4 KiB only."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while data:
            _, writable, _ = select.select([], [self._master], [], 0.01)
            if writable:
                data = data[os.write(self._master, data[:1024]) :]
            self._take(0)
            assert time.monotonic() < deadline, f"{len(data)} bytes could not be typed"

    def wait(self, text: bytes, *, seconds: float = DEADLINE_SECONDS) -> bytes:
        """Everything printed so far, once `text` is in it."""
        deadline = time.monotonic() + seconds
        while text not in self.printed:
            left = deadline - time.monotonic()
            is_open = left > 0 and self._take(left)
            assert is_open or text in self.printed, f"{text!r} did not appear; printed: {self.printed[-2000:]!r}"
        return self.printed

    def after(self, text: bytes) -> bytes:
        """What was printed after the last `text`."""
        return self.wait(text).rpartition(text)[2]

    def wait_ended(self, *, seconds: float = DEADLINE_SECONDS) -> int:
        """The exit status, with everything printed read to its end."""
        deadline = time.monotonic() + seconds
        while self._take(0.05) or self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on; printed: {self.printed[-2000:]!r}"
            if self.process.poll() is not None and not self._take(0):
                break
        return self.process.wait(STOP_SECONDS)

    def resize(self, *, rows: int, columns: int) -> None:
        """As a window does: the size, and SIGWINCH to the foreground (the kernel sends it)."""
        self._set_size(rows, columns)

    def hang_up(self) -> None:
        """Close the window."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _take(self, seconds: float) -> bool:
        """Read what is there; False: nothing came, or there will be no more."""
        readable, _, _ = select.select([self._master], [], [], seconds)
        if not readable:
            return False
        with contextlib.suppress(OSError):  # EIO: every program has left the terminal
            data = os.read(self._master, _READ_BYTES)
            self.printed += data
            return bool(data)
        return False
