"""Channels that we open to the client: to its agent, to its X server. What a program inside connects to is joined with
one, or closed at once when the client refuses, goes, or does not answer."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any

import asyncssh
from asyncssh.constants import OPEN_RESOURCE_SHORTAGE

from gateway.errors import GatewayError
from gateway.events import Event
from gateway.forwarding.record import ForwardKind
from gateway.log import log_event
from gateway.ssh.stream import ForwardChannel
from gateway.ssh.window import ForwardWire

if TYPE_CHECKING:
    from gateway.ssh.connection import Connection

# A client opens one within a round trip; one that was stopped or lost its network answers nothing, and a program that
# waits for it looks broken. The connection itself ends by keepalives, much later.
ANSWER_SECONDS = 5.0
EXPLANATION_MAX_CHARACTERS = 500
INWARD_MAX = 200  # of one connection, open and unanswered

_CHANNEL_TYPES = {ForwardKind.AGENT: b"auth-agent@openssh.com", ForwardKind.X11: b"x11"}  # RFC 4254 §6.3.2


class InwardWire(ForwardWire):
    """It counts until it is gone, answered or not, or a client that answers nothing could gather them."""

    _is_late = False

    def __init__(self, connection: Connection) -> None:
        connection._update_recv_pktlen(connection._max_pktsize)
        window = connection.forward_window_bytes
        super().__init__(connection, connection._loop, None, "strict", window, connection._max_pktsize)
        connection.inward_count += 1

    def give_up(self) -> None:
        """Nobody waits for the answer: once it comes, the channel is closed again."""
        if self._send_state == "open":  # it came just now
            self.close_unwanted()
        elif self._conn is not None:
            self._is_late = True
            self._conn.late_count += 1

    def process_open_confirmation(self, *answer: Any) -> None:
        self._note_answer()
        super().process_open_confirmation(*answer)

    def _cleanup(self, exc: Exception | None = None) -> None:
        self._note_answer()
        if self._conn is not None:
            self._conn.inward_count -= 1
        super()._cleanup(exc)

    def _note_answer(self) -> None:
        if self._is_late and self._conn is not None:
            self._is_late = False
            self._conn.late_count -= 1


async def carry(connection: Connection, program: socket.socket, kind: ForwardKind, *fields: bytes) -> None:
    """Join a program with a new channel until either ends. Owns the socket. Fails only by being cancelled.

    `fields`: what the channel's open request has besides the common ones.
    """
    ended = asyncio.Event()

    def note_end(bytes_in: int, bytes_out: int) -> None:
        ended.set()
        _log(connection, Event.FORWARD_ENDED, kind, bytes_in=bytes_in, bytes_out=bytes_out)

    forward = ForwardChannel(connection, note_end)
    await forward.connect(program)
    try:
        await _open(connection, forward, _CHANNEL_TYPES[kind], *fields)
    except (asyncssh.Error, OSError) as error:  # no answer in time is an OSError
        reason = "client_silent" if isinstance(error, TimeoutError) else "client_refused"
        _log(connection, Event.FORWARD_REFUSED, kind, reason=reason)
        forward.abandon()
        return
    except BaseException:
        forward.abandon()
        raise
    _log(connection, Event.FORWARD_OPENED, kind)
    await ended.wait()


async def _open(connection: Connection, forward: ForwardChannel, channel_type: bytes, *fields: bytes) -> None:
    if connection.inward_count >= INWARD_MAX:
        raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many channels to this client")
    wire = InwardWire(connection)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await wire._open_forward(lambda: forward, channel_type, *fields)
    except asyncssh.ChannelOpenError:
        raise  # it was answered
    except BaseException:
        wire.give_up()
        raise


def explain(connection: Connection, reason: Exception | str) -> None:
    """Why something was refused whose answer has no room for it; `ssh -v` shows this."""
    match reason:
        case GatewayError():
            words = reason.user_message
        case OSError():
            words = reason.strerror or "not possible"
        case str():
            words = reason
        case _:
            words = "internal error"
    if not connection.is_closed():
        connection.send_debug(f"homeport: {words}"[:EXPLANATION_MAX_CHARACTERS])


def _log(connection: Connection, event: Event, kind: ForwardKind, **keys: object) -> None:
    """At debug, and not in the journal: git alone makes several in a second."""
    log_event(event, level=logging.DEBUG, connection_id=connection.connection_id, kind=kind.value, **keys)
