"""How far forwards reach, as operators set it: per workspace and per key, by the commands that change it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.installed import WORKSPACE, InstalledGateway, Result, free_port, run, until
from tests.support.streams import asked_inside, connected, is_refused, outer_address, shout, shouting, shouting_inside
from tests.system.conftest import running, skip_without_walls

KEEPER_IDLE_SECONDS = 1.0
TALKING = "-o", "LogLevel=INFO"


@contextmanager
def set_to(gateway: InstalledGateway, forwarding: str) -> Iterator[None]:
    gateway.homeport("set", WORKSPACE, f"forwarding={forwarding}")
    try:
        yield
    finally:
        gateway.homeport("set", WORKSPACE, "forwarding=default")


def outer() -> str:
    address = outer_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    return address


def test_off_closes_forwards_of_all_kinds_and_leaves_shells(gateway: InstalledGateway) -> None:
    local, port = free_port(), free_port()
    with shouting() as target, set_to(gateway, "off"), gateway.master() as master:
        done = gateway.ssh(*TALKING, "-W", f"127.0.0.1:{target}", "--", input=b"hello")
        assert (done.returncode, done.stdout) == (255, b"")
        assert b"homeport set demo forwarding=loopback" in done.stderr, done.stderr
        for where in (str(port), "/tmp/hp-off.sock"):
            assert gateway.ssh(*master, "-O", "forward", "-R", f"{where}:127.0.0.1:{target}", "--").returncode == 255
        assert gateway.ssh(*master, "-O", "forward", "-L", f"{local}:/tmp/any.sock", "--").returncode == 0
        assert shout(connected(local), b"hello") == b""
        assert is_refused(port)
        assert gateway.ssh(*master, "--", "echo alive").stdout == b"alive\n"


def test_a_change_holds_for_the_next_stream_of_an_open_connection(gateway: InstalledGateway) -> None:
    local, port = free_port(), free_port()
    with shouting() as target, gateway.master() as master:
        words = ("-L", f"{local}:127.0.0.1:{target}", "-R", f"{port}:127.0.0.1:{target}", "--")
        assert gateway.ssh(*master, "-O", "forward", *words).returncode == 0
        assert shout(connected(local), b"hello") == b"HELLO"
        assert asked_inside(gateway, "127.0.0.1", port, data=b"hello") == b"HELLO"
        with set_to(gateway, "off"):
            assert shout(connected(local), b"hello") == b""
            assert asked_inside(gateway, "127.0.0.1", port, data=b"hello") == b""
        assert shout(connected(local), b"hello") == b"HELLO"


def test_anywhere_reaches_beyond_loopback_but_not_the_gateway(gateway: InstalledGateway) -> None:
    address = outer()
    with shouting(address) as target:
        words = ("-W", f"{address}:{target}", "--")
        refused = gateway.ssh(*TALKING, *words, input=b"hello")
        assert (refused.returncode, b"forwarding=anywhere" in refused.stderr) == (255, True), refused.stderr
        with set_to(gateway, "anywhere"):
            assert gateway.ssh(*words, input=b"hello").stdout == b"HELLO"
            own = gateway.ssh(*TALKING, "-W", f"{address}:{gateway.http_port}", "--")
            assert (own.returncode, b"belongs to the gateway" in own.stderr) == (255, True), own.stderr


def as_key(gateway: InstalledGateway, key: Path, *options: str, **more: object) -> Result:
    return run(gateway.plain_ssh_command(key, *TALKING, *options), **more)


def test_a_key_can_only_narrow_what_the_workspace_allows(gateway: InstalledGateway) -> None:
    with shouting_inside(gateway) as port:
        for forwarding, answer in (("off", b""), ("anywhere", b"HELLO")):
            key = gateway.new_key(f"key-{forwarding}")
            name = f"of-{forwarding}"
            gateway.homeport("keys", "add", f"{key}.pub", "--name", name, "--forwarding", forwarding)
            with set_to(gateway, "loopback"):
                done = as_key(gateway, key, "-W", f"127.0.0.1:{port}", input=b"hello")
                assert done.stdout == answer, done.stderr
                assert (b"homeport keys add --forwarding loopback" in done.stderr) is (forwarding == "off")
                beyond = as_key(gateway, key, "-W", "192.0.2.1:80", input=b"")
                assert b"prohibited" in beyond.stderr, beyond.stderr
            gateway.homeport("keys", "rm", name)


@pytest.fixture(scope="module")
def open_gateway() -> Iterator[InstalledGateway]:
    """Listens on every address, which needs walls."""
    skip_without_walls("bubblewrap")
    gateway = InstalledGateway("bubblewrap", session_keeper_idle_seconds=KEEPER_IDLE_SECONDS)
    gateway.environment["HOMEPORT_SSH_LISTEN"] = f"0.0.0.0:{gateway.ssh_port}"
    gateway.environment["HOMEPORT_HTTP_LISTEN"] = f"0.0.0.0:{gateway.http_port}"
    yield from running(gateway)


def test_by_the_machines_other_addresses_ssh_is_reached_and_http_is_not(open_gateway: InstalledGateway) -> None:
    address = outer()
    jumped = open_gateway.ssh("-W", f"{address}:{open_gateway.ssh_port}", "--", input=b"")
    assert jumped.stdout.startswith(b"SSH-2.0-"), jumped.stderr
    for setting in ("loopback", "anywhere"):
        with set_to(open_gateway, setting):
            done = open_gateway.ssh(*TALKING, "-W", f"{address}:{open_gateway.http_port}", "--")
            assert (done.returncode, b"belongs to the gateway" in done.stderr) == (255, True), done.stderr


def test_a_listener_alone_keeps_its_workspace_up(open_gateway: InstalledGateway) -> None:
    """`ssh -N -R` runs no program inside. The other workspace shows when idle ones end."""
    open_gateway.homeport("new", "idle")
    with shouting() as target, open_gateway.master() as master:
        port = int(open_gateway.ssh(*master, "-O", "forward", "-R", f"0:127.0.0.1:{target}", "--").stdout)
        assert open_gateway.ssh("true", workspace="idle").returncode == 0
        (row,) = open_gateway.rows("SELECT id FROM workspaces WHERE name = 'idle'")
        open_gateway.log.wait("keeper.ended", workspace_id=row["id"])
        assert shout(connected(port), b"hello") == b"HELLO"


def test_a_gateway_that_is_killed_leaves_no_listening_path(open_gateway: InstalledGateway) -> None:
    """The keeper lives on, and removes what its gateway had asked for; in the tree nobody else would."""
    path = open_gateway.ssh("pwd").stdout.decode().strip() + "/mine.sock"
    command = open_gateway.ssh_command("-N", "-R", f"{path}:127.0.0.1:9", "--")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"):
        until(lambda: open_gateway.ssh(f"test -S {path}").returncode == 0, "it listens")
        open_gateway.kill()
    open_gateway.start()
    until(lambda: open_gateway.ssh(f"test -e {path}").returncode == 1, "the path is gone")
