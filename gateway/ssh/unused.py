"""Ends connections that carry nothing, as sshd's UnusedConnectionTimeout (sshd_config(5)): no channel, no listener."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncssh

if TYPE_CHECKING:
    from gateway.ssh.connection import Connection


class UnusedTimer:
    """Of one connection. `limit_seconds` 0: it never fires."""

    def __init__(self, connection: Connection, limit_seconds: float) -> None:
        self._connection = connection
        self._limit_seconds = limit_seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The connection carries nothing, as far as its channels are concerned."""
        self.stop()
        if self._limit_seconds:
            self._timer = asyncio.get_running_loop().call_later(self._limit_seconds, self._fire)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        if self._connection.is_used:
            self.start()
        else:
            self._connection.disconnect(asyncssh.DISC_BY_APPLICATION, "this connection was not used for too long")
