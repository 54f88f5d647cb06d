"""Port forwarding by stock ssh (-L, -D, -W): into the workspace's loopback, and nowhere else."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.installed import InstalledGateway, free_port

# Answers each connection with what it got, upper case, once the other side has half-closed.
SHOUTER = """
import socket, threading
def serve(c):
    data = b"".join(iter(lambda: c.recv(65536), b""))
    c.sendall(data.upper()); c.close()
s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""
AT_ONCE_SECONDS = 3.0
TALKING = "-o", "LogLevel=INFO"  # ssh says why a channel was refused only at this level
SHOUT_BYTES = 2 * 1024 * 1024


@contextmanager
def shouter(gateway: InstalledGateway) -> Iterator[int]:
    """A server inside the workspace; yields its port."""
    command = gateway.ssh_command(f"exec python3 -c '{SHOUTER}'")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/") as client:
        assert client.stdout is not None
        port = int(client.stdout.readline())
        try:
            yield port
        finally:
            gateway.ssh(f"fuser -k {port}/tcp || pkill -f '[c]reate_server'")
            client.kill()


def shout(sock: socket.socket, data: bytes) -> bytes:
    with sock:
        sock.settimeout(20)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def through_socks(port: int, host: str, target: int) -> socket.socket:
    """A SOCKS5 connection by name, as VS Code makes them (RFC 1928)."""
    sock = socket.create_connection(("127.0.0.1", port), 20)
    sock.sendall(b"\x05\x01\x00")
    assert sock.recv(2) == b"\x05\x00"
    sock.sendall(b"\x05\x01\x00\x03" + bytes([len(host)]) + host.encode() + struct.pack(">H", target))
    answer = sock.recv(10)
    assert answer[1] == 0, f"refused with {answer[1]}"
    return sock


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_w_joins_standard_streams_to_a_port_inside(gateway: InstalledGateway, host: str) -> None:
    with shouter(gateway) as port:
        done = gateway.ssh("-W", f"{host}:{port}", "--", input=b"hello")
        assert (done.returncode, done.stdout) == (0, b"HELLO")


def test_l_and_d_carry_megabytes_half_closed_on_several_channels(gateway: InstalledGateway) -> None:
    noise = os.urandom(SHOUT_BYTES).lower()
    local, dynamic = free_port(), free_port()
    with shouter(gateway) as port, gateway.master() as master:
        forwarded = gateway.ssh(*master, "-O", "forward", "-L", f"{local}:127.0.0.1:{port}", "-D", str(dynamic), "--")
        assert forwarded.returncode == 0, forwarded.stderr
        first = socket.create_connection(("127.0.0.1", local), 20)
        second = through_socks(dynamic, "localhost", port)
        third = through_socks(dynamic, "127.0.0.1", port)
        for sock in (first, second, third):
            assert shout(sock, noise) == noise.upper()


def test_closed_port_is_refused_at_once(gateway: InstalledGateway) -> None:
    """A client that only waits shows an empty window for a minute."""
    started = time.monotonic()
    done = gateway.ssh(*TALKING, "-W", f"127.0.0.1:{free_port()}", "--")
    assert (done.returncode, b"Connection refused" in done.stderr) == (255, True)
    assert time.monotonic() - started < AT_ONCE_SECONDS


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
    assert time.monotonic() - started < AT_ONCE_SECONDS


def test_gateway_s_own_ssh_port_may_be_reached_for_proxyjump(gateway: InstalledGateway) -> None:
    done = gateway.ssh("-W", f"127.0.0.1:{gateway.ssh_port}", "--", input=b"")
    assert done.stdout.startswith(b"SSH-2.0-")


def test_control_socket_cannot_be_reached_by_a_forward(gateway: InstalledGateway) -> None:
    """A unix path would be opened by the gateway itself, which owns the socket."""
    local = free_port()
    with gateway.master() as master:
        target = f"{local}:{gateway.directory}/run/control.sock"
        gateway.ssh(*master, "-O", "forward", "-L", target, "--")
        with socket.create_connection(("127.0.0.1", local), 20) as sock:
            sock.settimeout(20)
            assert sock.recv(1) == b""
        assert gateway.ssh(*master, "--", "echo alive").stdout == b"alive\n"


def test_remote_forward_is_refused_and_the_connection_lives_on(gateway: InstalledGateway) -> None:
    with gateway.master() as master:
        refused = gateway.ssh(*master, "-O", "forward", "-R", "0:127.0.0.1:9", "--")
        assert refused.returncode != 0
        assert gateway.ssh(*master, "--", "echo alive").stdout == b"alive\n"


def test_missing_workspace_forwards_nothing(gateway: InstalledGateway) -> None:
    done = gateway.ssh("-W", f"127.0.0.1:{gateway.ssh_port}", "--", workspace="no-such")
    assert (done.returncode, done.stdout) == (255, b"")
