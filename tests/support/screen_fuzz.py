"""`python -m tests.support.screen_fuzz SEED COUNT`: hostile inputs for the terminal model, in a process that may die.

Prints `done COUNT` at the end. An input is made from SEED and its number alone, which is told when one fails.
"""

from __future__ import annotations

import random
import sys

from gateway.recording.screen.model import Screen, SnapshotForeign
from gateway.recording.screen.painter import paint
from tests.support.terminal_states import AMBIGUOUS, EVERYTHING_ON, STATES

SEEDS = [*STATES.values(), *AMBIGUOUS.values(), EVERYTHING_ON]
OSC = [0, 2, 4, 7, 8, 10, 52, 66, 99, 104, 133, 1337]
FINALS = b"@ABCDEFGHIJKLMPSTXZ`abcdefghlmnqrstux~{}|"
TEXT = "a b\tc中\u0301\u200d\ufe0f\U0001f600\U0001f1e9\x7f\x9b\x00é\ufffd".encode()


def sequence(chance: random.Random) -> bytes:
    """One of the kinds there are, with parameters that fit or do not."""
    number = chance.choice([0, 1, 2, 5, 7, 25, 40, 1000, 1049, 2026, 2027, 65535, 2**31, 10**12])
    parameters = b";".join(b"%d" % chance.choice([number, 0, 1, 9]) for _ in range(chance.randrange(0, 20)))
    kind = chance.randrange(7)
    if kind == 0:
        return b"\x1b[" + chance.choice([b"", b"?", b">", b"=", b"<"]) + parameters + chance.choice(
            [b"", b" ", b"$", b'"', b"!", b"'"]) + bytes([chance.choice(FINALS)])  # fmt: skip
    if kind == 1:
        return b"\x1b]%d;" % chance.choice(OSC) + parameters + chance.choice(
            [TEXT, b"?", b"rgb:1/2/3", b";http://x/"]) + chance.choice([b"\x07", b"\x1b\\", b""])  # fmt: skip
    if kind == 2:
        return (
            b"\x1b"
            + chance.choice([b"P", b"_", b"^", b"X", b"P$q", b"P+q", b"_G"])
            + TEXT
            + chance.choice([b"\x1b\\", b""])
        )
    if kind == 3:
        return b"\x1b" + bytes([chance.randrange(0x20, 0x7F), chance.randrange(0x20, 0x7F)])
    if kind == 4:
        return TEXT * chance.randrange(1, 9)
    if kind == 5:
        return bytes(chance.randrange(256) for _ in range(chance.randrange(1, 40)))
    return b"\x1b[?%d%c" % (
        chance.choice([1, 3, 5, 6, 7, 40, 45, 47, 69, 1047, 1049, 2026, 2027]),
        chance.choice(b"hl"),
    )


def mutated(chance: random.Random) -> bytes:
    data = bytearray(b"".join(chance.sample(SEEDS, 3)))
    for _ in range(chance.randrange(1, 12)):
        at = chance.randrange(len(data))
        data[at : at + chance.randrange(3)] = bytes(chance.randrange(256) for _ in range(chance.randrange(3)))
    return bytes(data)


def one(chance: random.Random) -> None:
    size = chance.choice([(1, 1), (2, 1), (1, 5), (3, 3), (40, 6), (80, 24), (300, 60)])
    screen = Screen(*size, history_lines=chance.choice([0, 50]))
    for _ in range(chance.randrange(1, 8)):
        many = b"".join(sequence(chance) for _ in range(chance.randrange(1, 12)))
        screen.feed(chance.choice([many, mutated(chance), many * 20]))
        if chance.random() < 0.2:
            screen.resize(chance.choice([0, 1, 2, 7, 80, 132]), chance.choice([0, 1, 3, 24, 50]))
    screen.take_replies()
    snapshot = screen.snapshot()
    painting = paint(screen, notice="homeport: back", client_columns=chance.choice([0, 200]))
    screen.lines()
    client = Screen(screen.columns, screen.rows, history_lines=50)
    client.feed(painting)
    # A sequence that has begun is the program's own, and size reports are wanted by it.
    if not screen.terminal.unfinished() and not screen.terminal.has_mode(2048):
        assert client.terminal.take_replies() == [], painting
    client.close()
    if snapshot is not None:
        try:
            Screen.restore(snapshot, history_lines=50).close()
        except SnapshotForeign:
            raise AssertionError("its own snapshot") from None
    screen.close()


def main() -> None:
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    for number in range(count):
        try:
            one(random.Random(f"{seed} {number}"))
        except BaseException:
            print("failed:", number, file=sys.stderr)
            raise
    print("done", count)


if __name__ == "__main__":
    main()
