"""The GitHub account of the installed gateway, against a GitHub on loopback."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_github import FakeGithub
from tests.support.installed import HOMEPORT, WORKSPACE, InstalledGateway, until
from tests.support.terminal import Terminal
from tests.system.conftest import running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def github() -> Iterator[FakeGithub]:
    with FakeGithub.in_thread(is_github_app=True, device_interval=1, is_impatient=False) as github:
        yield github


@pytest.fixture(scope="module")
def house(github: FakeGithub) -> Iterator[InstalledGateway]:
    """Its tokens live for 14 minutes, so that each is due for renewal at once."""
    yield from running(InstalledGateway("none", github_refresh_minutes=15, **github.settings))


@pytest.fixture(autouse=True)
def _nobody(github: FakeGithub, house: InstalledGateway) -> Iterator[None]:
    github.is_down, github.token_seconds = False, 28800
    yield
    github.is_down = False
    house.homeport("github", "logout")


def log_in(house: InstalledGateway, github: FakeGithub) -> None:
    before = set(github.devices)
    with subprocess.Popen([HOMEPORT, "github", "login"], env=house.environment, stderr=subprocess.PIPE) as command:
        until(lambda: set(github.devices) - before, "the login has begun")
        [code] = set(github.devices) - before
        github.devices[code].is_approved = True
        said = command.communicate(timeout=20)
    assert command.returncode == 0, said


def status(house: InstalledGateway) -> dict[str, object]:
    found: dict[str, object] = json.loads(house.homeport("github", "status", "--json", check=False).stdout)
    return found


def files_with(text: str, folder: Path) -> list[str]:
    return subprocess.run(["grep", "-rlF", text, str(folder)], capture_output=True, text=True).stdout.split()


def test_a_person_logs_in_by_ssh_at_a_terminal_and_no_token_lies_anywhere(
    house: InstalledGateway, github: FakeGithub
) -> None:
    with Terminal(house.ssh_command("-t", "--", "github login", workspace="lobby")) as terminal:
        terminal.wait("waiting for GitHub (Ctrl-C gives up)")
        [device] = github.devices.values()
        terminal.wait(device.user_code)
        device.is_approved = True
        terminal.wait("logged in to GitHub as octocat")
        terminal.wait_ended()
    assert status(house)["check"] == "valid"
    house.ssh("true")
    for secret in (*github.tokens, *github.refresh_tokens):
        assert files_with(secret, house.directory) == []
        assert secret not in house.log.text()


def test_ctrl_c_at_the_login_leaves_nothing(house: InstalledGateway, github: FakeGithub) -> None:
    github.devices.clear()
    with Terminal(house.ssh_command("-t", "--", "github login", workspace="lobby")) as terminal:
        terminal.wait("waiting for GitHub")
        terminal.press("C-c")
        terminal.wait_ended()
    [given_up] = github.devices.values()
    asked_at = given_up.asked_at
    given_up.is_approved = True
    assert status(house)["logged_in"] is False
    log_in(house, github)  # which waits for as long as the other one would have
    assert given_up.asked_at == asked_at


def test_the_account_and_its_key_are_there_after_a_kill_and_without_a_gateway(
    house: InstalledGateway, github: FakeGithub
) -> None:
    log_in(house, github)
    house.kill()
    assert status(house)["check"] == "valid", "by a command on the state alone"
    assert house.homeport("vault", "rotate").stdout.startswith(b"every secret is sealed under a new key; 1 key removed")
    house.start()
    assert status(house)["check"] == "valid"
    [key] = (house.state_dir / "keys").glob("vault-*.key")
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_token_that_is_due_is_renewed_and_told_in_the_journal_and_the_metrics(
    house: InstalledGateway, github: FakeGithub
) -> None:
    github.token_seconds = 14 * 60
    log_in(house, github)
    first = [secret for secret, token in github.tokens.items() if token.is_valid][-1]
    github.token_seconds = 28800
    house.homeport("repos")
    assert not github.tokens[first].is_valid
    assert house.until_row("SELECT * FROM auth_logs WHERE action = 'token_refresh'")["success"] == 1
    assert status(house)["refreshed_at"] is not None
    page = subprocess.run(
        ["curl", "-s", f"http://127.0.0.1:{house.http_port}/metrics"], capture_output=True, text=True
    ).stdout
    [line] = [line for line in page.splitlines() if line.startswith("homeport_github_token_expires_seconds ")]
    assert 28000 < float(line.split()[1]) <= 28800


def test_backups_hold_no_token_that_opens_without_the_keys_beside(house: InstalledGateway, github: FakeGithub) -> None:
    log_in(house, github)
    house.homeport("backup", "now")
    [*_, backup] = sorted((house.state_dir / "backups").glob("*.gz"))
    text = subprocess.run(["gunzip", "-c", str(backup)], capture_output=True, check=True).stdout
    assert b"v1." in text
    [key] = (house.state_dir / "keys").glob("vault-*.key")
    for secret in (*github.tokens, *github.refresh_tokens, key.read_text().strip()):
        assert secret.encode() not in text


def test_github_may_be_away_and_the_gateway_is_as_well_as_before(house: InstalledGateway, github: FakeGithub) -> None:
    github.is_down = True
    assert house.homeport("github", "login", check=False).returncode == 1
    assert house.ssh("echo here", workspace=WORKSPACE).stdout == b"here\n"
    ready = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{house.http_port}/readyz"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ready.stdout == "200"
