"""What a keeper may hand us: every descriptor is checked for its kind before anything reads from it.

A descriptor shares its open file description, and so O_NONBLOCK, with whoever else holds that description. Programs
of the workspace do not: they have the slave, or the other ends of the pipes, which are descriptions of their own, and
the keeper's copies are out of their reach because it is not dumpable. That is why non-blocking, once set here, stays.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat

from gateway.keeper import protocol

PTY_MASTER_DEVICE = (5, 2)  # /dev/ptmx, Documentation/admin-guide/devices.txt
RING_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class DescriptorWrong(Exception):
    """The keeper handed over something else than what was asked for."""


def take_terminal(fd: int) -> int:
    """`fd`, which must be a PTY's master."""
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or (os.major(found.st_rdev), os.minor(found.st_rdev)) != PTY_MASTER_DEVICE:
        raise DescriptorWrong("not a terminal's master")
    os.set_blocking(fd, False)
    return fd


def take_pipe(fd: int, *, access: int) -> int:
    """`fd`, which must be a pipe's end opened for `access` (os.O_RDONLY or os.O_WRONLY)."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode) or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != access:
        raise DescriptorWrong("not a pipe, or its wrong end")
    os.set_blocking(fd, False)
    return fd


def take_socket(fd: int, family: socket.AddressFamily, *, is_connected: bool, is_listening: bool) -> socket.socket:
    """A stream socket around `fd` of exactly this family and state; owns `fd` on success."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise DescriptorWrong("not a socket")
    with socket.socket(fileno=os.dup(fd)) as taken:
        listens = bool(taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        if (taken.family, taken.type) != (family, socket.SOCK_STREAM) or listens != is_listening:
            raise DescriptorWrong("a socket of another kind")
        if _has_peer(taken) != is_connected:
            raise DescriptorWrong("a socket in another state")
    taken = socket.socket(fileno=fd)
    taken.setblocking(False)
    return taken


def read_ring(fd: int, size_bytes: int) -> bytes:
    """The content of a sealed memory file of `size_bytes`; sealed, so that it cannot change or end while it is read."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size != size_bytes or size_bytes > protocol.RING_MAX_BYTES:
        raise DescriptorWrong("not the ring that was announced")
    if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & RING_SEALS != RING_SEALS:
        raise DescriptorWrong("a ring that is not sealed")
    return os.pread(fd, size_bytes, 0)


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _has_peer(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True
