"""One SSH transport, with the gaps of asyncssh's server filled in.

asyncssh has no hook for these, so this class overrides methods of SSHServerConnection; the tests in
tests/integration/test_ssh_connection.py hold each of them against an asyncssh upgrade:

- `reload_config` rebuilt every option on each login, a sixth of a connection's cost, for OpenSSH config files that we
  do not have;
- `send_packet` put an empty IGNORE packet before each encrypted one, a defence of CBC ciphers, which we do not offer;
- `_send` made one system call per packet;
- `pause_writing` did nothing, so a client with a huge window that stops reading could fill our memory;
- `validate_public_key` did not tell an offer from a proof, and attempts were not counted;
- commands that are not UTF-8 were refused, and every environment variable was kept (channel.py).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import asyncssh
from asyncssh.connection import SSHServerConnection, SSHServerConnectionOptions
from asyncssh.constants import DISC_NO_MORE_AUTH_METHODS_AVAILABLE, MSG_IGNORE

from gateway.ids import new_id
from gateway.ssh.auth import Login
from gateway.ssh.channel import SessionWire

if TYPE_CHECKING:
    from gateway.interfaces import SessionRequest
    from gateway.ssh.channel import SessionChannel
    from gateway.ssh.server import SshServer

# Unsent bytes of one connection in our process before its sessions stop reading their programs.
TRANSPORT_BUFFER_MAX_BYTES = 512 * 1024


class Connection(SSHServerConnection):
    """Made by the listener for each accepted socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: SSHServerConnectionOptions, server: SshServer) -> None:
        super().__init__(loop, options)
        self.connection_id = new_id()
        self.login = Login()
        self.started = time.monotonic()
        self.client_address: tuple[str, int] = ("", 0)
        self.server_address: tuple[str, int] = ("", 0)
        self.session_count = 0
        self.forward_count = 0
        self.is_counted = False
        self.is_transport_full = False
        self._outgoing: list[bytes] = []  # packets of this turn of the event loop
        self.server = server

    # ------------------------------------------------------------------------------------------- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername") or ("", 0)
        local = transport.get_extra_info("sockname") or ("", 0)
        self.client_address, self.server_address = (peer[0], peer[1]), (local[0], local[1])
        if not self.server.admit(self):
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
            return
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=TRANSPORT_BUFFER_MAX_BYTES)
        super().connection_made(transport)

    def _send(self, data: bytes) -> None:
        """Collect the packets of one turn of the event loop into one write: a login's answers, or the last output
        with status, EOF and close. Fewer system calls here, fewer wake-ups of the client."""
        if self._transport is None:
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush, self._transport)
        self._outgoing.append(data)

    def _flush(self, transport: asyncio.Transport) -> None:
        # The transport is an argument because a disconnect forgets it right after its last packet.
        outgoing, self._outgoing = self._outgoing, []
        transport.writelines(outgoing)

    def pause_writing(self) -> None:
        self.is_transport_full = True

    def resume_writing(self) -> None:
        self.is_transport_full = False
        for channel in list(self._channels.values()):
            session = channel._session
            if session is not None and not channel._send_paused:
                session.resume_writing()

    def _cleanup(self, exc: Exception | None) -> None:
        super()._cleanup(exc)
        self.server.connection_ended(self)

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        if pkttype == MSG_IGNORE and self._auth_complete:
            return
        super().send_packet(pkttype, *args, handler=handler)

    # -------------------------------------------------------------------------------------- authentication

    async def reload_config(self) -> None:
        """Nothing to reload: no OpenSSH configuration files are read."""

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Answer an offer (`msg` empty) or a proof. Only a proof with a good signature makes a principal."""
        self._refuse_too_many_attempts()
        try:
            key = asyncssh.public_key.decode_ssh_public_key(key_data)
        except asyncssh.KeyImportError:
            return False
        fingerprint = key.get_fingerprint()
        self.login.offer(fingerprint)
        known = await self.server.find_key(fingerprint)
        if known is None:
            return False
        if not msg:
            return True
        if not key.verify(asyncssh.packet.String(self._session_id) + msg, signature):
            self.login.had_bad_signature = True
            return False
        self.login.proved(known)
        return True

    def send_userauth_failure(self, partial_success: bool) -> None:
        self.login.failure_count += 1
        self._refuse_too_many_attempts()
        super().send_userauth_failure(partial_success)

    def _refuse_too_many_attempts(self) -> None:
        # One more than the limit, for the `none` request every client begins with (RFC 4252 §5.2). An offered key and
        # its proof are two requests.
        most = self.server.settings.auth_attempts_max
        if self.login.failure_count > most + 1 or self.login.offer_count > 2 * most:
            raise asyncssh.DisconnectError(DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures")

    # -------------------------------------------------------------------------------------------- channels

    def serve_session(self, request: SessionRequest, channel: SessionChannel) -> None:
        self.server.serve_session(request, channel)

    def create_server_channel(
        self, encoding: str | None = "", errors: str = "", window: int = 0, max_pktsize: int = 0
    ) -> asyncssh.SSHServerChannel[Any]:
        self._update_recv_pktlen(max_pktsize or self._max_pktsize)
        return SessionWire(
            self, self._loop, self.server.settings, window or self._window, max_pktsize or self._max_pktsize
        )
