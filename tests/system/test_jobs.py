"""Jobs of detached sessions across the ends of gateways: what is known of them, and what only the next one sees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.installed import InstalledGateway, until
from tests.support.shell import Shell, end_sessions, until_detached
from tests.system.conftest import running, skip_without_walls

JOB = "SELECT status, job, job_ended_at FROM sessions WHERE name = ?"


@pytest.fixture(scope="module")
def own_gateway() -> Iterator[InstalledGateway]:
    """One that the tests may kill. With walls, since behind those processes have other numbers."""
    skip_without_walls("bubblewrap")
    yield from running(InstalledGateway("bubblewrap"))


def job_of(gateway: InstalledGateway, name: str) -> tuple[object, bool]:
    """What the row says: the job, and whether it has ended."""
    (row,) = gateway.rows(JOB, name)
    assert row["status"] == "paused"
    return row["job"], row["job_ended_at"] is not None


def test_jobs_are_known_again_after_a_crash(own_gateway: InstalledGateway) -> None:
    with (
        Shell(own_gateway, login="demo+lasting") as lasting,
        Shell(own_gateway, login="demo+ending") as ending,
        Shell(own_gateway, login="demo+watched") as watched,
        Shell(own_gateway, login="demo+quiet") as quiet,
    ):
        for shell in (lasting, ending, watched, quiet):
            shell.do("true")
        lasting.enter("cat")
        ending.do("mkfifo pipe")
        ending.enter("cat pipe")
        watched.enter("tail -f /dev/null")
        until(lambda: len(own_gateway.programs("cat")) >= 2 and own_gateway.programs("tail -f"), "the jobs run")
        for shell in (lasting, ending, quiet):
            shell.leave_by_kill()
        until_detached(own_gateway, 3)
        until(lambda: job_of(own_gateway, "ending") == ("cat", False), "the job is known")
        assert job_of(own_gateway, "lasting") == ("cat", False)
        assert job_of(own_gateway, "quiet") == (None, False)
        own_gateway.kill()
        (pipe,) = own_gateway.state_dir.glob("workspaces/*/tree/pipe")
        pipe.write_bytes(b"")  # ends `cat pipe` while no gateway runs
    own_gateway.start()
    assert job_of(own_gateway, "lasting") == ("cat", False)
    until(lambda: job_of(own_gateway, "ending") == ("cat", True), "its end is noted")
    until(lambda: job_of(own_gateway, "watched") == ("tail", False), "the job of one that was attached is known")
    assert job_of(own_gateway, "quiet") == (None, False)
    with Shell(own_gateway, login="demo+lasting") as lasting:
        lasting.wait(b"back in lasting")  # before, a Ctrl-D would be for the client's own terminal
        lasting.type(b"\x04")
        lasting.do("true")
        assert lasting.exit() == 0
    listed = own_gateway.homeport("sessions").stdout.decode()
    assert "cat ended" in listed
    assert "tail" in listed
    end_sessions(own_gateway)
