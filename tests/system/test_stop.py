"""Stopping and starting: shells go on, everything else ends in order, and the next gateway takes over."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.installed import InstalledGateway, until
from tests.support.terminal import Terminal
from tests.support.walls import walls
from tests.system.conftest import running, skip_without_walls

DRAIN_SECONDS = 1.0
# Of a stop with nothing left to wait for; a loaded machine needs most of it for the interpreter's own end.
ORDERLY_SECONDS = 8.0


@pytest.fixture(params=walls())
def gateway(request: pytest.FixtureRequest) -> Iterator[InstalledGateway]:
    """One for each test: they stop it."""
    skip_without_walls(request.param)
    yield from running(InstalledGateway(request.param, session_drain_seconds=DRAIN_SECONDS))


def counting_shell(gateway: InstalledGateway) -> Terminal:
    """A terminal whose program prints a number every so often until ~/enough is there."""
    count = 'i=0; while ! [ -e ~/enough ]; do i=$((i+1)); echo "count $i"; sleep 0.05; done; echo over; exit 3'
    terminal = Terminal(gateway.ssh_command("-t", "--", count))
    terminal.wait("count 3")
    return terminal


def test_sigterm_keeps_shells_ends_pipes_and_the_next_gateway_goes_on(gateway: InstalledGateway) -> None:
    with counting_shell(gateway) as terminal:
        command = gateway.ssh_command("echo up; exec cat")
        pipe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert pipe.stdout is not None
        assert pipe.stdout.readline() == b"up\n"
        started = time.monotonic()
        assert gateway.terminate() == 0
        assert DRAIN_SECONDS <= time.monotonic() - started < DRAIN_SECONDS + ORDERLY_SECONDS
        pipe.communicate(timeout=5)
        assert (pipe.returncode, terminal.wait_ended()) == (255, 255)
        terminal.wait("this shell goes on running")
    states = {row["columns"] is not None: row for row in gateway.rows("SELECT * FROM sessions")}
    assert (states[True]["status"], states[True]["socket_id"]) == ("paused", None)
    assert (states[False]["status"], states[False]["end_reason"]) == ("terminated", "shutdown")
    assert gateway.programs("count $i"), "the shell goes on"

    gateway.start()
    gateway.log.wait("session.adopted", session_id=states[True]["id"])
    gateway.ssh("touch ~/enough")
    row = gateway.until_row("SELECT * FROM sessions WHERE id = ? AND status = 'terminated'", states[True]["id"])
    assert (row["exit_code"], row["end_reason"]) == (3, "exit")
    recorded = gateway.homeport("rec", "export", str(row["id"])).stdout.decode()
    assert recorded.count("over") == 1


def test_program_that_ended_while_no_gateway_ran_has_its_true_exit_code(gateway: InstalledGateway) -> None:
    with counting_shell(gateway):
        gateway.terminate()
    tree = next(gateway.state_dir.glob("workspaces/*/home"))
    (tree / "enough").touch()
    until(lambda: not gateway.programs("count $i"), "the program ended")
    gateway.start()
    row = gateway.until_row("SELECT * FROM sessions WHERE status = 'terminated' AND exit_code = 3")
    assert row["end_reason"] == "exit"
    assert "over" in gateway.homeport("rec", "export", str(row["id"])).stdout.decode()


@pytest.mark.slow
def test_draining_gateway_takes_no_connection_and_a_second_sigterm_ends_it_at_once() -> None:
    with contextmanager(running)(InstalledGateway("none", session_drain_seconds=120)) as gateway:
        command = gateway.ssh_command("echo up; exec cat")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pipe:
            assert pipe.stdout is not None
            assert pipe.stdout.readline() == b"up\n"
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGTERM)
            gateway.log.wait("gateway.draining")
            assert gateway.ssh("echo in").returncode == 255
            assert gateway.terminate(seconds=ORDERLY_SECONDS) == 0


def test_stop_all_ends_the_programs_as_well(gateway: InstalledGateway) -> None:
    with counting_shell(gateway) as terminal:
        assert gateway.homeport("stop", "--all").returncode == 0
        terminal.wait_ended()
    until(lambda: not gateway.programs("count $i"), "the shell ended")
    (row,) = gateway.rows("SELECT status, end_reason FROM sessions")
    assert (row["status"], row["end_reason"]) == ("terminated", "shutdown")
