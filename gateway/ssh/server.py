"""The listener, and what happens to a connection: admitted, logged in, opens channels, ends."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import asyncssh
from asyncssh.connection import SSHServerConnectionOptions
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED, OPEN_CONNECT_FAILED, OPEN_RESOURCE_SHORTAGE

from gateway import __version__
from gateway.config import SshSettings
from gateway.errors import GatewayError, LoginRefused, StartRefused
from gateway.events import Event
from gateway.interfaces import AccessKey, Principal, SessionRequest
from gateway.log import log_event, log_failure
from gateway.session import Channel
from gateway.ssh import algorithms
from gateway.ssh.channel import SessionChannel
from gateway.ssh.connection import Connection
from gateway.ssh.forwarding import ForwardChannel
from gateway.ssh.limits import ConnectionLimits
from gateway.ssh.window import WINDOW_BYTES

# npm ssh2 and the asyncssh client choose the argument order of SFTP's SYMLINK by this word, and the real sftp-server
# has OpenSSH's; without it they make reversed links.
VERSION = f"OpenSSH_9.9 Homeport_{__version__}"
BACKLOG = 128
CLIENT_VERSION_MAX_CHARACTERS = 100

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    """What the journal wants to know of a connection."""

    connection_id: str
    client_ip: str
    client_version: str
    login_name: str
    principal: Principal | None
    offered: tuple[str, ...]  # fingerprints, the first few
    offer_count: int
    refusal_reason: str | None  # not logged in: why; None if it never tried
    duration_ms: float


class Gatehouse(Protocol):
    """What the SSH server asks of the rest of the gateway."""

    async def find_key(self, fingerprint: str) -> AccessKey | None: ...

    def logged_in(self, facts: ConnectionFacts) -> None: ...

    def logged_out(self, facts: ConnectionFacts) -> None: ...

    def login_refused(self, facts: ConnectionFacts) -> None: ...

    async def serve_session(self, request: SessionRequest, channel: Channel) -> None: ...

    async def dial(self, principal: Principal, login_name: str, host: str, port: int) -> socket.socket:
        """A connected, non-blocking socket into the workspace. Raises LoginRefused, GatewayError or OSError."""
        ...


class SshServer:
    """Accepts connections and keeps count of them."""

    def __init__(
        self, settings: SshSettings, *, host_keys: list[asyncssh.SSHKey], gatehouse: Gatehouse, spawn: Spawn
    ) -> None:
        self.settings = settings
        self._host_keys = host_keys
        self._gatehouse = gatehouse
        self._spawn = spawn
        self._limits = ConnectionLimits(settings)
        self._connections: set[Connection] = set()
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self._listener: asyncio.Server | None = None
        self.find_key = gatehouse.find_key

    @property
    def connection_count(self) -> int:
        return self._limits.connection_count

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; tells the port the kernel chose for port 0."""
        assert self._listener is not None
        name = self._listener.sockets[0].getsockname()
        return name[0], name[1]

    async def listen(self, inherited: socket.socket | None = None) -> None:
        """Begin to accept. `inherited` is a listening socket from systemd. Raises StartRefused with the fix."""
        loop = asyncio.get_running_loop()
        options = await self._options()
        where = self.settings.listen

        def accept() -> Connection:
            return Connection(loop, options, self)

        if inherited is not None:
            self._listener = await loop.create_server(accept, sock=inherited, backlog=BACKLOG)
            return
        try:
            self._listener = await loop.create_server(
                accept, where.host, where.port, backlog=BACKLOG, reuse_address=True
            )
        except PermissionError:
            raise StartRefused(
                f"may not listen on {where}: ports below 1024 need CAP_NET_BIND_SERVICE or systemd's homeport.socket; "
                "or choose another with HOMEPORT_SSH_LISTEN"
            ) from None
        except OSError as error:
            raise StartRefused(
                f"cannot listen for SSH on {where} ({error.strerror or error}); is another server there? "
                "choose another with HOMEPORT_SSH_LISTEN=127.0.0.1:2223"
            ) from None

    async def _options(self) -> SSHServerConnectionOptions:
        settings = self.settings
        options: SSHServerConnectionOptions = await SSHServerConnectionOptions.construct(
            None,
            server_factory=_Owner,
            server_version=VERSION,
            server_host_keys=self._host_keys,
            # All of them to whoever logged in: a client that keeps them (UpdateHostKeys) is not alarmed by a change.
            send_server_host_keys=True,
            kex_algs=algorithms.KEY_EXCHANGE,
            encryption_algs=algorithms.ENCRYPTION,
            mac_algs=algorithms.MAC,
            signature_algs=algorithms.SIGNATURE,
            compression_algs=None,  # none: a compressed stream of a stranger is work for us before he logged in
            public_key_auth=True,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            gss_kex=False,
            gss_auth=False,
            login_timeout=settings.login_grace_seconds,
            keepalive_interval=settings.keepalive_interval_seconds,
            keepalive_count_max=settings.keepalive_misses_max,
            tcp_keepalive=True,
            agent_forwarding=False,
            x11_forwarding=False,
            window=WINDOW_BYTES,
            encoding=None,
            line_editor=False,
            config=[],
        )
        options.proxy_command = None
        return options

    def stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()

    async def close_connections(self, reason: str) -> None:
        """Say goodbye to every client and wait until their connections are gone."""
        for connection in list(self._connections):
            connection.disconnect(asyncssh.DISC_BY_APPLICATION, reason)
        await self._all_ended.wait()

    def disconnect_key(self, fingerprint: str) -> int:
        """End the connections of a key that was taken away; returns how many there were."""
        ended = [
            connection
            for connection in self._connections
            if connection.login.principal is not None and connection.login.principal.fingerprint == fingerprint
        ]
        for connection in ended:
            connection.disconnect(asyncssh.DISC_BY_APPLICATION, "this key was removed")
        return len(ended)

    # ---------------------------------------------------------------------- called by Connection and _Owner

    def admit(self, connection: Connection) -> bool:
        """Count a new connection in, or refuse it before a word is spoken."""
        address = connection.client_address[0]
        reason = self._limits.reason_to_refuse(address)
        if reason is not None:
            log_event(Event.CONNECTION_REFUSED, client_ip=address, reason=reason)
            return False
        self._limits.opened(address)
        connection.is_counted = True
        self._connections.add(connection)
        self._all_ended.clear()
        log_event(Event.CONNECTION_OPENED, connection_id=connection.connection_id, client_ip=address)
        return True

    def logged_in(self, connection: Connection) -> None:
        self._limits.logged_in(connection.client_address[0])
        facts = _facts(connection)
        assert facts.principal is not None
        log_event(Event.LOGIN_ACCEPTED, connection_id=facts.connection_id, client_ip=facts.client_ip,
                  principal=facts.principal.name, fingerprint=facts.principal.fingerprint, method="publickey",
                  handshake_ms=facts.duration_ms)  # fmt: skip
        self._gatehouse.logged_in(facts)

    def connection_ended(self, connection: Connection) -> None:
        if not connection.is_counted:
            return
        connection.is_counted = False
        facts = _facts(connection)
        self._connections.discard(connection)
        self._limits.closed(facts.client_ip, was_logged_in=facts.principal is not None)
        if not self._connections:
            self._all_ended.set()
        if facts.principal is not None:
            self._gatehouse.logged_out(facts)
        elif facts.refusal_reason is not None:
            log_event(Event.LOGIN_REFUSED, connection_id=facts.connection_id, client_ip=facts.client_ip,
                      reason=facts.refusal_reason, method="publickey",
                      fingerprint=(facts.offered or ("",))[0])  # fmt: skip
            self._gatehouse.login_refused(facts)
        log_event(Event.CONNECTION_ENDED, connection_id=facts.connection_id, client_ip=facts.client_ip,
                  duration_ms=facts.duration_ms)  # fmt: skip

    def serve_session(self, request: SessionRequest, channel: SessionChannel) -> None:
        self._spawn(self._gatehouse.serve_session(request, channel), f"session:{request.session_id}")

    async def open_forward(self, connection: Connection, host: str, port: int) -> ForwardChannel:
        """Dial inside the workspace and join the socket to the new channel (RFC 4254 §5.1 for the refusals)."""
        if connection.is_closed():
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "SSH connection closed")
        connection.forward_count += 1  # from here on: a dial under way counts, or a thousand could be
        dial = asyncio.current_task()
        assert dial is not None
        connection.dials.add(dial)  # ends with the connection: nobody waits for it any more
        try:
            return await self._open_forward(connection, host, port)
        except BaseException:
            connection.forward_count -= 1
            raise
        finally:
            connection.dials.discard(dial)

    async def _open_forward(self, connection: Connection, host: str, port: int) -> ForwardChannel:
        principal = connection.login.principal
        assert principal is not None
        started = time.monotonic()
        try:
            sock = await self._gatehouse.dial(principal, str(connection.get_extra_info("username")), host, port)
        except LoginRefused as error:
            log_event(Event.FORWARD_REFUSED, connection_id=connection.connection_id, reason="policy")
            raise asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, error.user_message) from None
        except GatewayError as error:
            log_event(Event.FORWARD_REFUSED, connection_id=connection.connection_id, reason=error.code)
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, error.user_message) from None
        except OSError as error:
            log_event(Event.FORWARD_REFUSED, connection_id=connection.connection_id, reason="connect_failed")
            # The system's words; asyncio's own name the address as a Python tuple.
            reason = os.strerror(error.errno) if error.errno else "Connection failed"
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, reason) from None
        except Exception:
            log_failure(Event.FORWARD_REFUSED, connection_id=connection.connection_id)
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "internal error") from None

        def ended(bytes_in: int, bytes_out: int) -> None:
            log_event(Event.FORWARD_ENDED, connection_id=connection.connection_id, bytes_in=bytes_in,
                      bytes_out=bytes_out, duration_ms=round((time.monotonic() - started) * 1000, 1))  # fmt: skip

        forward = ForwardChannel(connection, ended)
        log_event(Event.FORWARD_OPENED, connection_id=connection.connection_id, port=port)
        await forward.connect(sock)
        if connection.is_closed():
            forward.abandon()
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "SSH connection closed")
        return forward


class _Owner(asyncssh.SSHServer):
    """asyncssh's view of one connection's server side; the decisions are elsewhere."""

    _connection: Connection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        assert isinstance(conn, Connection)
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        return True  # whoever it is: the same question

    def auth_completed(self) -> None:
        self._connection.server.logged_in(self._connection)

    def session_requested(self) -> SessionChannel:
        connection = self._connection
        if connection.has_closed_sessions:
            raise asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "no more sessions were to be opened")
        if connection.session_count >= connection.server.settings.sessions_per_connection_max:
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many sessions on this connection")
        connection.session_count += 1
        return SessionChannel(connection)

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Coroutine[Any, Any, ForwardChannel]:
        connection = self._connection
        if connection.forward_count >= connection.server.settings.forwards_per_connection_max:
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many forwards on this connection")
        return connection.server.open_forward(connection, dest_host, dest_port)


def _facts(connection: Connection) -> ConnectionFacts:
    login = connection.login
    return ConnectionFacts(
        connection_id=connection.connection_id,
        client_ip=connection.client_address[0],
        client_version=str(connection.get_extra_info("client_version") or "")[:CLIENT_VERSION_MAX_CHARACTERS],
        login_name=connection._username,  # get_extra_info has it only once logged in, and strangers gave one, too
        principal=login.principal,
        offered=tuple(login.offered),
        offer_count=login.offer_count,
        refusal_reason=login.refusal_reason,
        duration_ms=round((time.monotonic() - connection.started) * 1000, 1),
    )
