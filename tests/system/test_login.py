"""Who gets in by stock ssh, what strangers hear, how many at once, and what the journal says afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.installed import WORKSPACE, InstalledGateway, run, until
from tests.system.conftest import running

GRACE_SECONDS = 1.0
ATTEMPTS_MAX = 6
SESSIONS_MAX = 3
KEEPALIVE_SECONDS, MISSES_MAX = 0.3, 3


@pytest.fixture(scope="module")
def strict() -> Iterator[InstalledGateway]:
    """A gateway with limits low enough to meet."""
    yield from running(
        InstalledGateway(
            "none",
            ssh_login_grace_seconds=GRACE_SECONDS,
            ssh_auth_attempts_max=ATTEMPTS_MAX,
            ssh_sessions_per_connection_max=SESSIONS_MAX,
            ssh_keepalive_interval_seconds=KEEPALIVE_SECONDS,
            ssh_keepalive_misses_max=MISSES_MAX,
        )
    )


def test_20_connections_at_once_all_get_in(gateway: InstalledGateway) -> None:
    """Ansible and git open that many in a burst."""
    clients = [
        subprocess.Popen(gateway.ssh_command(f"echo {n}; exit {n}"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        for n in range(20)
    ]
    answers = [(client.communicate(timeout=30)[0], client.returncode) for client in clients]
    assert answers == [(b"%d\n" % n, n) for n in range(20)]


def test_20_sessions_share_one_connection(gateway: InstalledGateway) -> None:
    with gateway.master() as master, ExitStack() as stack:
        clients = []
        for number in range(20):
            command = gateway.ssh_command(*master, "--", f"echo {number}; exec cat")
            client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
            clients.append(stack.enter_context(client))
        for number, client in enumerate(clients):
            assert client.stdout is not None
            assert client.stdout.readline() == b"%d\n" % number
        question = "SELECT count(*) n, count(DISTINCT socket_id) connections FROM sessions WHERE status = 'active'"
        until(lambda: gateway.rows(question) == [{"n": 20, "connections": 1}], "20 sessions of one connection")
        assert [client.communicate(b"bye", timeout=20)[0] for client in clients] == [b"bye"] * 20


def test_strangers_hear_the_same_for_every_workspace(gateway: InstalledGateway) -> None:
    stranger = gateway.new_key("stranger")
    heard = set()
    for workspace in (WORKSPACE, "no-such", "lobby", "root", "demo+new"):
        done = run(gateway.plain_ssh_command(stranger, workspace=workspace))
        assert (done.returncode, done.stdout) == (255, b"")
        heard.add(done.stderr.replace(workspace.encode(), b"NAME"))
    assert heard == {b"NAME@127.0.0.1: Permission denied (publickey).\r\n"}


def test_refused_login_is_in_the_journal_with_its_reason(gateway: InstalledGateway) -> None:
    known = {row["id"] for row in gateway.rows("SELECT id FROM auth_logs")}
    stranger = gateway.new_key("journalled")
    fingerprint = run(["ssh-keygen", "-lf", str(stranger)]).stdout.split()[1].decode()
    run(gateway.plain_ssh_command(stranger))
    row = gateway.until_row("SELECT * FROM auth_logs WHERE success = 0 AND details LIKE ?", f"%{fingerprint}%")
    assert row["id"] not in known
    details = json.loads(str(row["details"]))
    assert (row["ip_address"], details["method"], details["reason"]) == ("127.0.0.1", "publickey", "unknown_key")
    assert (details["fingerprints"], details["login_name"]) == ([fingerprint], WORKSPACE)
    assert "OpenSSH" in str(row["user_agent"])


def test_login_and_logout_are_in_the_journal_and_the_offer_is_no_failure(gateway: InstalledGateway) -> None:
    """ssh first asks for the methods, then offers the key, then proves it: one login, no refusal."""
    before = gateway.rows("SELECT count(*) AS n FROM auth_logs WHERE success = 0")
    gateway.ssh("echo journal-probe")
    session = gateway.until_row("SELECT * FROM sessions WHERE command = 'echo journal-probe'")
    fingerprint = run(["ssh-keygen", "-lf", str(gateway.key)]).stdout.split()[1].decode()
    login = gateway.until_row(
        "SELECT i.details FROM auth_logs i JOIN auth_logs o"
        " ON json_extract(i.details, '$.connection_id') = json_extract(o.details, '$.connection_id')"
        " WHERE lower(i.action) = 'login' AND lower(o.action) = 'logout' AND i.success AND i.details LIKE ?"
        " ORDER BY i.created_at DESC",
        f"%{fingerprint}%",
    )
    details = json.loads(str(login["details"]))
    assert (details["principal"], session["principal"], session["key_fingerprint"]) == ("ada", "ada", fingerprint)
    assert gateway.rows("SELECT count(*) AS n FROM auth_logs WHERE success = 0") == before


def test_missing_workspace_is_told_to_a_friend_with_a_suggestion(gateway: InstalledGateway) -> None:
    done = gateway.ssh("true", workspace="demmo")
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr.startswith(b'homeport: no workspace named "demmo"; did you mean "demo"?'), done.stderr


def test_key_with_a_scope_hears_the_same_outside_of_it_as_of_nothing(gateway: InstalledGateway) -> None:
    scoped = gateway.new_key("scoped")
    gateway.homeport("new", "private")
    gateway.homeport("keys", "add", f"{scoped}.pub", "--name", "guest", "--workspaces", WORKSPACE)
    said = []
    for workspace in ("private", "missing"):
        command = [*gateway.plain_ssh_command(scoped, workspace=workspace), "true"]
        done = run(command)
        assert done.returncode == 255
        said.append(done.stderr.replace(workspace.encode(), b"NAME"))
    assert (said[0], run([*gateway.plain_ssh_command(scoped), "echo in"]).stdout) == (said[1], b"in\n")


def test_removed_key_gets_in_no_more(gateway: InstalledGateway) -> None:
    key = gateway.new_key("leaver")
    gateway.homeport("keys", "add", f"{key}.pub", "--name", "leaver")
    assert run([*gateway.plain_ssh_command(key), "true"]).returncode == 0
    gateway.homeport("keys", "rm", "leaver")
    assert run([*gateway.plain_ssh_command(key), "true"]).returncode == 255


def test_agent_may_offer_five_other_keys_before_the_right_one(gateway: InstalledGateway) -> None:
    agent = str(gateway.directory / "agent.sock")
    with subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: os.path.exists(agent), "the agent listens")
            for number in range(5):
                key = gateway.new_key(f"other{number}")
                assert run(["ssh-add", str(key)], env={**os.environ, "SSH_AUTH_SOCK": agent}).returncode == 0
            assert run(["ssh-add", str(gateway.key)], env={**os.environ, "SSH_AUTH_SOCK": agent}).returncode == 0
            options = "-o", f"IdentityAgent={agent}", "-o", "IdentityFile=none"
            done = run([*gateway.plain_ssh_command(None, *options), "echo in"])
            assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr
        finally:
            process.terminate()


def test_passwords_are_not_even_offered(gateway: InstalledGateway) -> None:
    options = "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive"
    done = run(gateway.plain_ssh_command(None, *options))
    assert done.stderr == b"demo@127.0.0.1: Permission denied (publickey).\r\n"


def test_too_many_keys_end_the_connection(strict: InstalledGateway) -> None:
    agent = str(strict.directory / "agent.sock")
    with subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: os.path.exists(agent), "the agent listens")
            for number in range(ATTEMPTS_MAX + 3):
                run(["ssh-add", str(strict.new_key(f"many{number}"))], env={**os.environ, "SSH_AUTH_SOCK": agent})
            done = run(strict.plain_ssh_command(None, "-o", f"IdentityAgent={agent}", "-o", "IdentityFile=none"))
            assert (done.returncode, b"Too many authentication failures" in done.stderr) == (255, True), done.stderr
        finally:
            process.terminate()
    row = strict.until_row("SELECT * FROM auth_logs WHERE success = 0 AND details LIKE '%unknown_key%'")
    assert json.loads(str(row["details"]))["offered_count"] > ATTEMPTS_MAX


def test_connection_that_never_logs_in_is_closed_after_the_grace_time(strict: InstalledGateway) -> None:
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", strict.ssh_port), 10) as silent:
        silent.settimeout(10)
        while silent.recv(4096):
            pass
    assert GRACE_SECONDS * 0.9 <= time.monotonic() - started < GRACE_SECONDS + 3


def test_session_above_the_limit_is_refused_and_the_others_live_on(strict: InstalledGateway) -> None:
    with strict.master() as master, ExitStack() as stack:
        clients = []
        for _ in range(SESSIONS_MAX):
            command = strict.ssh_command(*master, "--", "echo up; exec cat")
            client = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert client.stdout is not None
            assert client.stdout.readline() == b"up\n"
            clients.append(client)
        # A plain ssh would open a connection of its own once the master refuses.
        refused = strict.ssh(*master, "-o", "ProxyCommand=false", "--", "echo no")
        assert (refused.returncode, refused.stdout) == (255, b"")
        assert [client.communicate(b"bye", timeout=20)[0] for client in clients] == [b"bye"] * SESSIONS_MAX


def test_peer_that_stops_answering_probes_is_dropped_and_its_program_ended(strict: InstalledGateway) -> None:
    """A laptop that slept sends no FIN; only the probes find it (keepalive, here about a second)."""
    with subprocess.Popen(
        strict.ssh_command("echo probe-me; exec cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"probe-me\n"
        row = strict.until_row("SELECT * FROM sessions WHERE command LIKE '%probe-me%'")
        client.send_signal(signal.SIGSTOP)
        try:
            strict.log.wait("connection.ended", connection_id=row["socket_id"], seconds=10)
        finally:
            client.kill()
    ended = strict.until_row("SELECT * FROM sessions WHERE id = ? AND status = 'terminated'", row["id"])
    assert ended["end_reason"] == "hangup"


def test_peer_that_answers_probes_is_kept(strict: InstalledGateway) -> None:
    seconds = KEEPALIVE_SECONDS * (MISSES_MAX + 2)
    assert strict.ssh(f"sleep {seconds}; echo still here").stdout == b"still here\n"


def test_garbage_before_the_handshake_harms_nobody(strict: InstalledGateway) -> None:
    for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"\0" * 5000, b"SSH-2.0-x\r\n" + os.urandom(4096), b"SSH-1.5-old\r\n"):
        with socket.create_connection(("127.0.0.1", strict.ssh_port), 10) as sock:
            sock.settimeout(10)
            sock.sendall(garbage)
            try:
                while sock.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert strict.ssh("echo fine").stdout == b"fine\n"


def test_open_connection_does_not_lead_into_the_next_workspace_of_the_name(gateway: InstalledGateway) -> None:
    """Its scope is that of its login; the workspace it was for is gone, and the name another one's."""
    gateway.homeport("new", "lent")
    guest = gateway.new_key("lent-key")
    gateway.homeport("keys", "add", f"{guest}.pub", "--name", "lent", "--workspaces", "lent")
    path = gateway.directory / "lent-master"
    command = gateway.plain_ssh_command(guest, "-S", str(path), workspace="lent")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([command[0], "-fNM", *command[1:]], check=True, timeout=20, **quiet)  # type: ignore[call-overload]
    try:
        gateway.homeport("rm", "lent", "--purge", "--yes")
        gateway.homeport("new", "lent")
        done = run([command[0], "-o", "ControlMaster=no", *command[1:], "echo inside"])
        assert (done.returncode, done.stdout) == (255, b""), done
        assert b'no workspace named "lent"' in done.stderr
    finally:
        run([command[0], "-O", "exit", *command[1:]])
        gateway.homeport("keys", "rm", "lent")
        gateway.homeport("rm", "lent", "--purge", "--yes", check=False)
