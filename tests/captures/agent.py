"""An inline program as agents are: lines scroll up above a live region, then a full screen with mouse. For captures."""

import os
import time

TEXT = "reading the sources and writing the tests that show what was wrong before anything is changed"
WORDS = TEXT.split()


def out(text: str) -> None:
    os.write(1, text.encode())
    time.sleep(0.004)


def region(step: int) -> str:
    spinner = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[step % 10]
    return (
        f"\x1b[38;2;215;119;87m{spinner}\x1b[0m \x1b[1mThinking…\x1b[0m \x1b[2m({step}s · esc to stop)\x1b[0m\x1b[K\r\n"
        f"\x1b[38;5;244m╭{'─' * 36}╮\x1b[K\r\n│\x1b[39m > {'█' if step % 2 else ' '}{' ' * 32}\x1b[38;5;244m│\x1b[K\r\n"
        f"╰{'─' * 36}╯\x1b[0m\x1b[K"
    )


os.system("stty raw -echo")
out("\x1b[?2004h\x1b[?1004h\x1b[?25l\x1b[>1u\x1b]0;✳ agent\x07")
out(region(0))
for step in range(1, 60):
    line = " ".join(WORDS[(step + n) % len(WORDS)] for n in range(3 + step % 14))
    colour = (32, 31, 0)[step % 3]
    above = f"\x1b[3A\r\x1b[J\x1b[{colour}m{'+-·'[step % 3]} {step:3} {line}\x1b[0m\r\n" if step % 2 else "\x1b[3A\r"
    out(f"\x1b[?2026h{above}{region(step)}\x1b[?2026l")
out("\x1b[?1049h\x1b[2J\x1b[?1000;1002;1006h\x1b[>5u\x1b[3;20r\x1b[H\x1b[7m full screen \x1b[27m\x1b[K")
for step in range(30):
    out(
        f"\x1b[?2026h\x1b[20;1H\n\x1b[48;5;{17 + step}m\x1b[K{step} {WORDS[step % len(WORDS)]}\x1b[m"
        f"\x1b[1;30H{step}\x1b[?2026l"
    )
out("\x1b[r\x1b[10;12H\x1b[?25h\x1b[6 q")
time.sleep(0.1)
out("\x1b[<u\x1b[?1000;1002;1006l\x1b[0 q\x1b[?25l\x1b[?1049l")
for step in range(60, 75):
    out(f"\x1b[?2026h\x1b[3A\r\x1b[J\x1b[2m{step} {WORDS[step % len(WORDS)]}\x1b[0m\r\n{region(step)}\x1b[?2026l")
out("\r\n\x1b[<u\x1b[?2004l\x1b[?1004l\x1b[?25h")
