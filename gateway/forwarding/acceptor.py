"""Accepts from a listening socket, by callback: closing takes effect at once, also in the middle of a batch of events.

A task around `loop.sock_accept` could be cancelled with a connection already in its hands.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

ACCEPTED_MAX_AT_ONCE = 16  # then the other connections of the loop have their turn
RETRY_SECONDS = 0.5  # out of descriptors or memory: the connections wait in the kernel's queue meanwhile

OnAccepted = Callable[[socket.socket, Any], None]  # the connection, non-blocking, and its peer's address; owns it


class Acceptor:
    """Owns the listening socket. Accepts from the start, unless paused."""

    def __init__(self, listener: socket.socket, on_accepted: OnAccepted) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._on_accepted = on_accepted
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._is_watching = False
        self._is_closed = False
        self.resume()

    def pause(self) -> None:
        """Leave what comes in the kernel's queue."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._is_watching:
            self._is_watching = False
            self._loop.remove_reader(self._listener)

    def resume(self) -> None:
        if not self._is_closed and not self._is_watching and self._retry is None:
            self._is_watching = True
            self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Leave the loop first: a number that is watched while it belongs to something else would hang that."""
        self.pause()
        self._is_closed = True
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_MAX_AT_ONCE):
            if not self._is_watching:
                return  # paused or closed by what was just accepted
            try:
                connection, peer = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                self.pause()
                self._retry = self._loop.call_later(RETRY_SECONDS, self._try_again)
                return
            connection.setblocking(False)
            self._on_accepted(connection, peer)

    def _try_again(self) -> None:
        self._retry = None
        self.resume()
