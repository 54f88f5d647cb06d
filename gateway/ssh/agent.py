"""Agent forwarding of one connection (auth-agent-req@openssh.com): asked for by any of its sessions, done for all.

Which connection answers in a workspace, and at which path, is decided in gateway/forwarding/agents.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.forwarding.local_clients import Ends
from gateway.forwarding.record import ForwardKind
from gateway.ssh.facts import facts_of
from gateway.ssh.inward import carry, explain

if TYPE_CHECKING:
    from gateway.ssh.connection import Connection


class AgentForwarding:
    """Implements gateway.forwarding.agents.AgentForwarder."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._beginning = asyncio.Lock()  # sessions may ask at once
        self._leave: Callable[[], None] | None = None

    @property
    def is_on(self) -> bool:
        return self._leave is not None

    @property
    def is_silent(self) -> bool:
        return self._connection.late_count > 0

    @property
    def ends(self) -> Ends:
        return Ends(self._connection.client_address, self._connection.server_address)

    async def begin(self) -> bool:
        """Have the client's agent answer in the workspace. False: not allowed, or not possible."""
        connection = self._connection
        if not connection.server.settings.agent_forwarding:
            explain(connection, "this gateway forwards no agents (ssh.agent_forwarding)")
            return False
        async with self._beginning:
            if self._leave is None:
                try:
                    self._leave = await connection.server.gatehouse.forward_agent(facts_of(connection), self)
                except Exception as error:  # on record where it was decided
                    explain(connection, error)
                    return False
            if connection.is_closed():
                self.end()
        return self.is_on

    def end(self) -> None:
        """The connection is gone. Twice is harmless."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    async def carry(self, program: socket.socket) -> None:
        await carry(self._connection, program, ForwardKind.AGENT)
