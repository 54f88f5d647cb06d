"""Servers that answer in capitals, on this side or inside a workspace, and who speaks to them through a forward."""

from __future__ import annotations

import shlex
import socket
import socketserver
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.installed import DEADLINE_SECONDS, InstalledGateway, until
from tests.support.server import Server

# Answers each connection with what it got, upper case, once the other side has half-closed.
SHOUTER = """
import socket, sys, threading
def serve(c):
    data = b"".join(iter(lambda: c.recv(65536), b""))
    c.sendall(data.upper()); c.close()
if len(sys.argv) > 1:
    s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print(0, flush=True)
else:
    s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""
# Sends its standard input to a host and port, or a path, half-closes, and prints the answer.
_ASKER = """
import socket, sys
if len(sys.argv) > 2:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
else:
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
data = sys.stdin.buffer.read()
import threading
threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)), daemon=True).start()
sys.stdout.buffer.write(b"".join(iter(lambda: s.recv(65536), b"")))
"""


@contextmanager
def shouting_inside(gateway: InstalledGateway | Server, path: str | None = None) -> Iterator[int]:
    """A server inside the workspace, on a port of loopback, which is yielded, or on a unix path."""
    words = shlex.join(["python3", "-c", SHOUTER, *([path] if path else [])])
    with subprocess.Popen(
        gateway.ssh_command(f"echo $$; exec {words}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    ) as client:
        assert client.stdout is not None
        pid, port = int(client.stdout.readline()), int(client.stdout.readline())
        try:
            yield port
        finally:
            gateway.ssh(f"kill -9 {pid}" + (f"; rm -f {path}" if path else ""))
            client.kill()


def asked_inside(
    gateway: InstalledGateway | Server, *where: object, data: bytes, options: tuple[str, ...] = ()
) -> bytes:
    """What a server says to a program inside: `where` is a host and port, or a path. Empty if it cannot be reached."""
    words = shlex.join(["python3", "-c", _ASKER, *map(str, where)])
    return gateway.ssh(*options, "--", words, input=data).stdout


class _Shout(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data = b"".join(iter(lambda: self.request.recv(65536), b""))
        self.request.sendall(data.upper())


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def shouting(host: str = "127.0.0.1") -> Iterator[int]:
    """A server on this side; yields its port."""
    with _Server((host, 0), _Shout) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="shouting")
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def shout(sock: socket.socket, data: bytes) -> bytes:
    """Send, half-close, and read the answer to its end, or to where the connection broke. Closes the socket."""

    def send() -> None:
        with suppress(OSError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

    answer = b""
    with sock:
        sock.settimeout(DEADLINE_SECONDS)
        sender = threading.Thread(target=send, name="shout")
        sender.start()
        with suppress(ConnectionError):
            while more := sock.recv(65536):
                answer += more
        sender.join()
    return answer


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS)


def awaited(port: int) -> socket.socket:
    """A connection as soon as somebody listens: a client with nothing but a forward does not say when it does."""
    until(lambda: not is_refused(port), f"somebody listens on port {port}")
    return connected(port)


def through_socks(proxy: socket.socket, host: str, target: int) -> socket.socket:
    """A SOCKS5 connection by name, as VS Code makes them (RFC 1928). Raises ConnectionRefusedError."""
    proxy.sendall(b"\x05\x01\x00")
    assert proxy.recv(2) == b"\x05\x00"
    proxy.sendall(b"\x05\x01\x00\x03" + bytes([len(host)]) + host.encode() + struct.pack(">H", target))
    answer = proxy.recv(10)
    if answer[1:2] != b"\0":  # ssh says nothing, and closes, where the other side refused
        proxy.close()
        raise ConnectionRefusedError(f"{host}:{target}: {answer!r}")
    return proxy


def is_refused(port: int, host: str = "127.0.0.1") -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection((host, port), DEADLINE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def outer_address() -> str | None:
    """An IPv4 address of this machine that is not loopback."""
    found = (a.address for each in psutil.net_if_addrs().values() for a in each if a.family == socket.AF_INET)
    return next((address for address in found if not address.startswith("127.")), None)


def has_ipv6_loopback() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return Path("/proc/net/if_inet6").exists()
