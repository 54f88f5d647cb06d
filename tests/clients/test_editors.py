"""Two more ways of editors, played with stock ssh: Zed's, one master connection and a server of its own reached by
standard streams, and Emacs' (TRAMP), a dumb terminal on which a shell is talked to line by line."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.installed import DEADLINE_SECONDS, until
from tests.support.server import Client, Server

pytestmark = pytest.mark.slow

SESSION_COUNT = 8  # sshd allows ten, and the proxy's is open all the time
MESSAGE_COUNT = 200
MESSAGE_MAX_BYTES = 200_000

# `proxy` joins its standard streams to a server in the background, which it starts if there is none. Messages are a
# length and JSON; the server answers each with its own pid and how many it has had.
EDITOR_SERVER = r"""
import json, os, signal, socket, struct, subprocess, sys, threading, time
folder = os.path.dirname(os.path.abspath(__file__))
path = folder + "/socket"
def serve():
    listener = socket.socket(socket.AF_UNIX); listener.bind(path + ".new"); listener.listen()
    os.rename(path + ".new", path)
    count = 0
    while True:
        stream = listener.accept()[0].makefile("rwb")
        while len(head := stream.read(4)) == 4:
            message = json.loads(stream.read(struct.unpack(">I", head)[0]))
            count += 1
            answer = json.dumps({"pid": os.getpid(), "count": count, "echo": message["text"]}).encode()
            try:
                stream.write(struct.pack(">I", len(answer)) + answer); stream.flush()
            except OSError:
                break
def connect():
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
    except OSError:
        return None
    return sock
def proxy():
    if not (sock := connect()):
        with open(folder + "/log", "ab") as log:
            command = [sys.executable, __file__, "serve"]
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        while not (sock := connect()):
            time.sleep(0.02)
    def copy(source, target):
        while data := source(65536):
            while data:
                data = data[target(data):]
    def incoming():
        copy(lambda size: os.read(0, size), sock.send)
        sock.shutdown(socket.SHUT_WR)
    threading.Thread(target=incoming, daemon=True).start()
    copy(sock.recv, lambda data: os.write(1, data))
{"serve": serve, "proxy": proxy}[sys.argv[1]]()
"""
FOLDER = ".editor_server"  # relative to where sessions start, as Zed has it


class MasterConnection:
    """`ssh -N -M` in the foreground, as the editor's child, and everything else through its socket."""

    def __init__(self, server: Server, path: Path) -> None:
        self.server = server
        self._path = path
        self.client = server.start(
            ["ssh", *server.ssh_options, "-N", "-M", "-o", "ControlPersist=no", "-o", f"ControlPath={path}", "server"]
        )
        until(path.exists, "the master connection is up")

    @property
    def options(self) -> tuple[str, ...]:
        return ("-o", "ControlMaster=no", "-o", f"ControlPath={self._path}")

    def run(self, command: str, **options: object) -> bytes:
        done = self.server.ssh(*self.options, "--", command, **options)
        assert done.returncode == 0, done
        return done.stdout

    def kill(self) -> None:
        """As by a laptop's sleep: no word to anybody."""
        self.client.kill()
        self.client.communicate(timeout=DEADLINE_SECONDS)
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def master(server: Server, path: Path) -> Iterator[MasterConnection]:
    connection = MasterConnection(server, path)
    try:
        yield connection
    finally:
        connection.kill()


def upload(connection: MasterConnection, content: bytes, name: str, folder: Path) -> None:
    """By sftp's batch, relative; then unpacked under its own name in one step."""
    (folder / name).write_bytes(gzip.compress(content))
    connection.run(f"mkdir -p {FOLDER}")
    server = connection.server
    batch = f"put {folder / name} {FOLDER}/{name}.gz\n".encode()
    sent = server.run(["sftp", *server.ssh_options, *connection.options, "-b", "-", "server"], input=batch)
    assert sent.returncode == 0, sent.stderr
    connection.run(f"gunzip -f {FOLDER}/{name}.gz && chmod 755 {FOLDER}/{name}")


@contextlib.contextmanager
def proxy(connection: MasterConnection) -> Iterator[Client]:
    command = connection.server.ssh_command(*connection.options, "--", f"exec python3 {FOLDER}/server.py proxy")
    with connection.server.start(command) as client:
        try:
            yield client
        finally:
            client.kill()


def ask(client: Client, text: str) -> dict[str, object]:
    assert client.stdin is not None
    assert client.stdout is not None
    message = json.dumps({"text": text}).encode()
    client.stdin.write(struct.pack(">I", len(message)) + message)
    client.stdin.flush()
    head = client.stdout.read(4)
    assert len(head) == 4, "the proxy has ended"
    answer: dict[str, object] = json.loads(client.stdout.read(struct.unpack(">I", head)[0]))
    assert answer["echo"] == text
    return answer


@pytest.fixture
def installed(server: Server, tmp_path: Path) -> Iterator[None]:
    with master(server, server.scratch / "zi") as connection:
        upload(connection, EDITOR_SERVER.encode(), "server.py", tmp_path)
    yield
    server.ssh(f"pkill -f '[s]erver.py serve'; rm -r {FOLDER}")


@pytest.mark.usefixtures("installed")
def test_zed_speaks_to_its_server_while_other_sessions_come_and_go(server: Server, tmp_path: Path) -> None:
    big = os.urandom(5_000_000)
    with master(server, server.scratch / "z1") as connection, proxy(connection) as client, \
         ThreadPoolExecutor(SESSION_COUNT) as others:  # fmt: skip
        assert connection.run("uname -sm").split()[0] == b"Linux"
        uploaded = others.submit(upload, connection, big, "big", tmp_path)
        sessions = [others.submit(connection.run, f"echo {number}") for number in range(3 * SESSION_COUNT)]
        for number in range(MESSAGE_COUNT):
            text = "x" * (number * MESSAGE_MAX_BYTES // MESSAGE_COUNT)
            assert ask(client, text)["count"] == number + 1
        assert [session.result() for session in sessions] == [b"%d\n" % n for n in range(3 * SESSION_COUNT)]
        uploaded.result()
        assert server.ssh(f"wc -c < {FOLDER}/big").stdout == b"5000000\n"


@pytest.mark.usefixtures("installed")
def test_zed_finds_its_server_again_after_a_lost_connection(server: Server) -> None:
    with master(server, server.scratch / "z2") as connection, proxy(connection) as client:
        first = ask(client, "before")
        connection.kill()
    with master(server, server.scratch / "z3") as connection, proxy(connection) as client:
        again = ask(client, "after")
    assert (again["pid"], again["count"]) == (first["pid"], 2)


# ---------------------------------------------------------------------------------------------------- Emacs


class Tramp:
    """A shell on a dumb terminal, made plain step by step; then each command ends with a prompt like no other."""

    PROMPT = b"///4f2a#$"

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen = b""

    def send(self, line: str) -> None:
        self.press(line.encode() + b"\n")

    def press(self, keys: bytes) -> None:
        assert self._client.stdin is not None
        self._client.stdin.write(keys)
        self._client.stdin.flush()

    def until(self, *ends: bytes) -> bytes:
        """What came before the first of these words."""
        assert self._client.stdout is not None
        while not any(end in self._seen for end in ends):
            more = os.read(self._client.stdout.fileno(), 65536)
            assert more, f"ended after {self._seen!r}"
            self._seen += more
        end = next(end for end in ends if end in self._seen)
        before, _, self._seen = self._seen.partition(end)
        return before

    def set_up(self) -> None:
        self.until(b"$ ", b"# ")  # the login shell's own prompt, whatever it looks like
        # Not spelled as it will look: the terminal's echo of this line is not to be taken for the prompt.
        prompts = "PROMPT_COMMAND= PS1=///4f2a'#$' PS2= PS3="
        self.send(f"exec env TERM=dumb INSIDE_EMACS=30.1,tramp ENV= HISTFILE=/dev/null {prompts} /bin/sh -i")
        self.until(self.PROMPT)
        self.send("stty -inlcr -onlcr -echo kill '^U' erase '^H'")
        self.until(self.PROMPT)

    def run(self, command: str) -> bytes:
        self.send(command)
        return self.until(self.PROMPT)


@pytest.fixture
def tramp(server: Server) -> Iterator[Tramp]:
    options = ["-o", "ControlMaster=auto", "-o", f"ControlPath={server.scratch}/tramp.%C", "-e", "none", "-t", "-t"]
    environment = {**server.environment, "TERM": "dumb"}
    with server.start(server.ssh_command(*options, "--"), env=environment) as client:
        tramp = Tramp(client)
        tramp.set_up()
        yield tramp
        tramp.send("exit 3")
        assert client.wait(DEADLINE_SECONDS) == 3
    until(lambda: not list(server.scratch.glob("tramp.*")), "the master connection has ended")


def test_tramp_hears_each_answer_and_nothing_else(server: Server, tramp: Tramp) -> None:
    assert tramp.run("echo hello").strip() == b"hello"
    assert tramp.run("(exit 5); echo tramp_exit_status $?").strip() == b"tramp_exit_status 5"
    assert tramp.run("cd / && pwd").strip() == b"/"
    assert tramp.run(f"cd {server.tree} && ls -a nothing-here 2>&1 >/dev/null | wc -l").strip() == b"1"
    for number in range(100):
        assert tramp.run(f"test -e /etc/passwd && echo {number}").strip() == b"%d" % number


def test_tramp_writes_and_reads_files_as_text_between_prompts(tramp: Tramp) -> None:
    """Here-documents of base64, for a terminal cannot carry every byte, and its lines end at 4096."""
    noise = os.urandom(150_000)
    encoded = base64.encodebytes(noise).decode()
    assert tramp.run(f"(base64 -d >tramp-file) <<'4f2a'\n{encoded}4f2a").strip() == b""
    assert base64.b64decode(tramp.run("base64 <tramp-file")) == noise
    assert tramp.run("rm tramp-file; echo gone").strip() == b"gone"


def test_tramp_interrupts_a_command(tramp: Tramp) -> None:
    for _ in range(20):
        # The program itself says that it is there: a shell that is just starting one may miss the key.
        tramp.send("sh -c 'echo started; exec sleep 1000'")
        tramp.until(b"started")
        tramp.press(b"\x03")
        tramp.until(Tramp.PROMPT)
    assert tramp.run("echo still").strip() == b"still"
