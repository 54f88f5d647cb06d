"""A terminal's size, from the master's side."""

from __future__ import annotations

import fcntl
import struct
import termios

from gateway.interfaces import WindowSize

_MOST = 0xFFFF  # struct winsize has 16 bit fields (ioctl_tty(2))


def set_window_size(fd: int, size: WindowSize) -> None:
    """Set it; the kernel sends SIGWINCH to the foreground job if it changed. 0×0 is legal and means unknown."""
    fields = (size.rows, size.columns, size.width_pixels, size.height_pixels)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", *(min(max(field, 0), _MOST) for field in fields)))
