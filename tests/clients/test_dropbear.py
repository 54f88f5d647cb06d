"""dropbear's dbclient, the client of routers and rescue systems: it guesses the key exchange, and has small windows."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.clients import require
from tests.support.installed import Result, free_port
from tests.support.server import Server
from tests.support.streams import asked_inside, awaited, shout, shouting, shouting_inside
from tests.support.terminal import Terminal

pytestmark = pytest.mark.slow

SIZE_BYTES = 4 * 1024 * 1024 + 1
# A dbclient whose server and whose parent are gone turns in a circle for ever: it ends with its parent (prctl(2)).
DBCLIENT = ("setpriv", "--pdeathsig", "KILL", "dbclient")


@dataclass(frozen=True)
class Dropbear:
    server: Server
    options: tuple[str, ...]
    environment: dict[str, str]

    @property
    def host(self) -> str:
        return f"{self.server.user}@{self.server.host}"

    def run(self, *words: str, **options: object) -> Result:
        """Options first; the command, if any, stands after a `--`."""
        split = words.index("--") if "--" in words else len(words)
        command: list[str | bytes] = [*DBCLIENT, *self.options, *words[:split], self.host, *words[split + 1 :]]
        return self.server.run(command, env=self.environment, **options)

    @contextmanager
    def tunnel(self, *forward: str) -> Iterator[None]:
        command: list[str | bytes] = [*DBCLIENT, *self.options, "-N", *forward, self.host]
        with self.server.start(command, env=self.environment) as client:
            try:
                yield
            finally:
                client.kill()


@pytest.fixture(scope="module")
def dropbear(server: Server) -> Dropbear:
    require("dbclient", "dropbearconvert", "setpriv")
    return with_key(server, server.key)


def with_key(server: Server, key: Path) -> Dropbear:
    """A converted key, and the host keys in the one place dbclient looks for them, without ports."""
    own = server.scratch / f"{key.name}.dropbear"
    converted = server.run(["dropbearconvert", "openssh", "dropbear", str(key), str(own)])
    assert converted.returncode == 0, converted.stderr
    home = server.scratch / "dropbear"
    (home / ".ssh").mkdir(parents=True, exist_ok=True)
    known = server.known_hosts.read_text().replace(f"[{server.host}]:{server.port}", server.host)
    (home / ".ssh/known_hosts").write_text(known)
    return Dropbear(server, ("-p", str(server.port), "-i", str(own)), {**server.environment, "HOME": str(home)})


def test_command_has_its_streams_apart_and_its_exit_code(dropbear: Dropbear) -> None:
    """The guessed key exchange packet is right, or is passed over (RFC 4253 §7)."""
    done = dropbear.run("--", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_rsa_key_signs_with_sha2(dropbear: Dropbear) -> None:
    assert with_key(dropbear.server, dropbear.server.rsa_key).run("--", "echo in").stdout == b"in\n"


def test_megabytes_go_up_and_come_back(dropbear: Dropbear) -> None:
    """One way at a time and with its own window: dbclient 2022.83 hangs now and then otherwise, at sshd as well."""
    noise = os.urandom(SIZE_BYTES)
    up = dropbear.run("--", "cat > carried; wc -c < carried", input=noise)
    assert (up.returncode, up.stdout) == (0, b"%d\n" % SIZE_BYTES), up.stderr
    down = dropbear.run("--", "cat carried; rm carried")
    assert (down.returncode, hashlib.sha256(down.stdout).digest()) == (0, hashlib.sha256(noise).digest()), down.stderr


def test_terminal_is_one(dropbear: Dropbear) -> None:
    command = ["env", f"HOME={dropbear.environment['HOME']}", *DBCLIENT, *dropbear.options, dropbear.host]
    with Terminal(command, columns=93, rows=17) as terminal:
        terminal.enter("stty size; tty")
        terminal.wait("17 93")
        terminal.wait("/dev/pts/")
        terminal.enter("exit 5")
        assert terminal.wait_ended() == 5


def test_scp_over_it_carries_a_file_both_ways(dropbear: Dropbear, tmp_path: Path) -> None:
    """Old protocol: dropbear's own scp knows no other. OpenSSH's scp stands in for it, with dbclient as transport."""
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(SIZE_BYTES))
    transport = tmp_path / "transport"
    # scp's own options for ssh are cut off: -x -o… -l USER -- HOST COMMAND.
    own = shlex.join([*DBCLIENT, *dropbear.options, "-l", dropbear.server.user])
    transport.write_text(f'#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec {own} "$@"\n')
    transport.chmod(0o755)
    scp: list[str | bytes] = ["scp", "-q", "-O", "-S", str(transport)]
    up = dropbear.server.run([*scp, str(noise), f"{dropbear.host}:carried"], env=dropbear.environment)
    assert (up.returncode, up.stderr) == (0, b"")
    down = dropbear.server.run([*scp, f"{dropbear.host}:carried", str(tmp_path / "back")], env=dropbear.environment)
    assert (down.returncode, (tmp_path / "back").read_bytes() == noise.read_bytes()) == (0, True), down.stderr
    dropbear.server.ssh("rm carried")


def test_local_forward_reaches_a_server_inside(dropbear: Dropbear) -> None:
    local = free_port()
    with shouting_inside(dropbear.server) as port, dropbear.tunnel("-L", f"127.0.0.1:{local}:127.0.0.1:{port}"):
        assert shout(awaited(local), b"hello" * 99_999) == b"HELLO" * 99_999


def test_netcat_mode_joins_standard_streams_to_a_port_inside(dropbear: Dropbear) -> None:
    with shouting_inside(dropbear.server) as port:
        done = dropbear.run("-B", f"127.0.0.1:{port}", input=b"hello")
        assert (done.returncode, done.stdout) == (0, b"HELLO"), done.stderr


def test_remote_forward_reaches_a_server_of_the_client(dropbear: Dropbear) -> None:
    remote = free_port()
    with shouting() as port, dropbear.tunnel("-R", f"127.0.0.1:{remote}:127.0.0.1:{port}"):
        awaited(remote).close()
        assert asked_inside(dropbear.server, "127.0.0.1", remote, data=b"hello") == b"HELLO"
