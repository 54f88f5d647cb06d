"""One connection to the keeper: whole messages in, replies and events out, never waiting."""

from __future__ import annotations

import os
import socket
import sys
from collections import deque
from collections.abc import Sequence

from . import protocol

# Events that may wait for a client that does not read (its requests are not read meanwhile): every exit there can be.
QUEUE_MAX_MESSAGES = 2 * protocol.EXITS_MAX
_ORDER = sys.byteorder


class ClientGone(Exception):
    """The other side closed, or does not read what it is sent."""


class Client:
    """The keeper's end of one connection. Owns the socket and the descriptors waiting in its queue."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, protocol.SEND_BUFFER_BYTES)
        self.connection = connection
        self.has_greeted = False
        self.is_closed = False
        self.is_watched_for_writing = False
        self.gateway = ""
        self.listening_paths: dict[bytes, tuple[int, int]] = {}  # path → (device, inode) of our own socket there
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()

    @property
    def has_waiting(self) -> bool:
        return bool(self._queue)

    def receive(self, buffer: bytearray) -> bytes | None:
        """One whole message, or None if there is none. Raises ClientGone, MessageMalformed (then more may follow)."""
        try:
            # No room for descriptors: the kernel closes what comes and says so. We never take any.
            size, _, flags, _ = self.connection.recvmsg_into([buffer], 0, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ClientGone(str(error)) from None
        if size == 0:
            raise ClientGone("closed")
        if flags & socket.MSG_TRUNC or size > protocol.MESSAGE_MAX_BYTES:
            raise protocol.MessageMalformed(f"a message may have {protocol.MESSAGE_MAX_BYTES} bytes")
        if flags & socket.MSG_CTRUNC:
            raise protocol.MessageMalformed("no descriptors are taken")
        return bytes(memoryview(buffer)[:size])

    def send(self, message: protocol.Message, fds: Sequence[int] = ()) -> None:
        """Send or queue one message. `fds` are duplicated if they have to wait, so the caller may close its own.

        Raises ClientGone when too much waits already, and OSError when this very message cannot be sent.
        """
        data = protocol.encode(message)
        if not self._queue and self._send_now(data, fds):
            return
        if len(self._queue) >= QUEUE_MAX_MESSAGES:
            raise ClientGone("does not read")
        self._queue.append((data, tuple(os.dup(fd) for fd in fds)))

    def flush(self) -> None:
        """Send what waits, as far as it goes. Raises ClientGone."""
        while self._queue:
            data, fds = self._queue[0]
            try:
                if not self._send_now(data, fds):
                    return
            except OSError as error:
                raise ClientGone(str(error)) from None
            self._queue.popleft()
            _close_all(fds)

    def unlisten(self, path: bytes) -> bool:
        """Remove the path of a listener; False if there is none."""
        identity = self.listening_paths.pop(path, None)
        if identity is not None:
            unlink_own(path, identity)
        return identity is not None

    def close(self) -> None:
        self.is_closed = True
        self.connection.close()
        while self._queue:
            _close_all(self._queue.popleft()[1])
        for path in list(self.listening_paths):
            self.unlisten(path)

    def _send_now(self, data: bytes, fds: Sequence[int]) -> bool:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(fd.to_bytes(4, _ORDER) for fd in fds))] if fds else []
        try:
            self.connection.sendmsg([data], rights)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionError) as error:
            raise ClientGone(str(error)) from None
        return True


def unlink_own(path: bytes, identity: tuple[int, int]) -> None:
    """Remove a socket we made, unless something else lies there by now."""
    try:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == identity:
            os.unlink(path)  # noqa: PTH108
    except OSError:
        return  # gone already


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
