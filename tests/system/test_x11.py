"""X11 forwarding by stock ssh -Y, with an X server that knows one cookie and says so."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installed import InstalledGateway, Result, until
from tests.support.walls import walls
from tests.support.x_server import ANSWER, COOKIE, PORT_OF_DISPLAY_0, PROGRAM, XServer
from tests.system.conftest import PIPE_LINGER_SECONDS, running, skip_without_walls

START_SECONDS_MAX = 9.0  # five for the display, and a login


@pytest.fixture(scope="module", autouse=True)
def _xauth() -> None:
    if shutil.which("xauth") is None:
        pytest.skip("xauth is not installed; apt install xauth")


@pytest.fixture(scope="module", params=walls())
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
    done = gateway.ssh("-Y", "-v", "--", "echo [$DISPLAY]", env=server.environment)
    assert (done.stdout, b"X11 forwarding request failed" in done.stderr) == (b"[]\n", True)
    assert b"forwards no X11 displays (ssh.x11_forwarding)" in done.stderr, done.stderr
