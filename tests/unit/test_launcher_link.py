"""A keeper's answers are hostile: here the other end of the socket is this test, and lies."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from gateway.errors import DescriptorsExhausted, KeeperGone, KeeperRefused, ProgramFailed
from gateway.interfaces import Program, ProgramExit, ProgramSpec, Terminal, Wanted, WindowSize
from gateway.keeper import protocol
from gateway.launchers.link import KeeperLink
from tests.support.keeper_site import open_descriptors

DEADLINE_SECONDS = 5


class Liar:
    """The keeper's end of a link."""

    def __init__(self, answer_seconds: float = DEADLINE_SECONDS) -> None:
        ours, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.killed = 0
        self.link = KeeperLink(
            "w1",
            ours,
            launcher_name="none",
            answer_seconds=answer_seconds,
            on_closed=lambda link: None,
            kill=self._kill,
            listener=lambda: self,
        )
        self.heard: list[tuple[str, str]] = []

    def unowned(self, keeper: object, session_id: str) -> None:
        self.heard.append(("unowned", session_id))

    def kept(self, keeper: object, session_id: str) -> None:
        self.heard.append(("kept", session_id))

    def wanted(self, keeper: object, session_id: str, how: Wanted) -> None:
        self.heard.append((how, session_id))

    def _kill(self) -> None:
        self.killed += 1

    async def request(self) -> protocol.Message:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return protocol.decode(await asyncio.get_running_loop().sock_recv(self.socket, 2**20))

    def say(self, message: protocol.Message | bytes, *fds: int) -> None:
        data = message if isinstance(message, bytes) else protocol.encode(message)
        socket.send_fds(self.socket, [data], fds)

    async def answer(self, values: protocol.Message, *fds: int) -> protocol.Message:
        request = await self.request()
        self.say({"id": request["id"], "ok": values}, *fds)
        return request


@pytest.fixture
async def liar() -> AsyncIterator[Liar]:
    before = open_descriptors()
    liar = Liar()
    yield liar
    liar.link.close()
    liar.socket.close()
    assert open_descriptors() <= before


def spec(*, terminal: bool = True) -> ProgramSpec:
    asked = Terminal("xterm", WindowSize(80, 24), {}) if terminal else None
    return ProgramSpec("s1", (b"sh",), b"/bin/sh", {}, b"/", asked)


def terminal_fds(stack: ExitStack) -> tuple[int, int]:
    master, slave = os.openpty()
    stack.callback(os.close, master)
    stack.callback(os.close, slave)
    return master, slave


async def start(liar: Liar, values: protocol.Message, *fds: int, terminal: bool = True) -> Program:
    task = asyncio.create_task(liar.link.start(spec(terminal=terminal)))
    await liar.answer(values, *fds)
    return await task


async def test_a_true_answer_is_taken(liar: Liar) -> None:
    with ExitStack() as stack:
        program = await start(liar, {"pid": 5}, terminal_fds(stack)[0])
    assert program.terminal_fd is not None
    assert not os.get_blocking(program.terminal_fd)
    assert not os.get_inheritable(program.terminal_fd)
    os.close(program.terminal_fd)


async def test_an_exit_right_behind_the_answer_is_not_missed(liar: Liar) -> None:
    """Both are read in one turn of the loop, before whoever waits for the start runs again."""
    with ExitStack() as stack:
        master, _ = terminal_fds(stack)
        task = asyncio.create_task(liar.link.start(spec()))
        request = await liar.request()
        liar.say({"id": request["id"], "ok": {"pid": 5}}, master)
        liar.say({"event": "exit", "session": "s1", "exit": {"code": 3}})
        program = await task
    assert await program.exited == ProgramExit(exit_code=3)
    os.close(program.terminal_fd or 0)


WRONG_VALUES: list[protocol.Message] = [
    {}, {"pid": 0}, {"pid": -1}, {"pid": "5"}, {"pid": 2**40}, {"pid": True},
    {"pid": 5, "exit": {"code": 256}}, {"pid": 5, "exit": {"signal": "a b"}}, {"pid": 5, "exit": 3},
    {"pid": 5, "lost_bytes": -1}, {"pid": 5, "ring_bytes": 2**30}, {"pid": 5, "ring_bytes": 3},
]  # fmt: skip


@pytest.mark.parametrize("values", WRONG_VALUES, ids=str)
async def test_wrong_values_end_the_link(liar: Liar, values: protocol.Message) -> None:
    with ExitStack() as stack, pytest.raises(KeeperGone):
        await start(liar, values, terminal_fds(stack)[0])
    assert liar.link.closed.is_set()


@pytest.mark.parametrize("kind", ["slave", "pipe", "file", "socket", "none", "two", "device"])
async def test_a_descriptor_of_another_kind_ends_the_link(liar: Liar, kind: str) -> None:
    """Each is closed (see the fixture), and none is ever read from."""
    with ExitStack() as stack:
        master, slave = terminal_fds(stack)
        pipe = os.pipe()
        for fd in pipe:
            stack.callback(os.close, fd)
        file, device = os.open(__file__, os.O_RDONLY), os.open("/dev/zero", os.O_RDONLY)
        stack.callback(os.close, file)
        stack.callback(os.close, device)
        fds = {
            "slave": [slave], "pipe": [pipe[0]], "file": [file], "socket": [liar.socket.fileno()], "none": [],
            "two": [master, master], "device": [device],
        }[kind]  # fmt: skip
        with pytest.raises(KeeperGone):
            await start(liar, {"pid": 5}, *fds)
    assert liar.link.closed.is_set()


async def test_pipes_must_be_pipes_and_the_right_ends(liar: Liar) -> None:
    with ExitStack() as stack:
        ends = []
        for _ in range(3):
            ends.append(os.pipe())
            for fd in ends[-1]:
                stack.callback(os.close, fd)
        with pytest.raises(KeeperGone):
            await start(liar, {"pid": 5}, ends[0][0], ends[1][0], ends[2][0], terminal=False)


async def test_sockets_must_be_fresh_and_of_the_family_asked_for(liar: Liar) -> None:
    connected, peer = socket.socketpair()
    listening = socket.create_server(("127.0.0.1", 0))
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other_family = socket.socket(socket.AF_INET6)
    with connected, peer, listening, datagram, other_family:
        for wrong in (connected, listening, datagram, other_family):
            other = Liar()
            task = asyncio.create_task(other.link.tcp_socket(socket.AF_INET))
            await other.answer({}, wrong.fileno())
            with pytest.raises(KeeperGone):
                await task
            other.socket.close()


async def test_a_ring_must_be_sealed_and_as_large_as_said(liar: Liar) -> None:
    with ExitStack() as stack:
        master, _ = terminal_fds(stack)
        unsealed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        stack.callback(os.close, unsealed)
        os.write(unsealed, b"abc")
        task = asyncio.create_task(liar.link.adopt("s1"))
        await liar.answer({"pid": 5, "terminal": True, "ring_bytes": 3}, unsealed, master)
        with pytest.raises(KeeperGone):
            await task


@pytest.mark.parametrize(
    "message",
    [b"x", b"[]", b"{}", b'{"id":77,"ok":{}}', b'{"id":"x","ok":{}}', b'{"id":1}', b'{"id":1,"ok":3}',
     b'{"id":1,"error":3}', b'{"event":"exit","session":"s1","exit":{}}', b" " * (protocol.MESSAGE_MAX_BYTES + 1)],
    ids=lambda message: message[:20].decode(),
)  # fmt: skip
async def test_what_is_no_answer_ends_the_link_and_tells_everyone(liar: Liar, message: bytes) -> None:
    liar.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**21)
    with ExitStack() as stack:
        program = await start(liar, {"pid": 5}, terminal_fds(stack)[0])
        task = asyncio.create_task(liar.link.list())
        request = await liar.request()
        liar.say(message.replace(b'"id":1', b'"id":%d' % request["id"]))
        with pytest.raises(KeeperGone):
            await task
    assert await program.exited == ProgramExit()
    assert liar.link.closed.is_set()
    os.close(program.terminal_fd or 0)


async def test_descriptors_beyond_three_or_unasked_end_the_link(liar: Liar) -> None:
    for count in (1, 4, 200):
        other = Liar()
        task = asyncio.create_task(other.link.list())
        await other.answer({"programs": [], "more": False}, *[other.socket.fileno()] * count)
        with pytest.raises(KeeperGone):
            await task
        other.socket.close()


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """RLIMIT_NOFILE bounds the number of the next descriptor, so this process gets only so many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(count + 1)]
    for fd in free:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("left", [0, 1])
async def test_an_answer_we_have_no_descriptor_for_is_undone_and_harms_no_other_program(liar: Liar, left: int) -> None:
    """One client full of forwards ended the sessions of everybody in its workspace: the keeper was called a liar."""
    with ExitStack() as stack:
        program = await start(liar, {"pid": 5}, terminal_fds(stack)[0])
        pipes = [stack.enter_context(os.fdopen(fd, "rb" if end == 0 else "wb", 0))
                 for _ in range(3) for end, fd in enumerate(os.pipe())]  # fmt: skip
        sent = [pipes[1].fileno(), pipes[2].fileno(), pipes[4].fileno()]
        task = asyncio.create_task(liar.link.start(spec(terminal=False)))
        request = await liar.request()
        liar.say({"id": request["id"], "ok": {"pid": 6}}, *sent)
        with descriptors_left(left), pytest.raises(DescriptorsExhausted):
            await task
        undone = [await liar.request(), await liar.request()]
    assert [message["verb"] for message in undone] == ["hang-up", "forget"]
    assert not liar.link.closed.is_set()
    assert not program.exited.done()
    os.close(program.terminal_fd or 0)


async def test_a_socket_we_have_no_descriptor_to_look_at_is_not_the_keepers_fault(liar: Liar) -> None:
    with socket.socket() as made:
        task = asyncio.create_task(liar.link.tcp_socket(socket.AF_INET))
        request = await liar.request()
        liar.say({"id": request["id"], "ok": {}}, made.fileno())
        with descriptors_left(1), pytest.raises(DescriptorsExhausted):
            await task
    assert not liar.link.closed.is_set()


async def test_a_list_that_does_not_end_ends_the_link(liar: Liar) -> None:
    line = {"session": "a", "serial": 1, "pid": 1, "terminal": True, "owned": False, "exit": None}
    task = asyncio.create_task(liar.link.list())
    await liar.answer({"programs": [line], "more": True})
    await liar.answer({"programs": [line], "more": True})  # the same serial number again
    with pytest.raises(KeeperGone):
        await task


async def test_the_end_of_the_keeper_ends_all_that_waits(liar: Liar) -> None:
    with ExitStack() as stack:
        program = await start(liar, {"pid": 5}, terminal_fds(stack)[0])
    task = asyncio.create_task(liar.link.stats())
    await liar.request()
    liar.socket.close()
    with pytest.raises(KeeperGone):
        await task
    assert await program.exited == ProgramExit()
    with pytest.raises(KeeperGone):
        await liar.link.stats()
    os.close(program.terminal_fd or 0)


async def test_a_start_answered_after_its_caller_left_is_undone() -> None:
    """Cancelled, or past its deadline: the program is hung up and forgotten, and its descriptors are closed."""
    before = open_descriptors()
    for how in ("cancelled before", "cancelled at once", "late"):
        liar = Liar(answer_seconds=0.05 if how == "late" else DEADLINE_SECONDS)
        with ExitStack() as stack:
            master, _ = terminal_fds(stack)
            task = asyncio.create_task(liar.link.start(spec()))
            request = await liar.request()
            if how == "cancelled at once":
                liar.say({"id": request["id"], "ok": {"pid": 5}}, master)
                liar.link._conversation._wire._readable()  # the answer is taken; its caller has not run since
                task.cancel()
            elif how == "cancelled before":
                task.cancel()
            with pytest.raises((asyncio.CancelledError, KeeperGone)):
                await task
            if how != "cancelled at once":
                liar.say({"id": request["id"], "ok": {"pid": 5}}, master)
            undone = [await liar.request(), await liar.request()]
        assert [(message["verb"], message["session"]) for message in undone] == [("hang-up", "s1"), ("forget", "s1")]
        liar.link.close()
        liar.socket.close()
    assert open_descriptors() <= before


async def test_a_refusal_carries_the_keepers_words_made_harmless(liar: Liar) -> None:
    task = asyncio.create_task(liar.link.stats())
    request = await liar.request()
    liar.say({"id": request["id"], "error": {"code": "Weird Code!", "message": "evil\x1b[2J" + "x" * 1000}})
    with pytest.raises(KeeperRefused) as caught:
        await task
    assert "\x1b" not in caught.value.user_message
    assert len(caught.value.user_message) < 400
    assert not liar.link.closed.is_set()


async def test_a_program_that_did_not_start_has_a_shells_exit_status(liar: Liar) -> None:
    task = asyncio.create_task(liar.link.start(spec()))
    request = await liar.request()
    liar.say({"id": request["id"], "error": {"code": "not_started", "message": "nope", "exit_status": 127}})
    with pytest.raises(ProgramFailed) as caught:
        await task
    assert caught.value.exit_status == 127


async def test_a_keeper_of_another_version_is_refused_with_the_way_out(liar: Liar) -> None:
    task = asyncio.create_task(liar.link.hello("g"))
    await liar.answer({"version": 99})
    with pytest.raises(KeeperRefused, match="stop --all"):
        await task


async def test_a_keeper_that_does_not_end_is_killed() -> None:
    liar = Liar(answer_seconds=0.02)
    await liar.link.terminate()
    assert (liar.killed, liar.link.closed.is_set()) == (1, True)
    liar.socket.close()


async def test_requests_wait_in_a_bounded_queue_for_a_keeper_that_does_not_read() -> None:
    liar = Liar(answer_seconds=0.05)
    tasks = [asyncio.create_task(liar.link.signal("s1" * 30, "TERM")) for _ in range(5000)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, KeeperGone) for result in results)
    liar.link.close()
    liar.socket.close()


async def test_a_keeper_that_refuses_to_end_is_ended_by_force(liar: Liar) -> None:
    task = asyncio.create_task(liar.link.terminate())
    request = await liar.request()
    liar.say({"id": request["id"], "error": {"code": "no", "message": "I stay"}})
    await task
    assert liar.killed == 1
    assert liar.link.closed.is_set()


async def test_other_gateways_wishes_are_heard_for_our_programs_alone(liar: Liar) -> None:
    with ExitStack() as stack:
        program = await start(liar, {"pid": 5}, terminal_fds(stack)[0])
    for message in (
        {"event": "wanted", "session": "s1", "how": "release"},
        {"event": "wanted", "session": "s1", "how": "end"},
        {"event": "wanted", "session": "s1", "how": "a way of a newer gateway"},
        {"event": "wanted", "session": "s1", "how": ["end"]},
        {"event": "wanted", "session": "somebody else's", "how": "end"},
        {"event": "wanted", "session": 7, "how": "end"},
        {"event": "kept", "session": "s3"},
        {"event": "unowned", "session": ["s1"]},
        {"event": "unowned", "session": "s2"},
        {"event": "of a newer keeper", "session": "s1"},
    ):
        liar.say(message)
    asked = asyncio.create_task(liar.link.want("s2", Wanted.RELEASE))
    assert (await liar.answer({"asked": True}))["verb"] == "want"
    assert await asked
    assert liar.heard == [("release", "s1"), ("end", "s1"), ("kept", "s3"), ("unowned", "s2")]
    os.close(program.terminal_fd or 0)


async def test_a_keeper_that_cannot_pass_on_a_wish_is_refused_in_words(liar: Liar) -> None:
    asked = asyncio.create_task(liar.link.want("s1", Wanted.RELEASE))
    request = await liar.request()
    liar.say({"id": request["id"], "error": {"code": "unknown_verb", "message": "this keeper speaks version 1"}})
    with pytest.raises(KeeperRefused, match="close the terminal it is open in"):
        await asked
    assert not liar.link.closed.is_set()
