"""Forwards of one connection, with a gatehouse that does as it is told: bounds, refusals, and what ends with what."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)
from asyncssh.packet import Boolean, String, UInt32

from gateway.errors import KeeperGone, LoginRefused
from gateway.forwarding import acceptor
from gateway.forwarding.forwards import Target, TcpTarget, UnixTarget
from gateway.ssh import connection as transport
from gateway.ssh import forwards, stream
from gateway.ssh.facts import ConnectionFacts
from gateway.ssh.window import NARROW_WINDOW_BYTES, WINDOW_BYTES
from tests.integration.test_ssh_connection import House, StreamRecord, open_house
from tests.integration.test_ssh_hostile import until

OURS = 7000  # the number of a channel on the client's side
STREAMLOCAL = b"streamlocal-forward@openssh.com"


class InsideListener:
    """A listener, as the workspace would have it."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET) -> None:
        self.sockets = [socket.create_server(("127.0.0.1", 0), family=family)]
        self.port = self.sockets[0].getsockname()[1]
        self.workspace_gone = asyncio.Event()
        self.is_closed = False

    def closed(self) -> None:
        assert not self.is_closed, "told twice"
        self.is_closed = True

    async def until_workspace_gone(self) -> None:
        await self.workspace_gone.wait()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    @property
    def is_listening(self) -> bool:
        return self.sockets[0].fileno() != -1


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house() as house:
        yield house


async def request(client: asyncssh.SSHClientConnection, name: bytes, *fields: bytes) -> tuple[bool, bytes]:
    """A global request as it is: whether it succeeded, and the rest of the answer."""
    async with asyncio.timeout(10):
        kind, packet = await client._make_global_request(name, *fields)
    assert kind in (MSG_REQUEST_SUCCESS, MSG_REQUEST_FAILURE)
    return kind == MSG_REQUEST_SUCCESS, packet.get_remaining_payload()


async def listen(client: asyncssh.SSHClientConnection, host: str | bytes = "", port: int = 0) -> tuple[bool, bytes]:
    return await request(client, b"tcpip-forward", String(host), UInt32(port))


async def is_alive(client: asyncssh.SSHClientConnection) -> bool:
    return (await client.run("x")).exit_status == 0


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# ------------------------------------------------------------------------------------------ what asyncssh gets wrong


@pytest.mark.parametrize("kind", [b"direct-tcpip", b"direct-streamlocal@openssh.com"])
async def test_a_target_that_is_not_utf_8_reaches_the_gate_and_a_refusal_is_no_disconnect(
    house: House, kind: bytes
) -> None:
    seen: list[Target] = []

    async def dial(facts: ConnectionFacts, target: Target) -> tuple[socket.socket, StreamRecord]:
        seen.append(target)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    house.gatehouse.dial = dial  # type: ignore[method-assign]
    fields = [String(b"/tmp/\xff")] if b"streamlocal" in kind else [String(b"\xff.example"), UInt32(80)]
    async with house.client() as client:
        wire = client.create_tcp_channel()
        with pytest.raises(asyncssh.ChannelOpenError, match="Connection refused"):
            await wire._open_forward(asyncssh.SSHTCPSession, kind, *fields, String(b"\xfe"), UInt32(0))
        assert await is_alive(client)
    assert seen == [UnixTarget(b"/tmp/\xff") if b"streamlocal" in kind else TcpTarget("\udcff.example", 80)]
    assert str(seen[0]).isprintable()


@pytest.mark.parametrize("name", [b"cancel-tcpip-forward", b"cancel-streamlocal-forward@openssh.com"])
async def test_an_unknown_cancellation_is_answered_with_failure(house: House, name: bytes) -> None:
    async with house.client() as client:
        fields = [String("localhost"), UInt32(1)] if b"tcpip" in name else [String("/nowhere")]
        assert await request(client, name, *fields) == (False, b"")
        assert await is_alive(client)


async def test_the_client_hears_the_host_it_asked_for_and_who_connected(house: House) -> None:
    """asyncssh answers in lower case, and clients find no such listener."""
    listener = house.gatehouse.listen_answer = InsideListener()
    offered: asyncio.Future[tuple[bytes, int, bytes, int]] = asyncio.get_running_loop().create_future()

    async with house.client() as client:

        def take(packet: Any) -> Any:
            offered.set_result((packet.get_string(), packet.get_uint32(), packet.get_string(), packet.get_uint32()))
            raise asyncssh.ChannelOpenError(1, "no")

        client._process_forwarded_tcpip_open = take  # type: ignore[method-assign]
        assert await listen(client, b"Some.\xffHost") == (True, UInt32(listener.port))
        _, writer = await listener.connect()
        async with asyncio.timeout(10):
            assert await offered == (
                b"Some.\xffHost",
                listener.port,
                b"127.0.0.1",
                writer.get_extra_info("sockname")[1],
            )
        writer.close()
        assert await is_alive(client)


async def test_only_port_0_is_answered_with_a_port(house: House) -> None:
    async with house.client() as client:
        house.gatehouse.listen_answer = InsideListener()
        assert await listen(client, "localhost", house.gatehouse.listen_answer.port) == (True, b"")


# ----------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (LoginRefused, ("off",)),
        (KeeperGone, ("gone",)),
        (OSError, (errno.EADDRINUSE, "x")),
        (TimeoutError, ()),
        (ValueError, ("ours",)),
    ],
)
@pytest.mark.parametrize("name", [b"tcpip-forward", STREAMLOCAL])
async def test_a_refused_listener_is_an_answer_with_its_reason_beside_it(
    house: House, kind: type[Exception], arguments: tuple[object, ...], name: bytes
) -> None:
    house.gatehouse.listen_answer = kind(*arguments)
    async with house.client() as client:
        fields = [String(""), UInt32(0)] if name == b"tcpip-forward" else [String("/x")]
        assert await request(client, name, *fields) == (False, b"")
        assert await is_alive(client)


async def test_listeners_over_the_limit_are_refused_and_a_cancelled_one_makes_room() -> None:
    async with open_house(forward_listeners_per_connection_max=1) as house, house.client() as client:
        first = house.gatehouse.listen_answer = InsideListener()
        assert (await listen(client, "localhost"))[0]
        house.gatehouse.listen_answer = InsideListener()
        assert not (await listen(client, "localhost"))[0]
        assert (await request(client, b"cancel-tcpip-forward", String("localhost"), UInt32(first.port)))[0]
        assert first.is_closed
        assert not first.is_listening
        assert (await listen(client, "localhost"))[0]


async def test_one_path_is_listened_on_once(house: House) -> None:
    """Inside it may have been removed and bound again, and the first listener would be forgotten open."""
    async with house.client() as client:
        house.gatehouse.listen_answer = InsideListener()
        assert (await request(client, STREAMLOCAL, String("/tmp/x")))[0]
        house.gatehouse.listen_answer = second = InsideListener()
        assert not (await request(client, STREAMLOCAL, String("/tmp/x")))[0]
        second.sockets[0].close()


async def test_streams_of_a_listener_need_the_gates_word_each_time(house: House) -> None:
    listener = house.gatehouse.listen_answer = InsideListener()

    async def accept(*_: object) -> StreamRecord:
        raise LoginRefused("off by now")

    async with house.client() as client:
        await listen(client)
        house.gatehouse.accept = accept  # type: ignore[method-assign]
        reader, writer = await listener.connect()
        async with asyncio.timeout(10):
            assert await _rest(reader) == b""
        writer.close()
        assert listener.is_listening


# -------------------------------------------------------------------------------------------------------- streams


async def _rest(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


async def test_a_stream_from_a_listener_carries_half_closes_and_is_told_with_its_bytes(house: House) -> None:
    listener = house.gatehouse.listen_answer = InsideListener()

    async def shout(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async with house.client() as client:
        served = await client.start_server(lambda *_: shout, "localhost", 0, encoding=None)
        assert served.get_port() == listener.port
        reader, writer = await listener.connect()
        noise = os.urandom(700_000).lower()
        writer.write(noise)
        writer.write_eof()
        async with asyncio.timeout(20):
            assert await reader.read() == noise.upper()
            (record,) = house.gatehouse.streams
            await record.has_ended.wait()
        assert (record.refusal, record.bytes) == (None, (700_000, 700_000))
        writer.close()


async def test_a_client_that_refuses_the_stream_closes_the_connection_inside(house: House) -> None:
    listener = house.gatehouse.listen_answer = InsideListener()
    async with house.client() as client:
        await listen(client)  # asyncssh's client knows nothing of it, and refuses what comes
        reader, writer = await listener.connect()
        async with asyncio.timeout(10):
            assert await _rest(reader) == b""
        writer.close()
        assert house.gatehouse.streams[0].refusal == "client_refused"
        assert await is_alive(client)


class Silent:
    """A client that does not answer offered streams until it is told to."""

    def __init__(self, client: asyncssh.SSHClientConnection) -> None:
        self.client = client
        self.offers: list[int] = []
        self.heard: list[int] = []  # messages on the channel, once it was answered
        client._channels[OURS] = self  # type: ignore[assignment]
        handlers = dict(client._packet_handlers)
        handlers[MSG_CHANNEL_OPEN] = lambda conn, kind, number, packet: self._take(packet)
        client._packet_handlers = handlers

    def _take(self, packet: Any) -> None:
        packet.get_string()
        self.offers.append(packet.get_uint32())

    def answer(self, offer: int, *, packet_bytes: int = 32768, more: bytes = b"") -> None:
        self.client.send_packet(
            MSG_CHANNEL_OPEN_CONFIRMATION, UInt32(offer), UInt32(OURS), UInt32(1 << 20), UInt32(packet_bytes), more
        )

    def process_packet(self, kind: int, *_: object) -> None:
        self.heard.append(kind)

    def log_received_packet(self, *_: object) -> None: ...

    def process_connection_close(self, *_: object) -> None: ...

    def close(self) -> None: ...


async def test_a_client_that_does_not_answer_is_given_up_and_its_late_answer_is_harmless(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwards, "ANSWER_SECONDS", 0.05)
    listener = house.gatehouse.listen_answer = InsideListener()
    async with house.client() as client:
        await listen(client)
        silent = Silent(client)
        reader, writer = await listener.connect()
        async with asyncio.timeout(10):
            assert await _rest(reader) == b""
        writer.close()
        assert house.gatehouse.streams[0].refusal == "client_silent"
        silent.answer(silent.offers[0])
        await until(lambda: silent.heard == [MSG_CHANNEL_CLOSE])
        assert await is_alive(client)


async def test_unanswered_streams_keep_their_places_so_that_they_cannot_gather(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwards, "ANSWER_SECONDS", 0.02)
    async with open_house(forwards_per_connection_max=2) as house, house.client() as client:
        listener = house.gatehouse.listen_answer = InsideListener()
        await listen(client)
        silent = Silent(client)
        waiting = [await listener.connect() for _ in range(5)]
        await until(lambda: sum(record.has_ended.is_set() for record in house.gatehouse.streams) == 2)
        (connection,) = house.server._connections
        assert connection.forwards._is_full
        assert len(silent.offers) == 2
        for _, writer in waiting:
            writer.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"packet_bytes": 1},  # a stream of megabytes, one byte in each packet, would cost everybody seconds
        {"more": b"?"},  # met in a task of ours, it was a traceback for the operator
    ],
    ids=["tiny packets", "too long"],
)
async def test_a_client_that_answers_as_none_does_is_cut_off(house: House, answer: dict[str, Any]) -> None:
    listener = house.gatehouse.listen_answer = InsideListener()
    async with house.client() as client:
        await listen(client)
        silent = Silent(client)
        reader, writer = await listener.connect()
        await until(lambda: silent.offers)
        silent.answer(silent.offers[0], **answer)
        async with asyncio.timeout(10):
            await client.wait_closed()
            assert await _rest(reader) == b""
        writer.close()


async def test_at_the_limit_nothing_more_is_accepted_until_a_stream_ends() -> None:
    async with open_house(forwards_per_connection_max=1) as house, house.client() as client:
        listener = house.gatehouse.listen_answer = InsideListener()
        ends: list[Callable[[], None]] = []

        async def hold(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
            writer.write(b"x")
            ends.append(writer.close)

        await client.start_server(lambda *_: hold, "localhost", 0, encoding=None)
        first, first_writer = await listener.connect()
        assert await first.read(1) == b"x"
        with pytest.raises(asyncssh.ChannelOpenError, match="too many"):
            await client.open_connection("127.0.0.1", 1)
        second, second_writer = await listener.connect()  # into the kernel's queue
        assert await is_alive(client)
        assert len(house.gatehouse.streams) == 1
        first_writer.close()
        ends[0]()
        async with asyncio.timeout(10):
            assert await second.read(1) == b"x"
        second_writer.close()


async def test_accepting_survives_a_time_without_descriptors(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "RETRY_SECONDS", 0.02)
    listener = InsideListener()
    failures = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENFILE, "x")]

    class Failing(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            if failures:
                raise failures.pop()
            return super().accept()

    listener.sockets = [Failing(fileno=listener.sockets[0].detach())]
    house.gatehouse.listen_answer = listener
    async with house.client() as client:
        await listen(client)
        reader, writer = await listener.connect()
        async with asyncio.timeout(10):
            assert await _rest(reader) == b""  # refused by the client, so it was offered
        writer.close()
        assert not failures


# ------------------------------------------------------------------------------------------- what ends with what


async def test_listeners_and_their_streams_end_with_the_connection(house: House) -> None:
    before = descriptors()
    listener = house.gatehouse.listen_answer = InsideListener()

    async def hold(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        writer.write(b"x")

    async with house.client() as client:
        await client.start_server(lambda *_: hold, "localhost", 0, encoding=None)
        reader, writer = await listener.connect()
        assert await reader.read(1) == b"x"
        client.abort()
        async with asyncio.timeout(10):
            assert await _rest(reader) == b""
        writer.close()
    await until(lambda: listener.is_closed)
    assert not listener.is_listening
    await until(lambda: descriptors() <= before)
    assert house.gatehouse.streams[0].bytes == (1, 0)


def stream_to_a_program(house: House) -> socket.socket:
    """The program's end of the next forward; it reads nothing by itself."""
    near, program = socket.socketpair()
    for end in (near, program):
        end.setblocking(False)
    house.gatehouse.dial_answer = near
    return program


async def test_a_program_that_does_not_read_holds_nothing_of_a_client_that_is_gone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each such stream kept a descriptor and its last bytes, uncounted, for as long as the program liked."""
    monkeypatch.setattr(stream, "UNREAD_SECONDS", 0.02)
    before = descriptors()
    async with house.client() as client:
        program = stream_to_a_program(house)
        _, writer = await client.open_connection("localhost", 80, encoding=None)
        writer.write(bytes(WINDOW_BYTES))
        (connection,) = house.server._connections
        (wire,) = connection._channels.values()
        await until(lambda: wire._recv_paused)
        client.abort()
    await until(lambda: descriptors() <= before + 1)  # the program's own
    program.close()


async def test_a_program_that_reads_on_gets_what_its_client_sent_last(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "UNREAD_SECONDS", 1)
    sent = os.urandom(WINDOW_BYTES)
    async with house.client() as client:
        program = stream_to_a_program(house)
        _, writer = await client.open_connection("localhost", 80, encoding=None)
        writer.write(sent)
        writer.close()
        reader, program_writer = await asyncio.open_connection(sock=program)
        async with asyncio.timeout(10):
            assert await reader.read() == sent
        program_writer.close()


async def test_streams_beyond_the_first_may_have_less_on_their_way(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five hundred whole windows for programs that do not read were half a gigabyte of one connection's."""
    monkeypatch.setattr(transport, "WIDE_STREAMS_MAX", 2)
    programs = []
    async with house.client() as client:
        for port in range(1, 4):
            programs.append(stream_to_a_program(house))
            _, writer = await client.open_connection("localhost", port, encoding=None)
            writer.write(bytes(3 * WINDOW_BYTES))
        (connection,) = house.server._connections
        windows = [wire._init_recv_window for wire in connection._channels.values()]
        assert windows == [WINDOW_BYTES, WINDOW_BYTES, NARROW_WINDOW_BYTES]
        reader, program_writer = await asyncio.open_connection(sock=programs[-1])
        async with asyncio.timeout(10):
            assert await reader.readexactly(3 * WINDOW_BYTES) == bytes(3 * WINDOW_BYTES)
        program_writer.close()
        client.abort()
    for program in programs[:-1]:
        program.close()


async def test_a_malformed_request_behind_a_slow_one_ends_the_connection(house: House) -> None:
    """It is read when the slow one is answered, in a task of ours, which failed of it and left the others waiting."""
    release = asyncio.Event()
    listener = InsideListener()

    async def slow(*_: object) -> InsideListener:
        await release.wait()
        return listener

    house.gatehouse.listen = slow  # type: ignore[method-assign, assignment]
    async with house.client() as client:
        first = asyncio.create_task(request(client, b"tcpip-forward", String(""), UInt32(0)))
        malformed = asyncio.create_task(client._make_global_request(b"tcpip-forward", String("no port")))
        (connection,) = house.server._connections
        await until(lambda: len(connection._global_request_queue) == 2)
        release.set()
        assert (await first)[0]
        async with asyncio.timeout(10):
            await client.wait_closed()
            await malformed
    await until(lambda: listener.is_closed)


async def test_a_request_under_way_ends_with_the_connection(house: House) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def slow(*_: object) -> InsideListener:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        raise AssertionError("unreachable")

    house.gatehouse.listen = slow  # type: ignore[method-assign, assignment]
    async with house.client() as client:
        asking = asyncio.create_task(client._make_global_request(b"tcpip-forward", String(""), UInt32(0)))
        async with asyncio.timeout(10):
            await asked.wait()
            client.abort()
            await gone.wait()
            await asking


async def test_an_offer_under_way_ends_with_the_connection(house: House) -> None:
    listener = house.gatehouse.listen_answer = InsideListener()
    async with house.client() as client:
        await listen(client)
        silent = Silent(client)
        reader, writer = await listener.connect()
        await until(lambda: silent.offers)
        client.abort()
        async with asyncio.timeout(10):
            assert await _rest(reader) == b""
        writer.close()
    await until(lambda: house.gatehouse.streams[0].has_ended.is_set())
    assert house.gatehouse.streams[0].refusal


async def test_listeners_end_with_their_workspace_and_the_connection_lives(house: House) -> None:
    listener = house.gatehouse.listen_answer = InsideListener()
    async with house.client() as client:
        await listen(client, "localhost")
        listener.workspace_gone.set()
        await until(lambda: listener.is_closed)
        assert not listener.is_listening
        assert not (await request(client, b"cancel-tcpip-forward", String("localhost"), UInt32(listener.port)))[0]
        assert await is_alive(client)


async def test_a_cancelled_listener_leaves_its_streams_alone(house: House) -> None:
    listener = house.gatehouse.listen_answer = InsideListener()

    async def shout(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        writer.write(b"x" + await reader.read())
        writer.close()

    async with house.client() as client:
        served = await client.start_server(lambda *_: shout, "localhost", 0, encoding=None)
        reader, writer = await listener.connect()
        writer.write(b"y")
        await until(lambda: house.gatehouse.streams)
        served.close()
        await until(lambda: listener.is_closed)
        writer.write_eof()
        async with asyncio.timeout(10):
            assert await reader.read() == b"xy"
        writer.close()


async def test_a_forward_request_before_others_is_answered_before_them(house: House) -> None:
    """Answers carry no number: their order is all a client has (RFC 4254 §4)."""
    release = asyncio.Event()
    listener = InsideListener()

    async def slow(*_: object) -> InsideListener:
        await release.wait()
        return listener

    house.gatehouse.listen = slow  # type: ignore[method-assign, assignment]
    async with house.client() as client:
        first = asyncio.create_task(request(client, b"tcpip-forward", String(""), UInt32(0)))
        await asyncio.sleep(0)
        second = asyncio.create_task(request(client, b"no-such-request", Boolean(True)))
        await asyncio.sleep(0)
        release.set()
        assert await first == (True, UInt32(listener.port))
        assert await second == (False, b"")
