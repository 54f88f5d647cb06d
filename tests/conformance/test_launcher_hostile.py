"""A keeper outlives whatever is sent to it: it is pid 1 of the workspace, and everything ends with it."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import random
import socket

import pytest

from gateway.keeper import protocol
from tests.support.keeper_site import DEADLINE_SECONDS, Site

VERBS = ("hello", "start", "signal", "hang-up", "forget", "list", "adopt", "drop-ring", "release", "socket", "connect",
         "listen", "unlisten", "stats", "no-such-verb", "", None, 7)  # fmt: skip
FIELDS = ("session", "argv", "executable", "environment", "directory", "terminal", "name", "after", "family", "path",
          "gateway", "version", "keep_ring")  # fmt: skip


async def ask(client: socket.socket, message: bytes) -> tuple[dict[str, object], int]:
    """One message and the answer to it; the descriptors that came are closed and counted."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await loop.sock_sendall(client, message)
        while True:
            answer, count = await receive(client)
            if "event" not in answer:
                return answer, count


async def receive(client: socket.socket) -> tuple[dict[str, object], int]:
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(client, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(client)
    data, ancillary, _, _ = client.recvmsg(protocol.MESSAGE_MAX_BYTES, socket.CMSG_SPACE(40))
    fds = array.array("i", b"".join(payload for _, _, payload in ancillary))
    for fd in fds:
        os.close(fd)
    return json.loads(data.decode(errors="surrogateescape")) if data else {}, len(fds)


@pytest.mark.parametrize(
    "message",
    [
        b"x",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b"{" * 1000,
        b"[" * 200_000,
        b'{"id":1}',
        b'{"id":NaN,"verb":"list"}',
        b'{"id":' + b"9" * 200_000 + b',"verb":"list"}',
        b'{"id":{},"verb":"hello","gateway":"x"}',
        b'{"id":1,"verb":["list"]}',
        b'{"id":1,"verb":"hello","gateway":"' + b"x" * 200_000 + b'"}',
    ],
)
async def test_a_malformed_message_is_refused_in_words(site: Site, message: bytes) -> None:
    keeper = await site.keeper()
    with await site.raw_client() as client:
        answer, count = await ask(client, message)
        assert "error" in answer and count == 0
    assert await site.output(keeper, "echo alive") == "alive"


async def test_a_message_that_is_too_large_is_refused_and_does_not_cut_the_next(site: Site) -> None:
    keeper = await site.keeper()
    with await site.raw_client() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
        with contextlib.suppress(OSError):  # EMSGSIZE where net.core.wmem_max is small: then there is nothing to test
            answer, _ = await ask(client, b" " * (protocol.MESSAGE_MAX_BYTES + 2))
            assert "error" in answer
        answer, _ = await ask(client, b'{"id":1,"verb":"hello","gateway":"raw"}')
        assert answer["ok"]
    assert await site.output(keeper, "echo alive") == "alive"


async def test_descriptors_sent_to_a_keeper_are_not_taken(site: Site) -> None:
    keeper = await site.keeper()
    with await site.raw_client() as client:
        rights = array.array("i", [0] * 200)
        for _ in range(20):
            client.sendmsg([b'{"id":1,"verb":"stats"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            answer, _ = await receive(client)
            assert "error" in answer
    count = "ls /proc/$PPID/fd 2>/dev/null | wc -l"  # not to be seen from inside: the keeper is not dumpable
    assert await site.output(keeper, count) == "0"
    assert await site.output(keeper, "echo alive") == "alive"


async def test_verbs_need_a_hello_and_unknown_ones_are_answered(site: Site) -> None:
    await site.keeper()
    with await site.raw_client() as client:
        for message, code in (
            (b'{"id":1,"verb":"list"}', "no_hello"),
            (b'{"id":2,"verb":"from-the-future"}', "unknown_verb"),
        ):
            answer, _ = await ask(client, message)
            assert answer["error"]["code"] == code  # type: ignore[index]
        answer, _ = await ask(client, b'{"id":3,"verb":"hello","gateway":"g","a-new-field":[1]}')
        assert answer["ok"]["version"] == protocol.VERSION  # type: ignore[index]


async def test_a_client_that_floods_without_reading_holds_up_nobody(site: Site) -> None:
    keeper = await site.keeper()
    with await site.raw_client() as client:
        await ask(client, b'{"id":1,"verb":"hello","gateway":"flood"}')
        with contextlib.suppress(BlockingIOError):
            for number in range(1_000_000):
                client.send(b'{"id":%d,"verb":"list"}' % number)
        for number in range(20):
            assert await site.output(keeper, f"echo {number}") == str(number)


async def test_many_clients_are_refused_beyond_a_bound_and_harm_nobody(site: Site) -> None:
    keeper = await site.keeper()
    clients = [await site.raw_client() for _ in range(60)]
    assert await site.output(keeper, "echo alive") == "alive"
    clients += [await site.raw_client() for _ in range(40)]
    assert await site.output(keeper, "echo alive") == "alive"
    for client in clients:
        client.close()


async def test_random_messages_do_not_end_a_keeper(site: Site) -> None:
    """A thousand messages from a seed: well-formed JSON with wrong, missing, huge and odd values."""
    random_source = random.Random(20_240_607)
    keeper = await site.keeper()
    with await site.raw_client() as client:
        await ask(client, b'{"id":1,"verb":"hello","gateway":"fuzz"}')
        for number in range(1000):
            message = {
                name: _value(random_source, 0) for name in random_source.sample(FIELDS, random_source.randrange(8))
            }
            message["id"] = number if random_source.random() < 0.9 else _value(random_source, 0)
            message["verb"] = random_source.choice(VERBS)
            answer, _ = await ask(client, json.dumps(message).encode())
            assert "ok" in answer or "error" in answer
    assert await site.output(keeper, "echo alive") == "alive"


def _value(source: random.Random, depth: int) -> object:
    simple: list[object] = [
        None, True, -1, 0, 3.5, 2**62, 2**31, "", "x", "/bin/true", "/nonexistent", "/", "TERM", "inet", "inet6",
        "a\0b", "\ud800", "\udcff", "x" * 3000, "s1", "s2",
    ]  # fmt: skip
    kind = source.randrange(6) if depth < 3 else 0
    if kind == 4:
        return [_value(source, depth + 1) for _ in range(source.randrange(5))]
    if kind == 5:
        return {str(_value(source, 3)): _value(source, depth + 1) for _ in range(source.randrange(5))}
    return source.choice(simple)
