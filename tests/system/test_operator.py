"""What the operator does beside a running gateway: kill a session, start a second one, look at the files."""

from __future__ import annotations

import os

from tests.support.installed import InstalledGateway
from tests.support.terminal import Terminal


def test_kill_ends_a_session_and_says_so(gateway: InstalledGateway) -> None:
    with Terminal(gateway.ssh_command("-t", "--", "echo ready; read line")) as terminal:
        terminal.wait("ready")
        row = gateway.until_row("SELECT * FROM sessions WHERE status = 'active'")
        gateway.homeport("kill", str(row["id"]))
        terminal.wait_ended()
    ended = gateway.until_row("SELECT * FROM sessions WHERE id = ? AND status = 'terminated'", row["id"])
    assert ended["end_reason"] == "killed"


def test_second_gateway_on_the_same_state_is_refused_with_words(gateway: InstalledGateway) -> None:
    done = gateway.homeport("serve", check=False)
    assert (done.returncode != 0, b"is in use by process" in done.stderr) == (True, True), done.stderr
    assert b"Traceback" not in done.stderr


def test_nothing_of_root_s_is_in_the_state(gateway: InstalledGateway) -> None:
    gateway.ssh("touch made-inside")
    owners = {path.lstat().st_uid for path in gateway.state_dir.rglob("*")}
    assert (len(owners), owners & {0}) == (1, set())
    if os.geteuid() == 0:
        assert gateway.ssh("id -u").stdout.strip() != b"0"
