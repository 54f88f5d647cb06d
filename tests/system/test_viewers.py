"""Several clients on one session: all see and type, the smallest size holds, and none that is slow slows another."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.installed import InstalledGateway, until
from tests.support.shell import Shell, end_sessions

NAME = "demo+shared"
# Far more than every buffer on the way to a client that does not read, which is a few MiB.
FLOOD_BYTES = 12_000_000
FLOOD_SECONDS_MAX = 15.0
# Prints so many lines, and keeps in a file how far it came.
COUNTER = """
import os, sys
for number in range(int(sys.argv[1])):
    os.write(1, b"%07d %s\\r\\n" % (number, b"." * 118))
    if number % 100 == 0:
        with open("count.new", "w") as file: file.write(str(number))
        os.replace("count.new", "count")
with open("count", "w") as file: file.write("all")
"""
STALL_SECONDS = 1.0


@pytest.fixture(autouse=True)
def _no_session_left(gateway: InstalledGateway) -> Iterator[None]:
    yield
    end_sessions(gateway)


def viewers(gateway: InstalledGateway, stack: ExitStack, *sizes: tuple[int, int]) -> list[Shell]:
    """One after the other, each at a terminal of its own size (rows, columns), all at the prompt of one shell."""
    shells = []
    for rows, columns in sizes:
        shells.append(stack.enter_context(Shell(gateway, login=NAME, rows=rows, columns=columns)))
        shells[-1].ask("echo here")
    return shells


def test_both_see_and_both_type(gateway: InstalledGateway) -> None:
    with ExitStack() as stack:
        one, two = viewers(gateway, stack, (24, 200), (24, 200))
        assert one.pid == two.pid
        assert b"together with 1 other" in two.printed
        one.enter("echo from''-one")
        two.wait(b"from-one")
        two.enter("echo from''-two")
        one.wait(b"from-two")
        two.enter("echo be''gin; cat")
        one.wait(b"begin")
        one.type(b"half a ")
        two.wait(b"half a ")
        two.type(b"line\r")
        one.wait(b"half a line\r\nhalf a line")
        one.type(b"\x04")
        one.ask("echo at the prompt")
        assert two.exit(5) == 5
        assert one.wait_ended() == 5


def size_of(shell: Shell, wanted: str) -> None:
    until(lambda: shell.ask("stty size") == wanted, f"the size is {wanted}")


def test_smallest_size_holds_until_who_has_it_leaves(gateway: InstalledGateway) -> None:
    with ExitStack() as stack:
        (large,) = viewers(gateway, stack, (50, 132))
        size_of(large, "50 132")
        wide, narrow = viewers(gateway, stack, (30, 200), (40, 90))
        size_of(large, "30 90")
        narrow.resize(rows=20, columns=95)
        size_of(large, "20 95")
        large.resize(rows=60, columns=80)
        size_of(wide, "20 80")
        narrow.leave_by_kill()
        size_of(large, "30 80")
        wide.leave_by_tilde()
        size_of(large, "60 80")
        large.exit()


def test_client_of_no_size_decides_nothing(gateway: InstalledGateway) -> None:
    """Without a terminal of its own, `ssh -tt` asks for one of 0 × 0."""
    with ExitStack() as stack:
        (person,) = viewers(gateway, stack, (31, 101))
        command = gateway.ssh_command("-tt", "--", workspace=NAME)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/") as script:
            assert script.stdin is not None
            assert script.stdout is not None
            script.stdin.write(b"stty size; echo read''-it\n")
            script.stdin.flush()
            said = b"".join(iter(script.stdout.readline, b"read-it\r\n"))
            script.kill()
        assert b"31 101" in said
        size_of(person, "31 101")
        person.exit()


def test_stopped_viewer_slows_nobody_and_sees_the_newest_screen_when_it_goes_on(gateway: InstalledGateway) -> None:
    with ExitStack() as stack:
        one, two = viewers(gateway, stack, (24, 200), (24, 200))
        two.stop()
        seen = two.received_bytes
        started = time.monotonic()
        one.do(f"yes a-line-of-some-forty-letters-to-be-skipped | head -c {FLOOD_BYTES}", seconds=FLOOD_SECONDS_MAX)
        print(f"{FLOOD_BYTES} bytes beside a stopped viewer in {time.monotonic() - started:.1f} s")
        assert one.received_bytes > FLOOD_BYTES
        one.enter("clear; echo newest''-screen")
        one.wait(b"newest-screen")
        two.go_on()
        two.wait(b"newest-screen")
        assert two.received_bytes - seen < FLOOD_BYTES // 2, "it was spared what nobody could have read"
        assert two.ask("echo alive") == "alive"
        one.wait(b"alive")
        one.exit()


def test_stopped_viewer_s_keys_and_size_come_when_it_goes_on(gateway: InstalledGateway) -> None:
    with ExitStack() as stack:
        one, two = viewers(gateway, stack, (24, 200), (24, 200))
        two.stop()
        two.type(b"echo late''-words\r")
        two.resize(rows=20, columns=100)
        one.ask("echo meanwhile")
        two.go_on()
        one.wait(b"late-words")
        size_of(one, "20 100")
        one.exit()


def test_sole_slow_viewer_holds_the_program_back_and_misses_nothing(gateway: InstalledGateway) -> None:
    count = 60_000  # 7.7 MB
    gateway.ssh("cat >counter.py; rm -f count", input=COUNTER.encode())
    with Shell(gateway, "-t", "--", f"stty -opost; exec python3 counter.py {count}", login=NAME) as shell:
        shell.wait(b"0000100")
        shell.stop()
        reached = stalled(gateway)
        assert reached not in ("", "all"), "the program waits"
        shell.go_on()
        shell.wait_ended(seconds=FLOOD_SECONDS_MAX)
        assert b"%07d" % (count - 1) in shell.printed
    # 128 bytes for each line; what the program had printed is all that the client was sent.
    assert shell.received_bytes >= count * 128
    gateway.ssh("rm -f count counter.py")


def stalled(gateway: InstalledGateway) -> str:
    """How far the counter came, once it has not moved for a while."""
    reached, since = "", time.monotonic()
    while time.monotonic() - since < STALL_SECONDS:
        now = gateway.ssh("cat count").stdout.decode()
        if now != reached:
            reached, since = now, time.monotonic()
    return reached


def test_of_five_viewers_one_is_killed_one_stopped_and_the_others_go_on(gateway: InstalledGateway) -> None:
    with ExitStack() as stack:
        shells = viewers(gateway, stack, *[(24, 200)] * 5)
        assert b"together with 4 others" in shells[4].printed
        shells[0].enter("echo to''-all")
        for shell in shells:
            shell.wait(b"to-all")
        shells[1].leave_by_kill()
        shells[2].stop()
        for number, shell in enumerate((shells[0], shells[3], shells[4])):
            shell.enter(f"echo still''-{number}")
            for other in (shells[0], shells[3], shells[4]):
                other.wait(b"still-%d" % number)
        shells[0].exit()
        assert [shell.wait_ended() for shell in (shells[3], shells[4])] == [0, 0]
        shells[2].go_on()
        assert shells[2].wait_ended() == 0


def test_viewers_come_and_go_while_it_prints(gateway: InstalledGateway) -> None:
    with ExitStack() as stack:
        (one,) = viewers(gateway, stack, (24, 200))
        one.enter("sh -c 'while :; do printf \"%s \" tick; sleep 0.01; done'")
        one.wait(b"tick tick")
        for leave in (Shell.leave_by_kill, Shell.leave_by_tilde, Shell.leave_by_window) * 2:
            with Shell(gateway, login=NAME) as other:
                other.wait(b"tick tick")
                leave(other)
        one.type(b"\x03")
        assert one.ask("echo done") == "done"
        one.exit()
