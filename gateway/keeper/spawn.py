"""Starts one program: its own session, default signals, the usual descriptor limit, a terminal or three pipes."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from collections.abc import Mapping, Sequence

# What a login gives; a program that needs more raises it itself, up to the hard limit. select(2) breaks above it.
OPEN_FILES_SOFT = 1024
# Bulk output (git, tar, scp -O) goes through stdout: a quarter of a megabyte at once halves the wake-ups. Not for
# all three: the kernel counts pipe pages per account (fs.pipe-user-pages-soft) and shrinks new pipes beyond it.
STDOUT_PIPE_BYTES = 256 * 1024
# Where messages stay apart, each takes a page: sixty-four of them may wait instead of sixteen.
MESSAGES_PIPE_BYTES = 64 * 4096

_UNCHANGEABLE = {signal.SIGKILL, signal.SIGSTOP}
_FileActions = list[tuple[object, ...]]


class SpawnFailed(Exception):
    """The program did not start; `exit_status` is what a shell would give."""

    def __init__(self, exit_status: int, message: str) -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.message = message


def spawn_on_terminal(
    slave: str, executable: bytes, argv: list[bytes], environment: Mapping[bytes, bytes], directory: bytes
) -> int:
    """Start a program whose controlling terminal is `slave`; returns its pid, which is also its process group."""
    # posix_spawn calls setsid first, then does these in order: the first terminal a session leader opens becomes
    # its controlling terminal, so no code of ours has to run in the child.
    actions: _FileActions = [
        (os.POSIX_SPAWN_OPEN, 0, slave, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]
    return _spawn(executable, argv, environment, directory, actions)


def spawn_on_pipes(
    executable: bytes,
    argv: list[bytes],
    environment: Mapping[bytes, bytes],
    directory: bytes,
    *,
    wants_messages: bool = False,
) -> tuple[int, list[int], bool]:
    """Start a program on three pipes; returns its pid, our ends [stdin, stdout, stderr], which the caller closes, and
    whether each read of stderr will be one write of the program (`wants_messages`, where the kernel can do it)."""
    has_messages = False
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for is_output in (False, True, True):
            read_end, write_end = os.pipe()
            ours.append(read_end if is_output else write_end)
            theirs.append(write_end if is_output else read_end)
        _widen(ours[1], STDOUT_PIPE_BYTES)
        if wants_messages:
            has_messages = _keep_messages_apart(theirs[2])
        actions: _FileActions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(theirs)]
        pid = _spawn(executable, argv, environment, directory, actions)
        for fd in ours:
            os.set_blocking(fd, False)
    except BaseException:
        _close_all(ours)
        raise
    finally:
        _close_all(theirs)
    return pid, ours, has_messages


def _spawn(
    executable: bytes,
    argv: list[bytes],
    environment: Mapping[bytes, bytes],
    directory: bytes,
    actions: _FileActions,
) -> int:
    _enter(directory, environment.get(b"HOME", b"/"), b"/")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES_SOFT, hard), hard))
    try:
        return os.posix_spawn(
            executable,
            argv,
            environment,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            # All of them: Python alone would hand on SIGINT ignored when the gateway was started with `&`.
            setsigdef=signal.valid_signals() - _UNCHANGEABLE,
        )
    except OSError as error:
        raise _as_failure(error) from None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.chdir("/")  # so that no directory stays in use because a program once started there


def _enter(*directories: bytes) -> None:
    # The keeper has one thread, so it may change directory for the child. A login must work without its directory.
    for directory in directories:
        try:
            return os.chdir(directory)
        except OSError:
            continue
    return None


def _as_failure(error: OSError) -> SpawnFailed:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return SpawnFailed(127, "command not found")
    if error.errno == errno.E2BIG:
        return SpawnFailed(126, "argument list too long: one argument may have 128 KiB")
    return SpawnFailed(126, f"cannot execute: {error.strerror}")


def _keep_messages_apart(write_end: int) -> bool:
    """Packet mode (pipe(7), O_DIRECT), which belongs to the writing end. False: the kernel does not know it."""
    try:
        fcntl.fcntl(write_end, fcntl.F_SETFL, fcntl.fcntl(write_end, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError:
        return False
    _widen(write_end, MESSAGES_PIPE_BYTES)
    return bool(fcntl.fcntl(write_end, fcntl.F_GETFL) & os.O_DIRECT)


def _widen(fd: int, size_bytes: int) -> None:
    try:
        fcntl.fcntl(fd, getattr(fcntl, "F_SETPIPE_SZ", 1031), size_bytes)  # the name came with Python 3.10
    except OSError:
        return  # over the account's limit: the default size serves, only slower


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
