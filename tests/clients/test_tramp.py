"""What Emacs' TRAMP does: one dumb terminal, whose shell it turns into a machine that answers commands.

Emacs itself is too large to bring along; this is the order of its commands (tramp-sh.el, tramp-open-connection-setup).
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Iterator

import pytest

from tests.support.installed import DEADLINE_SECONDS
from tests.support.server import Client, Server

pytestmark = pytest.mark.slow

PROMPT = b"///1f3a5c7e9b#$"
SIZE_BYTES = 1024 * 1024 + 1
CHUNK_BYTES = 500  # how TRAMP feeds its process


class Tramp:
    """A connection whose remote shell has been made ready."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._unread = b""

    def set_up(self) -> None:
        """First whatever shell and prompt there are, then sh with a prompt that nothing else prints, and no echo."""
        self._send("echo tramp''_first")
        self._read_to(b"tramp_first\r\n")
        self._send("exec env TERM='dumb' INSIDE_EMACS='29.1,tramp:2.6.0' ENV='' HISTFILE=~/.tramp_history "
                   "PROMPT_COMMAND='' PS1=tramp'#'_ PS2='' PS3='' /bin/sh -i")  # fmt: skip
        self._read_to(b"tramp#_")
        self._send("stty -inlcr -onlcr -echo kill '^U' erase '^H'")
        self._read_to(b"tramp#_")
        self._send(f"PS1='{PROMPT[:4].decode()}''{PROMPT[4:].decode()}'")
        self._read_to(PROMPT)

    def run(self, command: str) -> tuple[int, bytes]:
        """The exit status and the output, standard error in it."""
        self._send(f"{{ {command}; }} 2>&1; echo tramp_exit_status $?")
        output, _, status = self._read_to(PROMPT).rpartition(b"tramp_exit_status ")
        return int(status), output

    def write(self, path: str, data: bytes) -> int:
        """By a here-document, base64 in lines, in pieces; returns the exit status."""
        text = base64.encodebytes(data).decode()
        self._send(f"base64 -d -i > {path} <<'TRAMP_END'; echo tramp_exit_status $?\n{text}TRAMP_END")
        return int(self._read_to(PROMPT).rpartition(b"tramp_exit_status ")[2])

    def interrupt(self, command: str) -> None:
        """C-g in Emacs, while it runs."""
        # The program itself says that it is there: one that a shell has forked and not yet executed misses the key.
        self._send(f"sh -c 'echo tramp_started; exec {command}'")
        self._read_to(b"tramp_started\n")
        assert self._client.stdin is not None
        self._client.stdin.write(b"\x03")
        self._read_to(PROMPT)

    def _send(self, text: str) -> None:
        assert self._client.stdin is not None
        data = f"{text}\n".encode()
        for at in range(0, len(data), CHUNK_BYTES):
            self._client.stdin.write(data[at : at + CHUNK_BYTES])
            self._client.stdin.flush()

    def _read_to(self, end: bytes) -> bytes:
        """What comes before it."""
        assert self._client.stdout is not None
        while end not in self._unread:
            more = os.read(self._client.stdout.fileno(), 65536)
            assert more, f"the connection ended before {end!r}: {self._unread!r}"
            self._unread += more
        seen, _, self._unread = self._unread.partition(end)
        return seen


@pytest.fixture
def tramp(server: Server) -> Iterator[Tramp]:
    command = server.ssh_command("-e", "none", "-t", "-t", "--")
    with server.start(command, env={**server.environment, "TERM": "dumb"}, bufsize=0) as client:
        deadline = threading.Timer(2 * DEADLINE_SECONDS, client.kill)  # reading has no end of its own
        deadline.start()
        try:
            tramp = Tramp(client)
            tramp.set_up()
            yield tramp
            assert client.stdin is not None
            client.stdin.write(b"exit 0\n")
            assert client.wait(DEADLINE_SECONDS) == 0
        finally:
            deadline.cancel()
            client.kill()


def test_answers_are_bare_bytes_with_a_status(tramp: Tramp) -> None:
    assert tramp.run("uname -s") == (0, b"Linux\n")
    assert tramp.run("printf 'a\\nb\\n'; exit 3 | (exit 4)") == (4, b"a\nb\n")
    assert tramp.run("test -e /nothing-here") == (1, b"")
    assert tramp.run("echo $TERM; stty -a | tr ' ' '\\n' | grep -e 'onlcr\\|^-\\?echo;\\?$' | sort -u") == (
        0, b"dumb\n-echo\n-onlcr\n",
    )  # fmt: skip
    assert tramp.run("tty | cut -d/ -f1-3") == (0, b"/dev/pts\n")


def test_tilde_at_the_start_of_a_line_is_a_letter(tramp: Tramp) -> None:
    """With `-e none` no line is ssh's own, whatever the text of a file begins with."""
    assert tramp.run("cat <<'END'\n~.\n~?\nEND\n:") == (0, b"~.\n~?\n")


def test_megabyte_goes_up_in_a_here_document_and_comes_back(tramp: Tramp) -> None:
    noise = os.urandom(SIZE_BYTES)
    assert tramp.write("carried", noise) == 0
    assert tramp.run("sha256sum < carried")[1].split()[0].decode() == hashlib.sha256(noise).hexdigest()
    status, text = tramp.run("base64 < carried")
    assert (status, base64.b64decode(text) == noise) == (0, True)
    assert tramp.run("rm carried") == (0, b"")


def test_interrupt_ends_a_command_and_not_the_shell(tramp: Tramp) -> None:
    tramp.interrupt("sleep 1000")
    assert tramp.run("echo alive") == (0, b"alive\n")
