"""PTYs: opened, sized and given the client's terminal modes (RFC 4254 §8) before the program runs."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Mapping, Sequence

TYPE_CHECKING = False  # importing typing would cost 5 ms of every keeper's start
if TYPE_CHECKING:
    from typing import Any

SIZE_MAX = 0xFFFF
_DISABLED = 255  # RFC 4254 §8: no such character
_IUTF8 = 0x4000  # asm-generic/termbits.h; not in the termios module
_INPUT, _OUTPUT, _CONTROL, _LOCAL, _ISPEED, _OSPEED, _CHARS = range(7)  # the fields of tcgetattr

# Character size and parity (90 to 93) are left out: a PTY has eight bits and no parity, and glibc calls it an error to
# ask for anything else.
_CHARACTERS = {
    1: "VINTR", 2: "VQUIT", 3: "VERASE", 4: "VKILL", 5: "VEOF", 6: "VEOL", 7: "VEOL2", 8: "VSTART", 9: "VSTOP",
    10: "VSUSP", 12: "VREPRINT", 13: "VWERASE", 14: "VLNEXT", 16: "VSWTC", 18: "VDISCARD",
}  # fmt: skip
_FLAGS = {
    30: (_INPUT, "IGNPAR"), 31: (_INPUT, "PARMRK"), 32: (_INPUT, "INPCK"), 33: (_INPUT, "ISTRIP"),
    34: (_INPUT, "INLCR"), 35: (_INPUT, "IGNCR"), 36: (_INPUT, "ICRNL"), 37: (_INPUT, "IUCLC"),
    38: (_INPUT, "IXON"), 39: (_INPUT, "IXANY"), 40: (_INPUT, "IXOFF"), 41: (_INPUT, "IMAXBEL"),
    42: (_INPUT, "IUTF8"),
    50: (_LOCAL, "ISIG"), 51: (_LOCAL, "ICANON"), 52: (_LOCAL, "XCASE"), 53: (_LOCAL, "ECHO"),
    54: (_LOCAL, "ECHOE"), 55: (_LOCAL, "ECHOK"), 56: (_LOCAL, "ECHONL"), 57: (_LOCAL, "NOFLSH"),
    58: (_LOCAL, "TOSTOP"), 59: (_LOCAL, "IEXTEN"), 60: (_LOCAL, "ECHOCTL"), 61: (_LOCAL, "ECHOKE"),
    62: (_LOCAL, "PENDIN"),
    70: (_OUTPUT, "OPOST"), 71: (_OUTPUT, "OLCUC"), 72: (_OUTPUT, "ONLCR"), 73: (_OUTPUT, "OCRNL"),
    74: (_OUTPUT, "ONOCR"), 75: (_OUTPUT, "ONLRET"),
}  # fmt: skip
_SPEEDS = {128: _ISPEED, 129: _OSPEED}


def open_terminal(size: Sequence[int], modes: Mapping[int, int]) -> tuple[int, str]:
    """A new PTY as (master, path of the slave), sized and with `modes` applied.

    The slave is opened by the program itself, by name: that is what makes it its controlling terminal. The master
    alone keeps the settings. Raises OSError (ENOSPC when the machine has no terminal left).
    """
    master, slave = os.openpty()
    try:
        path = os.ttyname(slave)
        columns, rows, width_pixels, height_pixels = size
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, width_pixels, height_pixels))
        _set_modes(slave, modes)
        os.set_blocking(master, False)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    return master, path


def _set_modes(slave: int, modes: Mapping[int, int]) -> None:
    try:
        attributes = termios.tcgetattr(slave)
        apply_modes(attributes, modes)
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
    except termios.error:
        return  # a login without a mode this kernel refuses is better than no login


def apply_modes(attributes: list[Any], modes: Mapping[int, int]) -> None:
    """Change a tcgetattr list as the client's encoded terminal modes say; what this system lacks is left alone."""
    for opcode, value in modes.items():
        if opcode in _CHARACTERS:
            index = getattr(termios, _CHARACTERS[opcode], None)
            if index is not None:
                attributes[_CHARS][index] = b"\0" if value == _DISABLED else bytes([value & 0xFF])
        elif opcode in _FLAGS:
            field, name = _FLAGS[opcode]
            bit = _IUTF8 if name == "IUTF8" else getattr(termios, name, 0)
            attributes[field] = attributes[field] | bit if value else attributes[field] & ~bit
        elif opcode in _SPEEDS and value:  # B0 would mean: hang up
            attributes[_SPEEDS[opcode]] = getattr(termios, f"B{value}", attributes[_SPEEDS[opcode]])
