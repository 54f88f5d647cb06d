"""A TCP relay that can fall silent: as a network that carries nothing any more, and tells nobody."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Self

_READ_BYTES = 64 * 1024


class Relay:
    """Carries connections from `port` on loopback to another one, until `cut`; `mend` delivers what was held up."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._peers: dict[socket.socket, socket.socket] = {}
        self._is_cut = False
        self._is_over = False
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._carry, name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over = True
        self._wake.send(b"x")
        self._thread.join(10)
        for sock in (self._wake, self._woken, self._listener, *self._peers):
            sock.close()

    def cut(self) -> None:
        """From now on nothing passes, in either direction, and no connection is closed."""
        self._is_cut = True
        self._wake.send(b"x")

    def mend(self) -> None:
        self._is_cut = False
        self._wake.send(b"x")

    def _carry(self) -> None:
        while not self._is_over:
            watched = [self._woken] if self._is_cut else [self._woken, self._listener, *self._peers]
            for sock in select.select(watched, [], [])[0]:
                if sock is self._woken:
                    sock.recv(1)
                    break  # what holds now is asked again
                if sock is self._listener:
                    client = sock.accept()[0]
                    server = socket.create_connection(("127.0.0.1", self._to_port), 10)
                    server.settimeout(None)
                    self._peers[client], self._peers[server] = server, client
                elif sock in self._peers:
                    self._pass_on(sock)

    def _pass_on(self, sock: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = sock.recv(_READ_BYTES)
            self._peers[sock].sendall(data)
        if not data:
            peer = self._peers.pop(sock)
            del self._peers[peer]
            sock.close()
            peer.close()
