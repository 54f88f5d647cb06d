"""Tell systemd how the service is doing (sd_notify(3)). Without systemd every call does nothing."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*states: str) -> bool:
    """Send lines such as `READY=1`, `STOPPING=1` or `STATUS=…`. Returns whether systemd was told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender, suppress(OSError):
        # A full queue must not stop the gateway: the watchdog is not used, and the next state says more than this one.
        sender.setblocking(False)
        sender.sendto("\n".join(states).encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        return True
    return False


def ready(status: str = "") -> bool:
    """The listeners accept connections."""
    return notify("READY=1", *([f"STATUS={status}"] if status else []))


def stopping(status: str = "") -> bool:
    """Draining has begun."""
    return notify("STOPPING=1", *([f"STATUS={status}"] if status else []))


def passed_listener(name: str) -> int | None:
    """The descriptor of the listening socket that systemd opened under `name` (sd_listen_fds(3)); None without one."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    count = int(os.environ.get("LISTEN_FDS") or 0)
    # The first descriptor is 3 by definition: after stdin, stdout and stderr.
    return next((3 + index for index in range(count) if index < len(names) and names[index] == name), None)
