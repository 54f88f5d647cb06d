"""Tell systemd how the service is doing (sd_notify(3)). Without systemd every call does nothing."""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress

# systemd reads its messages in order, within milliseconds; this long only if it is not there, or has stopped.
BARRIER_SECONDS = 5.0


def notify(*states: str, fds: tuple[int, ...] = ()) -> bool:
    """Send lines such as `READY=1`, `STOPPING=1` or `STATUS=…`. Returns whether systemd was told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender, suppress(OSError):
        # A full queue must not stop the gateway: the watchdog is not used, and the next state says more than this one.
        sender.setblocking(False)
        sender.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
        socket.send_fds(sender, ["\n".join(states).encode()], list(fds))
        return True
    return False


def ready(status: str = "") -> bool:
    """The listeners accept connections."""
    return notify("READY=1", *([f"STATUS={status}"] if status else []))


def stopping(status: str = "") -> bool:
    """Draining has begun."""
    return notify("STOPPING=1", *([f"STATUS={status}"] if status else []))


def replaced_by(pid: int) -> bool:
    """Another process is the service's main one now. Blocking: returns once systemd knows (sd_notify_barrier(3)).
    It attributes a message to its sender by the sender's process, and a main process that ended before the message was
    read would be the end of the service."""
    if not notify(f"MAINPID={pid}"):
        return False
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        is_told = notify("BARRIER=1", fds=(writing,))
        os.close(writing)
        writing = -1
        if is_told:
            poll = select.poll()
            poll.register(reading, 0)  # a hang-up is always reported: systemd has closed its copy
            poll.poll(BARRIER_SECONDS * 1000)
        return is_told
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


def passed_listener(name: str) -> int | None:
    """The descriptor of the listening socket that systemd opened under `name` (sd_listen_fds(3)); None without one."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    count = int(os.environ.get("LISTEN_FDS") or 0)
    # The first descriptor is 3 by definition: after stdin, stdout and stderr.
    return next((3 + index for index in range(count) if index < len(names) and names[index] == name), None)
