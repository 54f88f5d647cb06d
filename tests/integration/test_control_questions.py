"""Questions to the person over the control socket, and without a gateway: real terminals, the client's own process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import CommandRefused
from gateway.lobby.control import Caller, ControlServer
from gateway.lobby.wire import Kind, Request, decode_status, encode_answer, frame, parse_header
from tests.support.pty_client import PtyClient

CLIENT = """
import sys
from pathlib import Path
from gateway.lobby.asking import can_ask
from gateway.lobby.client import connect, run_remote
from gateway.lobby.wire import Request
sys.exit(run_remote(connect(Path(sys.argv[1])), Request(sys.argv[2:], 80, True, can_answer=can_ask()), stdin=b""))
"""
ALONE = """
import asyncio
from gateway.lobby.host_person import HostPerson
async def main():
    person = HostPerson()
    try:
        print("<" + await person.ask("name?") + "|" + await person.ask("secret?", is_secret=True) + ">")
    except asyncio.CancelledError:
        print("undone")
        raise
try:
    asyncio.run(main())
except KeyboardInterrupt:
    raise SystemExit(130)
"""


class Asking:
    """A command that asks its words, one after the other, and prints the answers. `secret?` is one."""

    def __init__(self) -> None:
        self.was_cancelled = False

    async def __call__(self, caller: Caller) -> int:
        try:
            for question in caller.argv:
                answer = await caller.person.ask(question, is_secret=question == "secret?")
                await caller.stdout.write(f"<{answer}>\n".encode())
        except CommandRefused as error:
            await caller.stderr.write(f"homeport: {error.user_message}\n".encode())
            return 1
        except asyncio.CancelledError:
            self.was_cancelled = True
            await caller.stderr.write(b"homeport: undone\n")
            raise
        return 0


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    asking.was_cancelled = False
    server = ControlServer(tmp_path / "control.sock", asking)
    server.open()
    task = asyncio.create_task(server.serve())
    yield tmp_path / "control.sock"
    task.cancel()
    await asyncio.wait({task}, timeout=10)


asking = Asking()


def client(path: Path, *questions: str) -> PtyClient:
    return PtyClient([sys.executable, "-c", CLIENT, str(path), *questions], environment=_environment())


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}


async def test_a_question_is_shown_and_its_answer_goes_back(path: Path):
    def talk() -> tuple[int, bytes]:
        with client(path, "name?", "secret?") as person:
            person.wait(b"name? ")
            person.type(b"demo\n")
            person.wait(b"secret? ")
            person.type(b"hunter2\n")
            return person.wait_ended(), person.printed

    status, printed = await asyncio.to_thread(talk)
    assert status == 0
    assert b"<demo>" in printed
    assert printed.count(b"hunter2") == 1, "a secret shows where the command prints it, not where it is typed"
    assert printed.endswith(b"secret? \r\n<hunter2>\r\n")


async def test_control_d_declines(path: Path):
    def talk() -> tuple[int, bytes]:
        with client(path, "name?") as person:
            person.wait(b"name? ")
            person.type(b"\x04")
            return person.wait_ended(), person.printed

    status, printed = await asyncio.to_thread(talk)
    assert (status, b"nobody answered" in printed) == (1, True)


@pytest.mark.parametrize("question", ["name?", "secret?"])
async def test_control_c_at_a_question_cancels_and_hears_the_end_of_it(path: Path, question: str):
    def talk() -> tuple[int, bytes]:
        with client(path, question) as person:
            person.wait(question.encode() + b" ")
            person.type(b"\x03")
            return person.wait_ended(), person.printed

    status, printed = await asyncio.to_thread(talk)
    assert (status, asking.was_cancelled, b"undone" in printed) == (130, True, True)


async def raw(path: Path, request: bytes, *more: bytes) -> tuple[list[Kind], int, bytes]:
    """What the gateway sends a caller of our own making."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(frame(Kind.REQUEST, request))
    kinds, errors = [], b""
    with contextlib.closing(writer):
        while True:
            kind, length = parse_header(await reader.readexactly(5))
            data = await reader.readexactly(length)
            kinds.append(kind)
            errors += data if kind is Kind.STDERR else b""
            if kind is Kind.ASK:
                for one in more:
                    writer.write(one)
            if kind is Kind.STATUS:
                return kinds, decode_status(data), errors


async def test_a_command_of_an_older_version_is_never_asked(path: Path):
    old = {"argv": ["name?"], "columns": 80, "is_terminal": True, "version": 1}
    kinds, status, errors = await raw(path, json.dumps(old).encode())
    assert (Kind.ASK in kinds, status, b"no terminal to ask on" in errors) == (False, 1, True)


async def test_an_answer_to_no_question_ends_the_command(path: Path):
    request = Request(["one?", "two?"], 80, True, can_answer=True).encode()
    twice = frame(Kind.ANSWER, encode_answer("a")) * 2
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await raw(path, request, twice, frame(Kind.ANSWER, encode_answer("b")))
    assert asking.was_cancelled


async def test_an_answer_that_is_none_ends_the_command(path: Path):
    request = Request(["one?"], 80, True, can_answer=True).encode()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await raw(path, request, frame(Kind.ANSWER, b'{"line": 7}'))
    assert asking.was_cancelled


@pytest.mark.parametrize(
    ("typed", "status", "said"),
    [((b"demo\n", b"hunter2\n"), 0, b"<demo|hunter2>"), ((b"demo\n", b"\x03"), 130, b"undone")],
)
def test_without_a_gateway_the_same_is_asked(typed: tuple[bytes, bytes], status: int, said: bytes):
    with PtyClient([sys.executable, "-c", ALONE], environment=_environment()) as person:
        person.wait(b"name? ")
        person.type(typed[0])
        person.wait(b"secret? ")
        person.type(typed[1])
        ended = person.wait_ended()
    assert said in person.printed
    assert b"hunter2" not in person.printed.replace(b"|hunter2>", b"")
    assert ended == status
