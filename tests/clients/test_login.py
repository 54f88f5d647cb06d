"""Logins by stock ssh: in crowds, one after the other, and with wrong keys before the right one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.installed import DEADLINE_SECONDS
from tests.support.server import Server
from tests.support.ssh_agent import ssh_agent

WRONG_KEYS = 5


@pytest.fixture(scope="module")
def wrong_keys(server: Server) -> list[str]:
    keys = [str(server.scratch / f"wrong{number}") for number in range(WRONG_KEYS)]
    for key in keys:
        assert server.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]).returncode == 0
    return keys


def after_wrong_ones(server: Server, wrong_keys: list[str]) -> list[str]:
    """Options that offer the right key last. Those of the command line come before the configuration's."""
    return [word for key in wrong_keys for word in ("-i", key)]


@pytest.mark.parametrize("kind", ["key", "rsa_key"])
def test_keys_of_each_kind_get_in(server: Server, kind: str) -> None:
    done = server.ssh("-o", "IdentityFile=none", "-i", str(getattr(server, kind)), "--", "echo in")
    assert (done.returncode, done.stdout) == (0, b"in\n")


def test_stranger_is_refused(server: Server, wrong_keys: list[str]) -> None:
    done = server.run(["ssh", "-F", "none", "-p", str(server.port), "-i", wrong_keys[0], "-o", "IdentitiesOnly=yes",
                       "-o", f"UserKnownHostsFile={server.known_hosts}", "-o", "BatchMode=yes",
                       f"{server.user}@{server.host}", "echo in"])  # fmt: skip
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Permission denied (publickey)." in done.stderr


def test_five_wrong_keys_before_the_right_one_are_no_hindrance(server: Server, wrong_keys: list[str]) -> None:
    done = server.ssh("-v", *after_wrong_ones(server, wrong_keys), "--", "echo in")
    assert (done.returncode, done.stdout) == (0, b"in\n")
    assert done.stderr.count(b"Offering public key") == WRONG_KEYS + 1


def test_agent_with_many_keys_finds_the_right_one(server: Server, wrong_keys: list[str]) -> None:
    with ssh_agent(server.scratch / "agent", Path(wrong_keys[0])) as socket:
        environment = {**server.environment, "SSH_AUTH_SOCK": str(socket)}
        for key in (*wrong_keys[1:], str(server.key)):
            assert server.run(["ssh-add", "-q", key], env=environment).returncode == 0
        options = ("-o", f"IdentityAgent={socket}", "-o", "IdentitiesOnly=no", "-o", "IdentityFile=none")
        without_files = [
            "ssh", "-F", "none", *options, "-p", str(server.port), "-o", f"UserKnownHostsFile={server.known_hosts}",
            "-o", "BatchMode=yes", f"{server.user}@{server.host}", "echo in",
        ]  # fmt: skip
        assert server.run(without_files).stdout == b"in\n"


def test_20_logins_at_once_with_wrong_keys_first_all_get_in(server: Server, wrong_keys: list[str]) -> None:
    """120 offers in a second or two from one address: an ordinary morning of a build machine, not an attack."""
    with ExitStack() as stack:
        words = after_wrong_ones(server, wrong_keys)
        clients = [
            stack.enter_context(server.start(server.ssh_command(*words, "--", f"echo {number}; exit {number}")))
            for number in range(20)
        ]
        answers = [(client.communicate(timeout=2 * DEADLINE_SECONDS)[0], client.returncode) for client in clients]
    assert answers == [(b"%d\n" % number, number) for number in range(20)]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_200_logins_one_after_the_other_all_get_in(server: Server) -> None:
    assert [server.ssh(f"exit {number}").returncode for number in range(200)] == list(range(200))


def test_refused_logins_before_do_not_count_against_the_next(server: Server, wrong_keys: list[str]) -> None:
    for _ in range(10):
        test_stranger_is_refused(server, wrong_keys)
    assert server.ssh("echo in").stdout == b"in\n"
