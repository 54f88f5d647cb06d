"""One SSH transport, with the gaps of asyncssh's server filled in.

asyncssh has no hook for these, so this class overrides methods of SSHServerConnection; the tests in
tests/integration/test_ssh_connection.py hold each of them against an asyncssh upgrade:

- `reload_config` rebuilt every option on each login, a sixth of a connection's cost, for OpenSSH config files that we
  do not have;
- `send_packet` put an empty IGNORE packet before each encrypted one, a defence of CBC ciphers, which we do not offer;
- `_send` made one system call per packet;
- acknowledgements were delayed, which cost every stock client 80 ms of a login;
- `pause_writing` did nothing, so a client with a huge window that stops reading could fill our memory, and so could
  one that begins a key exchange and never ends it, or asks and never reads the answers;
- everything received was worked through in one go, so a stranger's stream of tiny packets kept all others waiting;
- `validate_public_key` did not tell an offer from a proof, and attempts were not counted;
- a client that asks for the login service before each attempt (paramiko) was cut off at its second key;
- forwards ended the connection for a path that is not UTF-8 or an unknown cancellation (forward_requests.py);
- requests waited in lists without end, and were answered by recursion (requests.py);
- nothing told that the last channel was gone (`remove_channel`);
- a channel's window did not bound its input (window.py);
- commands that are not UTF-8 were refused, and every environment variable was kept (channel.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any

import asyncssh
from asyncssh.connection import SSHServerConnectionOptions
from asyncssh.constants import (
    DISC_NO_MORE_AUTH_METHODS_AVAILABLE,
    DISC_PROTOCOL_ERROR,
    MSG_IGNORE,
)

from gateway.ids import new_id
from gateway.ssh import algorithms
from gateway.ssh.agent import AgentForwarding
from gateway.ssh.auth import Login
from gateway.ssh.channel import SessionWire
from gateway.ssh.forward_requests import ForwardRequests
from gateway.ssh.forwards import ConnectionForwards
from gateway.ssh.unused import UnusedTimer
from gateway.ssh.window import (
    NARROW_WINDOW_BYTES,
    WIDE_STREAMS_MAX,
    WINDOW_BYTES,
    ForwardWire,
    refuse_tiny_packets,
)
from gateway.ssh.x11 import X11Forwarding

if TYPE_CHECKING:
    from gateway.interfaces import SessionRequest
    from gateway.ssh.channel import SessionChannel
    from gateway.ssh.server import SshServer

# Unsent bytes of one connection in our process before its sessions stop reading their programs.
TRANSPORT_BUFFER_MAX_BYTES = 512 * 1024
# Beyond that it can only be answers the client does not read: we stop listening to it. Well above the line before,
# since a client that writes without reading for a while (libssh2 in blocking mode) would hang if we stopped early.
ANSWERS_MAX_BYTES = 4 * 1024 * 1024
# Packets put off until a key exchange ends; sessions stop at TRANSPORT_BUFFER_MAX_BYTES, so these are answers, too.
PUT_OFF_MAX_BYTES = 32 * 1024 * 1024
_PACKET_COST_BYTES = 256  # of the Python objects around a packet that waits
# Received and not worked through, while an answer waits for the database.
RECEIVED_MAX_BYTES = 1024 * 1024
# Packets of one connection in one turn of the event loop: some 3 ms. 256 KiB of the smallest took half a second.
PACKETS_PER_TURN_MAX = 64
# Before the login, besides attempts (up to four each with a banner and a `none`): key exchange takes about six.
STRANGER_PACKETS_MAX = 200


class Connection(ForwardRequests):
    """Made by the listener for each accepted socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: SSHServerConnectionOptions, server: SshServer) -> None:
        super().__init__(loop, options)
        self.connection_id = new_id()
        self.login = Login()
        self.started = time.monotonic()
        self.client_address: tuple[str, int] = ("", 0)
        self.server_address: tuple[str, int] = ("", 0)
        self.session_count = 0
        self.is_counted = False
        self.server = server
        self.forwards = ConnectionForwards(self, server.gatehouse)
        self.agent = AgentForwarding(self)
        self.x11 = X11Forwarding(self)
        self.inward_count = 0  # channels that we opened
        self.late_count = 0  # those of them that the client should have answered by now
        self._unused = UnusedTimer(self, server.settings.connection_unused_minutes * 60)
        self._heard = asyncio.Event()  # something came since it was last cleared
        self._is_asked = False  # whether it is still there
        self._is_socket_full = False
        self._is_unheard = False  # far too many answers wait for the client to read
        self._is_reading_paused = False
        self._put_off_bytes = 0
        self._packets_left = 0  # of this turn
        self._stranger_packet_count = 0
        self._outgoing: list[bytes] = []  # packets of this turn of the event loop

    # ------------------------------------------------------------------------------------------- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername") or ("", 0)
        local = transport.get_extra_info("sockname") or ("", 0)
        self.client_address, self.server_address = (peer[0], peer[1]), (local[0], local[1])
        if not self.server.admit(self):
            assert isinstance(transport, asyncio.Transport)
            self._cancel_login_timer()  # it would hold each refused connection in memory for a minute
            transport.abort()
            return
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=TRANSPORT_BUFFER_MAX_BYTES)
        self._unused.start()
        super().connection_made(transport)

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        self._heard.set()
        super().data_received(data, datatype)
        # ssh(1) writes twice in a row before it sets TCP_NODELAY, so its second packet waits for our acknowledgement,
        # and a delayed one costs it 40 ms, twice in a login (tcp(7), TCP_QUICKACK is not permanent).
        if not self._auth_complete and self._transport is not None and not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

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
        # Not writelines: on a connection just lost, Python 3.12's watches the closed descriptor's number for ever.
        transport.write(b"".join(outgoing))

    @property
    def is_transport_full(self) -> bool:
        """Whether sessions and forwards shall not write now."""
        return self._is_socket_full or self._put_off_bytes > TRANSPORT_BUFFER_MAX_BYTES

    def pause_writing(self) -> None:
        self._is_socket_full = True

    def resume_writing(self) -> None:
        self._is_socket_full = self._is_unheard = False
        self._pause_or_resume_reading()
        self._resume_channels()

    def _resume_channels(self) -> None:
        for channel in list(self._channels.values()):
            session = channel._session
            if session is not None and not channel._send_paused:
                session.resume_writing()

    def _cleanup(self, exc: Exception | None) -> None:
        with contextlib.ExitStack() as steps:  # all of them, last first, whatever goes wrong in one
            steps.callback(self._unused.stop)
            steps.callback(self.server.connection_ended, self)
            steps.callback(super()._cleanup, exc)
            steps.callback(self.x11.end)
            steps.callback(self.agent.end)
            steps.callback(self.forwards.close)

    @property
    def is_used(self) -> bool:
        """Whether it carries something, or may by itself; a login under way has a limit of its own."""
        return not self._auth_complete or bool(self._channels) or self.forwards.is_any_open

    def remove_channel(self, recv_chan: int) -> None:
        super().remove_channel(recv_chan)
        if not self._channels:
            self._unused.start()

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        if pkttype == MSG_IGNORE and self._auth_complete:
            return
        count = len(self._deferred_packets)
        super().send_packet(pkttype, *args, handler=handler)
        if len(self._deferred_packets) > count:
            self._put_off_bytes += _PACKET_COST_BYTES + sum(map(len, args))

    def _send_deferred_packets(self) -> None:
        self._put_off_bytes = 0  # what is put off again is counted again
        super()._send_deferred_packets()
        self._resume_channels()

    async def is_answering(self, within_seconds: float) -> bool:
        """Ask the client whether it is there (keepalive@openssh.com). Whatever comes is an answer: behind a slow line
        the right one may stand in a long queue."""
        if self._transport is None:
            return False
        self._heard.clear()
        if not self._is_asked:
            self._is_asked = True
            self.create_task(self._ask_whether_alive())
        try:
            async with asyncio.timeout(within_seconds):
                await self._heard.wait()
        except TimeoutError:
            return False
        return self._transport is not None

    async def _ask_whether_alive(self) -> None:
        try:
            await self._make_global_request(b"keepalive@openssh.com")
        finally:
            self._is_asked = False

    # ------------------------------------------------------------------------------------------- receiving

    def _recv_data(self) -> None:
        """Work through what has come, at most one turn's worth; the other connections are waiting."""
        self._packets_left = PACKETS_PER_TURN_MAX
        super()._recv_data()
        if self._put_off_bytes > PUT_OFF_MAX_BYTES:
            self._force_close(asyncssh.ProtocolError("Key exchange does not end"))
        if self._packets_left == 0 and self._inpbuf:
            self._loop.call_soon(self._recv_data)
        self._pause_or_resume_reading()

    def _recv_pkthdr(self) -> bool:
        if self._packets_left == 0 or not super()._recv_pkthdr():
            return False
        self._packets_left -= 1
        if not self._auth_complete:
            self._refuse_chatty_stranger()
        return True

    def _refuse_chatty_stranger(self) -> None:
        self._stranger_packet_count += 1
        if self._stranger_packet_count > STRANGER_PACKETS_MAX + 4 * self.server.settings.auth_attempts_max:
            raise asyncssh.DisconnectError(DISC_PROTOCOL_ERROR, "Too many packets before the login")

    def _send_kexinit(self) -> None:
        # A second exchange before the login is no client's habit, and the dearest thing a stranger can ask for.
        if self._session_id and not self._auth_complete:
            raise asyncssh.DisconnectError(DISC_PROTOCOL_ERROR, "Key exchange before the login")
        super()._send_kexinit()

    def _pause_or_resume_reading(self) -> None:
        """Hear no more from a client while there is too much of its own to work through, or to answer."""
        transport = self._transport
        if transport is None:
            return
        assert isinstance(transport, asyncio.Transport)
        self._is_unheard = self._is_unheard or transport.get_write_buffer_size() > ANSWERS_MAX_BYTES
        is_behind = self._packets_left == 0 and bool(self._inpbuf)
        is_paused = self._is_unheard or is_behind or len(self._inpbuf) > RECEIVED_MAX_BYTES
        if is_paused != self._is_reading_paused:
            self._is_reading_paused = is_paused
            (transport.pause_reading if is_paused else transport.resume_reading)()

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
        key.set_touch_required(True)  # security keys: somebody was there (PROTOCOL.u2f)
        signed = asyncssh.packet.String(self._session_id) + msg
        if not _is_strong(signature) or not key.verify(signed, signature):
            self.login.had_bad_signature = True
            return False
        self.login.proved(known)
        return True

    def send_userauth_failure(self, partial_success: bool) -> None:
        self.login.failure_count += 1
        self._refuse_too_many_attempts()
        super().send_userauth_failure(partial_success)
        self._next_service = b"ssh-userauth"  # may be asked for again, as with sshd; a success takes it back

    def _refuse_too_many_attempts(self) -> None:
        # One more than the limit, for the `none` request every client begins with (RFC 4252 §5.2). An offered key and
        # its proof are two requests.
        most = self.server.settings.auth_attempts_max
        if self.login.failure_count > most + 1 or self.login.offer_count > 2 * most:
            raise asyncssh.DisconnectError(DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures")

    # -------------------------------------------------------------------------------------------- channels

    def serve_session(self, request: SessionRequest, channel: SessionChannel) -> None:
        self.server.serve_session(request, channel)

    def _process_session_open(self, packet: asyncssh.packet.SSHPacket) -> Any:
        refuse_tiny_packets(packet)
        return super()._process_session_open(packet)

    def create_server_channel(
        self, encoding: str | None = "", errors: str = "", window: int = 0, max_pktsize: int = 0
    ) -> asyncssh.SSHServerChannel[Any]:
        self._update_recv_pktlen(max_pktsize or self._max_pktsize)
        return SessionWire(self, self._loop, self.server.settings, max_pktsize or self._max_pktsize)

    def create_tcp_channel(
        self, encoding: str | None = None, errors: str = "strict", window: int = 0, max_pktsize: int = 0
    ) -> asyncssh.SSHTCPChannel[Any]:
        self._update_recv_pktlen(max_pktsize or self._max_pktsize)
        window = window or self.forward_window_bytes
        return ForwardWire(self, self._loop, encoding, errors, window, max_pktsize or self._max_pktsize)

    @property
    def forward_window_bytes(self) -> int:
        """What one more forwarded stream may have on its way to a program."""
        is_wide = self.forwards.stream_count + self.inward_count < WIDE_STREAMS_MAX
        return WINDOW_BYTES if is_wide else NARROW_WINDOW_BYTES


def _is_strong(signature: bytes) -> bool:
    """Whether it is of a kind we offer: asyncssh names ours to the client, and verifies others all the same (SHA-1)."""
    try:
        return asyncssh.packet.SSHPacket(signature).get_string().decode("ascii") in algorithms.SIGNATURE
    except (asyncssh.packet.PacketDecodeError, UnicodeDecodeError):
        return False
