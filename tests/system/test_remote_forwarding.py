"""Listeners that the client asks for, by stock ssh (-R): inside the workspace, on loopback, gone with their client."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.installed import InstalledGateway, free_port, until
from tests.support.streams import asked_inside, has_ipv6_loopback, is_refused, outer_address, shouting

AT_ONCE_SECONDS = 3.0
SHOUT_BYTES = 2 * 1024 * 1024
HOSTS = ("127.0.0.1", "localhost", "::1") if has_ipv6_loopback() else ("127.0.0.1", "localhost")


def free_path() -> str:
    return f"/tmp/hp-{free_port()}.sock"


def path_exists(gateway: InstalledGateway, path: str) -> bool:
    return gateway.ssh(f"test -S {path}").returncode == 0


def listeners(gateway: InstalledGateway, target: str) -> list[dict[str, object]]:
    """What the journal says of them, the oldest first."""
    rows = gateway.rows("SELECT details FROM auth_logs WHERE action = 'forward' ORDER BY created_at")
    return [one for one in (json.loads(str(row["details"])) for row in rows) if one.get("target") == target]


def listening_sockets(port: int) -> set[str]:
    """The local addresses that listen on the port, as /proc/net shows them."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {fields[1].partition(":")[0] for fields in lines if fields[3] == "0A" and int(fields[1][-4:], 16) == port}


def test_r_carries_megabytes_half_closed_from_inside(gateway: InstalledGateway) -> None:
    noise, port = os.urandom(SHOUT_BYTES).lower(), free_port()
    with shouting() as target, gateway.master() as master:
        assert gateway.ssh(*master, "-O", "forward", "-R", f"{port}:127.0.0.1:{target}", "--").returncode == 0
        for host in HOSTS:
            assert asked_inside(gateway, host, port, data=noise) == noise.upper()
    until(lambda: is_refused(port), "the listener is gone with its client")
    opened, *streams, closed = until(
        lambda: (found := listeners(gateway, f"localhost:{port}"))[-1:] and found[-1]["result"] == "closed" and found,
        "the listener's last row",
    )
    assert (opened["kind"], opened["result"], closed["kind"]) == ("tcpip-forward", "opened", "tcpip-forward")
    assert [(one["kind"], one["bytes_in"], one["bytes_out"]) for one in streams] == [
        ("forwarded-tcpip", SHOUT_BYTES, SHOUT_BYTES) for _ in HOSTS
    ]


def test_r_0_tells_the_port_it_found(gateway: InstalledGateway) -> None:
    with shouting() as target, gateway.master() as master:
        done = gateway.ssh(*master, "-O", "forward", "-R", f"0:127.0.0.1:{target}", "--")
        port = int(done.stdout)
        assert asked_inside(gateway, "localhost", port, data=b"hello") == b"HELLO"
        assert gateway.ssh(*master, "-O", "cancel", "-R", f"{port}:127.0.0.1:{target}", "--").returncode in (0, 255)


@pytest.mark.parametrize("asked", ["", "*:", "0.0.0.0:", "[::]:", "192.0.2.1:", "example.invalid:", "[::1]:"])
def test_r_listens_on_loopback_alone_whatever_was_asked_for(gateway: InstalledGateway, asked: str) -> None:
    port = free_port()
    with shouting() as target, gateway.master() as master:
        assert gateway.ssh(*master, "-O", "forward", "-R", f"{asked}{port}:127.0.0.1:{target}", "--").returncode == 0
        loopbacks = {"0100007F"} if asked != "[::1]:" else set()
        loopbacks |= {"00000000000000000000000001000000"} if has_ipv6_loopback() else set()
        assert listening_sockets(port) == loopbacks
        outer = outer_address()
        assert outer is None or is_refused(port, outer)
        host = "::1" if asked == "[::1]:" else "127.0.0.1"
        assert asked_inside(gateway, host, port, data=b"hello") == b"HELLO"


def test_cancelled_listener_is_gone_and_can_be_had_again(gateway: InstalledGateway) -> None:
    port, path = free_port(), free_path()
    with shouting() as target, gateway.master() as master:
        for where in (str(port), path):
            forward = ("-R", f"{where}:127.0.0.1:{target}", "--")
            for _ in range(2):
                assert gateway.ssh(*master, "-O", "forward", *forward).returncode == 0
                assert gateway.ssh(*master, "-O", "cancel", *forward).returncode == 0
                until(lambda: is_refused(port) and not path_exists(gateway, path), "it is gone")
        assert gateway.ssh(*master, "--", "echo alive").stdout == b"alive\n"


def test_port_in_use_is_refused_at_once_and_the_connection_lives_on(gateway: InstalledGateway) -> None:
    """Even where only one of the two loopback addresses is taken: `localhost` would mean two servers."""
    with socket.create_server(("127.0.0.1", 0)) as taken, gateway.master() as master:
        port = taken.getsockname()[1]
        started = time.monotonic()
        refused = gateway.ssh(*master, "-O", "forward", "-R", f"{port}:127.0.0.1:9", "--")
        assert (refused.returncode, b"forwarding failed" in refused.stderr) == (255, True)
        assert time.monotonic() - started < AT_ONCE_SECONDS
        assert listening_sockets(port) == {"0100007F"}
        assert gateway.ssh(*master, "--", "echo alive").stdout == b"alive\n"
    (row,) = until(lambda: listeners(gateway, f"localhost:{port}"), "the refusal's row")
    assert (row["result"], row["message"]) == ("refused", "Address already in use")


def test_systems_port_is_refused_with_the_reason_for_who_asks(gateway: InstalledGateway) -> None:
    done = gateway.ssh("-v", "-R", "80:127.0.0.1:9", "--", "echo alive")
    assert done.stdout == b"alive\n"
    assert b"homeport: listening on localhost:80 refused: ports below 1024" in done.stderr, done.stderr
    strict = gateway.ssh("-o", "ExitOnForwardFailure=yes", "-R", "80:127.0.0.1:9", "--", "echo alive")
    assert (strict.returncode, strict.stdout) == (255, b"")


def test_r_makes_a_unix_socket_inside_that_goes_with_its_client(gateway: InstalledGateway) -> None:
    noise, path = os.urandom(SHOUT_BYTES).lower(), free_path()
    with shouting() as target, gateway.master() as master:
        assert gateway.ssh(*master, "-O", "forward", "-R", f"{path}:127.0.0.1:{target}", "--").returncode == 0
        assert gateway.ssh(f"stat -c %a {path}").stdout == b"600\n"
        assert asked_inside(gateway, path, data=noise) == noise.upper()
    until(lambda: not path_exists(gateway, path), "the socket is gone with its client")


def test_r_does_not_replace_a_file(gateway: InstalledGateway) -> None:
    path = free_path()
    gateway.ssh(f"echo mine > {path}")
    with gateway.master() as master:
        assert gateway.ssh(*master, "-O", "forward", "-R", f"{path}:127.0.0.1:9", "--").returncode == 255
        assert gateway.ssh(*master, "--", f"cat {path}; rm {path}").stdout == b"mine\n"


def test_r_without_a_target_is_a_socks_proxy_to_the_client_s_side(gateway: InstalledGateway) -> None:
    ask = """
import socket, struct, sys
proxy, target = int(sys.argv[1]), int(sys.argv[2])
s = socket.create_connection(("127.0.0.1", proxy), 20)
s.sendall(b"\\5\\1\\0")
assert s.recv(2, socket.MSG_WAITALL) == b"\\5\\0"
s.sendall(b"\\5\\1\\0\\3\\x09localhost" + struct.pack(">H", target))
assert s.recv(10, socket.MSG_WAITALL)[1] == 0
s.sendall(b"hello"); s.shutdown(1)
print(b"".join(iter(lambda: s.recv(99), b"")).decode())
"""
    port = free_port()
    with shouting() as target, gateway.master() as master:
        assert gateway.ssh(*master, "-O", "forward", "-R", str(port), "--").returncode == 0
        assert gateway.ssh("--", f"python3 - {port} {target}", input=ask.encode()).stdout == b"HELLO\n"


def test_killed_client_leaves_no_listener(gateway: InstalledGateway) -> None:
    port, path = free_port(), free_path()
    command = gateway.ssh_command("-N", "-R", f"{port}:127.0.0.1:9", "-R", f"{path}:127.0.0.1:9", "--")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd="/") as client:
        until(lambda: listening_sockets(port) and path_exists(gateway, path), "both listen")
        client.kill()
    until(lambda: not listening_sockets(port) and not path_exists(gateway, path), "both are gone")


def test_killed_keeper_takes_its_listeners_along_and_the_connection_lives_on(gateway: InstalledGateway) -> None:
    """The gateway holds the sockets: they would go on accepting for a workspace that is no more."""
    port = free_port()
    with shouting() as target, gateway.master() as master:
        assert gateway.ssh(*master, "-O", "forward", "-R", f"{port}:127.0.0.1:{target}", "--").returncode == 0
        for pid in gateway.keeper_pids():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not listening_sockets(port), "the listener is closed")
        assert gateway.ssh(*master, "--", "echo alive").stdout == b"alive\n"


def test_target_that_refuses_costs_only_its_stream(gateway: InstalledGateway) -> None:
    port, dead = free_port(), free_port()
    with gateway.master() as master:
        assert gateway.ssh(*master, "-O", "forward", "-R", f"{port}:127.0.0.1:{dead}", "--").returncode == 0
        for _ in range(3):
            assert asked_inside(gateway, "127.0.0.1", port, data=b"hello") == b""
        assert gateway.ssh(*master, "--", "echo alive").stdout == b"alive\n"
        refusals = [one for one in listeners(gateway, f"localhost:{port}") if one["result"] == "refused"]
        assert {one["reason"] for one in refusals} <= {"client_refused"}
