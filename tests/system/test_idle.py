"""Sessions that nobody uses, by stock ssh: warned, ended and told apart from those that only look quiet."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.installed import InstalledGateway, until
from tests.support.shell import Shell, end_sessions, until_detached
from tests.system.conftest import running, skip_without_walls

LIMIT_SECONDS = 1.2


@pytest.fixture(scope="module")
def hasty() -> Iterator[InstalledGateway]:
    """A gateway whose days are seconds: each limit is 1.2 s, half of which is the warning.

    With walls, since behind those the gateway sees other process numbers than the shell does.
    """
    skip_without_walls("bubblewrap")
    minutes = LIMIT_SECONDS / 60
    limits = {f"session_idle_{kind}_minutes": minutes for kind in ("shell", "exec", "subsystem")}
    limits |= {"session_idle_detached_days": minutes / 24 / 60, "session_idle_check_seconds": 0.1}
    yield from running(InstalledGateway("bubblewrap", **limits))


@pytest.fixture(autouse=True)
def _no_session_left(hasty: InstalledGateway) -> Iterator[None]:
    yield
    end_sessions(hasty)


def until_ended(gateway: InstalledGateway, name: str) -> dict[str, object]:
    return gateway.until_row("SELECT * FROM sessions WHERE name = ? AND status = 'terminated'", name)


def live_names(gateway: InstalledGateway) -> list[object]:
    return [row["name"] for row in gateway.rows("SELECT name FROM sessions WHERE status <> 'terminated'")]


def test_person_at_an_idle_shell_is_warned_and_a_key_keeps_it(hasty: InstalledGateway) -> None:
    with Shell(hasty, login="demo+kept") as shell, Shell(hasty, login="demo+left") as left:
        for one in (shell, left):
            one.wait(b"for want of use; press a key to keep it")
        shell.type(b" ")
        assert until_ended(hasty, "left")["end_reason"] == "idle"
        left.wait_ended()
        assert b"this session ends for want of use" in left.printed
        assert "kept" in live_names(hasty)
        until_ended(hasty, "kept")


@pytest.mark.slow
def test_shell_with_a_job_is_not_idle_and_its_end_counts_as_use(hasty: InstalledGateway) -> None:
    with Shell(hasty, login="demo+busy") as busy:
        busy.enter("cat")
        with Shell(hasty, login="demo+quiet"):
            until_ended(hasty, "quiet")
        assert "busy" in live_names(hasty)
        assert b"want of use" not in busy.printed
        busy.type(b"\x04")
        until_ended(hasty, "busy")


def test_detached_shell_at_its_prompt_ends_and_one_with_a_job_does_not(hasty: InstalledGateway) -> None:
    with Shell(hasty, login="demo+worker") as busy, Shell(hasty, login="demo+forgotten") as quiet:
        for shell in (busy, quiet):
            shell.do("true")
        busy.enter("while sleep 0.01; do :; done")  # silent, and the shell itself is in front now and then
        busy.wait(b"done\r\n")
        for shell in (busy, quiet):
            shell.leave_by_kill()
    until_detached(hasty, 2)

    def listed() -> dict[str, dict[str, str | None]]:
        return {one["name"]: one for one in json.loads(hasty.homeport("sessions", "--json").stdout)}

    # The client may have left before the shell took the line that it had shown.
    until(lambda: listed()["worker"]["job"] in ("sleep", "bash"), "the loop is listed")
    forgotten = listed()["forgotten"]
    assert forgotten["ends_at"] > forgotten["detached_at"]
    assert (listed()["worker"]["ends_at"], forgotten["job"]) == (None, None)
    assert until_ended(hasty, "forgotten")["end_reason"] == "idle"
    assert live_names(hasty) == ["worker"]
    hasty.homeport("kill", "demo+worker")
    assert until_ended(hasty, "worker")["end_reason"] == "killed"


@pytest.mark.slow
def test_silent_command_and_transfer_end_without_a_word_on_their_streams(hasty: InstalledGateway) -> None:
    silent = hasty.ssh("--", "sleep 1000")
    assert (silent.stdout, silent.stderr) == (b"", b"")
    assert silent.returncode == 255  # a signal ended it, as ssh says
    hasty.until_row("SELECT id FROM sessions WHERE kind = 'exec' AND end_reason = 'idle'")
    chatty = hasty.ssh("--", "for i in 1 2 3 4 5 6; do sleep 0.3; echo $i; done")
    assert chatty.stdout == b"1\n2\n3\n4\n5\n6\n"
