"""Forwarded agents: which client's agent answers in a workspace.

A workspace has one path for it, whoever forwards, so that a program that took the path from one connection (a terminal
of VS Code from its server, a shell that stayed) is served by the next one. The newest connection that forwards answers;
when it goes, or its client answers nothing, the newest of the others; with none left the path is removed, and
connecting fails at once.

One rule more, against going round in circles: `ssh -A` from a workspace back into it makes a program of the workspace
the newest forwarder, and that program's own agent is the same path. So the client of a connection is served by what
was forwarded before that connection was.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.errors import GatewayError
from gateway.forwarding.acceptor import Acceptor
from gateway.forwarding.local_clients import Ends, held_by

# Served at once in one workspace: a program that opens thousands must leave the client's channels to others.
STREAMS_MAX = 100

_LOOKERS = ThreadPoolExecutor(1, thread_name_prefix="agent-clients")
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
Ask = Callable[[], Awaitable[object]]


class AgentForwarder(Protocol):
    """A connection whose client forwards its agent (ssh/agent.py)."""

    @property
    def is_silent(self) -> bool:
        """Whether its client owes an answer for longer than it should."""
        ...

    @property
    def ends(self) -> Ends: ...

    async def carry(self, program: socket.socket) -> None:
        """Join a program with the client's agent until either ends. Owns the socket; never waits for ever for an
        answer, and never fails."""
        ...


class AgentPath(Protocol):
    """The path in one workspace (launchers/published_socket.py)."""

    @property
    def is_published(self) -> bool: ...

    @property
    def is_free(self) -> bool:
        """Whether nobody listens there, neither we nor another gateway."""
        ...

    def publish(self) -> socket.socket:
        """Listen there, whatever lies there. The caller owns the socket. Raises OSError."""
        ...

    def withdraw(self) -> None:
        """Remove what is ours there."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    serial: int  # in the order of their entering, of all workspaces
    forwarder: AgentForwarder
    ask: Ask


class Agents:
    """All workspaces'. `path_for` finds a workspace's path by its id; `spawn` makes tasks that the app waits for."""

    def __init__(self, *, path_for: Callable[[str], AgentPath], spawn: Spawn) -> None:
        self._path_for = path_for
        self._spawn = spawn
        self._serials = itertools.count()
        self._workspaces: dict[str, _Workspace] = {}

    def enter(self, workspace_id: str, forwarder: AgentForwarder, ask: Ask) -> None:
        """From now on this one answers, until it leaves or a newer one enters. Raises OSError.

        `ask` is awaited before each use, and raises GatewayError if it may not be used any more.
        """
        workspace = self._workspaces.get(workspace_id)
        if workspace is None:
            workspace = _Workspace(workspace_id, self._path_for(workspace_id), self._spawn, self._serial_as_client)
        workspace.listen()
        workspace.entries.append(_Entry(next(self._serials), forwarder, ask))
        self._workspaces[workspace_id] = workspace

    def leave(self, workspace_id: str, forwarder: AgentForwarder) -> None:
        """Its connection is gone. Harmless if it never entered."""
        workspace = self._workspaces.get(workspace_id)
        if workspace is None:
            return
        workspace.entries = [entry for entry in workspace.entries if entry.forwarder is not forwarder]
        if not workspace.entries:
            del self._workspaces[workspace_id]
            workspace.close()

    def reclaim(self) -> None:
        """Another gateway may have had a path, and withdrawn from it when its last client left: ours answer again."""
        for workspace in self._workspaces.values():
            with contextlib.suppress(OSError):  # at the next look, perhaps
                workspace.listen_if_free()

    def close(self) -> None:
        while self._workspaces:
            self._workspaces.popitem()[1].close()

    async def _serial_as_client(self, program: socket.socket) -> float:
        """When the program became a forwarder's client: only what entered before may serve it. Endless if it is none,
        as nearly always."""
        serials = {
            entry.forwarder.ends: entry.serial
            for workspace in self._workspaces.values()
            for entry in workspace.entries
            if entry.forwarder.ends.is_local
        }
        if not serials:
            return float("inf")
        pid = _PEER.unpack(program.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0]
        held = await asyncio.get_running_loop().run_in_executor(_LOOKERS, held_by, pid, serials)
        return min((serials[ends] for ends in held), default=float("inf"))


class _Workspace:
    """The agents of one workspace, oldest first, and the socket that leads to them."""

    def __init__(
        self,
        workspace_id: str,
        path: AgentPath,
        spawn: Spawn,
        serial_as_client: Callable[[socket.socket], Awaitable[float]],
    ) -> None:
        self.entries: list[_Entry] = []
        self._workspace_id = workspace_id
        self._path = path
        self._spawn = spawn
        self._serial_as_client = serial_as_client
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

    def listen_if_free(self) -> None:
        if self._path.is_free:
            self.listen()

    def close(self) -> None:
        self._path.withdraw()
        if self._acceptor is not None:
            self._acceptor.close()

    def _take(self, program: socket.socket, _address: object) -> None:
        if self._stream_count >= STREAMS_MAX:
            program.close()  # at once: ssh(1) then goes on without an agent, where waiting would hang it
            return
        self._stream_count += 1
        task = self._spawn(self._serve(program), f"agent:{self._workspace_id}")
        task.add_done_callback(self._ended)

    def _ended(self, _task: asyncio.Task[None]) -> None:
        self._stream_count -= 1

    async def _serve(self, program: socket.socket) -> None:
        try:
            serial_end = await self._serial_as_client(program)
            forwarder = await self._permitted(serial_end)
        except BaseException:
            program.close()
            raise
        if forwarder is None:
            program.close()
        else:
            await forwarder.carry(program)

    async def _permitted(self, serial_end: float) -> AgentForwarder | None:
        """The newest that answers, and still may be used."""
        for entry in reversed(self.entries):
            if entry.serial < serial_end and not entry.forwarder.is_silent:
                try:
                    await entry.ask()
                except GatewayError:
                    continue
                return entry.forwarder
        return None
