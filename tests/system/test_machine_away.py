"""A client's machine that goes away without a word: asleep, out of the network, behind a firewall that forgot it.

Real packets that get lost, unlike a relay that stops: the gateway's kernel gets no answer either.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.far_machine import FarMachine, why_no_far_machine
from tests.support.installed import InstalledGateway
from tests.support.shell import Shell, end_sessions
from tests.system.conftest import running, skip_without_walls

BACK_SECONDS_MAX = 6.0  # two for the question, and what a busy machine adds


@pytest.fixture(scope="module")
def far() -> Iterator[FarMachine]:
    if problem := why_no_far_machine():
        pytest.skip(problem)
    with FarMachine() as far:
        yield far


@pytest.fixture(scope="module")
def reachable(far: FarMachine) -> Iterator[InstalledGateway]:
    """One that listens for other machines, which needs walls."""
    skip_without_walls("bubblewrap")
    gateway = InstalledGateway("bubblewrap")
    gateway.environment["HOMEPORT_SSH_LISTEN"] = f"0.0.0.0:{gateway.ssh_port}"
    yield from running(gateway)


@pytest.fixture(autouse=True)
def _no_session_left(reachable: InstalledGateway) -> Iterator[None]:
    yield
    end_sessions(reachable)


def shell_from(far: FarMachine, gateway: InstalledGateway, *options: str, login: str = "demo") -> Shell:
    words = ("-o", f"HostName={far.address}", "-o", "HostKeyAlias=gateway", *options, "--")
    return Shell(gateway, command=far.command(*gateway.ssh_command(*words, workspace=login)))


@pytest.mark.parametrize("login", ["demo", pytest.param("demo+named", marks=pytest.mark.slow)])
def test_shell_of_a_machine_that_vanished_is_had_at_once_and_its_return_does_no_harm(
    far: FarMachine, reachable: InstalledGateway, login: str
) -> None:
    with shell_from(far, reachable, login=login) as old:
        pid = old.pid
        old.enter("sh -c 'while :; do echo tick; sleep 0.05; done'")  # a program that Ctrl-C ends as a whole
        old.wait(b"tick\r\ntick")
        far.cut()
        try:
            old.type(b"\x03echo ghost''-typed\r")
            started = time.monotonic()
            with Shell(reachable, login=login) as new:
                new.wait(b"tick\r\ntick")  # it goes on printing
                seconds = time.monotonic() - started
                new.type(b"\x03")
                assert new.pid == pid
                assert seconds < BACK_SECONDS_MAX
                print(f"back after {seconds:.2f} s")
                far.mend()
                assert old.wait_ended(seconds=60) == 255
                assert new.ask("echo still here") == "still here"
                assert b"ghost-typed" not in new.printed
                new.exit()
        finally:
            if old.process.poll() is None:
                far.mend()


def test_machine_that_was_away_and_is_asked_by_nobody_goes_on_where_it_was(
    far: FarMachine, reachable: InstalledGateway
) -> None:
    with shell_from(far, reachable) as shell:
        pid = shell.pid
        far.cut()
        shell.enter("echo typed''-meanwhile")
        far.mend()
        shell.wait(b"typed-meanwhile")
        assert shell.pid == pid
        shell.exit()


@pytest.mark.slow
def test_client_that_dies_while_away_finds_its_shell_each_time(far: FarMachine, reachable: InstalledGateway) -> None:
    """What autossh and laptops do. The gateway did not hear that the connection was closed."""
    pid = ""
    for number in range(5):
        started = time.monotonic()
        with shell_from(far, reachable) as shell:
            pid = pid or shell.pid
            assert shell.pid == pid
            assert time.monotonic() - started < BACK_SECONDS_MAX
            shell.do(f"seen=${{seen}}{number}")
            far.cut()
            shell.leave_by_kill()
            far.mend()
    with Shell(reachable) as shell:
        assert shell.ask("echo $$ $seen") == f"{pid} 01234"
        shell.exit()
