"""A smart-HTTP git server on loopback: `git http-backend` behind a small HTTP server. With Basic authentication unless
it has no token, and with the faults a far server may have, asked for by its attributes while it runs."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

USERNAME = "x-access-token"
CHUNK_BYTES = 16 * 1024
HOLD_SECONDS_MAX = 60.0


@dataclass
class GitServer:
    """Serves the repositories below `root`; all are private, or all public if there is no token."""

    root: Path
    token: str | None
    port: int = 0
    refused: list[str] = field(default_factory=list)  # paths asked for with a wrong password
    served: list[str] = field(default_factory=list)
    # Faults. The next so many requests are answered with this status:
    failing_count: int = 0
    failing_status: int = 503
    # The next so many packs break off after so many bytes, without an end:
    cut_count: int = 0
    cut_after_bytes: int = 64 * 1024
    # While it holds, packs stand still after so many bytes, until `go_on` is set:
    is_holding: bool = False
    held_after_bytes: int = 64 * 1024
    holds: threading.Event = field(default_factory=threading.Event)  # one stands still now
    go_on: threading.Event = field(default_factory=threading.Event)
    pack_bytes_per_second: int = 0  # 0: as fast as it goes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make(self, name: str, *, branch: str = "main", random_bytes: int = 0) -> Path:
        """A bare repository with one commit on its branch; anyone (with the token) may push. It may be there."""
        path = self.root / f"{name}.git"
        if path.exists():
            return path
        script = (
            'git init -q --bare -b "$2" "$1" && git -C "$1" config http.receivepack true &&'
            ' git clone -q "$1" "$1.tmp" 2>/dev/null && cd "$1.tmp" && echo hello >README &&'
            ' if [ "$3" != 0 ]; then head -c "$3" /dev/urandom >data; fi && git add . &&'
            ' git -c user.name=far -c user.email=far@example.com commit -q -m first && git push -q origin "HEAD:$2"'
        )
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.root), "GIT_CONFIG_NOSYSTEM": "1"}
        words = ["sh", "-ec", script, "sh", str(path), branch, str(random_bytes)]
        subprocess.run(words, check=True, env=environment, capture_output=True)
        return path

    def commit(self, name: str, file: str, text: str, *, branch: str = "main") -> None:
        """One more commit, as a colleague would push it."""
        script = (
            'cd "$1" && printf %s "$3" >"$2" && git add . && git -c user.name=far -c user.email=far@example.com'
            ' commit -q -m "$2" && git push -q origin "HEAD:$4"'
        )
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.root), "GIT_CONFIG_NOSYSTEM": "1"}
        words = ["sh", "-ec", script, "sh", f"{self.root / name}.git.tmp", file, text, branch]
        subprocess.run(words, check=True, env=environment, capture_output=True)

    def heads(self, name: str) -> str:
        """All commits of main, newest first, by their messages."""
        where = ["git", "-c", "safe.directory=*", "-C", str(self.root / f"{name}.git")]
        command = [*where, "log", "--format=%s|%an|%ae", "main"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def git_server(root: Path, token: str | None = "gho_16charactersofsecret") -> Iterator[GitServer]:
    root.mkdir(parents=True, exist_ok=True)
    server = GitServer(root, token)

    class Handler(_Handler):
        far = server

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        http.shutdown()
        http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    far: GitServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self._body()
        path, _, query = self.path.partition("?")
        if self.far.failing_count > 0:
            self.far.failing_count -= 1
            self._answer(self.far.failing_status, [], b"not now\n")
            return
        if self.far.token is not None and not self._is_known(path):
            self._answer(401, [("WWW-Authenticate", 'Basic realm="git"')], b"who are you?\n")
            return
        self.far.served.append(path)
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=self._cgi(path, query, body), capture_output=True, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n") if ": " in line]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        kept = [(name, value) for name, value in headers if name != "Status"]
        # The first answer there is small and only lists what the server has.
        is_pack = path.endswith("/git-upload-pack") and b"PACK" in content
        self._answer(status, kept, content, is_pack=is_pack)

    def _is_known(self, path: str) -> bool:
        expected = base64.b64encode(f"{USERNAME}:{self.far.token}".encode()).decode()
        given = self.headers.get("Authorization")
        if given is not None and given != f"Basic {expected}":
            self.far.refused.append(path)
        return given == f"Basic {expected}"

    def _cgi(self, path: str, query: str, body: bytes) -> dict[str, str]:
        # Tests run as root, and the repositories may be another account's.
        allowed = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        return {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.far.root), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_USER": "ada",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "GIT_CONFIG_NOSYSTEM": "1", **allowed,
        }  # fmt: skip

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, is_pack: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            if is_pack:
                self._send_pack(content)
            else:
                self.wfile.write(content)
        except ConnectionError:
            self.close_connection = True  # the client has gone, which some tests want

    def _send_pack(self, content: bytes) -> None:
        far, ends_at = self.far, len(content)
        if far.cut_count > 0:
            far.cut_count -= 1
            ends_at = min(ends_at, far.cut_after_bytes)
        for start in range(0, ends_at, CHUNK_BYTES):
            if far.is_holding and start >= far.held_after_bytes:
                far.holds.set()
                far.go_on.wait(HOLD_SECONDS_MAX)
            piece = content[start : min(start + CHUNK_BYTES, ends_at)]
            self.wfile.write(piece)
            self.wfile.flush()
            if far.pack_bytes_per_second:
                threading.Event().wait(len(piece) / far.pack_bytes_per_second)
        if ends_at < len(content):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        return
