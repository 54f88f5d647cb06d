"""The SSH server against clients that want to hurt it: what one of them sends or leaves out costs only itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import MSG_CHANNEL_OPEN, MSG_GLOBAL_REQUEST, MSG_KEXINIT
from asyncssh.packet import Boolean, String, UInt32

from gateway.interfaces import ProgramExit, SessionRequest, WindowSize
from gateway.sessions.session import Channel
from gateway.ssh.connection import Connection
from tests.integration.test_ssh_connection import House, open_house

IGNORE = 2


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house() as house:
        yield house


class Listener:
    """A session that only remembers whether it was told of its client's end."""

    def __init__(self, *, takes_input: bool = True) -> None:
        self.takes_input = takes_input
        self.channel: Channel | None = None
        self.signals: list[str] = []
        self.lost = asyncio.Event()
        self.resumed = asyncio.Event()

    def program(self, request: SessionRequest, channel: Channel) -> None:
        self.channel = channel
        channel.attach(self)

    def data_received(self, data: bytes) -> None:
        if not self.takes_input and self.channel is not None:
            self.channel.pause_reading()

    def eof_received(self) -> None: ...

    def window_changed(self, size: WindowSize) -> None: ...

    def signal_requested(self, name: str) -> None:
        self.signals.append(name)

    def resume_writing(self) -> None:
        self.resumed.set()

    def channel_lost(self) -> None:
        self.lost.set()


def plain_packet(payload: bytes) -> bytes:
    """A packet before any key exchange (RFC 4253 §6)."""
    padding = 8 - (5 + len(payload)) % 8 + 8
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


async def until(question: Any) -> None:
    """For what a connection offers no event for."""
    async with asyncio.timeout(10):
        while not question():
            await asyncio.sleep(0.01)


async def test_a_stranger_who_only_sends_small_packets_is_cut_off(house: House) -> None:
    """256 KiB of the smallest packets took half a second of everybody's time, again and again for a minute."""
    reader, writer = await asyncio.open_connection(*house.server.address)
    writer.write(b"SSH-2.0-flood\r\n" + plain_packet(bytes([IGNORE]) + String(b"")) * 2000)
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass
    await until(lambda: house.server.connection_count == 0)
    writer.close()


async def test_a_refused_connection_leaves_nothing_behind() -> None:
    """Each one stayed in memory for the minute of the login timer, so a flood over the limit filled it."""
    async with open_house(connections_unauthenticated_max=1) as house:
        first = socket.create_connection(house.server.address)
        await until(lambda: house.server.connection_count == 1)
        for _ in range(20):
            with socket.create_connection(house.server.address) as refused:
                refused.setblocking(False)
                with contextlib.suppress(ConnectionError):
                    await asyncio.get_running_loop().sock_recv(refused, 1)
        gc.collect()
        assert sum(isinstance(thing, Connection) for thing in gc.get_objects()) == 1
        first.close()


async def test_many_requests_at_once_are_all_answered(house: House) -> None:
    """They are worked through over several turns of the event loop, and none may be forgotten at the end of one."""
    async with house.client() as client:
        answers = [client._make_global_request(b"keepalive@openssh.com") for _ in range(1000)]
        async with asyncio.timeout(10):
            assert len(await asyncio.gather(*answers)) == 1000


async def test_a_key_exchange_that_never_ends_stops_the_program(house: House) -> None:
    """Its output waits until the exchange is over; that was 600 MB a second."""
    listener = Listener()
    house.gatehouse.program = listener.program
    async with house.client() as client:
        await client.create_session(asyncssh.SSHClientSession, "flood", window=2**31, encoding=None)
        await until(lambda: listener.channel is not None)
        client._packet_handlers = {**client._packet_handlers, MSG_KEXINIT: lambda *_: None}
        client._send_kexinit()
        (connection,) = house.server._connections
        await until(lambda: not connection._kex_complete)
        channel = listener.channel
        assert channel is not None
        written = 0
        while not channel.is_writing_paused and written < 2**24:
            channel.write(bytes(16384))
            written += 16384
        assert written < 2**20
        client.abort()
        await listener.lost.wait()


async def test_answers_that_nobody_reads_end_the_listening(house: House) -> None:
    async with house.client() as client:
        (connection,) = house.server._connections
        client._transport.pause_reading()
        async with asyncio.timeout(30):
            while not connection._is_reading_paused or not connection._is_unheard:
                for _ in range(200):
                    client.send_packet(MSG_GLOBAL_REQUEST, String(b"x" * 8), Boolean(True))
                await asyncio.sleep(0)
                connection._transport.write(bytes(64 * 1024))  # stands for a hundred thousand answers
        client.abort()
        await until(lambda: house.server.connection_count == 0)


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        (b"session", b""),
        (b"direct-tcpip", String(b"127.0.0.1") + UInt32(80) + String(b"127.0.0.1") + UInt32(1)),
    ],
)
async def test_a_channel_of_tiny_packets_is_refused(house: House, kind: bytes, rest: bytes) -> None:
    """At a maximum packet size of one byte, a page of output became thousands of packets."""
    async with house.client() as client:
        channel = client.create_tcp_channel(encoding=None)
        waiter = channel._open_waiter = asyncio.get_running_loop().create_future()
        number = channel._recv_chan
        assert number is not None
        client.send_packet(MSG_CHANNEL_OPEN, String(kind), UInt32(number), UInt32(2**21), UInt32(1), rest)
        with pytest.raises(asyncssh.ChannelOpenError, match="packet size"):
            await waiter
        assert (await client.run("true")).exit_status == 0


async def test_a_variable_whose_name_is_no_text_is_dropped(house: House) -> None:
    """`LC_*` let it pass, and the connection ended with all its sessions."""
    async with house.client() as client:
        result = await client.run("true", env={b"LC_\xff": b"1", b"LC_ALL": b"C"})
        assert result.exit_status == 0
    assert house.gatehouse.requests[0].environment == {"LC_ALL": "C"}


async def test_only_the_signals_of_the_protocol_are_passed_on(house: House) -> None:
    """A name of 200 KB of control characters was too long for the keeper's socket, and ended the whole gateway."""
    listener = Listener()
    house.gatehouse.program = listener.program
    async with house.client() as client:
        channel, _ = await client.create_session(asyncssh.SSHClientSession, "x", encoding=None)
        for name in ("\x01" * 200_000, "", "RTMIN", "term", "TERM"):
            channel.send_signal(name)
        await until(lambda: listener.signals)
        assert listener.signals == ["TERM"]


async def test_dials_end_with_their_connection(house: House) -> None:
    """Five hundred to a silent port were five hundred descriptors for ten seconds, after the client had left."""
    dialling, gone = asyncio.Event(), asyncio.Event()

    async def dial(*_: object) -> socket.socket:
        dialling.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        raise AssertionError("unreachable")

    house.gatehouse.dial = dial  # type: ignore[method-assign]
    async with house.client() as client:
        opening = asyncio.create_task(client.open_connection("127.0.0.1", 80))
        async with asyncio.timeout(10):
            await dialling.wait()
            client.abort()
            await gone.wait()
        with pytest.raises((asyncssh.Error, OSError)):
            await opening


@pytest.mark.parametrize("term_type", ["xterm", None])
async def test_a_closed_channel_is_noticed_though_its_input_is_unread(
    house: House, term_type: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncssh waits for the input to be read; a stopped program never reads, and its terminal was never hung up."""
    monkeypatch.setattr("gateway.ssh.channel.UNREAD_SECONDS", 0.05)
    listener = Listener(takes_input=False)
    house.gatehouse.program = listener.program
    async with house.client() as client:
        channel, _ = await client.create_session(
            asyncssh.SSHClientSession, "stopped", term_type=term_type, encoding=None
        )
        for _ in range(3):
            channel.write(b"unread" * 1000)
        channel.abort()
        async with asyncio.timeout(10):
            await listener.lost.wait()


async def test_a_closed_channel_still_gives_its_input_to_a_program_that_reads(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cat file | ssh host consumer`, the client gone before the consumer is through: sshd hands it all over, too."""
    monkeypatch.setattr("gateway.ssh.channel.UNREAD_SECONDS", 60.0)
    listener = Listener(takes_input=False)
    received: list[bytes] = []
    monkeypatch.setattr(
        listener,
        "data_received",
        lambda data: (received.append(data), listener.channel and listener.channel.pause_reading()),
    )
    house.gatehouse.program = listener.program
    async with house.client() as client:
        channel, _ = await client.create_session(asyncssh.SSHClientSession, "slow", encoding=None)
        for _ in range(5):
            channel.write(b"x" * 1000)
        channel.abort()
        while not listener.lost.is_set():
            async with asyncio.timeout(10):
                await asyncio.sleep(0.01)
            if listener.channel is not None:
                listener.channel.resume_reading()
    assert len(b"".join(received)) == 5000


async def test_what_a_slow_program_has_not_read_is_one_window_at_most(house: House) -> None:
    """Each pause brought a whole new window: 300 MB sent to a slow program were 246 MB in our memory."""
    listener = Listener(takes_input=False)
    house.gatehouse.program = listener.program
    async with house.client() as client:
        channel, _ = await client.create_session(asyncssh.SSHClientSession, "slow", encoding=None)
        await until(lambda: listener.channel is not None)
        (connection,) = house.server._connections
        (wire,) = connection._channels.values()
        channel.write(bytes(16 * 1024 * 1024))
        most = 0
        for _ in range(300):  # a piece is taken now and then
            assert listener.channel is not None
            listener.channel.resume_reading()
            await asyncio.sleep(0.001)
            most = max(most, sum(len(data) for data, _ in wire._recv_buf))
        assert 0 < most <= wire._init_recv_window
        channel.abort()
        connection.abort()
        await listener.lost.wait()


async def test_a_session_after_all_that_ends_as_ever(house: House) -> None:
    house.gatehouse.program = lambda request, channel: channel.finish(ProgramExit(3))
    async with house.client() as client:
        assert (await client.run("true")).exit_status == 3
