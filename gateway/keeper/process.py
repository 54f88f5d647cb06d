"""The keeper's own process: it may not be taken over, signalled, or hold what is not its own."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Iterable

from .seccomp import forbid_foreign_limits

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
# Synchronous faults: ignoring them would turn a crash into an endless loop.
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}


def protect_process() -> None:
    """Not dumpable: no ptrace, no pidfd_getfd, no /proc/PID/fd or environ for programs of the same account."""
    _prctl(_PR_SET_DUMPABLE, 0)
    ignore_signals()
    if os.getpid() == 1:
        forbid_foreign_limits()
    else:
        # As pid 1 orphans come to us anyway. No filter here: it would take sudo away, and there is no wall to hold.
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def ignore_signals() -> None:
    """No signal is handled: to pid 1 the kernel delivers from inside only what has a handler."""
    for number in signal.valid_signals() - _FAULTS - {signal.SIGKILL, signal.SIGSTOP}:
        # Children are reaped by us; SIGCHLD ignored would have the kernel throw their exit codes away.
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def settle(kept_fds: Iterable[int]) -> None:
    """Let go of all inherited descriptors but `kept_fds`, and take a plain working directory, mask and limits."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd, inheritable=False)
    kept = set(kept_fds)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        fd = int(name)
        if fd in kept:
            os.set_inheritable(fd, False)
        elif fd > 2:
            _close_quietly(fd)
    os.chdir("/")
    os.umask(0o022)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one descriptor per terminal; programs get 1024


def children_of(parents: set[int]) -> set[int]:
    """All processes that descend from `parents`, by one look at /proc."""
    parent_of: dict[int, int] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            parent = _parent_pid(name)
            if parent is not None:
                parent_of[int(name)] = parent
    found: set[int] = set()
    level = parents
    while level:
        level = {pid for pid, parent in parent_of.items() if parent in level} - found
        found |= level
    return found


def _parent_pid(name: str) -> int | None:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None  # it ended meanwhile


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")


def _close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        return  # the directory listing's own descriptor is among them
