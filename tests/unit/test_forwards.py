"""Where forwards go: names, addresses, ports and paths, with sockets but without a keeper's process."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.access import OwnPorts
from gateway.errors import KeeperRefused, LoginRefused
from gateway.forwarding import forwards
from gateway.forwarding.addresses import Resolver, is_own_address
from gateway.forwarding.forwards import Forwards, TcpTarget, UnixTarget
from gateway.interfaces import Forwarding, KeptProgram, Principal, Workspace
from tests.support.local_keepers import LocalKeeper, LocalKeepers, LocalLauncher
from tests.support.streams import has_ipv6_loopback, outer_address

LOOPBACK = ipaddress.ip_address("127.0.0.1")
ADA = Principal("k1", "ada", "SHA256:a")
HERE = Workspace("w1", "demo", Path("/home/demo"), Path("/tree/demo"))
ANYWHERE = Workspace("w1", "demo", Path("/home/demo"), Path("/tree/demo"), forwarding=Forwarding.ANYWHERE)
needs_ipv6 = pytest.mark.skipif(not has_ipv6_loopback(), reason="no IPv6 here")


class Inside(LocalKeeper):
    """Makes sockets like a keeper, and remembers which."""

    def __init__(self, *, has_ipv6: bool = True) -> None:
        super().__init__("w1", {})
        self.has_ipv6 = has_ipv6
        self.made: list[socket.socket] = []
        self.paths: list[bytes] = []
        self.unlistened: list[bytes] = []

    async def tcp_socket(self, family: socket.AddressFamily) -> socket.socket:
        if family == socket.AF_INET6 and not self.has_ipv6:
            raise KeeperRefused("the workspace's keeper refused: Address family not supported by protocol")
        self.made.append(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        return self.made[-1]

    async def unix_connection(self, path: bytes) -> socket.socket:
        self.paths.append(path)
        self.made.append(socket.socket(socket.AF_UNIX))
        self.made[-1].connect(path)
        return self.made[-1]

    async def unix_listener(self, path: bytes) -> socket.socket:
        self.paths.append(path)
        self.made.append(socket.socket(socket.AF_UNIX))
        return self.made[-1]

    def unlisten(self, path: bytes) -> None:
        self.unlistened.append(path)

    @property
    def all_closed(self) -> bool:
        return all(sock.fileno() == -1 for sock in self.made)


@pytest.fixture
def inside() -> Iterator[Inside]:
    keeper = Inside()
    yield keeper
    for sock in keeper.made:
        sock.close()


def forwards_into(keeper: Inside, **own: frozenset[int]) -> Forwards:
    made = Forwards(keepers=LocalKeepers(made=[keeper]), launcher=LocalLauncher(), keeper_idle_seconds=0.03)
    made.own_ports = OwnPorts(**own)
    return made


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Have every name mean these addresses; returns the names that were asked for."""
    asked: list[str] = []

    def look_up(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(0, 0, 0, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


# ------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "::ffff:127.0.0.1", "localhost", "LocalHost."]
)
async def test_every_spelling_of_loopback_is_known_without_a_resolver(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check of the text alone would let `127.1` through to a port that `127.0.0.1` may not reach."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked a name server"))
    assert (await Resolver().addresses(host, asked_by="k1"))[0] == LOOPBACK


@pytest.mark.parametrize("host", ["127.0.0.1 extra", "127.0.0.1\n", "", "a" * 300, "\0", "256.1.1.1.1", "\udcff.x"])
async def test_what_is_no_address_and_no_name_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str, *_: object, **__: object) -> None:
        host.encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError, match="not known"):
        await Resolver().addresses(host, asked_by="k1")


@pytest.mark.parametrize("listens", [False, True])
async def test_names_longer_than_any_are_not_looked_up_nor_kept(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, *, listens: bool
) -> None:
    """A client may send a quarter of a megabyte: a second of a resolver, and sent again with each stream it brings."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("looked up"))
    reach = forwards_into(inside)
    act = reach.listen if listens else reach.dial
    with pytest.raises(socket.gaierror):
        await act(ADA, HERE, TcpTarget("a." * 128, 2000))
    with pytest.raises(OSError, match="at most 107 bytes"):
        await act(ADA, HERE, UnixTarget(b"/" + b"\x01" * 107))
    assert inside.made == []


class NameServer:
    """Answers for `slow.example` only when told to, for all other names at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def _answer(self, host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if host == "slow.example":
            assert self.may_answer.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]


async def test_a_name_server_that_does_not_answer_is_given_up(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "RESOLVE_SECONDS", 0.01)
    server = NameServer(monkeypatch)
    with pytest.raises(TimeoutError) as raised:
        await forwards_into(inside).dial(ADA, HERE, TcpTarget("slow.example", 80))
    server.may_answer.set()
    assert raised.value.errno == errno.ETIMEDOUT


async def test_names_of_one_that_nobody_answers_for_do_not_keep_the_others_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, resolver = NameServer(monkeypatch), Resolver()
    slow = [asyncio.create_task(resolver.addresses("slow.example", asked_by="k1")) for _ in range(20)]
    try:
        async with asyncio.timeout(10):
            assert [str(address) for address in await resolver.addresses("quick.example", asked_by="k2")] == [
                "192.0.2.1"
            ]
        assert server.asked.count("slow.example") <= 1
    finally:
        server.may_answer.set()
        answers = await asyncio.gather(*slow, return_exceptions=True)
    assert {type(answer) for answer in answers} == {socket.gaierror}


async def test_a_turn_is_over_when_its_thread_is_free_not_when_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    server, resolver = NameServer(monkeypatch), Resolver()
    given_up = asyncio.create_task(resolver.addresses("slow.example", asked_by="k1"))
    while not server.asked:
        await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait({given_up})
    waiting = asyncio.create_task(resolver.addresses("quick.example", asked_by="k1"))
    await asyncio.sleep(0)
    assert server.asked == ["slow.example"]
    server.may_answer.set()
    async with asyncio.timeout(10):
        await waiting


def test_targets_are_shown_as_text_whatever_they_hold() -> None:
    assert str(TcpTarget("::1", 80)) == "[::1]:80"
    assert str(UnixTarget(b"/tmp/\xff")) == "/tmp/\\xff"
    assert len(str(UnixTarget(b"x" * 10_000))) < 300


# --------------------------------------------------------------------------------------------------- addresses


def test_an_address_of_this_machine_is_known_as_such() -> None:
    outer = outer_address()
    if outer is None:
        pytest.skip("this machine has no address but loopback")
    assert is_own_address(ipaddress.ip_address(outer))


@pytest.mark.parametrize("address", ["192.0.2.254", "203.0.113.9", "2001:db8::1", "fe80::1", "255.255.255.255"])
def test_an_address_of_somebody_else_is_not_ours(address: str) -> None:
    assert not is_own_address(ipaddress.ip_address(address))


async def test_one_bad_address_refuses_the_whole_name(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dialling only the good ones would make the answer depend on their order."""
    resolving_to(monkeypatch, "127.0.0.1", "203.0.113.9")
    with pytest.raises(LoginRefused, match="forwarding=anywhere"):
        await forwards_into(inside).dial(ADA, HERE, TcpTarget("both.example", 80))
    assert not inside.made


async def test_the_address_that_was_checked_is_the_one_dialled(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that says something else the second time must not matter: it is asked once."""
    asked = resolving_to(monkeypatch, "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = TcpTarget("rebinding.example", server.getsockname()[1])
        with await forwards_into(inside).dial(ADA, HERE, target) as sock:
            assert sock.getpeername() == server.getsockname()
        server.accept()[0].close()
    assert asked == ["rebinding.example"]


async def test_the_gateways_http_port_is_refused_on_the_machines_own_address(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwards, "is_own_address", lambda address: str(address) == "203.0.113.9")
    reach = forwards_into(inside, closed=frozenset({8022}))
    with pytest.raises(LoginRefused, match="belongs to the gateway"):
        await reach.dial(ADA, ANYWHERE, TcpTarget("203.0.113.9", 8022))


async def test_the_next_address_is_tried_and_the_last_failure_told(inside: Inside) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await forwards_into(inside).dial(ADA, HERE, TcpTarget("localhost", port))
    assert [sock.fileno() for sock in inside.made] == [-1, -1]


async def test_a_dial_has_an_end_and_leaves_no_socket(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "CONNECT_SECONDS", 0.01)
    monkeypatch.setattr(
        asyncio.get_running_loop(), "sock_connect", lambda *_: asyncio.get_running_loop().create_future()
    )
    with pytest.raises(TimeoutError) as raised:
        await forwards_into(inside).dial(ADA, HERE, TcpTarget("127.0.0.1", 80))
    assert raised.value.errno == errno.ETIMEDOUT
    assert inside.all_closed


# --------------------------------------------------------------------------------------------------- unix sockets


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hp-", dir="/tmp") as name:
        yield Path(name)


async def test_a_socket_the_gateway_listens_on_is_refused_whatever_leads_there(inside: Inside, short: Path) -> None:
    (short / "link").symlink_to(short / "ours")
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(short / "ours"))
        ours.listen()
        for name in ("ours", "link"):
            with pytest.raises(LoginRefused, match="belongs to the gateway"):
                await forwards_into(inside).dial(ADA, HERE, UnixTarget(os.fsencode(short / name)))
    assert inside.all_closed


async def test_relative_paths_start_in_the_tree(inside: Inside) -> None:
    reach = forwards_into(inside)
    listening = await reach.listen(ADA, HERE, UnixTarget(b"run/\xff.sock"))
    assert inside.paths == [b"/tree/demo/run/\xff.sock"]
    listening.stopped()
    assert inside.unlistened == inside.paths
    await reach.listen(ADA, HERE, UnixTarget(b"/tmp/x.sock"))
    assert inside.paths[1:] == [b"/tmp/x.sock"]


# ------------------------------------------------------------------------------------------------------ listening


async def test_a_keeper_with_a_listener_is_kept_from_ending_of_idleness(inside: Inside) -> None:
    """`ssh -N -R` runs no program, and its listener was gone after a minute."""
    words = asyncio.Semaphore(0)

    async def list_programs() -> list[KeptProgram]:
        words.release()
        if words._value == 1:
            raise KeeperRefused("busy")
        return []

    inside.list = list_programs  # type: ignore[method-assign]
    listening = await forwards_into(inside).listen(ADA, HERE, TcpTarget("127.0.0.1", 0))
    waiting = asyncio.create_task(listening.until_workspace_gone())
    async with asyncio.timeout(10):
        for _ in range(3):
            await words.acquire()
        inside.closed.set()
        await waiting


def bound(listening: forwards.Listening) -> list[str]:
    return [sock.getsockname()[0] for sock in listening.sockets]


@needs_ipv6
@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("", ["127.0.0.1", "::1"]),
        ("*", ["127.0.0.1", "::1"]),
        ("0.0.0.0", ["127.0.0.1", "::1"]),
        ("localhost", ["127.0.0.1", "::1"]),
        ("192.0.2.1", ["127.0.0.1", "::1"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
    ],
)
async def test_listeners_are_on_loopback_whatever_was_asked_for(inside: Inside, host: str, meant: list[str]) -> None:
    listening = await forwards_into(inside).listen(ADA, HERE, TcpTarget(host, 0))
    assert bound(listening) == meant
    assert {sock.getsockname()[1] for sock in listening.sockets} == {listening.port}


async def test_without_ipv6_it_is_the_other_address_alone() -> None:
    inside = Inside(has_ipv6=False)
    listening = await forwards_into(inside).listen(ADA, HERE, TcpTarget("", 0))
    assert bound(listening) == ["127.0.0.1"]
    listening.sockets[0].close()
    with pytest.raises(KeeperRefused):
        await forwards_into(inside).listen(ADA, HERE, TcpTarget("::1", 0))


@needs_ipv6
@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
async def test_a_port_taken_on_one_of_two_addresses_is_taken(inside: Inside, taken: str) -> None:
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.create_server((taken, 0), family=family) as server, pytest.raises(OSError, match="in use"):
        await forwards_into(inside).listen(ADA, HERE, TcpTarget("", server.getsockname()[1]))
    assert inside.all_closed


@needs_ipv6
async def test_any_port_is_one_that_is_free_on_both(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    ports: list[int] = []
    bind = forwards._bind

    def second_is_taken_twice(sock: socket.socket, address: forwards.IpAddress, port: int) -> None:
        ports.append(port)
        if address.version == 6 and len(ports) <= 4:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        bind(sock, address, port)

    monkeypatch.setattr(forwards, "_bind", second_is_taken_twice)
    listening = await forwards_into(inside).listen(ADA, HERE, TcpTarget("", 0))
    assert (len(ports), len(listening.sockets)) == (6, 2)
    assert sum(sock.fileno() != -1 for sock in inside.made) == 2


async def test_an_interrupted_listen_leaves_no_socket(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    first = inside.tcp_socket

    async def second_never_comes(family: socket.AddressFamily) -> socket.socket:
        if inside.made:
            await asyncio.Event().wait()
        return await first(family)

    monkeypatch.setattr(inside, "tcp_socket", second_never_comes)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await forwards_into(inside).listen(ADA, HERE, TcpTarget("", 0))
    assert inside.all_closed
    assert len(inside.made) == 1
