"""Requests of a connection (RFC 4254 §4) and of a channel (§5.4): answered one after the other, as they came.

While one takes its time (a listener inside the workspace, an X11 cookie), asyncssh puts the others into a list without
end, and then answers them by recursion, one level for each: some hundred of them ended the connection with a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncssh
from asyncssh.connection import SSHServerConnection
from asyncssh.constants import DISC_PROTOCOL_ERROR, MSG_CHANNEL_REQUEST, MSG_GLOBAL_REQUEST
from asyncssh.packet import SSHPacket, String

# A client asks for all its remote forwards at once, and a configuration may name dozens.
WAITING_MAX = 512
WAITING_MAX_BYTES = 512 * 1024

_Waiting = Sequence[tuple[Any, SSHPacket, bool]]


class GlobalRequests(SSHServerConnection):
    """The connection's."""

    has_closed_sessions = False  # the client said that it will open no more
    _is_answering = False

    def _take_global_request(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        _refuse_crowd(self._global_request_queue, packet)
        self._process_global_request(pkttype, pktid, packet)

    def _service_next_global_request(self) -> None:
        """Called for the first one, and by each answer for the next: within the loop, the loop goes on."""
        if self._is_answering:
            return
        self._is_answering = True
        try:
            while self._global_request_queue:
                request = self._global_request_queue[0]
                super()._service_next_global_request()
                if self._global_request_queue and self._global_request_queue[0] is request:
                    break  # its answer will call us
        finally:
            self._is_answering = False

    def _process_hostkeys_prove_00_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        """Sign for the host keys that we announced (OpenSSH's PROTOCOL, 2.5), each once: a signature holds up
        everybody."""
        if len(packet.get_remaining_payload()) > sum(len(String(key)) for key in self._all_server_host_keys):
            self._report_global_response(False)
            return
        super()._process_hostkeys_prove_00_at_openssh_dot_com_global_request(packet)

    def _process_no_more_sessions_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        """Whoever takes over this client later cannot open a shell beside the one that is there (PROTOCOL, 2.2)."""
        packet.check_end()
        self.has_closed_sessions = True
        self._report_global_response(True)

    # asyncssh looks methods up in this table, so overriding one by name would change nothing.
    _packet_handlers = {**SSHServerConnection._packet_handlers, MSG_GLOBAL_REQUEST: _take_global_request}  # noqa: RUF012 - as in asyncssh


class ChannelRequests(asyncssh.SSHServerChannel[bytes]):
    """A session channel's."""

    _is_answering = False

    def _take_request(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        _refuse_crowd(self._request_queue, packet)
        self._process_request(pkttype, pktid, packet)

    def _service_next_request(self) -> None:
        if self._is_answering:
            return
        self._is_answering = True
        try:
            while self._request_queue:
                request = self._request_queue[0]
                super()._service_next_request()
                if self._request_queue and self._request_queue[0] is request:
                    break
        finally:
            self._is_answering = False

    _packet_handlers = {**asyncssh.SSHServerChannel._packet_handlers, MSG_CHANNEL_REQUEST: _take_request}  # noqa: RUF012 - as in asyncssh


def _refuse_crowd(waiting: _Waiting, packet: SSHPacket) -> None:
    size_bytes = len(packet.get_remaining_payload())
    size_bytes += sum(len(request.get_remaining_payload()) for _, request, _ in waiting)
    if len(waiting) >= WAITING_MAX or (waiting and size_bytes > WAITING_MAX_BYTES):
        raise asyncssh.DisconnectError(DISC_PROTOCOL_ERROR, "Too many requests at once")
