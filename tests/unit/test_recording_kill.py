"""kill -9 of the gateway, again and again, under a flood: nothing is lost and nothing is there twice."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
import tty
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.recording.recordings import Archive
from tests.support.recording_rig import SESSION_ID, events_of, lost_in_gaps, output_in, recordings_in

KILL_COUNT = 20
# Some MB/s of coloured lines with characters of two to four bytes; paced, so that nothing is lost for want of speed.
FLOOD = """
import sys, time
number, out = 0, sys.stdout.buffer
while True:
    out.write(b"".join(b"\\x1b[3%dm%09d \\xc3\\xa9\\xe2\\x82\\xac\\xf0\\x9f\\x8f\\xa0\\x1b[0m\\n" % (n % 8, n)
              for n in range(number, number + 1000)))
    out.flush()
    number += 1000
    time.sleep(0.004)
"""


def terminal() -> tuple[int, int]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    return master, slave


def line(number: int) -> bytes:
    return b"\x1b[3%dm%09d \xc3\xa9\xe2\x82\xac\xf0\x9f\x8f\xa0\x1b[0m\n" % (number % 8, number)


class Gateway:
    """The child, reading `fd`."""

    def __init__(self, directory: Path, fd: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.recording_child", str(directory), str(fd)],
            stdout=subprocess.PIPE,
            pass_fds=[fd],
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        with self.process:
            pass


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", [os.pipe, terminal])
def test_twenty_kills_lose_no_byte_and_repeat_none(tmp_path: Path, kind: Callable[[], tuple[int, int]]) -> None:
    read_fd, write_fd = kind()
    os.set_blocking(read_fd, False)
    flood = subprocess.Popen([sys.executable, "-c", FLOOD], stdout=write_fd, stderr=subprocess.DEVNULL)
    os.close(write_fd)
    chance = random.Random(7)
    archive = Archive(recordings_dir=tmp_path / "recordings", spools_dir=tmp_path / "spools")
    recorded = 0
    try:
        for _ in range(KILL_COUNT):
            gateway = Gateway(tmp_path, read_fd)
            # Killed at no particular moment: once it has recorded some more, and a random while later.
            wanted = recorded + chance.randrange(1, 400_000)
            while recorded < wanted:
                recorded = sum(len(event.data) for event in archive.open(SESSION_ID))
            gateway.kill()
        last = Gateway(tmp_path, read_fd)
        flood.send_signal(signal.SIGKILL)
        flood.wait()
        last.close()
    finally:
        flood.kill()
        flood.wait()
        os.close(read_fd)
    events = events_of(recordings_in(tmp_path))
    text, lost = output_in(events), lost_in_gaps(events)
    count = len(text) // len(line(0)) + 1
    expected = b"".join(line(number) for number in range(count))
    assert lost == 0
    assert len(text) > 1_000_000
    assert text == expected[: len(text)], first_difference(text, expected)
    assert archive.spool_ids() == []


def first_difference(text: bytes, expected: bytes) -> str:
    at = next(i for i in range(len(text)) if text[i] != expected[i])
    return f"at {at}: {text[at - 80 : at + 80]!r}"
