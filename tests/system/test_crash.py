"""`kill -9` of the gateway and of a keeper: no byte of a recording lost, no false row, no client left waiting."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.installed import HOMEPORT, InstalledGateway, free_port, until
from tests.support.terminal import Terminal
from tests.support.walls import walls
from tests.system.conftest import running, skip_without_walls

PRINTERS = 10
# A login after a crash, from the start of the new process. The goal is one second; the rest is for a machine that has
# other things to do as well.
LOGIN_SECONDS_MEDIAN_MAX = 3.0
UPLOAD_BYTES = 20_000_000  # takes longer than a round waits before it kills
# Prints numbered lines with colours and multi-byte characters until ~/enough is there, then how many there were.
PRINTER = r"""
import os, sys, time
name, number, stop = sys.argv[1], 0, os.path.expanduser("~/enough")
while not os.path.exists(stop):
    for _ in range(20):
        os.write(1, f"\x1b[3{number % 8}m{name} {number:07d} é日本→\x1b[0m\r\n".encode()); number += 1
    time.sleep(0.05)
os.write(1, f"{name} printed {number}\r\n".encode())
sys.exit(11)
"""


@pytest.fixture(params=walls())
def gateway(request: pytest.FixtureRequest) -> Iterator[InstalledGateway]:
    skip_without_walls(request.param)
    yield from running(InstalledGateway(request.param))


def expected_output(name: str, count: int) -> str:
    lines = [f"\x1b[3{number % 8}m{name} {number:07d} é日本→\x1b[0m\r\n" for number in range(count)]
    return "".join(lines) + f"{name} printed {count}\r\n"


def recorded_output(gateway: InstalledGateway, session_id: object) -> str:
    lines = gateway.homeport("rec", "export", str(session_id)).stdout.decode().splitlines()
    return "".join(event[2] for event in map(json.loads, lines[1:]) if event[1] == "o")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_of_the_gateway_lose_no_byte_no_shell_and_no_row(gateway: InstalledGateway, rounds: int) -> None:
    """Ten programs print, one of them to a client; a file is on its way in, a forward is in use. Every other round one
    more gateway is killed while it is just starting and adopting."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    upload = gateway.directory / "upload"
    upload.write_bytes(chance.randbytes(UPLOAD_BYTES))
    gateway.ssh("cat > printer.py", input=PRINTER.encode())
    clients = [client_of(gateway, number, f"stty -opost; exec python3 printer.py term{number}")
               for number in range(PRINTERS)]  # fmt: skip
    printers = "python3 printer.py term"
    until(lambda: len(gateway.programs(printers)) == PRINTERS, "all print")
    until(lambda: len(gateway.rows("SELECT id FROM sessions WHERE status = 'active'")) == PRINTERS, "all rows")
    pids = sorted(gateway.programs(printers))
    login_seconds = []
    for number in range(rounds):
        others = [*transfers(gateway, upload), *clients]
        time.sleep(chance.uniform(0, 0.3))  # not a wait: the moment of the kill is left to chance
        gateway.kill()
        assert all(client.wait(10) != 0 for client in others), "every client is told"
        if number % 2:
            kill_while_starting(gateway, chance.uniform(0.1, 0.9))
        started = time.monotonic()
        gateway.start()
        assert gateway.ssh("true").returncode == 0
        login_seconds.append(time.monotonic() - started)
        rows = gateway.rows("SELECT * FROM sessions WHERE name LIKE 'term%'")
        assert [(row["status"], row["socket_id"]) for row in rows] == [("paused", None)] * PRINTERS
        clients = [client_of(gateway, chance.randrange(PRINTERS), "no such command: it runs already")]
    assert sorted(gateway.programs(printers)) == pids, "the same programs still run"
    print(f"login after {statistics.median(login_seconds):.2f} s (median), {max(login_seconds):.2f} s (worst)")
    assert gateway.client("scp", upload, "demo@gateway:upload").returncode == 0
    assert gateway.ssh("cat upload; rm upload").stdout == upload.read_bytes()
    gateway.ssh("touch ~/enough")
    gateway.until_no_live_row()
    assert clients[0].wait(10) == 11, "the last client hears how its program ended"
    rows = gateway.rows("SELECT * FROM sessions WHERE name LIKE 'term%'")
    assert [(row["exit_code"], row["end_reason"]) for row in rows] == [(11, "exit")] * PRINTERS
    line_count = 0
    for row in rows:
        recorded = recorded_output(gateway, row["id"])
        count = int(recorded.rstrip().rpartition(" ")[2])
        wanted = expected_output(str(row["name"]), count)
        assert recorded == wanted, first_difference(recorded, wanted)
        line_count += count
    print(f"{line_count} lines, each once, in {PRINTERS} recordings")
    assert statistics.median(login_seconds) < LOGIN_SECONDS_MEDIAN_MAX


def client_of(gateway: InstalledGateway, number: int, command: str) -> subprocess.Popen[bytes]:
    """Of the session that lasts under this name; it reads what is printed, and keeps nothing."""
    return subprocess.Popen(
        gateway.ssh_command("-tt", "--", command, workspace=f"demo+term{number}"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip


def transfers(gateway: InstalledGateway, upload: Path) -> list[subprocess.Popen[bytes]]:
    """A file on its way, and a forward over which something came back just now."""
    port = free_port()
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    scp = subprocess.Popen(["scp", *gateway.ssh_options, "-l", "80000", upload, "demo@gateway:half"], **quiet)
    forward = f"{port}:127.0.0.1:{gateway.ssh_port}"
    tunnel = subprocess.Popen(gateway.ssh_command("-N", "-L", forward, "--"), **quiet)
    until(lambda: banner_at(port).startswith(b"SSH-2.0-"), "the forward carries")
    return [scp, tunnel]


def banner_at(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            return client.recv(100)
    except OSError:
        return b""


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
        query = "SELECT * FROM sessions WHERE status = 'terminated' AND command = ?"
        row = gateway.until_row(query, f"echo up; {command}")
        assert (row["end_reason"], row["exit_code"]) == (reason, exit_code)
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
