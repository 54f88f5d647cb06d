"""Forwards that the client opens, by stock ssh (-L, -D, -W, -J): into the workspace, and nowhere else."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.installed import InstalledGateway, free_port, until
from tests.support.streams import connected, shout, shouting_inside, through_socks

AT_ONCE_SECONDS = 3.0
TALKING = "-o", "LogLevel=INFO"  # ssh says why a channel was refused only at this level
SHOUT_BYTES = 2 * 1024 * 1024


def forwards_to(gateway: InstalledGateway, target: str) -> list[dict[str, object]]:
    """What the journal says of them, the oldest first."""
    rows = gateway.rows("SELECT success, details FROM auth_logs WHERE action = 'forward' ORDER BY created_at")
    details = [{"success": row["success"], **json.loads(str(row["details"]))} for row in rows]
    return [one for one in details if one.get("target") == target]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_w_joins_standard_streams_to_a_port_inside(gateway: InstalledGateway, host: str) -> None:
    with shouting_inside(gateway) as port:
        done = gateway.ssh("-W", f"{host}:{port}", "--", input=b"hello")
        assert (done.returncode, done.stdout) == (0, b"HELLO")


def test_l_and_d_carry_megabytes_half_closed_on_several_channels(gateway: InstalledGateway) -> None:
    noise = os.urandom(SHOUT_BYTES).lower()
    local, dynamic = free_port(), free_port()
    with shouting_inside(gateway) as port, gateway.master() as master:
        forwarded = gateway.ssh(*master, "-O", "forward", "-L", f"{local}:127.0.0.1:{port}", "-D", str(dynamic), "--")
        assert forwarded.returncode == 0, forwarded.stderr
        first = connected(local)
        second = through_socks(connected(dynamic), "localhost", port)
        third = through_socks(connected(dynamic), "127.0.0.1", port)
        for sock in (first, second, third):
            assert shout(sock, noise) == noise.upper()


def test_l_reaches_a_unix_socket_inside(gateway: InstalledGateway) -> None:
    """VS Code's server can listen on one, and docker does."""
    noise, local, path = os.urandom(SHOUT_BYTES).lower(), free_port(), f"/tmp/hp-{free_port()}.sock"
    with shouting_inside(gateway, path), gateway.master() as master:
        assert gateway.ssh(*master, "-O", "forward", "-L", f"{local}:{path}", "--").returncode == 0
        assert shout(connected(local), noise) == noise.upper()
        assert gateway.ssh(*master, "-O", "cancel", "-L", f"{local}:{path}", "--").returncode == 0
    (row,) = until(lambda: forwards_to(gateway, path), "the stream's row")
    assert (row["kind"], row["result"], row["workspace"]) == ("direct-streamlocal", "ended", "demo")
    assert (row["principal"], row["bytes_in"], row["bytes_out"]) == ("ada", SHOUT_BYTES, SHOUT_BYTES)


def test_each_stream_is_a_row_with_its_target_and_bytes(gateway: InstalledGateway) -> None:
    with shouting_inside(gateway) as port:
        gateway.ssh("-W", f"127.0.0.1:{port}", "--", input=b"hello")
        (row,) = until(lambda: forwards_to(gateway, f"127.0.0.1:{port}"), "the stream's row")
        assert (row["success"], row["kind"], row["result"]) == (1, "direct-tcpip", "ended")
        assert (row["bytes_in"], row["bytes_out"]) == (5, 5)
        assert row["connection_id"]


def test_closed_port_is_refused_at_once(gateway: InstalledGateway) -> None:
    """A client that only waits shows an empty window for a minute."""
    started, port = time.monotonic(), free_port()
    done = gateway.ssh(*TALKING, "-W", f"127.0.0.1:{port}", "--")
    assert (done.returncode, b"Connection refused" in done.stderr) == (255, True)
    assert time.monotonic() - started < AT_ONCE_SECONDS
    (row,) = until(lambda: forwards_to(gateway, f"127.0.0.1:{port}"), "the refusal's row")
    assert (row["success"], row["result"], row["reason"]) == (0, "refused", "connect_failed")


def test_a_name_that_nobody_knows_is_refused_with_that_reason(gateway: InstalledGateway) -> None:
    done = gateway.ssh(*TALKING, "-W", "no-such-host.invalid:80", "--")
    assert (done.returncode, b"not known" in done.stderr) == (255, True), done.stderr


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "127.1", "localhost", "0.0.0.0", "0", "2130706433", "[::ffff:127.0.0.1]", "127.9.9.9"]
)
def test_gateway_s_http_port_is_refused_by_whatever_name(gateway: InstalledGateway, name: str) -> None:
    done = gateway.ssh(*TALKING, "-W", f"{name}:{gateway.http_port}", "--", input=b"GET /metrics HTTP/1.0\r\n\r\n")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"administratively prohibited" in done.stderr, done.stderr
    assert b"belongs to the gateway" in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["192.0.2.1", "169.254.169.254", "10.0.0.1", "[2001:db8::1]"])
def test_other_machines_are_refused_at_once(gateway: InstalledGateway, name: str) -> None:
    started = time.monotonic()
    done = gateway.ssh(*TALKING, "-W", f"{name}:80", "--")
    assert (done.returncode, b"prohibited" in done.stderr) == (255, True), done.stderr
    assert b"homeport set demo forwarding=anywhere" in done.stderr, done.stderr
    assert time.monotonic() - started < AT_ONCE_SECONDS


def test_j_goes_on_from_a_workspace_to_another_login(gateway: InstalledGateway) -> None:
    done = gateway.ssh("-J", "demo@gateway", "--", "echo through $WORKSPACE_NAME; cat", input=b"and back")
    assert (done.returncode, done.stdout[-8:]) == (0, b"and back"), done.stderr


def reached(gateway: InstalledGateway, path: str) -> bytes:
    """What a unix socket says to a client that only connects and half-closes."""
    local = free_port()
    with gateway.master() as master:
        assert gateway.ssh(*master, "-O", "forward", "-L", f"{local}:{path}", "--").returncode == 0
        answer = shout(connected(local), b"")
        assert gateway.ssh(*master, "--", "echo alive").stdout == b"alive\n"
        return answer


def refusal(gateway: InstalledGateway, path: str) -> dict[str, object]:
    assert reached(gateway, path) == b""
    return until(lambda: forwards_to(gateway, path), "the refusal's row")[-1]


@pytest.mark.parametrize("name", ["control.sock", "keeper.sock"])
def test_the_gateways_own_sockets_are_refused_by_path_and_by_link(gateway: InstalledGateway, name: str) -> None:
    """Without walls a workspace sees them; whoever reached a keeper's would own everything in that workspace."""
    gateway.ssh("true")  # its keeper runs
    (path,) = (gateway.directory / "run").rglob(name) if name == "control.sock" else _keeper_socket(gateway)
    link = f"/tmp/hp-{free_port()}.sock"
    gateway.ssh(f"ln -s {shlex.quote(str(path))} {link}; mkdir -p up; ln -sfn {shlex.quote(str(path.parent))} up/link")
    tree = gateway.ssh("pwd").stdout.decode().strip()
    for way in (str(path), link, f"{tree}/up/link/{name}"):
        row = refusal(gateway, way)
        assert (row["success"], row["kind"], row["result"]) == (0, "direct-streamlocal", "refused")
        if gateway.isolation == "none" and name == "control.sock":
            assert "belongs to the gateway" in str(row["message"])
        elif gateway.isolation == "none":
            assert "wrong type" in str(row["message"])
        else:
            assert "No such file" in str(row["message"])
    gateway.ssh(f"rm -r {link} up")


def _keeper_socket(gateway: InstalledGateway) -> tuple[Path]:
    (row,) = gateway.rows("SELECT id FROM workspaces WHERE name = 'demo'")
    return (gateway.directory / "run" / "keepers" / str(row["id"]) / "keeper.sock",)


def test_a_unix_socket_that_is_not_there_is_refused_and_the_connection_lives_on(gateway: InstalledGateway) -> None:
    row = refusal(gateway, f"/tmp/hp-{free_port()}.sock")
    assert (row["reason"], "No such file" in str(row["message"])) == ("keeper_refused", True)


def test_missing_workspace_forwards_nothing(gateway: InstalledGateway) -> None:
    done = gateway.ssh("-W", f"127.0.0.1:{gateway.ssh_port}", "--", workspace="no-such")
    assert (done.returncode, done.stdout) == (255, b"")


def test_a_client_that_is_killed_leaves_no_stream_behind(gateway: InstalledGateway) -> None:
    """The server inside hears of it at once, as with sshd."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        command = gateway.ssh_command("-W", f"127.0.0.1:{server.getsockname()[1]}", "--")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/") as client:
            accepted, _ = server.accept()
            with accepted:
                accepted.settimeout(20)
                client.kill()
                assert accepted.recv(1) == b""
