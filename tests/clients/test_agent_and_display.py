"""A forwarded agent and a forwarded display, by the clients that can do it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import asyncssh
import pytest

from tests.clients.conftest import PIPE_LINGER_SECONDS
from tests.support.installed import DEADLINE_SECONDS
from tests.support.promises import hold_to_promises
from tests.support.server import Server, homeport, openssh
from tests.support.ssh_agent import ssh_agent
from tests.support.x_server import ANSWER, PROGRAM, XServer

paramiko = pytest.importorskip("paramiko")


def agent(server: Server) -> AbstractContextManager[Path]:
    """The client's ssh-agent, with the key that may log in; yields its path."""
    return ssh_agent(server.scratch / "agent", server.key)


def test_stock_ssh_brings_its_agent_only_when_asked(server: Server) -> None:
    with agent(server) as path:
        with_a = server.ssh("-A", "-o", f"IdentityAgent={path}", "--", "ssh-add -l; stat -c %A $SSH_AUTH_SOCK")
        assert (b" client (ED25519)" in with_a.stdout, b"srw" in with_a.stdout) == (True, True), with_a
        without = server.ssh("-o", f"IdentityAgent={path}", "--", "echo [$SSH_AUTH_SOCK]")
        assert without.stdout == b"[]\n"


def test_key_of_the_client_logs_in_from_inside(server: Server) -> None:
    hop = f"ssh -q -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -p {server.port}"
    with agent(server) as path:
        for again in ("", "-A"):  # also with the agent brought along once more
            done = server.ssh(
                "-A", "-o", f"IdentityAgent={path}", "--", f"{hop} {again} {server.user}@{server.host} echo through"
            )
            assert done.stdout == b"through\n", done


def test_many_programs_ask_the_agent_at_once(server: Server) -> None:
    command = "for i in $(seq 30); do ssh-add -l & done; wait"
    with agent(server) as path:
        done = server.ssh("-A", "-o", f"IdentityAgent={path}", "--", command)
        assert done.stdout.count(b" client (ED25519)") == 30, done.stderr


async def test_asyncssh_brings_its_agent(server: Server) -> None:
    with agent(server) as path:
        async with asyncio.timeout(DEADLINE_SECONDS), asyncssh.connect(
            server.host, server.port, username=server.user, client_keys=[str(server.key)], config=[],
            known_hosts=str(server.known_hosts), agent_path=str(path), agent_forwarding=True,
        ) as connection:  # fmt: skip
            done = await connection.run("ssh-add -l")
            assert " client (ED25519)" in str(done.stdout), done


def test_paramiko_brings_its_agent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with agent(server) as path, contextlib.closing(paramiko.SSHClient()) as client:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        client.load_host_keys(str(server.known_hosts))
        client.connect(
            server.host, server.port, server.user, key_filename=str(server.key), allow_agent=False, look_for_keys=False
        )
        channel = client.get_transport().open_session(timeout=DEADLINE_SECONDS)
        handler = paramiko.agent.AgentRequestHandler(channel)
        channel.settimeout(DEADLINE_SECONDS)
        channel.exec_command("ssh-add -l")
        assert b" client (ED25519)" in channel.makefile().read()
        handler.close()


# ---------------------------------------------------------------------------------------------------- displays


@pytest.fixture
def x_server(tmp_path: Path) -> Iterator[XServer]:
    if shutil.which("xauth") is None:
        pytest.skip("xauth is not installed; apt install xauth")
    x_server = XServer(tmp_path)
    yield x_server
    x_server.close()


@pytest.fixture(scope="module")
def displaying(server: Server) -> Iterator[Server]:
    """The same kind of server, with X11 forwarding switched on."""
    if server.is_sshd:
        with openssh(X11Forwarding="yes") as switched_on:
            yield switched_on
        return
    settings = {"ssh_x11_forwarding": "true", "session_pipe_linger_seconds": PIPE_LINGER_SECONDS}
    with homeport(server.name, **settings) as switched_on:
        yield switched_on
        assert switched_on.gateway is not None
        hold_to_promises(switched_on.gateway)


def environment_of(server: Server, x_server: XServer) -> dict[str, str]:
    return {**server.environment, **{name: x_server.environment[name] for name in ("DISPLAY", "XAUTHORITY")}}


def test_display_is_named_as_sshd_names_it_and_leads_to_the_client(displaying: Server, x_server: XServer) -> None:
    environment = environment_of(displaying, x_server)
    done = displaying.ssh("-Y", "--", "echo $DISPLAY; exec python3 -", input=PROGRAM.encode(), env=environment)
    display, said = done.stdout.decode().split("\n", 1)
    assert (re.fullmatch(r"localhost:\d\d+\.0", display) is not None, said.strip()) == (True, ANSWER.decode()), done


def test_cookie_is_found_under_the_name_that_sshd_gives_it(displaying: Server, x_server: XServer) -> None:
    done = displaying.ssh("-Y", "--", "xauth list unix:${DISPLAY#*:}", env=environment_of(displaying, x_server))
    assert re.fullmatch(rb"\S+/unix:\d\d+  MIT-MAGIC-COOKIE-1  [0-9a-f]{32}\n", done.stdout), done


def test_display_is_there_on_a_terminal_as_well(displaying: Server, x_server: XServer) -> None:
    done = displaying.ssh("-Y", "-tt", "--", "echo $DISPLAY", env=environment_of(displaying, x_server))
    assert done.stdout.startswith(b"localhost:"), done


def test_display_that_is_switched_off_is_refused_and_the_session_goes_on(server: Server, x_server: XServer) -> None:
    environment = environment_of(server, x_server)
    done = server.ssh("-Y", "-o", "LogLevel=INFO", "--", "echo [$DISPLAY]", env=environment)
    assert (done.stdout, b"X11 forwarding request failed" in done.stderr) == (b"[]\n", True), done
