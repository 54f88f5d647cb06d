"""Two bars redrawn in place, on the main screen. For captures."""

import os
import time

for name in ("first", "second"):
    os.write(1, b"\x1b[?25l")
    for done in range(0, 101, 2):
        bar = "━" * (done * 40 // 100)
        bars = f"\x1b[38;5;197m{bar}\x1b[38;5;237m{'━' * (40 - len(bar))}\x1b[0m"
        os.write(1, f"\r{name:8}{bars} \x1b[35m{done:3}%\x1b[0m\x1b[K".encode())
        if done % 20 == 0:
            os.write(1, f"\r\x1b[K\x1b[32m✔\x1b[0m {name} step {done // 20}\r\n".encode())
        time.sleep(0.005)
    os.write(1, b"\r\n\x1b[?25h")
