"""A forwarded stream between a socket and its channel, before the channel is open."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

from gateway.ssh.stream import ForwardChannel

TURNS = 5  # of the event loop: more than it takes until asyncio reads


class Channel:
    """Notes what the client would get."""

    def __init__(self) -> None:
        self.written = b""
        self.got = asyncio.Event()
        self.ended = asyncio.Event()

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written += data
        self.got.set()

    def write_eof(self) -> None:
        self.ended.set()

    def close(self) -> None:
        self.ended.set()


async def test_what_a_program_says_before_its_channel_is_open_reaches_the_client() -> None:
    # A program in search of the agent speaks at once; the client has still to answer. Python 3.11.2 lost it.
    inside, ours = socket.socketpair()
    connection: Any = SimpleNamespace(is_transport_full=False)
    forward = ForwardChannel(connection, lambda bytes_in, bytes_out: None)
    channel: Any = Channel()
    with inside:
        inside.sendall(b"early")
        await forward.connect(ours)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        forward.connection_made(channel)
        forward.session_started()
        async with asyncio.timeout(5):
            await channel.got.wait()
    async with asyncio.timeout(5):
        await channel.ended.wait()
    assert (channel.written, forward.bytes_out) == (b"early", 5)
    forward.eof_received()
