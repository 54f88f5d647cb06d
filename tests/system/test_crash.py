"""`kill -9` of the gateway and of a keeper: no byte of a recording lost, no false row, no client left waiting."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.installed import HOMEPORT, InstalledGateway, until
from tests.support.terminal import Terminal
from tests.system.conftest import running, skip_without_walls

KILLS = 20
TERMINALS = 3
# Prints numbered lines with colours and multi-byte characters until ~/enough is there, then how many there were.
PRINTER = r"""
import os, sys, time
name, number, stop = sys.argv[1], 0, os.path.expanduser("~/enough")
while not os.path.exists(stop):
    for _ in range(20):
        os.write(1, f"\x1b[3{number % 8}m{name} {number:07d} é日本→\x1b[0m\r\n".encode()); number += 1
    time.sleep(0.01)
os.write(1, f"{name} printed {number}\r\n".encode())
sys.exit(11)
"""


@pytest.fixture(params=["none", "bubblewrap"])
def gateway(request: pytest.FixtureRequest) -> Iterator[InstalledGateway]:
    skip_without_walls(request.param)
    yield from running(InstalledGateway(request.param))


def expected_output(name: str, count: int) -> str:
    lines = [f"\x1b[3{number % 8}m{name} {number:07d} é日本→\x1b[0m\r\n" for number in range(count)]
    return "".join(lines) + f"{name} printed {count}\r\n"


def recorded_output(gateway: InstalledGateway, session_id: object) -> str:
    lines = gateway.homeport("rec", "export", str(session_id)).stdout.decode().splitlines()
    return "".join(event[2] for event in map(json.loads, lines[1:]) if event[1] == "o")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_20_kills_of_the_gateway_lose_no_byte_and_no_program(gateway: InstalledGateway) -> None:
    """Half of the kills hit a gateway that serves, the others one that is just starting and adopting."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    gateway.ssh("cat > printer.py", input=PRINTER.encode())
    clients = [
        subprocess.Popen(
            gateway.ssh_command("-tt", "--", f"stty -opost; exec python3 printer.py term{n}"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        )
        for n in range(TERMINALS)
    ]  # fmt: skip
    until(lambda: len(gateway.programs("python3 printer.py term")) == TERMINALS, "all print")
    until(lambda: len(gateway.rows("SELECT id FROM sessions WHERE status = 'active'")) == TERMINALS, "all rows")
    pids = sorted(gateway.programs("python3 printer.py term"))
    for number in range(KILLS):
        if number % 2:
            assert gateway.process is not None
            kill_while_starting(gateway, chance.uniform(0.1, 0.9))
        else:
            time.sleep(chance.uniform(0, 0.2))  # not a wait: the moment of the kill is left to chance
            gateway.kill()
        if number % 2 or number == KILLS - 1:
            gateway.start()
    assert sorted(gateway.programs("python3 printer.py term")) == pids, "the same programs still run"
    assert [client.wait(10) for client in clients] == [255] * TERMINALS
    rows = gateway.rows("SELECT * FROM sessions WHERE command LIKE '%printer.py term%'")
    assert [(row["status"], row["socket_id"]) for row in rows] == [("paused", None)] * TERMINALS
    gateway.ssh("touch ~/enough")
    gateway.until_no_live_row()
    for row in gateway.rows("SELECT * FROM sessions WHERE command LIKE '%printer.py term%'"):
        assert (row["exit_code"], row["end_reason"]) == (11, "exit")
        recorded = recorded_output(gateway, row["id"])
        count = int(recorded.rstrip().rpartition(" ")[2])
        wanted = expected_output(str(row["command"])[-5:], count)
        assert recorded == wanted, first_difference(recorded, wanted)
        print(f"{row['command']}: {count} lines, {len(wanted.encode())} bytes")


def kill_while_starting(gateway: InstalledGateway, seconds: float) -> None:
    """Start without waiting for it, and kill it after a while that ends before, within or after the adoption."""
    process = subprocess.Popen(
        [str(HOMEPORT), "serve"], env=gateway.environment, stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    with process:
        time.sleep(seconds)  # not a wait: the moment of the kill is left to chance
        process.kill()


def first_difference(got: str, wanted: str) -> str:
    place = next((n for n, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    return f"at {place} of {len(wanted)} (have {len(got)}): {got[place - 60 : place + 60]!r}"


def test_kill_of_the_gateway_keeps_terminals_and_says_how_each_pipe_ended(gateway: InstalledGateway) -> None:
    """`cat` reads the end of its input and exits, which the keeper remembers; `sleep` runs on, and is nobody's."""
    commands = {"exec cat": ("exit", 0), "exec sleep 305": ("lost", None)}
    with Terminal(gateway.ssh_command("-t", "--", "echo ready; read line; exit 21")) as terminal, ExitStack() as stack:
        terminal.wait("ready")
        pipes = []
        for command in commands:
            words = gateway.ssh_command(f"echo up; {command}")
            pipe = stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"))
            assert pipe.stdout is not None
            assert pipe.stdout.readline() == b"up\n"
            pipes.append(pipe)
        # A row is written beside the first output; a program without one would be ended by the next gateway.
        until(lambda: len(gateway.rows("SELECT id FROM sessions WHERE status = 'active'")) == 3, "three rows")
        gateway.kill()
        assert [*(pipe.wait(10) for pipe in pipes), terminal.wait_ended()] == [255] * 3
    until(lambda: not gateway.programs("cat"), "cat ended")
    gateway.start()
    terminal_row = gateway.rows("SELECT * FROM sessions WHERE columns IS NOT NULL")[0]
    assert terminal_row["status"] == "paused"
    for command, (reason, exit_code) in commands.items():
        row = gateway.rows("SELECT * FROM sessions WHERE command = ?", f"echo up; {command}")[0]
        assert (row["status"], row["end_reason"], row["exit_code"]) == ("terminated", reason, exit_code)
    gateway.homeport("kill", str(terminal_row["id"]))
    assert gateway.ssh("pkill -f 'sleep 305'").returncode == 0, "it was still running"


def test_keeper_killed_while_no_gateway_runs_leaves_true_rows_and_a_workspace_that_opens(
    gateway: InstalledGateway,
) -> None:
    with Terminal(gateway.ssh_command("-t", "--", "echo ready; read line")) as terminal:
        terminal.wait("ready")
        gateway.until_row("SELECT id FROM sessions WHERE status = 'active'")
        gateway.kill()
        terminal.wait_ended()
    for pid in gateway.keeper_pids():
        os.kill(pid, signal.SIGKILL)
    gateway.start()
    assert [row["end_reason"] for row in gateway.rows("SELECT * FROM sessions")] == ["lost"]
    assert gateway.ssh("echo open").stdout == b"open\n"
