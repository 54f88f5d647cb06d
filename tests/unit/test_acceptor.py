"""Accepting from a listening socket: paused, resumed and closed at any moment."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.forwarding.acceptor import Acceptor


class Stage:
    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.accepted: list[socket.socket] = []
        self.clients: list[socket.socket] = []
        self.changed = asyncio.Event()

    def connect(self, count: int = 1) -> None:
        self.clients += [socket.create_connection(self.listener.getsockname()) for _ in range(count)]

    def take(self, connection: socket.socket, peer: Any) -> None:
        assert not connection.getblocking()
        self.accepted.append(connection)
        self.changed.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.accepted) < count:
                self.changed.clear()
                await self.changed.wait()

    async def turns(self) -> None:
        """Long enough for whatever waits to be seen, if anybody looked."""
        for _ in range(5):
            await asyncio.sleep(0)

    def close(self) -> None:
        for sock in (*self.accepted, *self.clients, self.listener):
            sock.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


async def test_a_crowd_is_accepted_over_several_turns(stage: Stage) -> None:
    stage.connect(50)
    acceptor = Acceptor(stage.listener, stage.take)
    await stage.until(50)
    acceptor.close()


async def test_while_paused_connections_wait_in_the_kernel(stage: Stage) -> None:
    acceptor = Acceptor(stage.listener, stage.take)
    acceptor.pause()
    acceptor.pause()
    stage.connect()
    await stage.turns()
    assert stage.accepted == []
    acceptor.resume()
    acceptor.resume()
    await stage.until(1)
    acceptor.close()


async def test_a_pause_in_the_middle_of_a_crowd_holds_at_once(stage: Stage) -> None:
    def take_one(connection: socket.socket, peer: Any) -> None:
        stage.take(connection, peer)
        acceptor.pause()

    stage.connect(5)
    acceptor = Acceptor(stage.listener, take_one)
    await stage.until(1)
    await stage.turns()
    assert len(stage.accepted) == 1
    acceptor.close()


async def test_a_closed_one_has_left_the_loop_and_cannot_be_resumed(stage: Stage) -> None:
    """Its number may belong to another socket by now, and that one would hang."""
    acceptor = Acceptor(stage.listener, stage.take)
    number = stage.listener.fileno()
    acceptor.close()
    acceptor.close()
    acceptor.resume()
    assert stage.listener.fileno() == -1
    assert not asyncio.get_running_loop().remove_reader(number)
