"""What a client asks of forwards, read from the wire (RFC 4254 §7; OpenSSH's PROTOCOL, 2.4 for unix sockets).

asyncssh ends the whole connection for a host or path that is not UTF-8 and for the cancellation of a listener it does
not know; it keeps listeners by a lower-cased name, and tells the client another host than it had asked for.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import asyncssh
from asyncssh.constants import DISC_PROTOCOL_ERROR
from asyncssh.packet import PacketDecodeError, SSHPacket

from gateway.forwarding.forwards import Target, TcpTarget, UnixTarget
from gateway.ssh.forwards import ConnectionForwards
from gateway.ssh.requests import GlobalRequests
from gateway.ssh.stream import ForwardChannel
from gateway.ssh.window import refuse_tiny_packets

_Opening = tuple["asyncssh.SSHTCPChannel[bytes]", Coroutine[Any, Any, ForwardChannel]]


class ForwardRequests(GlobalRequests):
    """The part of a connection that reads them; `forwards` acts on them."""

    forwards: ConnectionForwards

    def answer_global_request(self, answer: bool | bytes) -> None:
        """Answer the oldest one that waits. The next one is read with it, and may be malformed."""
        if self.is_closed():
            return
        try:
            self._report_global_response(answer)
        except (PacketDecodeError, asyncssh.DisconnectError) as error:
            self.disconnect(DISC_PROTOCOL_ERROR, str(error))

    def _process_direct_tcpip_open(self, packet: SSHPacket) -> Any:
        refuse_tiny_packets(packet)
        target = _tcp_target(packet)
        packet.get_string(), packet.get_uint32()  # who connected at the client's end: nobody can check that
        packet.check_end()
        return self._open_direct(target)

    def _process_direct_streamlocal_at_openssh_dot_com_open(self, packet: SSHPacket) -> Any:
        refuse_tiny_packets(packet)
        target = UnixTarget(packet.get_string())
        packet.get_string(), packet.get_uint32()  # reserved
        packet.check_end()
        return self._open_direct(target)

    def _open_direct(self, target: Target) -> _Opening:
        return self.create_tcp_channel(), self.forwards.open_direct(target)

    def _process_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        target = _tcp_target(packet)
        packet.check_end()
        self.forwards.listen(target)

    def _process_cancel_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        asked = _tcp_target(packet)
        packet.check_end()
        self._report_global_response(self.forwards.cancel(asked))

    def _process_streamlocal_forward_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        target = UnixTarget(packet.get_string())
        packet.check_end()
        self.forwards.listen(target)

    def _process_cancel_streamlocal_forward_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        asked = UnixTarget(packet.get_string())
        packet.check_end()
        self._report_global_response(self.forwards.cancel(asked))


def _tcp_target(packet: SSHPacket) -> TcpTarget:
    return TcpTarget(packet.get_string().decode(errors="surrogateescape"), packet.get_uint32())
