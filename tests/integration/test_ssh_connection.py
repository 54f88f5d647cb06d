"""The SSH server alone, on loopback, with a gatehouse that only remembers: what asyncssh does not do by itself."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncssh
import paramiko
import pytest

from gateway.config import Address, SshSettings
from gateway.errors import LoginRefused
from gateway.forwarding.forwards import Target
from gateway.interfaces import AccessKey, ProgramExit, SessionKind, SessionRequest, WindowSize
from gateway.sessions.session import Channel
from gateway.ssh.facts import ConnectionFacts
from gateway.ssh.forwards import Listener
from gateway.ssh.server import SshServer
from gateway.ssh.window import EARLY_WINDOW_BYTES

FRIEND = asyncssh.generate_private_key("ssh-ed25519")
STRANGER = asyncssh.generate_private_key("ssh-ed25519")
HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")


class StreamRecord:
    """What was written down of a forwarded stream."""

    def __init__(self) -> None:
        self.refusal: object = None
        self.bytes: tuple[int, int] | None = None
        self.has_ended = asyncio.Event()

    def opened(self) -> None: ...

    def refused(self, error: BaseException | str) -> None:
        self.refusal = self.refusal or error
        self.has_ended.set()

    def ended(self, bytes_in: int = 0, bytes_out: int = 0) -> None:
        self.bytes = bytes_in, bytes_out
        self.has_ended.set()


class Gatehouse:
    """Lets FRIEND in; every session is answered by `program`."""

    def __init__(self) -> None:
        self.requests: list[SessionRequest] = []
        self.logins: list[ConnectionFacts] = []
        self.logouts: list[ConnectionFacts] = []
        self.refusals: list[ConnectionFacts] = []
        self.lookups: list[str] = []
        self.changed = asyncio.Event()
        self.program: Callable[[SessionRequest, Channel], object] = lambda request, channel: channel.finish(
            ProgramExit(0)
        )
        self.dial_answer: socket.socket | Exception = ConnectionRefusedError("Connection refused")
        self.listen_answer: Listener | Exception = PermissionError(13, "Permission denied")
        self.streams: list[StreamRecord] = []

    async def find_key(self, fingerprint: str) -> AccessKey | None:
        self.lookups.append(fingerprint)
        if fingerprint != FRIEND.get_fingerprint():
            return None
        return AccessKey("k1", "ada", fingerprint, "")

    def logged_in(self, facts: ConnectionFacts) -> None:
        self._note(self.logins, facts)

    def logged_out(self, facts: ConnectionFacts) -> None:
        self._note(self.logouts, facts)

    def login_refused(self, facts: ConnectionFacts) -> None:
        self._note(self.refusals, facts)

    def _note(self, where: list[ConnectionFacts], facts: ConnectionFacts) -> None:
        where.append(facts)
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def serve_session(self, request: SessionRequest, channel: Channel) -> None:
        self.requests.append(request)
        self.program(request, channel)

    async def dial(self, facts: ConnectionFacts, target: Target) -> tuple[socket.socket, StreamRecord]:
        if isinstance(self.dial_answer, Exception):
            raise self.dial_answer
        self.streams.append(StreamRecord())
        return self.dial_answer, self.streams[-1]

    async def listen(self, facts: ConnectionFacts, target: Target) -> Listener:
        if isinstance(self.listen_answer, Exception):
            raise self.listen_answer
        return self.listen_answer

    async def accept(self, facts: ConnectionFacts, target: Target) -> StreamRecord:
        self.streams.append(StreamRecord())
        return self.streams[-1]


class House:
    def __init__(self, server: SshServer, gatehouse: Gatehouse) -> None:
        self.server = server
        self.gatehouse = gatehouse

    @asynccontextmanager
    async def client(self, *keys: object, **options: object) -> AsyncIterator[asyncssh.SSHClientConnection]:
        host, port = self.server.address
        async with asyncssh.connect(
            host,
            port,
            username="app",
            client_keys=list(keys) or [FRIEND],
            known_hosts=None,
            agent_path=None,
            config=[],
            **options,
        ) as connection:
            yield connection


@asynccontextmanager
async def open_house(gatehouse: Gatehouse | None = None, **settings: object) -> AsyncIterator[House]:
    gatehouse = gatehouse or Gatehouse()
    async with asyncio.TaskGroup() as tasks:
        server = SshServer(
            SshSettings(listen=Address(host="127.0.0.1", port=0), **settings),
            host_keys=[HOST_KEY],
            gatehouse=gatehouse,
            spawn=lambda coroutine, name: tasks.create_task(coroutine, name=name),
        )
        await server.bind()
        await server.listen()
        try:
            yield House(server, gatehouse)
        finally:
            server.stop_listening()
            async with asyncio.timeout(10):
                await server.close_connections("the test is over")


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house() as house:
        yield house


# --------------------------------------------------------------------------------------------------- logins


async def test_a_known_key_logs_in_and_the_journal_hears_of_it(house: House) -> None:
    async with house.client():
        pass
    await house.gatehouse.until(lambda: house.gatehouse.logouts)
    (login,) = house.gatehouse.logins
    assert login.principal is not None
    assert (login.principal.name, login.login_name) == ("ada", "app")
    assert login.client_version.startswith("SSH-2.0-AsyncSSH")
    assert not house.gatehouse.refusals


async def test_a_strangers_key_is_refused_and_told_as_one_refusal(house: House) -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        async with house.client(STRANGER):
            pass
    await house.gatehouse.until(lambda: house.gatehouse.refusals)
    (refusal,) = house.gatehouse.refusals
    assert refusal.refusal_reason == "unknown_key"
    assert refusal.offered == (STRANGER.get_fingerprint(),)


async def test_an_offered_key_without_a_signature_is_not_a_login(house: House) -> None:
    """Warpgate counted an offer as a login (GHSA-3cjp-w4cp-m9c8)."""

    forged = asyncssh.generate_private_key("ssh-ed25519")
    pair = asyncssh.load_keypairs([forged])[0]
    pair.public_data = FRIEND.public_data  # shows a friend's public key, signs with another
    with pytest.raises(asyncssh.PermissionDenied):
        async with house.client(pair):
            pass
    await house.gatehouse.until(lambda: house.gatehouse.refusals)
    assert not house.gatehouse.logins
    assert house.gatehouse.refusals[0].refusal_reason == "bad_signature"
    assert house.gatehouse.refusals[0].principal is None


async def test_a_sha1_signature_of_a_known_key_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncssh tells the client which signatures it likes, and then takes any."""
    rsa = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    monkeypatch.setattr(sys.modules[__name__], "FRIEND", rsa)
    async with house.client(rsa):
        pass  # rsa-sha2 is fine
    with pytest.raises(asyncssh.PermissionDenied):
        async with house.client(rsa, signature_algs=["ssh-rsa"]):
            pass
    await house.gatehouse.until(lambda: house.gatehouse.refusals)
    assert house.gatehouse.refusals[0].refusal_reason == "bad_signature"


async def test_a_wrong_key_before_the_right_one_is_not_a_refusal(house: House) -> None:
    async with house.client(STRANGER, FRIEND):
        pass
    await house.gatehouse.until(lambda: house.gatehouse.logouts)
    assert not house.gatehouse.refusals


async def test_a_client_may_ask_for_the_login_service_before_each_attempt(house: House) -> None:
    """paramiko does. Cut off at its second request, it could never use the second key of an agent."""

    def log_in() -> bool:
        with paramiko.Transport(house.server.address) as transport:
            transport.start_client(timeout=10)
            for key in (STRANGER, STRANGER):
                with pytest.raises(paramiko.AuthenticationException, match=r"Authentication failed\.$"):
                    transport.auth_publickey("app", for_paramiko(key))
            transport.auth_publickey("app", for_paramiko(FRIEND))
            return transport.is_authenticated()

    assert await asyncio.to_thread(log_in)


def for_paramiko(key: asyncssh.SSHKey) -> paramiko.Ed25519Key:
    return paramiko.Ed25519Key(file_obj=io.StringIO(key.export_private_key("openssh").decode()))


async def test_a_client_that_offers_keys_without_end_is_disconnected() -> None:
    async with open_house(auth_attempts_max=3) as house:
        keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(10)]
        with pytest.raises(asyncssh.DisconnectError) as ended:
            await asyncssh.connect(
                *house.server.address, username="app", client_keys=keys, known_hosts=None, agent_path=None, config=[]
            )
        assert "Too many authentication failures" in str(ended.value)
        assert len(house.gatehouse.lookups) <= 4


async def test_a_connection_that_never_logs_in_is_closed_in_time() -> None:
    async with open_house(login_grace_seconds=0.3) as house:
        reader, writer = await asyncio.open_connection(*house.server.address)
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"SSH-2.0-OpenSSH_")
            await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_a_connection_that_carries_nothing_is_closed_in_time_if_the_operator_wants_it() -> None:
    async with open_house(connection_unused_minutes=0.3 / 60) as house, house.client() as client:
        await client.run("true")
        async with asyncio.timeout(5):
            await client.wait_closed()
        await house.gatehouse.until(lambda: house.gatehouse.logouts)


async def test_a_connection_with_a_session_is_used() -> None:
    """However silent; and after the last of them the time begins anew."""
    channels: list[Channel] = []
    async with open_house(connection_unused_minutes=0.4 / 60) as house:
        house.gatehouse.program = lambda request, channel: channels.append(channel)
        async with house.client() as client, asyncio.timeout(5):
            running = asyncio.create_task(client.run("sleep"))
            async with house.client() as unused:  # its time began later, so the other's is over as well
                await unused.wait_closed()
            await house.gatehouse.until(lambda: house.gatehouse.logouts)
            assert [connection.is_used for connection in house.server._connections] == [True]
            channels[0].finish(ProgramExit(0))
            assert (await running).exit_status == 0
            await client.wait_closed()


async def test_by_default_no_connection_is_timed() -> None:
    async with open_house() as house, house.client() as client:
        await client.run("true")
        (connection,) = house.server._connections
        assert connection._unused._timer is None


async def test_connections_over_the_limit_are_closed_before_a_word() -> None:
    async with open_house(connections_unauthenticated_per_address_max=2) as house:
        first = [await asyncio.open_connection(*house.server.address) for _ in range(2)]
        for reader, _ in first:
            await reader.readline()
        reader, writer = await asyncio.open_connection(*house.server.address)
        with pytest.raises((ConnectionResetError, EOFError)):
            data = await reader.read()
            assert data == b""
            raise EOFError
        for _, each in [*first, (reader, writer)]:
            each.close()
        async with asyncio.timeout(5):
            while house.server.connection_count:
                await asyncio.sleep(0)
        async with house.client():
            pass


async def test_a_key_that_was_taken_away_loses_its_open_connections(house: House) -> None:
    async with house.client() as client:
        assert house.server.disconnect_key("SHA256:another") == 0
        assert house.server.disconnect_key(FRIEND.get_fingerprint()) == 1
        async with asyncio.timeout(5):
            await client.wait_closed()


# ------------------------------------------------------------------------------------------------- requests


async def test_a_complete_request_reaches_the_gatehouse(house: House) -> None:
    async with house.client() as client:
        await client.run("echo hi", term_type="xterm", term_size=(100, 30), env={"LANG": "de_DE.UTF-8"})
    (request,) = house.gatehouse.requests
    assert (request.kind, request.command, request.login_name) == (SessionKind.EXEC, b"echo hi", "app")
    assert request.terminal is not None
    assert (request.terminal.term, request.terminal.size) == ("xterm", WindowSize(100, 30))
    assert request.environment == {"LANG": "de_DE.UTF-8"}


async def test_dangerous_variables_are_dropped_without_an_error(house: House) -> None:
    async with house.client() as client:
        await client.run("x", env={"LD_PRELOAD": "/evil.so", "PATH": "/evil", "BASH_ENV": "/evil", "LC_ALL": "C"})
    assert house.gatehouse.requests[0].environment == {"LC_ALL": "C"}


async def test_variables_without_end_are_not_kept(house: House) -> None:
    async with house.client() as client:
        await client.run("x", env={f"LC_{index}": "x" for index in range(1000)} | {"LC_ALL": "y" * 100_000})
    assert len(house.gatehouse.requests[0].environment) == 64


async def test_an_unknown_subsystem_leaves_the_connection_alive(house: House) -> None:
    async with house.client() as client:
        with pytest.raises(asyncssh.ChannelOpenError):
            await client.create_session(asyncssh.SSHClientSession, subsystem="netconf")
        assert (await client.run("still here")).exit_status == 0


async def test_sessions_over_the_limit_are_refused_and_free_again_later() -> None:
    async with open_house(sessions_per_connection_max=2) as house:
        held: list[Channel] = []
        house.gatehouse.program = lambda request, channel: held.append(channel)
        async with house.client() as client:
            first = [await client.create_process("hold") for _ in range(2)]
            with pytest.raises(asyncssh.ChannelOpenError):
                await client.create_process("one too many")
            held[0].finish(ProgramExit(0))
            await first[0].wait()
            third = await client.create_process("again")
            for channel in held[1:]:
                channel.finish(ProgramExit(0))
            await third.wait()


async def test_exit_status_and_exit_signal_arrive_as_they_are(house: House) -> None:
    async with house.client() as client:
        house.gatehouse.program = lambda request, channel: channel.finish(ProgramExit(exit_code=37))
        assert (await client.run("x")).exit_status == 37
        house.gatehouse.program = lambda request, channel: channel.finish(ProgramExit(signal="KILL"))
        result = await client.run("x")
        assert result.exit_signal is not None
        assert result.exit_signal[0] == "KILL"


async def test_input_sent_before_the_program_is_there_is_not_lost(house: House) -> None:
    arrived = asyncio.Event()

    class Sink:
        def __init__(self, channel: Channel) -> None:
            self.channel, self.data, self.size = channel, b"", None

        def data_received(self, data: bytes) -> None:
            self.data += data

        def eof_received(self) -> None:
            self.channel.write(f"{len(self.data)} {self.size}".encode())
            self.channel.finish(ProgramExit(0))

        def window_changed(self, size: WindowSize) -> None:
            self.size = size

        def signal_requested(self, name: str) -> None: ...

        def resume_writing(self) -> None: ...

        def channel_lost(self) -> None: ...

    async def later(channel: Channel) -> None:
        await arrived.wait()
        channel.attach(Sink(channel))

    tasks = []
    house.gatehouse.program = lambda request, channel: tasks.append(asyncio.create_task(later(channel)))
    async with house.client() as client:
        process = await client.create_process("x", term_type="xterm", encoding=None)
        process.stdin.write(b"z" * 1_000_000)
        process.change_terminal_size(132, 50)
        process.stdin.write_eof()
        for _ in range(20):
            await asyncio.sleep(0.01)
        arrived.set()
        result = await process.wait()
    assert result.stdout == b"1000000 WindowSize(columns=132, rows=50, width_pixels=0, height_pixels=0)"


# ------------------------------------------------------------------------------------------------- back-pressure


async def test_a_client_that_stops_reading_pauses_its_sessions_and_no_others(house: House) -> None:
    """A huge channel window must not let a client fill our memory: the transport's own buffer counts as well."""
    channels: list[Channel] = []
    house.gatehouse.program = lambda request, channel: channels.append(channel)
    async with (
        house.client() as slow,
        house.client() as quick,
    ):
        await slow.create_process("x", window=1 << 30, encoding=None)
        slow_transport = slow._transport
        slow_transport.pause_reading()
        written = 0
        for _ in range(2000):
            if channels[0].is_writing_paused:
                break
            channels[0].write(b"x" * 65536)
            written += 65536
            await asyncio.sleep(0)
        assert channels[0].is_writing_paused
        assert written < 64 * 1024 * 1024
        house.gatehouse.program = lambda request, channel: channel.finish(ProgramExit(0))
        assert (await quick.run("x")).exit_status == 0
        slow_transport.resume_reading()
        async with asyncio.timeout(20):
            while channels[0].is_writing_paused:
                await asyncio.sleep(0.01)
        channels[0].finish(ProgramExit(0))


# ------------------------------------------------------------------------------------------------- forwards


async def test_a_refused_forward_is_refused_at_once_and_the_connection_lives(house: House) -> None:
    async with house.client() as client:
        for answer in (LoginRefused("only loopback"), ConnectionRefusedError(111, "Connection refused")):
            house.gatehouse.dial_answer = answer
            with pytest.raises(asyncssh.ChannelOpenError):
                await client.open_connection("127.0.0.1", 1)
        assert (await client.run("x")).exit_status == 0


async def test_a_forward_carries_half_close_and_bytes_both_ways(house: House) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    listener = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    for each in (ours, theirs, listener):
        each.close()
    near.setblocking(False)
    house.gatehouse.dial_answer = near
    async with house.client() as client:
        reader, writer = await client.open_connection("127.0.0.1", 80, encoding=None)
        writer.write(b"request" * 100_000)
        writer.write_eof()
        far_reader, far_writer = await asyncio.open_connection(sock=far)
        assert await far_reader.read() == b"request" * 100_000
        far_writer.write(b"answer")
        far_writer.close()
        assert await reader.read() == b"answer"
        await far_writer.wait_closed()


async def test_descriptors_do_not_leak_over_many_connections(house: House) -> None:
    async with house.client():
        pass
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        async with house.client() as client:
            await client.run("x")
    async with asyncio.timeout(5):
        while len(os.listdir("/proc/self/fd")) > before:
            await asyncio.sleep(0.01)


async def test_channels_nobody_reads_hold_little_and_readers_get_the_whole_window(house: House) -> None:
    """200 unstarted channels of 2 MiB were 400 MB of a client that pays nothing for them."""
    house.gatehouse.program = lambda request, channel: None  # never attaches
    async with house.client() as client:
        process = await client.create_process("x", encoding=None)
        granted = process.channel._send_window
        process.stdin.write(b"x" * 1_000_000)
        async with asyncio.timeout(5):
            while process.channel._send_window:
                await asyncio.sleep(0.01)
        assert granted == EARLY_WINDOW_BYTES
        assert process.channel.get_write_buffer_size() >= 1_000_000 - EARLY_WINDOW_BYTES
