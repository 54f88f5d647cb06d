"""VS Code Remote-SSH, phase by phase, with the real server: what a user of the editor meets, told by its wire."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.clients import require
from tests.support.installed import DEADLINE_SECONDS, free_port
from tests.support.server import Server
from tests.support.ssh_agent import ssh_agent
from tests.support.streams import connected, through_socks
from tests.support.vscode import (
    Window,
    bootstrap_by_command,
    end_server,
    remove_server,
    running_pids,
)
from tests.support.vscode_archive import archive
from tests.support.vscode_wire import Management, Refused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

AT_ONCE_SECONDS = 3.0
STALL_SECONDS = 3.0  # more than the two in which the server wants its frames acknowledged
FILE_BYTES = 16 * 1024 * 1024  # more than every buffer on the way holds


@pytest.fixture(autouse=True)
def _one_server_at_a_time(server: Server) -> Iterator[None]:
    """Each test starts without a server that runs; the installed one stays for all of them."""
    archive()
    yield
    end_server(server)


@pytest.fixture(scope="module", autouse=True)
def _nothing_left(server: Server) -> Iterator[None]:
    yield
    remove_server(server)


@pytest.fixture
def file(server: Server) -> Iterator[tuple[str, bytes]]:
    """A large file in the workspace: its path, and what is in it."""
    path, data = f"{server.home}/large", os.urandom(FILE_BYTES)
    assert server.ssh(f"cat > {path}", input=data).returncode == 0
    yield path, data
    server.ssh(f"rm {path}")


# ------------------------------------------------------------------------------------------------- the first minute


def test_first_window_uploads_installs_starts_and_speaks_to_the_server(server: Server) -> None:
    remove_server(server)
    with Window(server) as window:
        found = window.editor_server
        assert (found.was_uploaded, found.was_found) == (True, False)
        assert found.version(window.connect) == archive()[1]
        management = window.management()
        assert management.server_pid() == found.pid
        assert management.read_file("/proc/self/comm") == b"node\n"
        with pytest.raises(Refused, match="auth mismatch"):
            Management(window.connect, server_token="guessed", commit=archive()[1])


def test_extension_host_is_handed_its_stream_and_gets_ready(server: Server) -> None:
    """The server passes the connection's descriptor to a process of its own, as it stands in the tunnel."""
    with Window(server) as window:
        window.management()
        host = window.editor_server.extension_host(window.connect)
        assert host.frames.receive() == b"\x02"
        assert len(running_pids(server)) == 2


def test_bootstrap_of_a_hundred_kilobytes_on_the_input_runs(server: Server) -> None:
    with Window(server, padding_bytes=100_000) as window:
        assert window.editor_server.version(window.connect) == archive()[1]


def test_closed_window_leaves_the_server_to_the_next_one(server: Server) -> None:
    with Window(server) as window:
        management = window.management()
        assert management.server_pid() == window.editor_server.pid
        management.frames.disconnect()
        assert window.close() == 0
    with Window(server) as next_window:
        assert next_window.editor_server.was_found
        assert next_window.editor_server.pid == window.editor_server.pid


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_window_opens_whatever_the_login_shell_is(server: Server, shell: str) -> None:
    require(shell)
    with server.login_shell(shell):
        with Window(server) as window:
            assert window.editor_server.version(window.connect) == archive()[1]
        assert bootstrap_by_command(server).was_found


def test_window_that_may_not_forward_is_told_so_at_once_and_how_to_change_it(server: Server) -> None:
    """The editor shows the words in its log; without them people search for hours."""
    if server.gateway is None:
        pytest.skip("sshd's words are its own")
    with Window(server) as window:
        window.management().close()
        server.gateway.homeport("set", server.user, "forwarding=off")
        try:
            with pytest.raises(ConnectionRefusedError):
                window.connect()
            assert f"homeport set {server.user} forwarding=loopback" in window.log()
        finally:
            server.gateway.homeport("set", server.user, "forwarding=default")
        assert window.management().server_pid() == window.editor_server.pid


# --------------------------------------------------------------------------------------------------- more than one


def test_two_windows_at_once_have_one_server_between_them(server: Server) -> None:
    """The lock of the first makes the second wait, and then find."""
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as stack:
        opened = [pool.submit(Window, server) for _ in range(2)]
        first, second = (stack.enter_context(window.result()) for window in opened)
        assert sorted([first.editor_server.was_found, second.editor_server.was_found]) == [False, True]
        assert first.editor_server.listening_on == second.editor_server.listening_on
        assert first.management().server_pid() == second.management().server_pid()


def test_many_streams_of_one_window_carry_files_at_the_same_time(server: Server, file: tuple[str, bytes]) -> None:
    path, data = file
    with Window(server) as window, ThreadPoolExecutor() as pool:
        streams = [window.management() for _ in range(4)]
        assert all(pool.map(lambda management: management.read_file(path) == data, streams))


def test_windows_of_one_shared_connection_do_not_end_one_another(server: Server) -> None:
    """`remote.SSH.useLocalServer`: one ssh for all windows of a host."""
    socks = free_port()
    with server.master("-D", str(socks)) as master:
        first = Window(server, *master, shared_tunnel=socks)
        with Window(server, *master, shared_tunnel=socks) as second:
            assert second.editor_server.was_found
            management = second.management()
            first.kill()
            assert management.server_pid() == first.editor_server.pid


# ---------------------------------------------------------------------------------------- sleep, drops and restarts


def test_killed_ssh_in_the_middle_of_a_file_is_resumed_without_a_byte_lost(
    server: Server, file: tuple[str, bytes]
) -> None:
    """The lid of a laptop: another ssh finds the same server, which takes the window back by its token."""
    path, data = file
    with Window(server) as window:
        management = window.management()
        call = management.ask_for_file(path)
        assert management.frames.read_some() < FILE_BYTES
        window.kill()
    with Window(server) as again:
        assert (again.editor_server.was_found, again.editor_server.pid) == (True, window.editor_server.pid)
        management.reconnect(again.connect)
        assert management.answer(call) == data
        assert management.server_pid() == window.editor_server.pid


def test_extension_host_lives_through_a_killed_ssh(server: Server) -> None:
    with Window(server) as window:
        window.management()
        host = window.editor_server.extension_host(window.connect)
        assert host.frames.receive() == b"\x02"
        before = running_pids(server)
        window.kill()
    with Window(server) as again:
        host.reconnect(again.connect)
        assert running_pids(server) == before


def test_network_that_stalls_for_seconds_loses_nothing(server: Server, file: tuple[str, bytes]) -> None:
    path, data = file
    with Window(server) as window:
        management = window.management()
        call = management.ask_for_file(path)
        with window.stalled():
            threading.Event().wait(STALL_SECONDS)
        assert management.answer(call) == data


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_server_and_window_live_through_a_restart_of_the_gateway(server: Server, end: str) -> None:
    if server.gateway is None:
        pytest.skip("sshd's connections are processes of their own, which its restart does not touch")
    with Window(server) as window:
        management = window.management()
        getattr(server.gateway, end)()
        window.ssh.wait(DEADLINE_SECONDS)
    server.gateway.start()
    with Window(server) as again:
        assert (again.editor_server.was_found, again.editor_server.pid) == (True, window.editor_server.pid)
        management.reconnect(again.connect)
        assert management.server_pid() == window.editor_server.pid


def test_server_that_is_gone_is_replaced_and_knows_no_old_window(server: Server) -> None:
    """The editor then asks its user to reload the window; nothing may hang."""
    with Window(server) as window:
        management = window.management()
        end_server(server)
        with Window(server) as again:
            assert not again.editor_server.was_found
            with pytest.raises(ConnectionRefusedError):
                management.reconnect(window.connect)
            management.server_token = again.editor_server.token
            with pytest.raises(Refused, match="never seen"):
                management.reconnect(again.connect)


# ------------------------------------------------------------------------------------------------------ other ways


def test_open_remote_ssh_s_one_command_ends_while_its_server_runs(server: Server) -> None:
    """It counts the script as done when the channel is closed, and the tunnel is another connection's."""
    found = bootstrap_by_command(server)
    assert not found.was_found
    socks = free_port()
    with server.master("-D", str(socks)):

        def connect() -> socket.socket:
            return through_socks(connected(socks), "localhost", int(found.listening_on))

        with contextlib.closing(found.management(connect)) as management:
            assert management.server_pid() == found.pid
    assert bootstrap_by_command(server).was_found


def test_server_on_a_socket_is_reached_by_its_path(server: Server) -> None:
    """`remote.SSH.remoteServerListenOnSocket`: no port of the machine is used."""
    local = free_port()
    with server.master() as master, Window(server, *master, listen_on="socket") as window:
        found = window.editor_server
        assert found.listening_on.startswith("/")
        forward = server.ssh(*master, "-O", "forward", "-L", f"{local}:{found.listening_on}", "--")
        assert forward.returncode == 0, forward.stderr
        connect = functools.partial(socket.create_connection, ("127.0.0.1", local))
        with contextlib.closing(found.management(connect)) as management:
            assert management.server_pid() == found.pid


# -------------------------------------------------------------------------------------------- what a window is for

_PAGE = b"<p>hello</p>"
_DEVELOPMENT_SERVER = f"""
import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write({_PAGE!r})
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
print(os.getpid(), server.server_address[1], flush=True)
server.serve_forever()
"""


def test_port_of_a_development_server_is_forwarded_and_refused_once_it_is_gone(server: Server) -> None:
    command = server.ssh_command(f"exec python3 -c {shlex.quote(_DEVELOPMENT_SERVER)}")
    with Window(server) as window, server.start(command) as development:
        assert development.stdout is not None
        pid, port = map(int, development.stdout.readline().split())
        with window.connect_to("localhost", port) as browser:
            browser.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: browser.recv(65_536), b""))
        assert answer.endswith(b"\r\n\r\n" + _PAGE), answer
        server.ssh(f"kill {pid}")
        development.wait(DEADLINE_SECONDS)
        started = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            window.connect_to("localhost", port)
        assert time.monotonic() - started < AT_ONCE_SECONDS


def test_background_program_may_open_terminals_of_its_own(server: Server) -> None:
    """So does the editor's server for its integrated terminals: no connection gave it one, and none holds it."""
    shell = "tty; stty size; test -t 0 && exit 7"
    opener = f'import os, pty; os._exit(os.waitstatus_to_exitcode(pty.spawn(["bash", "-c", "{shell}"])))'
    done = server.ssh(f"setsid --wait python3 -c '{opener}' </dev/null; echo $?")
    lines = done.stdout.decode().split()
    assert lines[0].startswith("/dev/pts/"), done
    assert lines[-1] == "7", done


def test_agent_s_path_serves_every_session_while_the_window_holds_it(server: Server) -> None:
    """open-remote-ssh keeps one command open for it, and gives the path to all its terminals."""
    with ssh_agent(server.scratch / "agent", server.key) as local:
        forwards = ("-A", "-o", f"IdentityAgent={local}")
        keep = server.ssh_command(*forwards, "--", 'echo "$SSH_AUTH_SOCK"; exec cat')
        with server.start(keep) as window:
            assert window.stdout is not None
            path = window.stdout.readline().decode().strip()
            assert path.startswith("/"), "the session has no agent"
            listed = server.ssh(f"SSH_AUTH_SOCK={path} ssh-add -l")
            assert b"(ED25519)" in listed.stdout, listed
            with Window(server, *forwards) as other:
                assert other.editor_server.agent.startswith("/")
            assert b"(ED25519)" in server.ssh(f"SSH_AUTH_SOCK={path} ssh-add -l").stdout
            assert window.communicate(timeout=DEADLINE_SECONDS)[0] == b""
        gone = server.ssh(f"SSH_AUTH_SOCK={path} ssh-add -l", timeout=AT_ONCE_SECONDS)
        assert (gone.returncode, gone.stdout) == (2, b"")
