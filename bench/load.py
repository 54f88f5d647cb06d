"""The load, in a process of its own: `python -m bench.load OPERATION '{"port": …}'`, one JSON line as the answer.

Operations that must begin at a given moment print `ready` once everything is imported, and begin on a line of input.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from bench.wire import Channel, Connection, WireError

PROMPT = re.compile(rb"[$#] ")
READY = re.compile(rb"READY")
ECHO_COMMAND = "stty raw -echo; printf READY; exec cat"
FLOOD_COMMAND = "yes 'a line of output that says nothing, eighty columns wide like most of them are'"
# A full screen with a history above it. Its last word is not in the command, as that is echoed.
SCREEN_COMMAND = (
    r"for n in $(seq 1200); do printf '\033[3%dm%04d \033[0;1mone line of a log\033[0m\n' $((n % 8)) $n; done; "
    "printf 'last-''word'"
)
LAST_WORD = re.compile(rb"last-word")
FLOOD_WARM_BYTES = 1024 * 1024
LOGIN_RETRY_SECONDS = 0.002
LOGIN_DEADLINE_SECONDS = 30


def main(operation: str, given: dict[str, Any]) -> int:
    loaded = load_ssh_private_key(Path(given["key_file"]).read_bytes(), None)
    assert isinstance(loaded, Ed25519PrivateKey)
    load = Load(given, loaded)
    try:
        answer = OPERATIONS[operation](load)
    except (WireError, OSError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
    return 0


class Load:
    """What to do, and to which server."""

    def __init__(self, given: dict[str, Any], key: Ed25519PrivateKey) -> None:
        self.given = given
        self._key = key

    def connect(self) -> Connection:
        address = str(self.given["host"]), int(self.given["port"])
        return Connection(address, login_name=self.given["login_name"], key=self._key)

    @property
    def count(self) -> int:
        return int(self.given["count"])


def connect_and_true(load: Load) -> Any:
    """Milliseconds from the first SYN until the exit status of `true` and the end of its channel."""
    return [_timed(lambda: _connect_once(load)) for _ in range(load.count + 1)][1:]


def session_on_open_connection(load: Load) -> Any:
    with load.connect() as connection:
        return [_timed(lambda: _expect_zero(connection.run("true"))) for _ in range(load.count + 1)][1:]


def prompt_on_open_connection(load: Load) -> Any:
    """Milliseconds from opening the channel until the shell's prompt came; hanging up is not counted."""
    samples = []
    with load.connect() as connection:
        for _ in range(load.count + 1):
            started = time.perf_counter()
            channel = connection.open_terminal()
            connection.read_until(channel, PROMPT)
            samples.append((time.perf_counter() - started) * 1000)
            connection.close_channel(channel)
    return samples[1:]


def come_back(load: Load) -> Any:
    """Milliseconds from asking for a kept screen, logged in and with a terminal, until the last of it came.

    `begin` makes the session that is left and `again` comes back to it: commands, or none for the login shell.
    """
    with load.connect() as connection:
        channel = connection.open_terminal(load.given["begin"])
        connection.read_until(channel, PROMPT)
        connection.write(channel, SCREEN_COMMAND.encode() + b"\r")
        connection.read_until(channel, LAST_WORD)
    samples = []
    for _ in range(load.count + 1):
        with load.connect() as connection:
            channel = connection.open_session()
            connection.request_terminal(channel, columns=80, rows=24)
            started = time.perf_counter()
            connection.request_program(channel, load.given["again"])
            connection.read_until(channel, LAST_WORD)
            samples.append((time.perf_counter() - started) * 1000)
    with load.connect() as connection:
        channel = connection.open_terminal(load.given["again"])
        connection.write(channel, b"\x15exit\r")
        while not channel.is_closed:
            connection.receive()
    return {"p50": statistics.median(samples[1:]), "p95": statistics.quantiles(samples[1:], n=20)[18]}


def echo(load: Load) -> Any:
    """p50 and p99 milliseconds of one byte to a program on a terminal and back, with pauses as a person makes."""
    with load.connect() as connection:
        if load.given["with_flood"]:
            _start_flood(connection)
        channel = connection.open_terminal(ECHO_COMMAND)
        connection.read_until(channel, READY)
        samples = [_keystroke(connection, channel, load.given["pause_seconds"]) for _ in range(load.count)]
        connection.close_channel(channel)
    return {"p50": statistics.median(samples), "p99": statistics.quantiles(samples, n=100)[98]}


def _keystroke(connection: Connection, channel: Channel, pause_seconds: float) -> float:
    _idle(connection, channel, pause_seconds)
    before = channel.output_total
    started = time.perf_counter()
    connection.write(channel, b"k")
    while channel.output_total == before:
        connection.receive()
    return (time.perf_counter() - started) * 1000


def _idle(connection: Connection, channel: Channel, seconds: float) -> None:
    """Wait, but keep reading what other channels of this connection send (a flood must not back up)."""
    channel.output.clear()
    end = time.perf_counter() + seconds
    while (left := end - time.perf_counter()) > 0:
        connection.receive_within(left)


def _start_flood(connection: Connection) -> None:
    flood = connection.open_terminal(FLOOD_COMMAND)
    flood.keeps_output = False
    while flood.output_total < FLOOD_WARM_BYTES:
        connection.receive()


def connections_per_second(load: Load) -> Any:
    """How many times connect + `true` was done in the given seconds, one after the other, and the seconds it took."""
    _await_start()
    started = time.perf_counter()
    count = 0
    while (passed := time.perf_counter() - started) < load.given["seconds"]:
        _connect_once(load)
        count += 1
    return {"count": count, "seconds": passed}


def first_login(load: Load) -> Any:
    """The moment (monotonic clock) at which a server that is just starting accepted the first login."""
    _await_start()
    deadline = time.monotonic() + LOGIN_DEADLINE_SECONDS
    while True:
        try:
            connection = load.connect()
        except (OSError, WireError):
            if time.monotonic() > deadline:
                raise
            time.sleep(LOGIN_RETRY_SECONDS)
        else:
            moment = time.monotonic()
            connection.__exit__()
            return {"moment": moment}


def hold_terminals(load: Load) -> Any:
    """Open as many idle terminals as each line of input says, say `held`, and keep them until the input ends."""
    connections: list[Connection] = []
    print("ready", flush=True)
    for line in sys.stdin:
        if load.given["on_one_connection"]:
            connections = connections or [load.connect()]
            for _ in range(int(line)):
                _idle_terminal(connections[0])
        else:
            with ThreadPoolExecutor(8) as pool:
                connections += pool.map(lambda _: _idle_terminal(load.connect()), range(int(line)))
        print("held", flush=True)
    for connection in connections:
        connection.__exit__()
    return {}


def leave_terminals(load: Load) -> Any:
    """Begin as many lasting terminals as each line of input says, by the command `begin`, leave them, say `left`."""
    print("ready", flush=True)
    for line in sys.stdin:
        with load.connect() as connection:
            for _ in range(int(line)):
                _idle_terminal(connection, load.given["begin"])
        print("left", flush=True)
    return {}


def _idle_terminal(connection: Connection, command: str | None = None) -> Connection:
    connection.read_until(connection.open_terminal(command), PROMPT)
    return connection


def _connect_once(load: Load) -> None:
    with load.connect() as connection:
        _expect_zero(connection.run("true"))


def _expect_zero(exit_status: int | None) -> None:
    if exit_status != 0:
        raise WireError(f"`true` ended with {exit_status}")


def _timed(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def _await_start() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


OPERATIONS: dict[str, Callable[[Load], Any]] = {
    "connect": connect_and_true,
    "session": session_on_open_connection,
    "prompt": prompt_on_open_connection,
    "come-back": come_back,
    "echo": echo,
    "rate": connections_per_second,
    "first-login": first_login,
    "hold": hold_terminals,
    "leave": leave_terminals,
}

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], json.loads(sys.argv[2])))
