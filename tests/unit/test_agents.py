"""Which client's agent answers in a workspace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import agents
from gateway.agents import Agents
from gateway.launchers.agent_socket import SOCKET_NAME, AgentSocket


class Forwarder:
    """Says its name to each program, and holds the stream until told."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.may_end = asyncio.Event()

    async def carry(self, program: socket.socket) -> None:
        with program:
            program.send(self.name)
            await self.may_end.wait()


class House:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tasks: list[asyncio.Task[None]] = []
        self.path = AgentSocket(directory)
        self.agents = Agents(path_for=lambda workspace_id: self.path, spawn=self._spawn)
        self._programs: list[socket.socket] = []

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work, name=name))
        return self.tasks[-1]

    async def connect(self) -> bytes:
        """Who answers a program; empty: the connection was closed at once."""
        program = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._programs.append(program)
        program.connect(str(self.directory / SOCKET_NAME))
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
        house.agents.enter("w", forwarder)
    assert await house.connect() == b"third"
    house.agents.leave("w", second)
    house.agents.leave("w", third)
    assert await house.connect() == b"first"
    for forwarder in (first, third):
        forwarder.may_end.set()
    await asyncio.gather(*house.tasks)


async def test_with_nobody_left_connecting_fails_at_once(house: House) -> None:
    forwarder = Forwarder(b"only")
    house.agents.enter("w", forwarder)
    house.agents.leave("w", forwarder)
    with pytest.raises(FileNotFoundError):
        await house.connect()
    house.agents.leave("w", forwarder)  # twice is harmless


async def test_path_that_was_taken_away_comes_back_with_the_next_forwarder(house: House) -> None:
    """Without walls a program may have removed it."""
    house.agents.enter("w", Forwarder(b"first"))
    (house.directory / SOCKET_NAME).unlink()
    newest = Forwarder(b"second")
    house.agents.enter("w", newest)
    assert await house.connect() == b"second"
    newest.may_end.set()
    await asyncio.gather(*house.tasks)


async def test_workspace_without_room_for_a_socket_forwards_nothing(house: House) -> None:
    house.path.publish = _no_room  # type: ignore[method-assign]
    forwarder = Forwarder(b"")
    with pytest.raises(OSError, match="No space"):
        house.agents.enter("w", forwarder)
    house.agents.leave("w", forwarder)


def _no_room() -> socket.socket:
    raise OSError(28, "No space left on device")


async def test_one_program_too_many_is_closed_at_once_and_served_once_another_ended(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that opens thousands must not take the client's channels from everybody else."""
    monkeypatch.setattr(agents, "STREAMS_MAX", 2)
    forwarder = Forwarder(b"served")
    house.agents.enter("w", forwarder)
    assert [await house.connect() for _ in range(3)] == [b"served", b"served", b""]
    forwarder.may_end.set()
    await asyncio.gather(*house.tasks)
    assert await house.connect() == b"served"
    await asyncio.gather(*house.tasks)
