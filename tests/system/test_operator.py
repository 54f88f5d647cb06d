"""What the operator does beside a running gateway: kill a session, start a second one, look at the files."""

from __future__ import annotations

import json
import os
from typing import Any

from tests.support.installed import WORKSPACE, InstalledGateway, run, until
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


def test_login_shell_that_is_set_holds_for_the_next_command_and_its_passwd_for_the_next_keeper(
    gateway: InstalledGateway,
) -> None:
    gateway.homeport("set", WORKSPACE, "shell=sh")
    try:
        assert gateway.ssh('echo "$0 $SHELL"').stdout == b"sh /bin/sh\n"
        gateway.homeport("kill", "--workspace", WORKSPACE)
        if gateway.isolation == "bubblewrap":
            assert gateway.ssh('getent passwd "$USER" | cut -d: -f7').stdout == b"/bin/sh\n"
        with Terminal(gateway.ssh_command(workspace=f"{WORKSPACE}+new")) as terminal:
            terminal.enter('echo "I am $0"')
            terminal.wait("I am -sh")
    finally:
        gateway.homeport("set", WORKSPACE, "shell=default")
    assert gateway.ssh('echo "$SHELL"').stdout != b"/bin/sh\n"


def test_shell_that_is_not_installed_is_refused_with_those_that_are(gateway: InstalledGateway) -> None:
    done = gateway.homeport("set", WORKSPACE, "shell=no-such-shell", check=False)
    assert (done.returncode, b"or one of: bash, " in done.stderr) == (2, True), done.stderr


def test_log_tells_a_login_a_forward_and_a_file_without_delay(gateway: InstalledGateway) -> None:
    gateway.homeport("set", WORKSPACE, "forwarding=off")
    refused = gateway.ssh("-W", "127.0.0.1:9", "--")
    gateway.homeport("set", WORKSPACE, "forwarding=default")
    assert refused.returncode != 0
    batch = gateway.directory / "batch"
    batch.write_text(f"put {batch} logged\nrm logged\n")
    done = run(["sftp", "-q", "-b", str(batch), *gateway.ssh_options, f"{WORKSPACE}@gateway"])
    assert done.returncode == 0, done.stderr

    def seen(*words: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(
            gateway.homeport("log", "--workspace", WORKSPACE, "--limit", "100", "--json", *words).stdout
        )
        return rows

    logins = seen("--action", "login", "--principal", "ada", "--since", "1h")
    assert logins[-1]["success"]
    changes = [(row["details"]["setting"], row["details"]["value"]) for row in seen("--action", "workspace_changed")]
    assert changes[-2:] == [("forwarding", "off"), ("forwarding", "default")]
    forward = seen("--action", "forward")[-1]
    assert (forward["success"], forward["details"]["target"]) == (False, "127.0.0.1:9")
    assert forward["details"]["reason"] == "policy"
    removed = until(
        lambda: [row for row in seen("--action", "file") if row["details"]["operation"] == "remove"], "the removal"
    )
    assert removed[-1]["details"]["path"].endswith("/logged")
    table = gateway.homeport("log", "--action", "file", "--principal", "ada").stdout.decode()
    assert "remove " in table


def test_printed_entry_works_when_it_is_appended_to_the_configuration(gateway: InstalledGateway) -> None:
    printed = gateway.homeport("connect", WORKSPACE).stdout
    config = gateway.directory / "connect_config"
    config.write_bytes(printed)
    # What the client has of its own, and what it says where nobody can answer a question.
    own = ["-i", str(gateway.key), "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=accept-new",
           "-o", f"UserKnownHostsFile={gateway.directory}/known_hosts", "-o", "BatchMode=yes"]  # fmt: skip
    done = run(["ssh", "-F", str(config), *own, f"homeport-{WORKSPACE}", "pwd"])
    assert done.returncode == 0, done.stderr
    shown = json.loads(gateway.homeport("connect", WORKSPACE, "--json").stdout)
    assert done.stdout.decode().strip() == shown["tree"]
