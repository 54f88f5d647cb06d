"""All forwards of one connection: streams the client opens, listeners it asked for, and the streams these bring it.

Decisions, dialling and the journal are behind `ForwardGate`; here is what belongs to the connection: how many there
may be, what its client hears, and that all of it ends with the connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import asyncssh
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED, OPEN_CONNECT_FAILED, OPEN_RESOURCE_SHORTAGE
from asyncssh.packet import String, UInt32

from gateway.errors import GatewayError, LoginRefused
from gateway.forwarding.acceptor import Acceptor
from gateway.forwarding.forwards import Target, TcpTarget, UnixTarget
from gateway.ssh.facts import ConnectionFacts, facts_of
from gateway.ssh.inward import explain
from gateway.ssh.stream import ForwardChannel

if TYPE_CHECKING:
    from gateway.ssh.connection import Connection

# A client connects to its end first, and its kernel gives up after some two minutes.
ANSWER_SECONDS = 180.0

Peer = tuple[str, int]


class Record(Protocol):
    """What is written down of a forward (gateway/forwarding/record.py)."""

    def opened(self) -> None: ...

    def refused(self, error: BaseException | str) -> None: ...

    def ended(self, bytes_in: int = 0, bytes_out: int = 0) -> None: ...


class Listener(Protocol):
    """Listening sockets inside the workspace; the receiver owns them."""

    @property
    def sockets(self) -> list[socket.socket]: ...

    @property
    def port(self) -> int: ...

    async def until_workspace_gone(self) -> None: ...

    def closed(self) -> None:
        """The sockets are closed: remove their path, and write it down."""
        ...


class ForwardGate(Protocol):
    """What forwards ask of the rest of the gateway. Each raises LoginRefused, GatewayError or OSError; all refusals
    are on record by then."""

    async def dial(self, facts: ConnectionFacts, target: Target) -> tuple[socket.socket, Record]:
        """A connected, non-blocking socket into the workspace."""
        ...

    async def listen(self, facts: ConnectionFacts, target: Target) -> Listener: ...

    async def accept(self, facts: ConnectionFacts, target: Target) -> Record:
        """May what a listener accepted still be forwarded? `target` is the listener's; the record is not opened yet."""
        ...


@dataclass(slots=True)
class _Served:
    """A listener and what accepts from it. `asked` is the target with the port that was found for 0."""

    asked: TcpTarget | UnixTarget
    listener: Listener
    acceptors: list[Acceptor] = field(default_factory=list)
    watch: asyncio.Task[None] | None = None


class ConnectionForwards:
    def __init__(self, connection: Connection, gate: ForwardGate) -> None:
        self._connection = connection
        self._gate = gate
        self.stream_count = 0  # open, and being opened
        self._listeners: dict[Target, _Served] = {}
        self._under_way: set[asyncio.Task[Any]] = set()  # ends with the connection: nobody waits for it any more

    @property
    def is_any_open(self) -> bool:
        """Whether a stream is open or being opened, or something listens."""
        return self.stream_count > 0 or bool(self._listeners)

    def close(self) -> None:
        """The connection is gone. Its open streams hear of that from their channels."""
        for task in self._under_way:
            task.cancel()
        for asked in list(self._listeners):
            self.cancel(asked)

    # ----------------------------------------------------------------------------- streams the client opens

    async def open_direct(self, target: Target) -> ForwardChannel:
        """Dial inside the workspace and join the socket to the new channel (RFC 4254 §5.1 for the refusals)."""
        self._refuse_if_closed()
        if self._is_full:
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many forwards on this connection")
        with self._ending_with_connection():
            self._count_stream(+1)  # from here on: a dial under way counts, or a thousand could be
            try:
                sock, record = await self._dial(target)
            except BaseException:
                self._count_stream(-1)
                raise
            return await self._join(sock, record)

    def _refuse_if_closed(self) -> None:
        if self._connection.is_closed():
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "SSH connection closed")

    async def _dial(self, target: Target) -> tuple[socket.socket, Record]:
        try:
            return await self._gate.dial(facts_of(self._connection), target)
        except LoginRefused as error:
            raise asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, error.user_message) from None
        except (GatewayError, OSError) as error:
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, _words(error)) from None
        except Exception:  # on record with its traceback
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "internal error") from None

    async def _join(self, sock: socket.socket, record: Record) -> ForwardChannel:
        """A channel around the socket. From here on the channel counts itself out, and tells the record."""

        def ended(bytes_in: int, bytes_out: int) -> None:
            self._count_stream(-1)
            record.ended(bytes_in, bytes_out)

        channel = ForwardChannel(self._connection, ended)
        try:
            await channel.connect(sock)
            self._refuse_if_closed()
        except BaseException:
            record.refused("connection_lost")
            channel.abandon()
            raise
        return channel

    # -------------------------------------------------------------------------------------------- listeners

    def listen(self, target: Target) -> None:
        """Answer a request for a listener, now or soon."""
        most = self._connection.server.settings.forward_listeners_per_connection_max
        if len(self._listeners) >= most:
            self._refuse_listener(f"this connection has {most} listeners already")
        elif target in self._listeners:
            self._refuse_listener("this connection listens there already")
        else:
            self._spawn(self._listen(target), "listen")

    async def _listen(self, target: Target) -> None:
        if self._connection.is_closed():
            return
        with self._ending_with_connection():
            try:
                listener = await self._gate.listen(facts_of(self._connection), target)
            except (GatewayError, OSError) as error:
                self._refuse_listener(_words(error))
                return
            except Exception:  # on record with its traceback
                self._refuse_listener("internal error")
                return
            asked = TcpTarget(target.host, listener.port) if isinstance(target, TcpTarget) else target
            self._serve(asked, listener)
            is_any_port = isinstance(target, TcpTarget) and target.port == 0
            self._connection.answer_global_request(UInt32(listener.port) if is_any_port else True)

    def _serve(self, asked: Target, listener: Listener) -> None:
        served = self._listeners[asked] = _Served(asked, listener)
        served.acceptors += [
            Acceptor(sock, lambda accepted, peer: self._accepted(served, accepted, peer)) for sock in listener.sockets
        ]
        if self._is_full:
            self._pause_or_resume()
        served.watch = self._spawn(self._watch(served), "listener")

    def cancel(self, asked: Target) -> bool:
        """Stop listening; what was accepted goes on. False: there is no such listener."""
        served = self._listeners.pop(asked, None)
        if served is None:
            return False
        for acceptor in served.acceptors:
            acceptor.close()
        served.listener.closed()
        if served.watch is not None:
            served.watch.cancel()
        return True

    async def _watch(self, served: _Served) -> None:
        """The sockets are ours: without the workspace they would go on listening for nobody."""
        await served.listener.until_workspace_gone()
        served.watch = None
        self.cancel(served.asked)

    def _refuse_listener(self, words: str) -> None:
        explain(self._connection, words)
        self._connection.answer_global_request(False)

    # ----------------------------------------------------------------------------- streams from a listener

    def _accepted(self, served: _Served, sock: socket.socket, peer: Any) -> None:
        self._count_stream(+1)
        originator: Peer = (peer[0], peer[1]) if isinstance(served.asked, TcpTarget) else ("", 0)
        self._spawn(self._open_forwarded(served.asked, sock, originator), "forwarded")

    async def _open_forwarded(self, asked: Target, sock: socket.socket, originator: Peer) -> None:
        """Offer an accepted connection to the client. Owns the socket."""
        with self._ending_with_connection():
            try:
                record = await self._accept(asked, sock)
                channel = await self._join(sock, record)
                await self._offer(channel, record, asked, originator)
            except (GatewayError, asyncssh.Error, OSError):
                return  # on record

    async def _accept(self, asked: Target, sock: socket.socket) -> Record:
        try:
            return await self._gate.accept(facts_of(self._connection), asked)
        except BaseException:
            self._count_stream(-1)
            sock.close()
            raise

    async def _offer(self, channel: ForwardChannel, record: Record, asked: Target, originator: Peer) -> None:
        """Open the channel to the client, in the words of its request (RFC 4254 §7.2)."""
        if isinstance(asked, TcpTarget):
            host = asked.host.encode(errors="surrogateescape")
            kind, fields = b"forwarded-tcpip", [String(host), UInt32(asked.port)]
            fields += [String(originator[0]), UInt32(originator[1])]
        else:
            kind, fields = b"forwarded-streamlocal@openssh.com", [String(asked.path), String("")]
        wire = self._connection.create_tcp_channel()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await wire._open_forward(lambda: channel, kind, *fields)
            record.opened()
        except TimeoutError:
            self._count_stream(+1)  # its place stays taken: the client may answer yet, and the channel waits for that
            record.refused("client_silent")
            channel.abandon()
        except BaseException:
            record.refused("client_refused")
            channel.abandon()
            raise

    # ----------------------------------------------------------------------------------------------- bounds

    def _count_stream(self, change: int) -> None:
        was_full = self._is_full
        self.stream_count += change
        if self._is_full != was_full:
            self._pause_or_resume()

    @property
    def _is_full(self) -> bool:
        return self.stream_count >= self._connection.server.settings.forwards_per_connection_max

    def _pause_or_resume(self) -> None:
        """At the limit what comes waits with the kernel."""
        for served in self._listeners.values():
            for acceptor in served.acceptors:
                if self._is_full:
                    acceptor.pause()
                else:
                    acceptor.resume()

    @contextmanager
    def _ending_with_connection(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            yield
        finally:
            self._under_way.discard(task)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self._connection.server.spawn(work, f"{name}:{self._connection.connection_id}")


def _words(error: GatewayError | OSError) -> str:
    if isinstance(error, GatewayError):
        return error.user_message
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio's own name the address as a Python tuple
    return error.strerror or "Connection failed"  # of a name that was not found
