"""X11 forwarding by stock ssh -Y, with an X server that knows one cookie and says so."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installed import InstalledGateway, Result, until
from tests.system.conftest import PIPE_LINGER_SECONDS, running, skip_without_walls

COOKIE = "00112233445566778899aabbccddeeff"
PROTOCOL = b"MIT-MAGIC-COOKIE-1"
PORT_OF_DISPLAY_0 = 6000
ANSWER = b"this is the client's own server"
START_SECONDS_MAX = 9.0  # five for the display, and a login

# A program inside: finds the cookie as libX11 does, opens the display, prints what the server says.
PROGRAM = """
import os, socket, struct, subprocess
number = os.environ["DISPLAY"].rpartition(":")[2].partition(".")[0]
listed = subprocess.run(["xauth", "list", f"unix:{number}"], capture_output=True, text=True).stdout
cookie = bytes.fromhex(listed.split()[2])
with socket.create_connection(("localhost", 6000 + int(number)), 10) as x:
    name = b"MIT-MAGIC-COOKIE-1"
    x.sendall(struct.pack("<BxHHHHxx", 0x6C, 11, 0, len(name), len(cookie)) + name + bytes(2) + cookie)
    print(x.makefile("rb").read()[8:].rstrip(bytes(1)).decode())
"""


class XServer:
    """Answers each connection with a refusal, whose reason says whether the cookie was right."""

    def __init__(self, directory: Path) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))  # a port far above those of displays
        self.number = self._listener.getsockname()[1] - PORT_OF_DISPLAY_0
        self.cookies: list[bytes] = []
        authority = directory / "client-authority"
        subprocess.run(
            ["xauth", "-q", "-f", str(authority), "add", f"127.0.0.1:{self.number}", PROTOCOL.decode(), COOKIE],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        self.environment = {
            **os.environ, "DISPLAY": f"127.0.0.1:{self.number}", "XAUTHORITY": str(authority),
        }  # fmt: skip
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rb") as stream:
                head = stream.read(12)
                name_bytes, cookie_bytes = struct.unpack("<6xHHxx", head)
                name = stream.read(-(-name_bytes // 4) * 4)[:name_bytes]
                self.cookies.append(stream.read(-(-cookie_bytes // 4) * 4)[:cookie_bytes])
                is_right = (name, self.cookies[-1].hex()) == (PROTOCOL, COOKIE)
                reason = ANSWER if is_right else b"wrong cookie"
                padded = reason + bytes(-len(reason) % 4)
                client.sendall(struct.pack("<BBHHH", 0, len(reason), 11, 0, len(padded) // 4) + padded)


@pytest.fixture(scope="module", autouse=True)
def _xauth() -> None:
    if shutil.which("xauth") is None:
        pytest.skip("xauth is not installed; apt install xauth")


@pytest.fixture(scope="module", params=["none", "bubblewrap"])
def forwarding(request: pytest.FixtureRequest) -> Iterator[InstalledGateway]:
    """A gateway that forwards X11."""
    skip_without_walls(request.param)
    yield from running(
        InstalledGateway(request.param, ssh_x11_forwarding="true", session_pipe_linger_seconds=PIPE_LINGER_SECONDS)
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[XServer]:
    server = XServer(tmp_path)
    yield server
    server.close()


def ssh_y(gateway: InstalledGateway, server: XServer, command: str, **options: object) -> Result:
    return gateway.ssh("-Y", "-o", "LogLevel=INFO", "--", command, env=server.environment, **options)


def test_program_inside_reaches_the_client_s_server_with_its_cookie(
    forwarding: InstalledGateway, server: XServer
) -> None:
    done = ssh_y(forwarding, server, "python3 -", input=PROGRAM.encode())
    assert done.stdout.strip() == ANSWER, done
    assert [cookie.hex() for cookie in server.cookies] == [COOKIE]


@pytest.mark.skipif(shutil.which("xdpyinfo") is None, reason="xdpyinfo is not installed; apt install x11-utils")
def test_program_of_libx11_finds_the_cookie_by_itself(forwarding: InstalledGateway, server: XServer) -> None:
    done = ssh_y(forwarding, server, "xdpyinfo")
    assert ANSWER in done.stderr, done


def test_two_sessions_have_two_displays_and_one_s_end_leaves_the_other(
    forwarding: InstalledGateway, server: XServer
) -> None:
    command = forwarding.ssh_command("-Y", "--", 'echo $DISPLAY; read go; exec python3 -c "$(cat program)"')
    forwarding.ssh("cat >program", input=PROGRAM.encode())
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          env=server.environment, cwd="/") as first:  # fmt: skip
        assert first.stdout is not None
        name = first.stdout.readline()
        other = ssh_y(forwarding, server, "echo $DISPLAY").stdout
        assert (name.startswith(b"localhost:"), other.startswith(b"localhost:"), name != other) == (True, True, True)
        said, _ = first.communicate(b"go\n", timeout=20)
        assert said.strip() == ANSWER
    forwarding.ssh("rm program")


def test_display_is_gone_with_its_session(forwarding: InstalledGateway, server: XServer) -> None:
    name = ssh_y(forwarding, server, "echo $DISPLAY").stdout.decode().strip()
    port = PORT_OF_DISPLAY_0 + int(name.removeprefix("localhost:").partition(".")[0])
    for host in ("127.0.0.1", "::1"):
        until(lambda host=host: is_refused(host, port), f"nobody listens at {host}")


def is_refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 10).close()
    except OSError:
        return True
    return False


def test_display_is_on_record(forwarding: InstalledGateway, server: XServer) -> None:
    ssh_y(forwarding, server, "true")
    opened = [e for e in forwarding.log.events if (e["event"], e.get("kind")) == ("listener.opened", "x11")][-1]
    query = "SELECT details FROM auth_logs WHERE action = 'forward' AND details LIKE ? ORDER BY created_at"
    rows = until(
        lambda: len(found := forwarding.rows(query, f"%{opened['connection_id']}%")) == 2 and found, "two rows"
    )
    assert [json.loads(str(row["details"]))["result"] for row in rows] == ["opened", "closed"]


def test_without_a_request_there_is_no_display(forwarding: InstalledGateway) -> None:
    assert forwarding.ssh("-x", "--", "echo [$DISPLAY]").stdout == b"[]\n"


@pytest.mark.slow
def test_locked_authority_file_holds_a_login_up_for_some_seconds_only(
    forwarding: InstalledGateway, server: XServer
) -> None:
    """xauth itself would wait for twenty, for the lock of a program that may never end."""
    forwarding.ssh("touch ~/.Xauthority-c ~/.Xauthority-l")
    started = time.monotonic()
    done = ssh_y(forwarding, server, "echo [$DISPLAY]")
    assert (done.stdout, b"X11 forwarding request failed" in done.stderr) == (b"[]\n", True), done
    assert time.monotonic() - started < START_SECONDS_MAX
    forwarding.ssh("rm ~/.Xauthority-c ~/.Xauthority-l")
    assert ssh_y(forwarding, server, "echo [$DISPLAY]").stdout.startswith(b"[localhost:")


def test_x11_is_refused_unless_it_is_switched_on(gateway: InstalledGateway, server: XServer) -> None:
    done = ssh_y(gateway, server, "echo [$DISPLAY]")
    assert (done.stdout, b"X11 forwarding request failed" in done.stderr) == (b"[]\n", True)
