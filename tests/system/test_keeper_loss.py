"""The loss of a keeper: told at once, written down truly, and mended by the next login."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.installed import InstalledGateway, until
from tests.support.shell import Shell
from tests.support.terminal import Terminal

# Told and closed "within a second" is the promise.
KEEPER_LOSS_SECONDS = 1.0


def test_kill_of_a_keeper_tells_and_closes_every_client_at_once(gateway: InstalledGateway) -> None:
    workspace_id = json.loads(gateway.homeport("new", "doomed", "--json").stdout)["id"]
    others = gateway.keeper_pids()
    gateway.ssh("true", workspace="doomed")
    (keeper,) = set(gateway.keeper_pids()) - set(others)
    with Terminal(gateway.ssh_command(workspace="doomed"), columns=160) as terminal:
        terminal.wait("$")
        command = gateway.ssh_command("echo up; exec cat", workspace="doomed")
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        pipes = [subprocess.Popen(command, cwd="/", **streams) for _ in range(2)]
        for pipe in pipes:
            assert pipe.stdout is not None
            assert pipe.stdout.readline() == b"up\n"
        started = time.monotonic()
        os.kill(keeper, signal.SIGKILL)
        said = [pipe.communicate(timeout=5)[1] for pipe in pipes]
        status = terminal.wait_ended()
        took = time.monotonic() - started
        assert all(b"the workspace's keeper ended" in words for words in said), said
        terminal.wait("the workspace's keeper ended")
    assert ([pipe.returncode for pipe in pipes], status, took < KEEPER_LOSS_SECONDS) == ([255, 255], 255, True), took
    gateway.until_no_live_row()
    question = "SELECT end_reason, exit_code FROM sessions WHERE end_reason <> 'exit' AND workspace_id = ?"
    rows = gateway.rows(question, workspace_id)
    assert [(row["end_reason"], row["exit_code"]) for row in rows] == [("lost", None)] * 3
    assert gateway.ssh("echo again", workspace="doomed").stdout == b"again\n"
    assert keeper not in gateway.keeper_pids()


@pytest.fixture
def impatient() -> Iterator[InstalledGateway]:
    """Of our own, and not promising a quiet log: it gives a keeper that does not answer up after a second."""
    gateway = InstalledGateway("none", session_keeper_answer_seconds=1, session_keeper_start_seconds=2)
    try:
        gateway.set_up()
        yield gateway
    finally:
        for pid in gateway.keeper_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        gateway.close()
        gateway.remove()


@pytest.mark.slow
def test_a_keeper_that_is_silent_at_the_start_keeps_its_sessions_for_when_it_answers(
    impatient: InstalledGateway,
) -> None:
    """A machine short of memory, or a debugger: their rows said lost, and once the keeper answered they were ended."""
    with Shell(impatient, login="demo+kept") as shell:
        pid = shell.pid
        (keeper,) = impatient.keeper_pids()
        os.kill(keeper, signal.SIGSTOP)
        impatient.kill()
    impatient.start()
    impatient.log.wait("keeper.misbehaved")
    (row,) = impatient.rows("SELECT * FROM sessions")
    assert row["status"] != "terminated"
    os.kill(keeper, signal.SIGCONT)
    impatient.log.wait("session.adopted", session_id=row["id"])
    with Shell(impatient, login="demo+kept") as shell:
        assert shell.pid == pid
        shell.exit()


@pytest.mark.slow
def test_a_keeper_that_was_silent_at_the_start_and_then_ended_leaves_no_row_that_lives(
    impatient: InstalledGateway,
) -> None:
    with Shell(impatient) as shell:
        shell.wait(b"$")
        (keeper,) = impatient.keeper_pids()
        os.kill(keeper, signal.SIGSTOP)
        impatient.kill()
    impatient.start()
    impatient.log.wait("keeper.misbehaved")
    os.kill(keeper, signal.SIGKILL)
    impatient.until_no_live_row()
    assert [row["end_reason"] for row in impatient.rows("SELECT end_reason FROM sessions")] == ["lost"]


@pytest.mark.slow
def test_a_reload_beside_a_silent_keeper_leaves_its_sessions_with_the_old_gateway(impatient: InstalledGateway) -> None:
    with Shell(impatient, login="demo+kept") as shell:
        pid = shell.pid
        (keeper,) = impatient.keeper_pids()
        os.kill(keeper, signal.SIGSTOP)
        impatient.reload()
        assert shell.ask("echo $((6 * 7))") == "42"
        os.kill(keeper, signal.SIGCONT)
        assert [row["status"] for row in impatient.rows("SELECT status FROM sessions")] == ["active"]
        with Shell(impatient, login="demo+kept") as again:
            assert again.pid == pid, "the old one was asked for it, and gave it up"
            again.exit()
    until(lambda: len(impatient.gateway_pids()) == 1, "the old one has ended")
