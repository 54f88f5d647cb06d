"""Agent and X11 forwarding by clients that ask for too much, answer late or never, or go in the middle."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
)
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from gateway.errors import DisplayRefused, LoginRefused
from gateway.forwarding.agents import AgentForwarder
from gateway.forwarding.displays import Carry, Display, DisplayRequest
from gateway.ssh import inward, x11
from gateway.ssh.connection import Connection
from gateway.ssh.facts import ConnectionFacts
from tests.integration.test_ssh_connection import Gatehouse, House, open_house

AGENT_REQUEST = b"auth-agent-req@openssh.com"
COOKIE = b"MIT-MAGIC-COOKIE-1", b"00ff" * 8


class ForwardingGatehouse(Gatehouse):
    """Lets everybody forward, once `may_answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.forwarders: list[AgentForwarder] = []
        self.carries: list[Carry] = []
        self.closed_displays: list[str] = []
        self.left_count = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.refusal: Exception | None = None

    async def forward_agent(self, facts: ConnectionFacts, forwarder: AgentForwarder) -> Callable[[], None]:
        await self._decide()
        self.forwarders.append(forwarder)

        def leave() -> None:
            self.left_count += 1
            self.changed.set()

        return leave

    async def open_display(self, facts: ConnectionFacts, request: DisplayRequest, carry: Carry) -> Display:
        await self._decide()
        self.carries.append(carry)
        display = Display("w", request, carry, spawn=lambda work, name: None)  # type: ignore[arg-type,return-value]
        display.listen(9 + len(self.carries), [])
        display.on_closed = lambda: self._note_closed(display.name)
        return display

    def _note_closed(self, name: str) -> None:
        self.closed_displays.append(name)
        self.changed.set()

    async def _decide(self) -> None:
        self.asked.set()
        await self.may_answer.wait()
        if self.refusal is not None:
            raise self.refusal


class Scene(House):
    gatehouse: ForwardingGatehouse

    @property
    def connection(self) -> Connection:
        (connection,) = self.server._connections
        return connection


@asynccontextmanager
async def open_scene(**settings: object) -> AsyncIterator[Scene]:
    gatehouse = ForwardingGatehouse()
    async with open_house(gatehouse, **{"x11_forwarding": True, **settings}) as house:
        yield Scene(house.server, gatehouse)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with open_scene() as scene:
        yield scene


class RawSession(asyncssh.SSHClientSession[bytes]):
    pass


async def open_channel(client: asyncssh.SSHClientConnection) -> Any:
    """A session channel of which nothing was asked yet."""
    loop = asyncio.get_running_loop()
    channel: Any = asyncssh.SSHClientChannel(client, loop, "strict", None, "strict", 65536, 32768)
    packet = await channel._open(b"session")
    packet.check_end()
    channel._session = RawSession()
    return channel


async def ask_x11(channel: Any, protocol: bytes = COOKIE[0], cookie: bytes = COOKIE[1], screen: int = 0) -> bool:
    answer: bool = await channel._make_request(
        b"x11-req", Boolean(False), String(protocol), String(cookie), UInt32(screen)
    )
    return answer


async def run_shell(channel: Any) -> None:
    assert await channel._make_request(b"shell")
    await channel.wait_closed()


def pair() -> tuple[socket.socket, socket.socket]:
    """A program's end and the gateway's end of its connection."""
    program, ours = socket.socketpair()
    program.setblocking(False)
    ours.setblocking(False)
    return program, ours


async def received(program: socket.socket, size: int = 100) -> bytes:
    """What the program gets; empty: the end."""
    async with asyncio.timeout(10):
        with program:
            return await asyncio.get_running_loop().sock_recv(program, size)


@asynccontextmanager
async def forwarding(scene: Scene) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A client that forwards an agent; what it answers to channels is in the tests' hands."""
    async with scene.client() as client:
        channel = await open_channel(client)
        assert await channel._make_request(AGENT_REQUEST)
        yield client


class Answers:
    """Takes the client's handling of channels that are opened to it."""

    def __init__(self, client: asyncssh.SSHClientConnection) -> None:
        self.opened: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()
        self.closed = asyncio.Event()
        self._client: Any = client
        handlers = {MSG_CHANNEL_OPEN: self._note_open}
        self._client._packet_handlers = {**self._client._packet_handlers, **handlers}

    def _note_open(self, _connection: object, _kind: int, _id: int, packet: SSHPacket) -> None:
        self.opened.put_nowait((packet.get_string(), packet.get_uint32()))

    async def next(self) -> tuple[bytes, int]:
        """Type and number of the next channel that was opened to us."""
        async with asyncio.timeout(10):
            return await self.opened.get()

    def accept(self, theirs: int) -> Any:
        """Open our end of it."""
        channel = asyncssh.SSHTCPChannel(self._client, asyncio.get_running_loop(), None, "strict", 65536, 32768)
        channel._send_chan, channel._send_window, channel._send_pktsize = theirs, 65536, 32768
        channel._send_state = channel._recv_state = "open"
        channel._session = asyncssh.SSHTCPSession()
        numbers = UInt32(theirs), UInt32(channel._recv_chan), UInt32(65536), UInt32(32768)
        self._client.send_packet(MSG_CHANNEL_OPEN_CONFIRMATION, *numbers)
        return channel

    def refuse(self, theirs: int) -> None:
        self._client.send_packet(MSG_CHANNEL_OPEN_FAILURE, UInt32(theirs), UInt32(1), String("no"), String(""))

    def send(self, kind: int, theirs: int, *fields: bytes) -> None:
        self._client.send_packet(kind, UInt32(theirs), *fields)


async def is_alive(client: asyncssh.SSHClientConnection) -> bool:
    return (await client.run("true")).exit_status == 0


# ------------------------------------------------------------------------------------------------------- agents


async def test_programs_start_with_the_agent_that_was_asked_for_before_them(scene: Scene) -> None:
    """Also when the answer takes its time, and by every other session of the connection."""
    scene.gatehouse.may_answer.clear()
    async with scene.client() as client:
        assert await is_alive(client)
        channel = await open_channel(client)
        asking = asyncio.create_task(channel._make_request(AGENT_REQUEST))
        starting = asyncio.create_task(run_shell(channel))
        await scene.gatehouse.asked.wait()
        assert len(scene.gatehouse.requests) == 1
        scene.gatehouse.may_answer.set()
        assert await asking
        await starting
        assert await is_alive(client)
    assert [request.forwards_agent for request in scene.gatehouse.requests] == [False, True, True]


async def test_two_sessions_that_ask_at_once_are_one_forwarder(scene: Scene) -> None:
    scene.gatehouse.may_answer.clear()
    async with scene.client() as client:
        channels = [await open_channel(client) for _ in range(2)]
        asking = [asyncio.create_task(channel._make_request(AGENT_REQUEST)) for channel in channels]
        await scene.gatehouse.asked.wait()
        scene.gatehouse.may_answer.set()
        assert await asyncio.gather(*asking) == [True, True]
        assert len(scene.gatehouse.forwarders) == 1
    await scene.gatehouse.until(lambda: scene.gatehouse.left_count == 1)


@pytest.mark.parametrize("refusal", [lambda: LoginRefused("off"), lambda: OSError(28, "No space left on device")])
async def test_refused_agent_is_said_and_the_session_goes_on(scene: Scene, refusal: Callable[[], Exception]) -> None:
    scene.gatehouse.refusal = refusal()
    async with scene.client() as client:
        channel = await open_channel(client)
        assert not await channel._make_request(AGENT_REQUEST)
        await run_shell(channel)
    assert not scene.gatehouse.requests[0].forwards_agent


async def test_connection_is_counted_out_whatever_goes_wrong_at_its_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that could not be removed kept its connection for ever, and the stop of the gateway waiting for it."""

    async def forward_agent(*_: object) -> Callable[[], None]:
        return fail

    def fail() -> None:
        raise OSError(30, "Read-only file system")

    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
    monkeypatch.setattr(scene.gatehouse, "forward_agent", forward_agent)
    async with forwarding(scene):
        pass
    await scene.gatehouse.until(lambda: scene.gatehouse.logouts)
    assert scene.server.connection_count == 0
    assert [type(context["exception"]) for context in failures] == [OSError]  # and the operator hears of it


async def test_agents_switched_off_are_refused_without_a_question() -> None:
    async with open_scene(agent_forwarding=False) as scene, scene.client() as client:
        channel = await open_channel(client)
        assert not await channel._make_request(AGENT_REQUEST)
        assert not scene.gatehouse.asked.is_set()
        assert await is_alive(client)


async def test_client_that_goes_while_its_request_is_decided_does_not_stay_forwarder(scene: Scene) -> None:
    scene.gatehouse.may_answer.clear()
    async with scene.client() as client:
        channel = await open_channel(client)
        asking = asyncio.create_task(channel._make_request(AGENT_REQUEST))
        await scene.gatehouse.asked.wait()
        client.abort()
        await asyncio.gather(asking, return_exceptions=True)
    await scene.gatehouse.until(lambda: scene.gatehouse.logouts)
    scene.gatehouse.may_answer.set()
    await scene.gatehouse.until(lambda: scene.gatehouse.left_count == len(scene.gatehouse.forwarders) == 1)


async def test_session_that_is_closed_while_its_request_is_decided_ends_nothing_else(scene: Scene) -> None:
    scene.gatehouse.may_answer.clear()
    async with scene.client() as client:
        channel = await open_channel(client)
        asking = asyncio.create_task(channel._make_request(AGENT_REQUEST))
        starting = asyncio.create_task(channel._make_request(b"shell"))
        await scene.gatehouse.asked.wait()
        channel.close()
        await channel.wait_closed()
        scene.gatehouse.may_answer.set()
        await asyncio.gather(asking, starting, return_exceptions=True)
        assert await is_alive(client)


async def test_program_and_agent_hear_each_other_to_the_end(scene: Scene) -> None:
    async with forwarding(scene) as client:
        answers = Answers(client)
        program, ours = pair()
        carrying = asyncio.create_task(scene.gatehouse.forwarders[0].carry(ours))
        kind, theirs = await answers.next()
        channel = answers.accept(theirs)
        assert kind == b"auth-agent@openssh.com"
        answers.send(MSG_CHANNEL_DATA, theirs, String(b"identities"))
        assert await asyncio.get_running_loop().sock_recv(program, 100) == b"identities"
        program.close()
        answers.send(MSG_CHANNEL_EOF, theirs)
        await carrying
        await channel.wait_closed()
        await asyncio.sleep(0)
        assert scene.connection.inward_count == 0


async def test_client_that_refuses_costs_the_program_its_connection_at_once(scene: Scene) -> None:
    async with forwarding(scene) as client:
        answers = Answers(client)
        program, ours = pair()
        carrying = asyncio.create_task(scene.gatehouse.forwarders[0].carry(ours))
        answers.refuse((await answers.next())[1])
        assert await received(program) == b""
        await carrying
        assert await is_alive(client)
        assert scene.connection.inward_count == 0


@pytest.mark.parametrize("last_words", [(), (MSG_CHANNEL_EOF,)])
async def test_answer_that_comes_late_is_closed_again_and_harms_nobody(
    scene: Scene, last_words: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program was told long ago; the channel would stay for ever."""
    monkeypatch.setattr(inward, "ANSWER_SECONDS", 0.05)
    async with forwarding(scene) as client:
        answers = Answers(client)
        program, ours = pair()
        await scene.gatehouse.forwarders[0].carry(ours)
        assert await received(program) == b""
        agent = scene.connection.agent
        assert (scene.connection.inward_count, agent.is_silent) == (1, True)
        theirs = (await answers.next())[1]
        channel = answers.accept(theirs)
        for word in last_words:
            answers.send(word, theirs)
        await channel.wait_closed()
        assert await is_alive(client)
        assert (scene.connection.inward_count, agent.is_silent) == (0, False)


async def test_late_refusal_is_an_answer_as_well(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inward, "ANSWER_SECONDS", 0.05)
    async with forwarding(scene) as client:
        answers = Answers(client)
        program, ours = pair()
        await scene.gatehouse.forwarders[0].carry(ours)
        assert await received(program) == b""
        answers.refuse((await answers.next())[1])
        assert await is_alive(client)
        assert (scene.connection.inward_count, scene.connection.agent.is_silent) == (0, False)


async def test_client_that_never_answers_cannot_gather_channels(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inward, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(inward, "INWARD_MAX", 2)
    async with forwarding(scene) as client:
        answers = Answers(client)
        for _ in range(3):
            program, ours = pair()
            await scene.gatehouse.forwarders[0].carry(ours)
            assert await received(program) == b""
        assert (scene.connection.inward_count, answers.opened.qsize()) == (2, 2)
        assert await is_alive(client)


async def test_connection_that_ends_takes_the_streams_with_it(scene: Scene) -> None:
    async with forwarding(scene) as client:
        answers = Answers(client)
        programs = [pair() for _ in range(2)]
        carrying = [asyncio.create_task(scene.gatehouse.forwarders[0].carry(ours)) for _, ours in programs]
        answers.accept((await answers.next())[1])
        await answers.next()  # one open, one unanswered
        client.abort()
        assert [await received(program) for program, _ in programs] == [b"", b""]
        await asyncio.gather(*carrying)
    await scene.gatehouse.until(lambda: scene.gatehouse.left_count == 1)


# ---------------------------------------------------------------------------------------------------------- X11


async def test_display_is_named_to_its_own_session_alone_and_ends_with_it(scene: Scene) -> None:
    async with scene.client() as client:
        channel = await open_channel(client)
        assert await ask_x11(channel, screen=1)
        await run_shell(channel)
        await scene.gatehouse.until(lambda: scene.gatehouse.closed_displays == ["localhost:10.1"])
        assert await is_alive(client)
        assert scene.connection.x11._display_count == 0
    assert [request.display for request in scene.gatehouse.requests] == ["localhost:10.1", None]


@pytest.mark.parametrize(
    ("protocol", "cookie", "screen"),
    [(b"MIT\nadd :0 . 00", b"00", 0), (COOKIE[0], b"no hex", 0), (COOKIE[0], b"00", 2**32 - 1)],
)
async def test_request_that_could_be_more_than_a_cookie_is_refused(
    scene: Scene, protocol: bytes, cookie: bytes, screen: int
) -> None:
    async with scene.client() as client:
        channel = await open_channel(client)
        assert not await ask_x11(channel, protocol, cookie, screen)
        await run_shell(channel)
    assert scene.gatehouse.carries == []


async def test_second_display_of_a_session_is_refused(scene: Scene) -> None:
    async with scene.client() as client:
        channel = await open_channel(client)
        assert [await ask_x11(channel) for _ in range(2)] == [True, False]


async def test_display_that_cannot_be_had_is_refused_and_the_session_goes_on(scene: Scene) -> None:
    scene.gatehouse.refusal = DisplayRefused("no xauth")
    async with scene.client() as client:
        channel = await open_channel(client)
        assert not await ask_x11(channel)
        await run_shell(channel)
        assert scene.connection.x11._display_count == 0
    assert scene.gatehouse.requests[0].display is None


async def test_x11_is_off_unless_it_is_switched_on() -> None:
    async with open_scene(x11_forwarding=False) as scene, scene.client() as client:
        assert not await ask_x11(await open_channel(client))
        assert not scene.gatehouse.asked.is_set()


async def test_displays_of_a_connection_are_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x11, "DISPLAYS_MAX", 2)
    async with scene.client() as client:
        assert [await ask_x11(await open_channel(client)) for _ in range(3)] == [True, True, False]


async def test_session_that_is_closed_while_its_display_is_opened_leaves_none(scene: Scene) -> None:
    scene.gatehouse.may_answer.clear()
    async with scene.client() as client:
        channel = await open_channel(client)
        asking = asyncio.create_task(ask_x11(channel))
        await scene.gatehouse.asked.wait()
        channel.close()
        await channel.wait_closed()
        scene.gatehouse.may_answer.set()
        await scene.gatehouse.until(lambda: len(scene.gatehouse.closed_displays) == 1)
        await asyncio.gather(asking, return_exceptions=True)
        assert await is_alive(client)


async def test_client_that_goes_while_its_display_is_opened_cancels_the_opening(scene: Scene) -> None:
    scene.gatehouse.may_answer.clear()
    async with scene.client() as client:
        channel = await open_channel(client)
        asking = asyncio.create_task(ask_x11(channel))
        await scene.gatehouse.asked.wait()
        connection = scene.connection
        client.abort()
        await asyncio.gather(asking, return_exceptions=True)
    await scene.gatehouse.until(lambda: scene.gatehouse.logouts)
    await asyncio.sleep(0)
    assert (connection.x11._display_count, scene.gatehouse.carries) == (0, [])


async def test_x11_stream_tells_the_client_where_the_program_is(scene: Scene) -> None:
    async with scene.client() as client:
        channel = await open_channel(client)
        assert await ask_x11(channel)
        answers = Answers(client)
        program, ours = pair()
        carrying = asyncio.create_task(scene.gatehouse.carries[0](ours, "127.0.0.1", 4711))  # type: ignore[arg-type]
        kind, theirs = await answers.next()
        assert kind == b"x11"
        answers.refuse(theirs)
        assert await received(program) == b""
        await carrying
