"""X11 forwarding of one connection (RFC 4254 §6.3): each session that asks has a display of its own.

The display itself is made by gateway/forwarding/displays.py.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from asyncssh.packet import String, UInt32

from gateway.forwarding.displays import Display, DisplayRequest
from gateway.forwarding.record import ForwardKind
from gateway.ssh.facts import facts_of
from gateway.ssh.inward import carry, explain

if TYPE_CHECKING:
    from gateway.ssh.connection import Connection

DISPLAYS_MAX = 20  # of one connection; each listens on two sockets


class X11Forwarding:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._display_count = 0
        self._under_way: set[asyncio.Task[Any]] = set()

    async def open(self, request: DisplayRequest) -> Display | None:
        """The display, which the caller gives back to `close`; None: not allowed, or not possible. In bounded time."""
        connection = self._connection
        if not connection.server.settings.x11_forwarding:
            explain(connection, "this gateway forwards no X11 displays (ssh.x11_forwarding)")
            return None
        if self._display_count >= DISPLAYS_MAX:
            explain(connection, f"this connection has {DISPLAYS_MAX} displays already")
            return None
        opening = asyncio.current_task()
        assert opening is not None
        self._under_way.add(opening)
        self._display_count += 1
        display = None
        try:
            display = await connection.server.gatehouse.open_display(facts_of(connection), request, self._carry)
        except Exception as error:  # on record where it was decided
            explain(connection, error)
        finally:
            self._under_way.discard(opening)
            if display is None:
                self._display_count -= 1
        return display

    def close(self, display: Display) -> None:
        """Its session is gone. What is connected stays connected (RFC 4254 §6.3.2)."""
        self._display_count -= 1
        display.close()

    def end(self) -> None:
        """The connection is gone: nobody waits for what is being opened. Twice is harmless."""
        for task in self._under_way:
            task.cancel()

    async def _carry(self, program: socket.socket, host: str, port: int) -> None:
        await carry(self._connection, program, ForwardKind.X11, String(host), UInt32(port))
