"""What Zed does: one master connection of its own, many sessions on it, a server brought along, and one long RPC."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.installed import DEADLINE_SECONDS, until
from tests.support.server import Client, Server

pytestmark = pytest.mark.slow

MESSAGES = 500
BODY_BYTES_MAX = 100_000
# The editor's own: `proxy` joins its standard streams to a server in the background, which it starts if there is none.
# The server answers a message, its length first, with its pid, how many it has had, and the message.
REMOTE_SERVER = r"""#!/usr/bin/env python3
import os, socket, struct, subprocess, sys, threading, time
PATH = os.path.expanduser("~/.zed_server/socket")

def serve():
    open(PATH + ".pid", "w").write(str(os.getpid()))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(PATH + ".new"); listener.listen(); os.rename(PATH + ".new", PATH)
        count = 0
        while True:
            stream = listener.accept()[0].makefile("rwb")
            while len(head := stream.read(4)) == 4:
                body = stream.read(struct.unpack("<I", head)[0]); count += 1
                if body == b"quit":
                    os.unlink(PATH); return
                answer = struct.pack("<II", os.getpid(), count) + body
                stream.write(struct.pack("<I", len(answer)) + answer); stream.flush()

def proxy():
    if not os.path.exists(PATH):
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        subprocess.Popen([sys.executable, __file__, "run"], start_new_session=True, **streams)
        while not os.path.exists(PATH): time.sleep(0.01)
    stream = socket.socket(socket.AF_UNIX); stream.connect(PATH)
    def inward():
        while data := os.read(0, 65536): stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
    threading.Thread(target=inward, daemon=True).start()
    while data := stream.recv(65536): sys.stdout.buffer.write(data); sys.stdout.buffer.flush()

{"run": serve, "proxy": proxy}[sys.argv[1]]()
"""


@contextmanager
def zed(server: Server) -> Iterator[tuple[Client, tuple[str, ...]]]:
    """The master connection, in the foreground, and the options of all that use it."""
    path = server.scratch / "zed.sock"
    control = ("-o", f"ControlPath={path}")
    master = [
        "ssh",
        *server.ssh_options,
        "-N",
        "-o",
        "ControlPersist=no",
        "-o",
        "ControlMaster=yes",
        *control,
        "server",
    ]
    with server.start(master) as client:
        try:
            until(path.exists, "the master connection is there")
            yield client, ("-o", "ControlMaster=no", *control)
        finally:
            client.kill()
            path.unlink(missing_ok=True)


def ask(proxy: subprocess.Popen[bytes], body: bytes) -> tuple[int, int, bytes]:
    """The server's pid, its count of messages, and what it sent back."""
    assert proxy.stdin is not None
    assert proxy.stdout is not None
    proxy.stdin.write(struct.pack("<I", len(body)) + body)
    proxy.stdin.flush()
    answer = proxy.stdout.read(struct.unpack("<I", proxy.stdout.read(4))[0])
    pid, count = struct.unpack_from("<II", answer)
    return pid, count, answer[8:]


@pytest.fixture
def remote_server(server: Server, tmp_path: Path) -> Iterator[str]:
    """Brought as Zed does: packed, by scp under a passing name, unpacked and moved to its place in the home."""
    (tmp_path / "server").write_text(REMOTE_SERVER)
    subprocess.run(["gzip", tmp_path / "server"], check=True)
    place = f"{server.home}/.zed_server"
    with zed(server) as (_, options):
        assert server.ssh("-T", *options, "--", "uname -sm").stdout.startswith(b"Linux ")
        # The link is what docs/vscode.md tells users to make: Zed uploads to a path relative to where it starts.
        link = "[ -e .zed_server ] || ln -s ~/.zed_server .zed_server"
        assert server.ssh(*options, "--", f"mkdir -p {place} && {{ {link}; }}").returncode == 0
        scp: list[str | bytes] = ["scp", "-C", *server.ssh_options, *options]
        done = server.run([*scp, str(tmp_path / "server.gz"), "server:.zed_server/download-1.gz"])
        assert done.returncode == 0, done.stderr
        unpack = f"cd {place} && gunzip -f download-1.gz && chmod 755 download-1 && mv download-1 server"
        assert server.ssh(*options, "--", unpack).returncode == 0
    yield f"{place}/server"
    # Where a test failed its server still runs.
    server.ssh(f"kill $(cat {place}/socket.pid); rm -r {place}; rm -f .zed_server")


def test_long_rpc_goes_on_beside_terminals_and_outlives_the_connection(server: Server, remote_server: str) -> None:
    command = f"env RUST_LOG=info {remote_server} proxy"
    random.seed(0)
    with zed(server) as (master, options), server.start(server.ssh_command("-T", *options, "--", command)) as proxy:
        pid, _, _ = ask(proxy, b"hello")
        # ssh without a terminal of its own asks for one without any mode, if it shares a connection.
        shell = server.ssh_command("-tt", *options, "--", "stty sane; echo up; exec cat")
        terminals = [server.start(shell) for _ in range(5)]
        for number in range(MESSAGES):
            body = os.urandom(random.randrange(BODY_BYTES_MAX))
            assert ask(proxy, body) == (pid, number + 2, body)
        for terminal in terminals:
            with terminal:
                assert terminal.communicate(b"typed\n\x04", timeout=DEADLINE_SECONDS)[0].count(b"typed\r\n") == 2
                # A master may forget how a session ended whose input ends with it: seen once, with sshd.
                assert terminal.returncode == 0 or server.is_sshd
        master.send_signal(signal.SIGKILL)  # a lid is closed
        with suppress(BrokenPipeError):
            proxy.communicate(timeout=DEADLINE_SECONDS)
    with zed(server) as (_, options), server.start(server.ssh_command("-T", *options, "--", command)) as proxy:
        assert ask(proxy, b"again") == (pid, MESSAGES + 2, b"again")
        assert proxy.stdin is not None
        proxy.stdin.write(struct.pack("<I", 4) + b"quit")
        assert proxy.communicate(timeout=DEADLINE_SECONDS) == (b"", b"")
        assert proxy.returncode == 0
