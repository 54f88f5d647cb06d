"""The listener, and what happens to a connection: admitted, logged in, opens channels, ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import asyncssh
from asyncssh.connection import SSHServerConnectionOptions
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED, OPEN_RESOURCE_SHORTAGE

from gateway import __version__
from gateway.config import Address, SshSettings
from gateway.errors import StartRefused
from gateway.events import Event
from gateway.forwarding.agents import AgentForwarder
from gateway.forwarding.displays import Carry, Display, DisplayRequest
from gateway.interfaces import AccessKey, Principal, SessionRequest
from gateway.listening import close_without_loss
from gateway.log import log_event
from gateway.sessions.session import Channel
from gateway.ssh import algorithms
from gateway.ssh.channel import SessionChannel
from gateway.ssh.connection import Connection
from gateway.ssh.facts import ConnectionFacts, facts_of
from gateway.ssh.forwards import ForwardGate
from gateway.ssh.limits import ConnectionLimits
from gateway.ssh.window import WINDOW_BYTES

# npm ssh2 and the asyncssh client choose the argument order of SFTP's SYMLINK by this word, and the real sftp-server
# has OpenSSH's; without it they make reversed links.
VERSION = f"OpenSSH_9.9 Homeport_{__version__}"
BACKLOG = 128

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]


class Gatehouse(ForwardGate, Protocol):
    """What the SSH server asks of the rest of the gateway."""

    async def find_key(self, fingerprint: str) -> AccessKey | None: ...

    def logged_in(self, facts: ConnectionFacts) -> None: ...

    def logged_out(self, facts: ConnectionFacts) -> None: ...

    def login_refused(self, facts: ConnectionFacts) -> None: ...

    async def serve_session(self, request: SessionRequest, channel: Channel) -> None: ...

    async def forward_agent(self, facts: ConnectionFacts, forwarder: AgentForwarder) -> Callable[[], None]:
        """Have the client's agent answer in the workspace, until the returned function is called. Raises LoginRefused,
        GatewayError or OSError; refusals are on record by then."""
        ...

    async def open_display(self, facts: ConnectionFacts, request: DisplayRequest, carry: Carry) -> Display:
        """A display of the client's X server in the workspace, in bounded time. Raises as the one above."""
        ...


class SshServer:
    """Accepts connections and keeps count of them."""

    def __init__(
        self, settings: SshSettings, *, host_keys: list[asyncssh.SSHKey], gatehouse: Gatehouse, spawn: Spawn
    ) -> None:
        self.settings = settings
        self._host_keys = host_keys
        self.gatehouse = gatehouse
        self.spawn = spawn
        self._limits = ConnectionLimits(settings)
        self._connections: set[Connection] = set()
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self._listeners: list[asyncio.Server] = []
        self.find_key = gatehouse.find_key

    @property
    def connection_count(self) -> int:
        return self._limits.connection_count

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; tells the port the kernel chose for port 0."""
        name = self._listeners[0].sockets[0].getsockname()
        return name[0], name[1]

    @property
    def sockets(self) -> list[socket.socket]:
        """What it listens on, as copies that the caller closes."""
        return [sock.dup() for listener in self._listeners for sock in listener.sockets]

    @property
    def principals(self) -> set[Principal]:
        """Who is logged in, as at the login."""
        principals = (connection.login.principal for connection in self._connections)
        return {principal for principal in principals if principal is not None}

    async def bind(self, inherited: Sequence[socket.socket] = ()) -> None:
        """Have the address, and accept nothing yet. `inherited`: listening sockets of systemd, or of the gateway that
        this one replaces. Raises StartRefused with the fix."""
        loop = asyncio.get_running_loop()
        options = await self._options()
        where = self.settings.listen

        def accept() -> Connection:
            return Connection(loop, options, self)

        if inherited:
            self._listeners = [
                await loop.create_server(accept, sock=sock, backlog=BACKLOG, start_serving=False) for sock in inherited
            ]
            return
        try:
            listener = await loop.create_server(
                accept, where.host, where.port, backlog=BACKLOG, reuse_address=True, start_serving=False
            )
        except PermissionError:
            raise StartRefused(
                f"may not listen on {where}: ports below 1024 need CAP_NET_BIND_SERVICE or systemd's homeport.socket; "
                "or choose another with HOMEPORT_SSH_LISTEN"
            ) from None
        except OSError as error:
            raise StartRefused(_cannot_listen(where, error)) from None
        self._listeners = [listener]

    async def listen(self) -> None:
        """Begin to accept. Raises StartRefused."""
        for listener in self._listeners:
            try:
                await listener.start_serving()
            except OSError as error:  # bound beside another that reuses the address; only listening tells
                raise StartRefused(_cannot_listen(self.settings.listen, error)) from None

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
        for listener in self._listeners:
            listener.close()

    async def leave_to_others(self) -> None:
        """Stop listening where somebody else has a copy of the sockets: nobody is reset."""
        await close_without_loss(self._listeners)

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
        facts = facts_of(connection)
        assert facts.principal is not None
        log_event(Event.LOGIN_ACCEPTED, connection_id=facts.connection_id, client_ip=facts.client_ip,
                  principal=facts.principal.name, fingerprint=facts.principal.fingerprint, method="publickey",
                  handshake_ms=facts.duration_ms)  # fmt: skip
        self.gatehouse.logged_in(facts)

    def connection_ended(self, connection: Connection) -> None:
        if not connection.is_counted:
            return
        connection.is_counted = False
        facts = facts_of(connection)
        self._connections.discard(connection)
        self._limits.closed(facts.client_ip, was_logged_in=facts.principal is not None)
        if not self._connections:
            self._all_ended.set()
        if facts.principal is not None:
            self.gatehouse.logged_out(facts)
        elif facts.refusal_reason is not None:
            log_event(Event.LOGIN_REFUSED, connection_id=facts.connection_id, client_ip=facts.client_ip,
                      reason=facts.refusal_reason, method="publickey",
                      fingerprint=(facts.offered or ("",))[0])  # fmt: skip
            self.gatehouse.login_refused(facts)
        log_event(Event.CONNECTION_ENDED, connection_id=facts.connection_id, client_ip=facts.client_ip,
                  duration_ms=facts.duration_ms)  # fmt: skip

    def serve_session(self, request: SessionRequest, channel: SessionChannel) -> None:
        self.spawn(self.gatehouse.serve_session(request, channel), f"session:{request.session_id}")


def _cannot_listen(where: Address, error: OSError) -> str:
    return (
        f"cannot listen for SSH on {where} ({error.strerror or error}); is another server there? choose another with "
        "HOMEPORT_SSH_LISTEN=127.0.0.1:2223"
    )


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
