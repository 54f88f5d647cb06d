"""Which client's agent answers in a workspace."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import LoginRefused
from gateway.forwarding import acceptor, agents
from gateway.forwarding.agents import Agents
from gateway.forwarding.local_clients import Ends
from gateway.launchers.published_socket import SOCKET_NAME, PublishedSocket


class Forwarder:
    """Says its name to each program, and holds the stream until told."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.is_silent = False
        self.ends = Ends(("192.0.2.7", 1), ("192.0.2.1", 22))
        self.may_end = asyncio.Event()

    async def carry(self, program: socket.socket) -> None:
        with program:
            program.send(self.name)
            await self.may_end.wait()


class House:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tasks: list[asyncio.Task[None]] = []
        self.path = PublishedSocket(directory)
        self.agents = Agents(path_for=lambda workspace_id: self.path, spawn=self._spawn)
        self.is_forbidden = False
        self._programs: list[socket.socket] = []

    def enter(self, forwarder: Forwarder, workspace_id: str = "w") -> None:
        self.agents.enter(workspace_id, forwarder, self.ask)

    async def ask(self) -> None:
        if self.is_forbidden:
            raise LoginRefused("forwarding is off")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work, name=name))
        return self.tasks[-1]

    async def connect(self) -> bytes:
        """Who answers a program; empty: the connection was closed at once."""
        program = self.program()
        program.connect(str(self.directory / SOCKET_NAME))
        return await self.answer(program)

    def program(self) -> socket.socket:
        self._programs.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        return self._programs[-1]

    async def answer(self, program: socket.socket) -> bytes:
        async with asyncio.timeout(10):
            return await asyncio.get_running_loop().sock_recv(program, 100)

    def close(self) -> None:
        for program in self._programs:
            program.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "agent")
    yield house
    house.agents.close()
    house.close()
    assert not (tmp_path / "agent" / SOCKET_NAME).exists()


async def test_newest_forwarder_answers_and_when_it_goes_the_next_newest(house: House) -> None:
    first, second, third = (Forwarder(name) for name in (b"first", b"second", b"third"))
    for forwarder in (first, second, third):
        house.enter(forwarder)
    assert await house.connect() == b"third"
    house.agents.leave("w", second)
    house.agents.leave("w", third)
    assert await house.connect() == b"first"
    for forwarder in (first, third):
        forwarder.may_end.set()
    await asyncio.gather(*house.tasks)


async def test_with_nobody_left_connecting_fails_at_once(house: House) -> None:
    forwarder = Forwarder(b"only")
    house.enter(forwarder)
    house.agents.leave("w", forwarder)
    with pytest.raises(FileNotFoundError):
        await house.connect()
    house.agents.leave("w", forwarder)  # twice is harmless


async def test_path_that_was_taken_away_comes_back_with_the_next_forwarder(house: House) -> None:
    """Without walls a program may have removed it."""
    house.enter(Forwarder(b"first"))
    (house.directory / SOCKET_NAME).unlink()
    newest = Forwarder(b"second")
    house.enter(newest)
    assert await house.connect() == b"second"
    newest.may_end.set()
    await asyncio.gather(*house.tasks)


async def test_workspace_without_room_for_a_socket_forwards_nothing(house: House) -> None:
    house.path.publish = _no_room  # type: ignore[method-assign]
    forwarder = Forwarder(b"")
    with pytest.raises(OSError, match="No space"):
        house.enter(forwarder)
    house.agents.leave("w", forwarder)


def _no_room() -> socket.socket:
    raise OSError(28, "No space left on device")


async def test_one_program_too_many_is_closed_at_once_and_served_once_another_ended(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that opens thousands must not take the client's channels from everybody else."""
    monkeypatch.setattr(agents, "STREAMS_MAX", 2)
    forwarder = Forwarder(b"served")
    house.enter(forwarder)
    assert [await house.connect() for _ in range(3)] == [b"served", b"served", b""]
    forwarder.may_end.set()
    await asyncio.gather(*house.tasks)
    assert await house.connect() == b"served"
    await asyncio.gather(*house.tasks)


async def test_agent_that_may_not_be_used_any_more_closes_the_program_s_connection(house: House) -> None:
    house.enter(Forwarder(b""))
    house.is_forbidden = True
    assert await house.connect() == b""


async def test_silent_client_is_passed_over_until_it_answers(house: House) -> None:
    """A laptop that sleeps must not keep the workspace from the agent of the desktop beside it."""
    first, second = Forwarder(b"first"), Forwarder(b"second")
    for forwarder in (first, second):
        house.enter(forwarder)
        forwarder.may_end.set()
    second.is_silent = True
    assert await house.connect() == b"first"
    first.is_silent = True
    assert await house.connect() == b""  # at once, rather than to wait for each of them again
    second.is_silent = False
    assert await house.connect() == b"second"
    await asyncio.gather(*house.tasks)


async def test_client_of_a_connection_is_served_by_what_was_forwarded_before_it(house: House) -> None:
    """ssh -A from the workspace back into it: its own agent is this path, and would lead back to itself for ever."""
    outside, inside, newest = Forwarder(b"outside"), Forwarder(b"inside"), Forwarder(b"newest")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        inside.ends = Ends(client.getsockname(), server.getsockname())
        for forwarder in (outside, inside, newest):
            house.enter(forwarder)
            forwarder.may_end.set()
        assert await house.connect() == b"outside"
        house.agents.leave("w", outside)
        assert await house.connect() == b""
    house.agents.leave("w", inside)
    assert await house.connect() == b"newest"
    await asyncio.gather(*house.tasks)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """RLIMIT_NOFILE bounds the number of the next descriptor, so this process gets no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_program_that_comes_when_no_descriptor_is_left_is_served_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "RETRY_SECONDS", 0.02)
    forwarder = Forwarder(b"served")
    forwarder.may_end.set()
    house.enter(forwarder)
    program = house.program()
    with no_descriptor_left():
        program.connect(str(house.directory / SOCKET_NAME))
        for _ in range(20):
            await asyncio.sleep(0)
        assert house.tasks == []
    assert await house.answer(program) == b"served"
    await asyncio.gather(*house.tasks)
