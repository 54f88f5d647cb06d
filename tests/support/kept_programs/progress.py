"""Two bars that are redrawn in place on the main screen, each time a line is entered."""

import sys
import time

STEPS = 250
WIDTH = 40

for number, _ in enumerate(sys.stdin):
    print("\x1b[?25l\n")
    for step in range(STEPS + 1):
        done, turned = step * WIDTH // STEPS, step * 3 % (WIDTH + 1)
        bar = f"\x1b[38;2;{step};90;{255 - step}m{'█' * done}\x1b[2m{'░' * (WIDTH - done)}\x1b[0m"
        print(f"\x1b[2A\r{bar} {step}/{STEPS}\x1b[K")
        print(f"\r\x1b[3;4m{'-' * turned}>\x1b[0;7m é日 \x1b[27m\x1b[K", flush=True)
        time.sleep(0.001)
    print(f"\x1b[?25hround {number} is over", flush=True)
