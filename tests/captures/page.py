"""Attributes, colours, charsets, links, tabs, margins and wide text, one after the other. For captures."""

import os

COLUMNS, ROWS = os.get_terminal_size()
parts: list[str] = []
NAMES = {1: "bold", 2: "faint", 3: "italic", 4: "underline", 5: "blink", 7: "inverse", 8: "invisible", 9: "strike"}
for n, name in NAMES.items():
    parts.append(f"\x1b[{n}m{name}\x1b[0m ")
parts += [f"\x1b[4:{n}m\x1b[58:2::{n * 50}:90:20mline {n}\x1b[0m " for n in range(1, 6)]
parts.append("\x1b[53moverline\x1b[0m\r\n")
parts += [f"\x1b[48;5;{n}m  " for n in range(256)]
parts.append("\x1b[0m\r\n")
parts += [f"\x1b[48;2;{n * 3 % 256};{n};{255 - n};38;2;255;{255 - n};0mx" for n in range(240)]
parts.append(
    "\x1b[0m\r\n\x1b]8;id=1;https://example.com/a\x1b\\a link\x1b]8;;https://example.com/b\x1b\\another"
    "\x1b]8;;\x1b\\ none\r\n"
)
parts.append("\x1b(0lqqqwqqqk\r\nx a x b x\r\nmqqqvqqqj\x1b(B \x1b)0\x0eaft\x0f \x1b(A#\x1b(B\r\n")
parts.append("e\u0301 å 中文字符 한국어 ภาษาไทย → ✓ ░▒▓ ÷±× \ue0b0 naïve\r\n" * 3)
parts.append("\t1\t2\t3\r\n\x1b[3g\x1b[5G\x1bH\x1b[17G\x1bH\r\ta\tb\r\n")
parts.append("wrapped " * (COLUMNS // 3) + "\r\n" + "中文" * (COLUMNS // 3) + "\r\n")
parts.append("\x1b[44m\x1b[2K\x1b[10Cerased in blue\x1b[0m\r\n\x1b[41m\x1b[12X\x1b[5Cten\x1b[0m\r\n")
parts += [f"line {n} of those that scroll\r\n" for n in range(ROWS)]
parts.append("\x1b[5;12r\x1b[?6h\x1b[1;1H" + "".join(f"in the region {n}\r\n" for n in range(12)))
parts.append("\x1b[2;4Hx\x1b7\x1b[?6l\x1b[r\x1b[3L\x1b[2M\x1b[20;5H\x1b[4h inserted \x1b[4l\x1b[3P\x1b[2@")
parts.append(
    '\x1b[15;3H\x1b[1"qprotected\x1b[0"q not\x1b[?0K\x1b[15;1H\x1b[?2K\x1b[18;1H\x1b[?7l' + "no wrap " * 40 + "\x1b[?7h"
)
parts.append("\x1b[?1h\x1b=\x1b[?45h\x1b[3 q\x1b]2;a title é\x07\x1b]7;file:///some/where\x07\x1b[16;999H\x1b[7mz")
for part in parts:
    os.write(1, part.encode())
