"""Where forwards may go, and the sockets that go there: to ports and unix sockets of a workspace, and listeners in it.

Every socket is made by the keeper *inside* the workspace; the gateway resolves names, checks every address and connects
or binds without blocking. So a forward reaches what a program of the workspace could reach, never more, and the
gateway's own listeners are closed to it whatever they are called. Relative unix paths start in the tree, where all
programs start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass

from gateway import access
from gateway.access import IpAddress, OwnPorts
from gateway.errors import GatewayError, KeeperRefused, LoginRefused
from gateway.forwarding.addresses import LOOPBACK_V4, LOOPBACK_V6, Resolver, family_of, is_own_address
from gateway.interfaces import Decision, Keeper, Keepers, Launcher, Principal, Workspace

CONNECT_SECONDS = 10.0  # one address
RESOLVE_SECONDS = 5.0
DIAL_SECONDS = 30.0  # all addresses of a name
LISTEN_BACKLOG = 128
PORT_TRIES_MAX = 10  # to find one that is free on IPv4 and IPv6

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
_SHOWN_MAX_CHARACTERS = 255
# No longer name means anything (RFC 1035 §2.3.4, unix(7)), and a client may send a quarter of a megabyte: to look up,
# to keep beside a listener, and to hear again with each stream from it.
HOST_MAX_CHARACTERS = 255
PATH_MAX_BYTES = 107


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A host, as the client wrote it (bytes that are not UTF-8 by surrogateescape), and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = _shown(self.host.encode(errors="surrogateescape"))
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A path inside the workspace, not necessarily UTF-8."""

    path: bytes

    def __str__(self) -> str:
        return _shown(self.path)


Target = TcpTarget | UnixTarget


@dataclass(slots=True)
class Listening:
    """Listening sockets inside a workspace. The receiver owns them and calls `stopped` once they are closed."""

    keeper: Keeper
    keeper_idle_seconds: float
    sockets: list[socket.socket]
    port: int = 0  # of a tcpip-forward
    path: bytes | None = None  # of a streamlocal-forward: to be removed

    async def until_workspace_gone(self) -> None:
        """Wait for the end of its keeper, and keep that from ending of idleness: `ssh -N -R` runs no program."""
        while not self.keeper.closed.is_set():
            try:
                async with asyncio.timeout(self.keeper_idle_seconds / 3):
                    await self.keeper.closed.wait()
            except TimeoutError:
                with contextlib.suppress(GatewayError):
                    await self.keeper.list()  # any word will do

    def stopped(self) -> None:
        if self.path is not None:
            self.keeper.unlisten(self.path)


class Forwards:
    """Decides, dials and listens."""

    def __init__(self, *, keepers: Keepers, launcher: Launcher, keeper_idle_seconds: float) -> None:
        self._keepers = keepers
        self._launcher = launcher
        self._keeper_idle_seconds = keeper_idle_seconds
        self._resolver = Resolver()
        self.own_ports = OwnPorts()  # known once they listen
        # Of this state's gateways: one that was replaced still has sockets of its own.
        self.gateway_pids: Callable[[], Collection[int]] = lambda: (os.getpid(),)

    async def dial(self, principal: Principal, workspace: Workspace, target: Target) -> socket.socket:
        """A connected, non-blocking socket. Raises LoginRefused, KeeperGone, KeeperRefused or OSError."""
        _require(access.may_forward(principal, workspace), target)
        if isinstance(target, UnixTarget):
            return await self._dial_path(workspace, target)
        _require_host(target)
        async with deadline(RESOLVE_SECONDS):
            addresses = await self._resolver.addresses(target.host, asked_by=principal.key_id)
        for address in addresses:  # one bad one refuses the whole name
            _require(
                access.may_forward_to(
                    principal, workspace, address, target.port,
                    is_own=is_own_address(address), own_ports=self.own_ports,
                ),
                target,
            )  # fmt: skip
        keeper = await self._keepers.keeper_for(workspace)
        async with deadline(DIAL_SECONDS):
            return await _connect_first(keeper, addresses, target.port)

    async def listen(self, principal: Principal, workspace: Workspace, target: Target) -> Listening:
        """Listening sockets for a tcpip-forward or streamlocal-forward. Raises as `dial` does."""
        port = target.port if isinstance(target, TcpTarget) else 0
        _require(access.may_listen(principal, workspace, port), target, what="listening on")
        if isinstance(target, TcpTarget):
            _require_host(target)
        keeper = await self._keepers.keeper_for(workspace)
        if isinstance(target, UnixTarget):
            path = self._inside(workspace, target)
            return Listening(keeper, self._keeper_idle_seconds, [await keeper.unix_listener(path)], path=path)
        for tries_left in reversed(range(PORT_TRIES_MAX)):
            try:
                sockets = await listen_on_loopback(keeper, target)
            except OSError as error:
                # The port that was free on IPv4 is taken on IPv6: another one, if it may be any.
                if error.errno != errno.EADDRINUSE or port or not tries_left:
                    raise
            else:
                return Listening(keeper, self._keeper_idle_seconds, sockets, port=sockets[0].getsockname()[1])
        raise AssertionError("unreachable")

    async def _dial_path(self, workspace: Workspace, target: UnixTarget) -> socket.socket:
        keeper = await self._keepers.keeper_for(workspace)
        sock = await keeper.unix_connection(self._inside(workspace, target))
        # By who listens, not by path: without walls a link or a mount may lead to the control socket or a forwarded
        # agent. A keeper's own socket does not take connections of this type (SOCK_SEQPACKET).
        if _listener_pid(sock) in self.gateway_pids():
            sock.close()
            _require(Decision.refuse("this socket belongs to the gateway"), target)
        return sock

    def _inside(self, workspace: Workspace, target: UnixTarget) -> bytes:
        path = os.path.join(os.fsencode(self._launcher.inside(workspace).tree), target.path)  # noqa: PTH118
        if len(path) > PATH_MAX_BYTES:
            raise OSError(errno.ENAMETOOLONG, f"a unix socket's path has at most {PATH_MAX_BYTES} bytes")
        return path


def _require(decision: Decision, target: Target, *, what: str = "forwarding to") -> None:
    if not decision.is_allowed:
        raise LoginRefused(f"{what} {target} refused: {decision.reason}")


def _require_host(target: TcpTarget) -> None:
    if len(target.host) > HOST_MAX_CHARACTERS:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


# ------------------------------------------------------------------------------------- connecting and listening


async def _connect_first(keeper: Keeper, addresses: list[IpAddress], port: int) -> socket.socket:
    failure: OSError = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    for address in addresses:
        sock = await keeper.tcp_socket(family_of(address))
        try:
            async with deadline(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def listen_on_loopback(keeper: Keeper, target: TcpTarget) -> list[socket.socket]:
    """On the same port of each loopback address. In use on one of them is in use: a client of `localhost` would meet
    the wrong server, depending on which address it tries first."""
    sockets: list[socket.socket] = []
    try:
        port = target.port
        for address in _loopbacks_meant(target.host):
            try:
                sock = await keeper.tcp_socket(family_of(address))
            except KeeperRefused:
                if sockets:
                    continue  # no IPv6 in this kernel
                raise
            sockets.append(sock)
            try:
                _bind(sock, address, port)
            except OSError as error:
                sockets.pop().close()
                if not sockets or error.errno != errno.EADDRNOTAVAIL:  # no ::1 on this machine
                    raise
            else:
                port = sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _loopbacks_meant(host: str) -> list[IpAddress]:
    """As sshd with GatewayPorts=no: loopback whatever was asked for, of one kind only if that was named."""
    if host == str(LOOPBACK_V4):
        return [LOOPBACK_V4]
    return [LOOPBACK_V6] if host == str(LOOPBACK_V6) else [LOOPBACK_V4, LOOPBACK_V6]


def _bind(sock: socket.socket, address: IpAddress, port: int) -> None:
    # A forward that ended a moment ago must not keep the port from the next one (TIME_WAIT).
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if address.version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((str(address), port))
    sock.listen(LISTEN_BACKLOG)


def _listener_pid(connection: socket.socket) -> int:
    """The process that called listen(2) on the other end."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid: int = _PEER.unpack(peer)[0]
    return pid


@contextlib.asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """The system's own words for what took too long."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from error


def _shown(text: bytes) -> str:
    """For people and the journal."""
    return text.decode(errors="backslashreplace")[:_SHOWN_MAX_CHARACTERS]
