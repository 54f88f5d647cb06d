"""In place of the process that was started first: whoever started it waits for its end, not for its successor's.

A terminal, a container or a plain supervisor knows one process. Once that was replaced (`homeport reload`) and has
nothing left to serve, it executes this file: a few megabytes that wait until the state is free, pass SIGTERM on to
whoever serves, and end. systemd needs none of it, as it is told of the new main process. Standard library only, and
run by path.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from pathlib import Path


def stand_in(lock: Path) -> None:
    """Become the one that waits. Returns only if nobody needs it, or it cannot be."""
    if os.environ.get("NOTIFY_SOCKET"):
        return
    command = [sys.executable, "-I", "-S", __file__, str(lock)]
    try:
        os.execv(sys.executable, command)  # noqa: S606 (no shell is what we want)
    except OSError:
        return  # the interpreter is gone; so are we, and the new gateway serves all the same


def _pass_on(lock: Path, number: int) -> None:
    try:
        os.kill(int(lock.read_text()), number)
    except (OSError, ValueError):
        return  # it is about to end


def main(lock: Path) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers we had started: the kernel forgets them when they end
    # In a terminal Ctrl-C reaches the whole group: the gateway has had its own.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: _pass_on(lock, number))
    fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)  # held by whoever serves, through every reload


if __name__ == "__main__":
    main(Path(sys.argv[1]))
