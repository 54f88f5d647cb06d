"""What a host's name means, and which addresses are this machine's own."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from gateway import access
from gateway.access import IpAddress

ADDRESSES_MAX = 16
LOOKUPS_MAX = 4
LOOPBACK_V4, LOOPBACK_V6 = ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")
_DISCARD_PORT = 9  # nothing is ever sent there

# Of its own: a slow name server must not keep the rest of the gateway waiting for a thread.
_LOOKUPS = ThreadPoolExecutor(LOOKUPS_MAX, thread_name_prefix="resolver")


class Resolver:
    """Looks names up, one at a time for each who asks: a client with a hundred names that nobody answers for must not
    keep the others' waiting."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def addresses(self, host: str, *, asked_by: str) -> list[IpAddress]:
        """The host's addresses. Only a real name is looked up. Raises OSError; the caller sets the deadline."""
        if host.lower().rstrip(".") == "localhost":
            return [LOOPBACK_V4, LOOPBACK_V6]
        literal = _literal(host)
        if literal is not None:
            return [literal]
        turn = self._turns.setdefault(asked_by, asyncio.Lock())
        await turn.acquire()
        # Given up, it still takes its thread until it has ended, and so long it is the asker's turn.
        lookup = asyncio.get_running_loop().run_in_executor(
            _LOOKUPS, partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        )
        lookup.add_done_callback(lambda done: _end_turn(turn, done))
        try:
            found = await asyncio.shield(lookup)
        except UnicodeError:  # a label too long, or bytes that are no text
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
        addresses = (_plain(str(entry[4][0])) for entry in found)
        return list(dict.fromkeys(addresses))[:ADDRESSES_MAX]


def _end_turn(turn: asyncio.Lock, lookup: asyncio.Future[Any]) -> None:
    turn.release()
    if not lookup.cancelled():
        lookup.exception()  # perhaps nobody waits for it any more


def is_own_address(address: IpAddress) -> bool:
    """Whether it is one of this machine's: the kernel takes it as the source of what is sent to it (ip(7)).

    Nothing is sent. Asked for each dial, since addresses come and go.
    """
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), _DISCARD_PORT))
            return _plain(probe.getsockname()[0]) == address
        except OSError:
            return False


def family_of(address: IpAddress) -> socket.AddressFamily:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def _literal(host: str) -> IpAddress | None:
    """An address as written, also in the short forms of inet(3): `127.1` and `2130706433` are 127.0.0.1."""
    with contextlib.suppress(ValueError):
        return _plain(host)
    with contextlib.suppress(OSError, ValueError):
        return None if any(map(str.isspace, host)) else ipaddress.IPv4Address(socket.inet_aton(host))
    return None


def _plain(text: str) -> IpAddress:
    return access.plain_address(ipaddress.ip_address(text.partition("%")[0]))
