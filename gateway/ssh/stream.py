"""A forwarded stream (RFC 4254 §7): the bytes of a socket and of a channel meet, with half-close and flow control both
ways. VS Code lives on it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import asyncssh

if TYPE_CHECKING:
    from gateway.ssh.connection import Connection

# The client is gone; what it sent last goes to a program that still reads. One that does not would keep a descriptor
# and a buffer here for as long as it likes, and nothing counts them any more.
UNREAD_SECONDS = 5.0
UNREAD_MAX_SECONDS = 60.0  # however slowly it reads


class ForwardChannel(asyncssh.SSHTCPSession[bytes]):
    """The channel's side. Its peer is `_SocketSide`; whichever ends first ends the other."""

    def __init__(self, connection: Connection, on_ended: Callable[[int, int], None]) -> None:
        self._connection = connection
        self._on_ended = on_ended
        self._chan: asyncssh.SSHTCPChannel[bytes] | None = None
        self._socket_side: _SocketSide | None = None
        self._is_full = False
        self._eof_count = 0  # directions that ended; at two the stream is over
        self.bytes_in = 0
        self.bytes_out = 0

    async def connect(self, sock: socket.socket) -> None:
        """Take over a connected socket, also if this is cancelled. Nothing is read until the channel is open."""
        loop = asyncio.get_running_loop()
        _, self._socket_side = await loop.connect_accepted_socket(lambda: _SocketSide(self), sock)

    def abandon(self) -> None:
        """The channel never opened."""
        if self._socket_side is not None:
            self._socket_side.close()
        self._on_ended(0, 0)

    # --------------------------------------------------------------------------- from the client (asyncssh)

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._chan = chan

    def session_started(self) -> None:
        self._flow()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self.bytes_in += len(data)
        if self._socket_side is not None:
            self._socket_side.write(data)

    def eof_received(self) -> bool:
        if self._socket_side is not None:
            self._socket_side.write_eof()
        self._direction_ended()
        return True

    def pause_writing(self) -> None:
        self._is_full = True
        self._flow()

    def resume_writing(self) -> None:
        self._is_full = False
        self._flow()

    def connection_lost(self, exc: Exception | None) -> None:
        self._chan = None
        if self._socket_side is not None:
            self._socket_side.close_soon()
        self._on_ended(self.bytes_in, self.bytes_out)

    # ------------------------------------------------------------------------------- from the socket's side

    def socket_data(self, data: bytes) -> None:
        if self._chan is not None and not self._chan.is_closing():
            self.bytes_out += len(data)
            self._chan.write(data)
            self._flow()

    def socket_eof(self) -> None:
        if self._chan is not None:
            self._chan.write_eof()
        self._direction_ended()

    def socket_closed(self) -> None:
        if self._chan is not None:
            self._chan.close()

    def socket_is_full(self, is_full: bool) -> None:
        if self._chan is not None:
            if is_full:
                self._chan.pause_reading()
            else:
                self._chan.resume_reading()

    def _direction_ended(self) -> None:
        self._eof_count += 1
        if self._eof_count == 2 and self._socket_side is not None:
            self._socket_side.close()  # flushes first; its connection_lost closes the channel

    def _flow(self) -> None:
        if self._socket_side is not None:
            if self._is_full or self._connection.is_transport_full:
                self._socket_side.pause_reading()
            else:
                self._socket_side.resume_reading()


class _SocketSide(asyncio.Protocol):
    def __init__(self, forward: ForwardChannel) -> None:
        self._forward = forward
        self._transport: Any = None
        self._unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        # Not now: asyncio of Python 3.11.2 (Debian 12) begins to read after this call whatever it said. Next, before
        # anything is read: callbacks that wait run before those that a turn's look at the sockets adds.
        asyncio.get_running_loop().call_soon(self.pause_reading)
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            # Interactive protocols run over forwards; Nagle with delayed acknowledgements costs 40 ms a message.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._forward.socket_data(data)

    def eof_received(self) -> bool:
        self._forward.socket_eof()
        return True  # half-close: the client may still be sending

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        self._forward.socket_closed()

    def pause_writing(self) -> None:
        self._forward.socket_is_full(True)

    def resume_writing(self) -> None:
        self._forward.socket_is_full(False)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def write_eof(self) -> None:
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Once all is written, however long that takes."""
        if self._transport is not None:
            self._transport.close()

    def close_soon(self) -> None:
        """Once all is written, as long as there is somebody who reads it."""
        self.close()
        if self._transport is not None and self._unread_timer is None:
            self._wait_for_reader(self._transport.get_write_buffer_size(), UNREAD_MAX_SECONDS)

    def _wait_for_reader(self, unread_bytes: int, seconds_left: float) -> None:
        if unread_bytes:  # else it closes by itself, now
            self._unread_timer = asyncio.get_running_loop().call_later(
                UNREAD_SECONDS, self._abort_unread, unread_bytes, seconds_left - UNREAD_SECONDS
            )

    def _abort_unread(self, unread_bytes_before: int, seconds_left: float) -> None:
        unread_bytes = self._transport.get_write_buffer_size()
        if seconds_left > 0 and unread_bytes < unread_bytes_before:
            self._wait_for_reader(unread_bytes, seconds_left)
        else:
            self._transport.abort()
