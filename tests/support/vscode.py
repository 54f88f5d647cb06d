"""Remote-SSH, played with stock ssh and the real server: what a window does from the first line to the last.

A window runs a script on the host (vscode_server/bootstrap.sh), which installs the server, starts or finds it, and says
where it listens; then it speaks to the server through the connection. `Window` does so as Microsoft's extension does,
`bootstrap_by_command` as open-remote-ssh.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import shlex
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.installed import DEADLINE_SECONDS, free_port, until
from tests.support.server import Server
from tests.support.streams import connected, through_socks
from tests.support.vscode_archive import archive
from tests.support.vscode_wire import EXTENSION_HOST, Connect, EditorConnection, Management

_SCRIPT = Path(__file__).parent / "vscode_server/bootstrap.sh"
_STATE = "$HOME/.vscode-server/.[0-9a-f]*"


@dataclass(frozen=True, slots=True)
class EditorServer:
    """The server inside, as the script found or started it."""

    listening_on: str  # a port, or the path of a socket
    token: str
    pid: int  # as programs in the workspace see it
    was_found: bool
    was_uploaded: bool
    agent: str

    @classmethod
    def from_lines(cls, lines: list[str]) -> Self:
        said = dict(line.removesuffix("==").split("==", 1) for line in lines if line.endswith("=="))
        assert said["platform"] == "Linux"
        return cls(
            listening_on=said["listeningOn"],
            token=said["connectionToken"],
            pid=int(said["pid"]),
            was_found=said["found"] == "1",
            was_uploaded=said["uploaded"] == "1",
            agent=said["SSH_AUTH_SOCK"],
        )

    def version(self, connect: Connect) -> str:
        """The commit it says it was built from: the first thing a window asks."""
        with connect() as sock:
            sock.settimeout(DEADLINE_SECONDS)
            sock.sendall(b"GET /version HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65_536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), answer
        return next(line for line in body.decode().split() if len(line) == 40)

    def management(self, connect: Connect) -> Management:
        return Management(connect, server_token=self.token, commit=archive()[1])

    def extension_host(self, connect: Connect) -> EditorConnection:
        return EditorConnection(connect, server_token=self.token, commit=archive()[1], kind=EXTENSION_HOST)


class Window:
    """A window of Microsoft's Remote-SSH: `sh` at the other end, its input open as long as the window is."""

    def __init__(
        self,
        server: Server,
        *options: str,
        shared_tunnel: int | None = None,
        listen_on: str = "port",
        padding_bytes: int = 0,
    ) -> None:
        """`shared_tunnel`: the SOCKS port of a connection that `options` name; without it ssh gets one of its own."""
        self._server = server
        self._streams: list[socket.socket] = []
        self._socks = shared_tunnel or free_port()
        dynamic = [] if shared_tunnel else ["-D", str(self._socks)]
        self._stderr = server.scratch / f"window-{secrets.token_hex(4)}.log"
        command = server.ssh_command("-v", "-T", *dynamic, "-o", "ConnectTimeout=15", *options, "--", "sh")
        with self._stderr.open("wb") as stderr:
            self.ssh = server.start(command, stderr=stderr)
        try:
            self.editor_server = self._bootstrap(listen_on, padding_bytes)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def connect(self) -> socket.socket:
        """A stream to the server of its own, through the dynamic forward."""
        return self.connect_to("127.0.0.1", int(self.editor_server.listening_on))

    def connect_to(self, host: str, port: int) -> socket.socket:
        """As for a forwarded port: a browser here, a server of the workspace's there."""
        self._streams.append(through_socks(connected(self._socks), host, port))
        return self._streams[-1]

    def management(self) -> Management:
        return self.editor_server.management(self.connect)

    def log(self) -> str:
        """What ssh said so far: the editor shows it as its own log."""
        return self._stderr.read_text(errors="replace")

    def close(self) -> int:
        """The script's input ends, after the last stream (ssh stays as long as there is one). Returns ssh's status."""
        self.ssh.communicate(timeout=DEADLINE_SECONDS)
        return self.ssh.returncode

    def kill(self) -> None:
        """As by a dead battery. Harmless after `close`."""
        self.ssh.kill()
        self.ssh.communicate()
        for stream in self._streams:
            stream.close()

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """A network that carries nothing, and then everything again."""
        self.ssh.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.ssh.send_signal(signal.SIGCONT)

    def _bootstrap(self, listen_on: str, padding_bytes: int) -> EditorServer:
        script_id = secrets.token_hex(6)
        assert self.ssh.stdin is not None
        self.ssh.stdin.write(_script(script_id, listen_on, padding_bytes))
        self.ssh.stdin.flush()
        lines: list[str] = []
        while not lines or lines[-1] != f"{script_id}: end":
            lines.append(self._line(lines))
            if lines[-1] == f"{script_id}:trigger_server_download_end":
                upload(self._server, lines[-2].split("==")[1])
        assert lines[0] == f"{script_id}: running", f"nothing may stand before the script's first line: {lines}"
        return EditorServer.from_lines(lines)

    def _line(self, before: list[str]) -> str:
        assert self.ssh.stdout is not None
        raw = self.ssh.stdout.readline()
        assert raw, f"ssh ended after {before}:\n{self.log()}"
        return raw.decode().rstrip("\n")


def bootstrap_by_command(server: Server) -> EditorServer:
    """As open-remote-ssh: the script is one long command, and done when its channel is closed."""
    script_id = secrets.token_hex(6)
    encoded = base64.b64encode(_script(script_id, "port", 0)).decode()
    done = server.ssh("-T", "--", f"echo {encoded} | base64 -d | bash -l", timeout=2 * DEADLINE_SECONDS)
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, lines[0], lines[-1]) == (0, f"{script_id}: running", f"{script_id}: end"), done
    return EditorServer.from_lines(lines)


def upload(server: Server, folder: str) -> None:
    """By scp, to an absolute path: the archive, and then the mark that says it is whole."""
    path, _ = archive()
    mark = server.scratch / f"{path.name}.done"
    mark.touch()
    for file in (path, mark):
        done = server.run(["scp", "-q", *server.ssh_options, str(file), f"server:{folder}"], timeout=60)
        assert done.returncode == 0, done.stderr


def end_server(server: Server) -> None:
    """As the command `Kill VS Code Server on Host` does; what was installed stays. Harmless if none runs.

    An extension host is ended too: without the first message of a whole editor it waits for its window for ever.
    """
    if pids := running_pids(server):
        server.ssh(f"kill {' '.join(map(str, pids))}; rm -f {_STATE}.pid")
    until(lambda: not running_pids(server), "the editor's server ended")


def remove_server(server: Server) -> None:
    """As the command `Uninstall VS Code Server from Host` does."""
    end_server(server)
    server.ssh('rm -rf ~/.vscode-server "${XDG_RUNTIME_DIR:-/tmp}/vscode-remote-lock.$(id -u)".*')


def running_pids(server: Server) -> list[int]:
    """Programs inside that run the server's code: itself, and its extension hosts."""
    done = server.ssh('exec pgrep -f "$HOME/[.]vscode-server/bin/.*/out/"')
    return [int(word) for word in done.stdout.split()]


def _script(script_id: str, listen_on: str, padding_bytes: int) -> bytes:
    values = {"id": script_id, "commit": archive()[1], "listen_on": listen_on}
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    comment = "# " + "x" * 70 + "\n"
    return (head + comment * (padding_bytes // len(comment)) + _SCRIPT.read_text()).encode()
