"""npm's ssh2, on which VS Code's open remote extensions, Theia, many deployment tools and web terminals stand."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import node_modules
from tests.support.installed import free_port
from tests.support.server import Server
from tests.support.streams import shouting_inside

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parents[1] / "support/npm_ssh2"
SIZE_BYTES = 8 * 1024 * 1024 + 1
WRONG_KEYS = 5  # sshd allows six tries; `none` is not one
SESSIONS = 9  # sshd allows ten


@dataclass(frozen=True)
class Ssh2:
    server: Server
    modules: Path

    def play(self, scenario: str, **given: object) -> Any:
        """One of scenarios.js, in a node of its own."""
        server = self.server
        login = {"host": server.host, "port": server.port, "username": server.user, "key": str(server.key)}
        done = server.run(
            ["node", str(PACKAGE / "scenarios.js"), scenario],
            input=json.dumps({"login": login, **given}).encode(),
            env={**server.environment, "NODE_PATH": str(self.modules)},
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ssh2(server: Server) -> Ssh2:
    return Ssh2(server, node_modules(PACKAGE))


def test_command_has_its_streams_apart_and_its_exit_code_or_signal(ssh2: Ssh2) -> None:
    told = ssh2.play("exec")
    plain, signal = told["plain"], told["signal"]
    assert (plain["text"], plain["err"], plain["code"]) == ("out\n", "err\n", 7)
    assert (signal["code"], signal["signal"]) == (None, "SIGTERM")
    assert told["isEchoed"]


def test_many_commands_run_at_once_on_one_connection(ssh2: Ssh2) -> None:
    assert ssh2.play("manyAtOnce", count=SESSIONS) == [[str(number), number] for number in range(SESSIONS)]


def test_shell_has_a_window_that_changes(ssh2: Ssh2) -> None:
    assert ssh2.play("shell") == {"code": 5, "hasTerm": True}


def test_sftp_carries_files_and_links_point_where_they_should(ssh2: Ssh2, tmp_path: Path) -> None:
    """ssh2 takes the server's version for the order of SYMLINK's arguments, which in sftp-server is reversed."""
    (tmp_path / "noise").write_bytes(os.urandom(SIZE_BYTES))
    told = ssh2.play("sftp", folder=str(tmp_path))
    assert ssh2.server.ssh("rm -r d").returncode == 0
    assert (tmp_path / "back").read_bytes() == (tmp_path / "noise").read_bytes()
    assert told == {
        "start": ssh2.server.tree,
        "pointsTo": "carried",
        "names": ["carried", "link", "twin", "twin2"],
        "small": "small",
        "hasStatvfs": True,
        "missing": [2, "No such file"],
    }


def test_forwards_of_every_kind_lead_where_they_should(ssh2: Ssh2) -> None:
    server = ssh2.server
    remote, closed = free_port(), free_port()
    path, remote_path = f"{server.home}/s-{closed}", f"{server.home}/r-{closed}"
    with shouting_inside(server) as port, shouting_inside(server, path):
        told = ssh2.play("forwards", port=port, path=path, own=closed, remotePort=remote, remotePath=remote_path)
    server.ssh(f"rm -f {remote_path}")
    assert told == {
        "toPort": "TO A PORT",
        "toPath": "TO A PATH",
        "refused": 2,  # SSH_OPEN_CONNECT_FAILED
        "given": "HELLO",
        str(remote): "HELLO",
        remote_path: "HELLO",
        "afterwards": 1,
    }


def test_none_and_wrong_keys_come_before_the_right_one(ssh2: Ssh2, tmp_path: Path) -> None:
    wrong = [tmp_path / f"wrong{number}" for number in range(WRONG_KEYS)]
    for key in wrong:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    for right in (ssh2.server.key, ssh2.server.rsa_key):
        told = ssh2.play("keys", keys=[str(key) for key in (*wrong, right)])
        assert told == {"tried": ["none", *["publickey"] * (WRONG_KEYS + 1)], "text": "in\n"}


def test_its_probes_are_answered(ssh2: Ssh2) -> None:
    assert ssh2.play("keepalive") == "still\n"
