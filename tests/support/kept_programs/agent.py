"""What agents and editors do to a terminal, all at once; one scene for each key: 40 pictures, then it holds still.

Alternate screen, synchronized output, mouse, focus, bracketed paste, kitty keys, keypad, cursor shapes, a scroll
region with origin mode, line drawing, a pen that is left on, insert mode, a cursor behind the last column.
"""

import os
import sys
import termios
import time
import tty

PICTURES = 40
ON = "\x1b[?1049h\x1b[?1003;1006;1004;2004h\x1b[>1u\x1b[?1h\x1b=\x1b[5 q\x1b[2J"
OFF = (
    "\x1b[?6l\x1b[r\x1b[4l\x1b[?7h\x1b[<u\x1b[?1003;1006;1004;2004l\x1b[?1l\x1b>\x1b[0 q\x1b(B\x1b[0m\x1b[?25h"
    "\x1b[?1049l"
)
# How each scene leaves the terminal, as the state that a fresh client must be brought into.
ENDS = (
    "\x1b[?25l",
    "\x1b[5;15r\x1b[?6h\x1b[3;7H\x1b[1;4;38;5;208;48;2;20;40;60mpen\x1b[?25h",
    "\x1b[4h\x1b[6;2H\x1b[7mins\x1b[2 q",
    "\x1b[?7l\x1b[9;999Hx",
    "\x1b[7;999Hy",
    "\x1b(0\x1b[2;2Hlqqk\x1b[4 q",
)


def out(text: str) -> None:
    os.write(1, text.encode())


def picture(scene: int, number: int) -> str:
    columns, rows = os.get_terminal_size()
    lines = ["\x1b[?2026h\x1b[?25l"]
    for row in range(1, rows):
        colour = (row * 7 + number + scene * 31) % 256
        text = f"{scene}:{number} row {row} " + "é日本→ " * ((number + row) % 5)
        lines.append(f"\x1b[{row};1H\x1b[38;5;{colour}m{text}\x1b[0m\x1b[K")
    lines.append(f"\x1b[{rows};{columns // 2}H\x1b[44;97mscene {scene}\x1b[K\x1b[0m\x1b]2;scene {scene} é {number}\x07")
    return "".join([*lines, "\x1b[?25h\x1b[?2026l"])


before = termios.tcgetattr(0)
out("\x1b[1;33mon the main screen\x1b[0m, before\r\nleft in the middle of a line: ")
tty.setraw(0)
out(ON)
scene = 0
while (key := os.read(0, 1)) != b"q":
    scene += 1
    out("\x1b[?6l\x1b[r\x1b[4l\x1b[?7h\x1b(B\x1b[0m")
    for number in range(PICTURES):
        out(picture(scene, number))
        time.sleep(0.001)
    out(ENDS[scene % len(ENDS)] + "\x1b[?2004h")
out(OFF)
termios.tcsetattr(0, termios.TCSADRAIN, before)
print("and after", flush=True)
sys.stdin.readline()
