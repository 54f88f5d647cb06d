"""The channel window as a bound on what we hold (RFC 4254 §5.2).

asyncssh grants a whole new window with the first piece it delivers after a pause, though the rest of the last one
still waits: a program that reads slower than its client sends had the difference pile up here, without end.
"""

from __future__ import annotations

from typing import Any

import asyncssh
from asyncssh.channel import SSHChannel
from asyncssh.constants import MSG_CHANNEL_WINDOW_ADJUST, OPEN_RESOURCE_SHORTAGE
from asyncssh.packet import SSHPacket, UInt32

# What one channel may hold for a program that does not read: enough for 20 MB/s at a round trip of 50 ms.
WINDOW_BYTES = 1024 * 1024
# Until there is somebody to read it: a client may open many channels and start nothing in them.
EARLY_WINDOW_BYTES = 64 * 1024
# So many forwarded streams of a connection have a whole window; those beyond have less, or a client that fills five
# hundred of them, for a program that reads none, would have half a gigabyte lie here.
WIDE_STREAMS_MAX = 32
NARROW_WINDOW_BYTES = 64 * 1024
# The smallest maximum packet size in use is a few KiB; at 1 byte, 64 KiB of output took a second to cut up.
CHANNEL_PACKET_MIN_BYTES = 256
PACKETS_TOO_SMALL = "the maximum packet size is too small"


class BoundedInput(SSHChannel[bytes]):
    """For channels of bytes: what was received and not delivered, and what may still come, are one window at most."""

    _waiting_bytes = 0

    def open_window(self) -> None:
        """Grant the whole window: the reader is there."""
        more_bytes = WINDOW_BYTES - self._init_recv_window
        if more_bytes > 0:
            self._init_recv_window = WINDOW_BYTES
            self._recv_window += more_bytes
            self.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(more_bytes))

    def _accept_data(self, data: bytes, datatype: int | None = None) -> None:
        if self._recv_paused:
            self._waiting_bytes += len(data)
        super()._accept_data(data, datatype)

    def _deliver_data(self, data: bytes, datatype: int | None) -> None:
        # A piece that did not wait is only delivered when none does.
        self._waiting_bytes = max(0, self._waiting_bytes - len(data))
        free_bytes = self._init_recv_window - self._recv_window - self._waiting_bytes
        if free_bytes > self._init_recv_window // 2:
            self.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(free_bytes))
            self._recv_window += free_bytes
        if self._session is not None:
            self._session.data_received(data, datatype)


class ForwardWire(BoundedInput, asyncssh.SSHTCPChannel[bytes]):
    """The channel of any forwarded stream: asyncssh's for TCP, since those for unix sockets do the same."""

    _conn: Any

    def process_open_confirmation(self, send_chan: int, send_window: int, send_pktsize: int, packet: SSHPacket) -> None:
        """The client's answer to a channel that we open; it may come when nobody waits for it any more."""
        if send_pktsize < CHANNEL_PACKET_MIN_BYTES:
            raise asyncssh.ProtocolError(PACKETS_TOO_SMALL)
        packet.check_end()  # asyncssh looks later, in the task that waits, which fails of it
        is_given_up = self._open_waiter is not None and self._open_waiter.cancelled()
        super().process_open_confirmation(send_chan, send_window, send_pktsize, packet)
        if is_given_up:
            self.close_unwanted()

    def close_unwanted(self) -> None:
        """Close a channel that was opened for nobody."""
        self._session = asyncssh.SSHTCPSession()  # asyncssh tells one of what the client still sends
        self.close()


def refuse_tiny_packets(packet: SSHPacket) -> None:
    """The maximum packet size is the last field that was read of a channel's open request (RFC 4254 §5.1)."""
    if int.from_bytes(packet.get_consumed_payload()[-4:]) < CHANNEL_PACKET_MIN_BYTES:
        raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, PACKETS_TOO_SMALL)
