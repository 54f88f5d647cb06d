"""Asks its terminal all that programs ask, each time it reads an `a` or gets SIGUSR1, and shows what it reads."""

import os
import signal
import sys
import tty

QUESTIONS = (
    "\x1b[c", "\x1b[>c", "\x1b[=c",  # device attributes
    "\x1b[5n", "\x1b[6n", "\x1b[?6n", "\x1b[?996n",  # status, cursor, colour scheme
    "\x1b[>q", "\x1b[?u",  # version, kitty keyboard
    "\x1b[?2026$p", "\x1b[?2004$p", "\x1b[4$p", "\x1bP$qm\x1b\\", "\x1bP$qr\x1b\\",  # modes and settings
    "\x1bP+q544e\x1b\\", "\x1b]10;?\x07", "\x1b]11;?\x07", "\x1b]4;1;?\x07",  # capabilities and colours
    "\x1b[14t", "\x1b[16t", "\x1b[18t", "\x1b[21t",  # sizes and title
)  # fmt: skip


def ask(*_: object) -> None:
    os.write(1, "".join(QUESTIONS).encode() + b"asked\r\n")


def visible(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 else f"<{byte:02x}>"


tty.setraw(0)
signal.signal(signal.SIGUSR1, ask)
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
os.write(1, b"ready\r\n")
while data := os.read(0, 4096):
    if data == b"a":
        ask()
    else:
        os.write(1, "".join(map(visible, data)).encode() + b"\r\n")
