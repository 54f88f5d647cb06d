"""Agent forwarding by stock ssh -A and a real ssh-agent: one path, the newest client, no program that hangs."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installed import InstalledGateway, Result, until
from tests.support.ssh_agent import ssh_agent
from tests.support.walls import walls
from tests.system.conftest import running, skip_without_walls

AT_ONCE_SECONDS = 2.0
# Five until the gateway gives up on a client that does not answer, and a login.
NOT_FOR_EVER_SECONDS = 12.0


class Agent:
    """An ssh-agent of the client's, with one key, until it is closed."""

    def __init__(self, gateway: InstalledGateway, key: Path) -> None:
        self._gateway = gateway
        self._running = contextlib.ExitStack()
        self.path = self._running.enter_context(ssh_agent(gateway.directory / f"{key.name}-agent.sock", key))

    @property
    def options(self) -> tuple[str, ...]:
        return ("-A", "-o", f"IdentityAgent={self.path}")

    def ssh(self, command: str) -> Result:
        return self._gateway.ssh(*self.options, "--", command)

    @contextlib.contextmanager
    def forwarded(self) -> Iterator[Forwarder]:
        """A client that forwards it until the end of the block."""
        command = self._gateway.ssh_command(*self.options, "--", "echo $SSH_AUTH_SOCK; exec cat")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/") as client:
            assert client.stdout is not None
            try:
                yield Forwarder(client, client.stdout.readline().decode().strip())
            finally:
                client.send_signal(signal.SIGCONT)
                client.kill()

    def close(self) -> None:
        self._running.close()


class Forwarder:
    def __init__(self, client: subprocess.Popen[bytes], path: str) -> None:
        self.client = client
        self.path = path  # inside


@pytest.fixture
def agent(gateway: InstalledGateway) -> Iterator[Agent]:
    """With the key that may log in."""
    agent = Agent(gateway, gateway.key)
    yield agent
    agent.close()


@pytest.fixture
def other_agent(gateway: InstalledGateway) -> Iterator[Agent]:
    key = gateway.directory / "other"
    agent = Agent(gateway, key if key.exists() else gateway.new_key("other"))
    yield agent
    agent.close()


def keys_at(gateway: InstalledGateway, path: str) -> str:
    """What a session without -A finds at the path: names of keys, or what ssh-add complains of."""
    done = gateway.ssh(f"SSH_AUTH_SOCK={path} ssh-add -l 2>&1", timeout=NOT_FOR_EVER_SECONDS)
    return done.stdout.decode()


def test_forwarded_agent_answers_inside_and_is_named_only_where_it_is_forwarded(
    gateway: InstalledGateway, agent: Agent
) -> None:
    done = agent.ssh("ssh-add -l; stat -c %A $SSH_AUTH_SOCK")
    assert (b" key (ED25519)" in done.stdout, b"srw-------" in done.stdout) == (True, True), done
    assert gateway.ssh("env").stdout.count(b"SSH_AUTH_SOCK") == 0


def test_other_sessions_of_the_workspace_reach_it_by_its_path(gateway: InstalledGateway, agent: Agent) -> None:
    """VS Code's terminals have the path from a server that one long-lived session started."""
    with agent.forwarded() as forwarder:
        assert " key (ED25519)" in keys_at(gateway, forwarder.path)
        assert agent.ssh("echo $SSH_AUTH_SOCK").stdout.decode().strip() == forwarder.path
        assert " key (ED25519)" in keys_at(gateway, forwarder.path)


def test_all_sessions_of_a_connection_share_its_agent(gateway: InstalledGateway, agent: Agent) -> None:
    path = gateway.directory / "agent-master"
    master = gateway.ssh_command(*agent.options, "-S", str(path), "-fNM", "--")
    subprocess.run(master, check=True, timeout=20, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        for _ in range(2):
            assert b" key (ED25519)" in gateway.ssh(*agent.options, "-S", str(path), "--", "ssh-add -l").stdout
    finally:
        gateway.ssh("-S", str(path), "-O", "exit", "--")


def test_newest_forwarder_answers_and_when_it_is_killed_the_one_before(
    gateway: InstalledGateway, agent: Agent, other_agent: Agent
) -> None:
    with agent.forwarded() as first, other_agent.forwarded() as second:
        assert first.path == second.path
        assert " other (ED25519)" in keys_at(gateway, first.path)
        second.client.kill()
        until(lambda: " key (ED25519)" in keys_at(gateway, first.path), "the first client's agent answers again")


def test_with_nobody_left_programs_are_told_at_once(gateway: InstalledGateway, agent: Agent) -> None:
    with agent.forwarded() as forwarder:
        path = forwarder.path
    until(lambda: "No such file" in keys_at(gateway, path), "the path is gone")
    started = time.monotonic()
    assert "No such file" in keys_at(gateway, path)
    assert time.monotonic() - started < AT_ONCE_SECONDS


@pytest.mark.slow
def test_stopped_client_hangs_nobody_and_serves_again_when_it_goes_on(gateway: InstalledGateway, agent: Agent) -> None:
    with agent.forwarded() as forwarder:
        forwarder.client.send_signal(signal.SIGSTOP)
        said = keys_at(gateway, forwarder.path)
        assert ("ED25519" in said, "error fetching identities" in said) == (False, True), said
        forwarder.client.send_signal(signal.SIGCONT)
        until(lambda: " key (ED25519)" in keys_at(gateway, forwarder.path), "it answers again")


def test_client_whose_own_agent_is_gone_hangs_nobody(gateway: InstalledGateway, agent: Agent) -> None:
    with agent.forwarded() as forwarder:
        agent.close()
        started = time.monotonic()
        assert "ED25519" not in keys_at(gateway, forwarder.path)
        assert time.monotonic() - started < AT_ONCE_SECONDS


def test_keys_of_the_client_open_doors_from_inside(gateway: InstalledGateway, agent: Agent) -> None:
    """git over ssh to another host; here the gateway itself."""
    script = f"""
        set -e
        export GIT_SSH_COMMAND="ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -q"
        $GIT_SSH_COMMAND -p {gateway.ssh_port} demo@127.0.0.1 echo through
        git init -q --bare far.git
        git clone -q ssh://demo@127.0.0.1:{gateway.ssh_port}$PWD/far.git near 2>/dev/null
        cd near && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first && git push -q origin HEAD
        git ls-remote origin | grep -c HEAD; cd .. && rm -rf near far.git
    """
    done = agent.ssh(script)
    assert done.stdout == b"through\n1\n", done


def test_keys_of_the_client_open_doors_from_inside_to_inside(gateway: InstalledGateway, agent: Agent) -> None:
    """ssh -A again, in each step: the last program's agent must not be the first step's, and that again the last's."""
    gateway.homeport("new", "other-side")
    hop = f"ssh -A -q -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -p {gateway.ssh_port}"
    try:
        there_and_back = f"{hop} other-side@127.0.0.1 {hop} demo@127.0.0.1 ssh-add -l"
        done = agent.ssh(f"{hop} demo@127.0.0.1 ssh-add -l; {there_and_back}; ssh-add -l")
        assert done.stdout.count(b" key (ED25519)") == 3, done
    finally:
        gateway.homeport("rm", "other-side")


def test_programs_can_neither_remove_nor_replace_the_socket(walled: InstalledGateway) -> None:
    agent = Agent(walled, walled.key)
    attack = (
        "cd / && d=${SSH_AUTH_SOCK%/*}; u=${d%/*};"
        " rm -f $SSH_AUTH_SOCK && echo removed; mv -T $SSH_AUTH_SOCK $d/x && echo renamed; ln -s x $d/y && echo linked;"
        " chmod 0 $SSH_AUTH_SOCK && echo closed; rmdir $d && echo gone; mv $d /tmp/d && echo moved;"
        " mv $u /tmp/u && echo moved; ln -sfn /tmp $u && echo linked; ls -A $d $u; ssh-add -l"
    )
    try:
        done = agent.ssh(attack)
        said = done.stdout.decode().split("\n", 1)
        assert not {"removed", "renamed", "linked", "closed", "gone", "moved"} & set(done.stdout.decode().split()), said
        assert " key (ED25519)" in done.stdout.decode()
        # Nothing else of the gateway is there to be seen.
        assert agent.ssh("ls -A ${SSH_AUTH_SOCK%/*}").stdout == b"sock\n"
    finally:
        agent.close()


def test_workspace_without_forwarding_has_no_agent_either(gateway: InstalledGateway, agent: Agent) -> None:
    """From the moment that it is switched off, also for who forwards already."""
    try:
        with agent.forwarded() as forwarder:
            gateway.homeport("set", "demo", "forwarding=off")
            done = gateway.ssh("-v", *agent.options, "--", "echo [$SSH_AUTH_SOCK]")
            assert (done.stdout, b"forwarding is off" in done.stderr) == (b"[]\n", True), done.stderr
            assert "ED25519" not in keys_at(gateway, forwarder.path)
    finally:
        gateway.homeport("set", "demo", "forwarding=loopback")


def test_a_forwarded_agent_is_on_record_once_and_not_for_each_use(gateway: InstalledGateway, agent: Agent) -> None:
    assert agent.ssh("for i in 1 2 3; do ssh-add -l; done").returncode == 0
    opened = [e for e in gateway.log.events if (e["event"], e.get("kind")) == ("listener.opened", "agent")][-1]
    query = "SELECT details FROM auth_logs WHERE action = 'forward' AND details LIKE ? ORDER BY created_at"
    rows = until(
        lambda: len(found := gateway.rows(query, f"%{opened['connection_id']}%")) == 2 and found,
        "a row for its beginning and one for its end",
    )
    told = [json.loads(str(row["details"])) for row in rows]
    assert [(one["kind"], one["result"], one["workspace"]) for one in told] == [
        ("agent", "opened", "demo"),
        ("agent", "closed", "demo"),
    ]


@pytest.fixture(params=walls())
def own_gateway(request: pytest.FixtureRequest) -> Iterator[InstalledGateway]:
    """One that a test may kill."""
    skip_without_walls(request.param)
    yield from running(InstalledGateway(request.param))


@pytest.mark.slow
def test_path_works_again_after_a_crash_for_programs_that_stayed(own_gateway: InstalledGateway) -> None:
    agent = Agent(own_gateway, own_gateway.key)
    try:
        with agent.forwarded() as forwarder:
            # It has the path from before, and a mount that it cannot leave.
            own_gateway.ssh(f"touch go; SSH_AUTH_SOCK={forwarder.path} nohup sh -c 'while [ -e go ]; do ssh-add -l; "
                            "sleep 0.1; done' >said 2>&1 </dev/null &")  # fmt: skip
            path = forwarder.path
            own_gateway.kill()
        own_gateway.start()
        assert "No such file" in keys_at(own_gateway, path)  # what the dead one left was removed
        own_gateway.ssh(": >said")
        with agent.forwarded() as forwarder:
            assert forwarder.path == path
            until(lambda: b" key (ED25519)" in own_gateway.ssh("cat said").stdout, "the program that stayed is served")
        own_gateway.ssh("rm go")
    finally:
        agent.close()
