"""The gateway's end of the socket to one keeper: whole messages and their descriptors, never waiting.

Knows nothing of verbs. What arrives is bounded here; whoever takes a message owns the descriptors that came with it.
"""

from __future__ import annotations

import array
import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable

from gateway.errors import KeeperGone
from gateway.keeper import protocol
from gateway.launchers.descriptors import close_all

MESSAGES_MAX_AT_ONCE = 64  # then other connections of the loop have their turn
QUEUE_MAX_MESSAGES = 1000  # requests waiting for a keeper that does not read
_RIGHTS_BYTES = socket.CMSG_SPACE(protocol.DESCRIPTORS_MAX * array.array("i").itemsize)


class MessageTooLong(Exception):
    """Larger than a message may be, or than the kernel takes (net.core.wmem_max)."""


class Wire:
    """Owns the socket. `on_message` gets each message, with None where this process had no room for its descriptors;
    `on_end` is called once, with a reason ("" for a plain end)."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        on_message: Callable[[protocol.Message, list[int] | None], None],
        on_end: Callable[[str], None],
    ) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, protocol.SEND_BUFFER_BYTES)
        self._connection = connection
        self._on_message = on_message
        self._on_end = on_end
        self._buffer = bytearray(protocol.MESSAGE_MAX_BYTES + 1)
        self._queue: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._readable)
        self.is_closed = False

    def send(self, message: protocol.Message) -> None:
        """Send or queue. Raises MessageTooLong, KeeperGone."""
        if self.is_closed:
            raise KeeperGone("the workspace's keeper has ended")
        data = protocol.encode(message)
        if len(data) > protocol.MESSAGE_MAX_BYTES:
            raise MessageTooLong
        if not self._queue and self._send_now(data):
            return
        if len(self._queue) >= QUEUE_MAX_MESSAGES:
            raise KeeperGone("the workspace's keeper does not read", detail=f"{QUEUE_MAX_MESSAGES} requests wait")
        self._queue.append(data)
        self._loop.add_writer(self._connection, self._writable)

    def close(self) -> None:
        """Leave the loop first, then close: a number that is watched while it belongs to something else hangs that."""
        if not self.is_closed:
            self.is_closed = True
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)
            self._connection.close()
            self._queue.clear()

    def _end(self, reason: str) -> None:
        if not self.is_closed:
            self.close()
            self._on_end(reason)

    def _send_now(self, data: bytes) -> bool:
        try:
            self._connection.send(data)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise MessageTooLong from None
            # The keeper is gone. What it said before that is still to be read, so the end is left to the reader.
            raise KeeperGone("the workspace's keeper has ended", detail=str(error)) from None
        return True

    def _writable(self) -> None:
        try:
            while self._queue and self._send_now(self._queue[0]):
                self._queue.popleft()
        except (KeeperGone, MessageTooLong):
            self._queue.popleft()  # its answer will not come; the caller has a deadline, and the end is near
        if not self._queue:
            self._loop.remove_writer(self._connection)

    def _readable(self) -> None:
        for _ in range(MESSAGES_MAX_AT_ONCE):
            if self.is_closed or not self._read_one():
                return

    def _read_one(self) -> bool:
        try:
            size, ancillary, flags, _ = self._connection.recvmsg_into(
                [self._buffer], _RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            self._end("")
            return False
        fds = _descriptors(ancillary)
        if size == 0 and not fds:
            self._end("")
            return False
        # Fewer descriptors arrived than were sent, though there was room for them here: the kernel could not make them
        # ours (RLIMIT_NOFILE). That is no lie of the keeper's, and its other programs shall not end of it.
        cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        is_starved = cut == socket.MSG_CTRUNC and len(fds) < protocol.DESCRIPTORS_MAX
        # A message cut short may still have installed the descriptors that fitted.
        if (cut and not is_starved) or len(fds) > protocol.DESCRIPTORS_MAX:
            close_all(fds)
            self._end("a message larger than may be")
            return False
        try:
            message = protocol.decode(bytes(memoryview(self._buffer)[:size]))
        except protocol.MessageMalformed as error:
            close_all(fds)
            self._end(f"a malformed message: {error}")
            return False
        if is_starved:
            close_all(fds)
        self._on_message(message, None if is_starved else fds)
        return True


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
