"""A terminal's size, from the master's side, and how a client's terminal is left in order."""

from __future__ import annotations

import fcntl
import struct
import termios

from gateway.interfaces import WindowSize

_KITTY_KEYS_OFF = b"\x1b[<99u\x1b[=0;1u"  # each screen has its own stack of keyboard flags
# Brings a client's terminal from whatever a program made of it back to what a shell expects; the cursor stays in its
# place on the main screen. Tab stops and colours are left: not every terminal can have the user's own ones back.
TERMINAL_RESET = b"".join(
    (
        b"\x18\x1b\\",  # CAN and ST: end what was cut off
        b"\x1b[?2026l",  # show what was held back
        _KITTY_KEYS_OFF,
        # Leave the alternate screen. Many terminals restore the saved cursor at ?1049l even where they were on the main
        # screen already, so it is saved before.
        b"\x1b7\x1b[?1049l\x1b[?1047l\x1b[?47l",
        _KITTY_KEYS_OFF,
        b"\x1b[>4m",  # modifyOtherKeys
        b"\x1b[?9;1000;1001;1002;1003;1004;1005;1006;1015;1016l",  # mouse and focus reports
        b"\x1b[?2004;2031;2048l",  # bracketed paste, colour scheme and size reports
        b"\x1b]8;;\x1b\\",  # an open link
        b"\x1b[m",
        b"\x1b>",  # keypad
        b"\x1b[4;20l\x1b[?7h",  # insert, automatic newline; wrap lines
        b"\x1b(B\x1b)B\x0f",  # ASCII
        # These three send the cursor home, so it is saved and restored. With it comes origin mode, if it was on: a soft
        # reset has it off without a move.
        b"\x1b7\x1b[?6l\x1b[?69l\x1b[r\x1b8\x1b[!p",
        b"\x1b[?5;45;1l",  # reverse video, reverse wrap, cursor keys
        b'\x1b[0"q\x1b[0 q',  # unprotected; cursor shape
        b"\x1b[?12l\x1b[?7;25h",  # cursor: steady, visible; wrap lines, which a soft reset ends in some terminals
    )
)
# Sent on every end of ours; with `~.` or a dead line nothing of it arrives, and `reset` helps. What comes after it
# stands on a line of its own, with nothing of the picture beside or below.
DETACH_RESET = TERMINAL_RESET + b"\r\n\x1b[J"

_MOST = 0xFFFF  # struct winsize has 16 bit fields (ioctl_tty(2))


def set_window_size(fd: int, size: WindowSize) -> None:
    """Set it; the kernel sends SIGWINCH to the foreground job if it changed. 0×0 is legal and means unknown."""
    fields = (size.rows, size.columns, size.width_pixels, size.height_pixels)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", *(min(max(field, 0), _MOST) for field in fields)))


def window_size(fd: int) -> WindowSize:
    rows, columns, width, height = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    return WindowSize(columns, rows, width, height)
