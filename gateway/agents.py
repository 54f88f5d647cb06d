"""Forwarded agents: which client's agent answers in a workspace.

A workspace has one path for it, whoever forwards, so that a program that took the path from one connection (a terminal
of VS Code from its server, a shell that stayed) is served by the next one. The newest connection that forwards answers;
when it goes, the newest of the others; with none left the path is removed, and connecting fails at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from gateway.acceptor import Acceptor

# Served at once in one workspace; each also counts as a forward of its connection, which must keep some for the others.
STREAMS_MAX = 100

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]


class AgentForwarder(Protocol):
    """A connection whose client forwards its agent (ssh/agent.py)."""

    async def carry(self, program: socket.socket) -> None:
        """Join a program with the client's agent until either ends. Owns the socket; never waits for ever for an
        answer, and never fails."""
        ...


class AgentPath(Protocol):
    """The path in one workspace (launchers/agent_socket.py)."""

    @property
    def is_published(self) -> bool: ...

    def publish(self) -> socket.socket:
        """Listen there, whatever lies there. The caller owns the socket. Raises OSError."""
        ...

    def withdraw(self) -> None:
        """Remove what is ours there."""
        ...


class Agents:
    """All workspaces'. `path_for` finds a workspace's path by its id; `spawn` makes tasks that the app waits for."""

    def __init__(self, *, path_for: Callable[[str], AgentPath], spawn: Spawn) -> None:
        self._path_for = path_for
        self._spawn = spawn
        self._workspaces: dict[str, _Workspace] = {}

    def enter(self, workspace_id: str, forwarder: AgentForwarder) -> None:
        """From now on this one answers, until it leaves or a newer one enters. Raises OSError."""
        workspace = self._workspaces.get(workspace_id)
        if workspace is None:
            workspace = _Workspace(workspace_id, self._path_for(workspace_id), self._spawn)
        workspace.listen()
        workspace.forwarders.append(forwarder)
        self._workspaces[workspace_id] = workspace

    def leave(self, workspace_id: str, forwarder: AgentForwarder) -> None:
        """Its connection is gone. Harmless if it never entered."""
        workspace = self._workspaces.get(workspace_id)
        if workspace is None:
            return
        with contextlib.suppress(ValueError):
            workspace.forwarders.remove(forwarder)
        if not workspace.forwarders:
            del self._workspaces[workspace_id]
            workspace.close()

    def close(self) -> None:
        while self._workspaces:
            self._workspaces.popitem()[1].close()


class _Workspace:
    """The agents of one workspace, oldest first, and the socket that leads to the last of them."""

    def __init__(self, workspace_id: str, path: AgentPath, spawn: Spawn) -> None:
        self.forwarders: list[AgentForwarder] = []
        self._workspace_id = workspace_id
        self._path = path
        self._spawn = spawn
        self._acceptor: Acceptor | None = None
        self._stream_count = 0

    def listen(self) -> None:
        """Have the path lead to us; also when something else lies there by now. Raises OSError."""
        if self._acceptor is not None and self._path.is_published:
            return
        listener = self._path.publish()
        if self._acceptor is not None:
            self._acceptor.close()
        self._acceptor = Acceptor(listener, self._take)

    def close(self) -> None:
        self._path.withdraw()
        if self._acceptor is not None:
            self._acceptor.close()

    def _take(self, program: socket.socket, _address: object) -> None:
        if self._stream_count >= STREAMS_MAX:
            program.close()  # at once: ssh(1) then goes on without an agent, where waiting would hang it
            return
        self._stream_count += 1
        task = self._spawn(self.forwarders[-1].carry(program), f"agent:{self._workspace_id}")
        task.add_done_callback(self._ended)

    def _ended(self, _task: asyncio.Task[None]) -> None:
        self._stream_count -= 1
