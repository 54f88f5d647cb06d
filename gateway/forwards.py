"""Where a direct-tcpip channel may go, and the socket that goes there.

The keeper makes an unconnected socket *inside* the workspace; the gateway resolves the name, checks every address
and connects without blocking. So a forward reaches what a program of the workspace could reach, never more, and the
gateway's own listeners are closed to it whatever they are called.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from gateway import access
from gateway.errors import LoginRefused
from gateway.interfaces import Keepers, Principal, Workspace

CONNECT_SECONDS = 10.0
RESOLVE_SECONDS = 5.0

RESOLVERS_MAX = 2
_RESOLVERS = ThreadPoolExecutor(RESOLVERS_MAX, thread_name_prefix="resolver")

FindWorkspace = Callable[[Principal, str], Awaitable[Workspace]]


class Dialler:
    def __init__(self, *, keepers: Keepers, workspace_for: FindWorkspace) -> None:
        self._keepers = keepers
        self._workspace_for = workspace_for
        # The gateway's own ports besides SSH, known once they listen.
        self.closed_ports: frozenset[int] = frozenset()

    async def dial(self, principal: Principal, login_name: str, host: str, port: int) -> socket.socket:
        """A connected, non-blocking socket. Raises LoginRefused, KeeperGone or OSError."""
        workspace = await self._workspace_for(principal, login_name)
        addresses = await self._allowed_addresses(host, port)
        keeper = await self._keepers.keeper_for(workspace)
        failure: OSError = ConnectionRefusedError("Connection refused")
        for address in addresses:
            family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
            sock = await keeper.tcp_socket(family)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
            except OSError as error:  # TimeoutError is one, too
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure

    async def _allowed_addresses(self, host: str, port: int) -> list[access.IpAddress]:
        """Every address the name means, each checked after resolution: one bad one refuses the whole name."""
        addresses = await _resolve(host)
        for address in addresses:
            decision = access.may_forward_to(address, port, closed_ports=self.closed_ports)
            if not decision.is_allowed:
                raise LoginRefused(f"forwarding to {host} port {port} refused: {decision.reason}")
        return addresses


async def _resolve(host: str) -> list[access.IpAddress]:
    """The host's addresses. Only a real name is looked up, by threads of its own: a slow name server must not keep the
    rest of the gateway waiting for a thread."""
    if host.lower().rstrip(".") == "localhost":
        return [ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")]
    literal = _literal(host)
    if literal is not None:
        return [literal]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await loop.run_in_executor(
                _RESOLVERS, partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
            )
    except (OSError, UnicodeError) as error:
        raise ConnectionRefusedError(f"cannot resolve the name: {error}") from None
    return list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


def _literal(host: str) -> access.IpAddress | None:
    """An address as written, also in the short forms of inet(3): `127.1` and `2130706433` are 127.0.0.1."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0])
    with contextlib.suppress(OSError, ValueError):
        return None if any(map(str.isspace, host)) else ipaddress.IPv4Address(socket.inet_aton(host))
    return None
