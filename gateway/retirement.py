"""What a gateway does that was replaced: it serves on what it has, and ends when that has ended.

Its connections notice nothing: commands, transfers, forwards, editors, further sessions on a connection that is open
already. A terminal goes to the new gateway as soon as nobody looks at it here. Nothing new can come in, so what is left
becomes less, and after `drain_seconds` it is ended in order, as by SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from typing import Protocol

from gateway.errors import GatewayError
from gateway.events import Event
from gateway.interfaces import AccessKey, Principal
from gateway.log import log_failure, log_warning
from gateway.sessions.handover import Handover
from gateway.sessions.sessions import Sessions

# A removed key is to close its connections within two seconds.
LOOK_SECONDS = 1.0


class Connections(Protocol):
    """The SSH server, as far as this module asks (ssh/server.py)."""

    @property
    def connection_count(self) -> int: ...
    @property
    def principals(self) -> Collection[Principal]:
        """Who is logged in."""
        ...

    def disconnect_key(self, fingerprint: str) -> int: ...


class SharedStore(Protocol):
    async def changed_elsewhere(self) -> bool: ...

    async def list_keys(self) -> list[AccessKey]: ...


class Retirement:
    """`run` returns when nothing is left to serve, or the time is over."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        handover: Handover,
        connections: Connections,
        store: SharedStore,
        commands_running: Callable[[], int],
        look: Callable[[], None],
        drain_seconds: float,
    ) -> None:
        """`look` is called at each turn, for what others may have done meanwhile."""
        self._sessions = sessions
        self._handover = handover
        self._connections = connections
        self._store = store
        self._commands_running = commands_running
        self._look = look
        self._drain_seconds = drain_seconds
        self._knows_keys = False

    async def run(self) -> None:
        deadline = time.monotonic() + self._drain_seconds
        while self._has_work():
            self._sessions.changed.clear()
            await self._handover.release_detached()
            if time.monotonic() > deadline:
                log_warning(Event.GATEWAY_WARNED, reason="replaced, and still in use after reload_drain_seconds")
                return
            await self._close_changed_keys()
            self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._sessions.changed.wait()

    def _has_work(self) -> bool:
        # Without a connection: terminals are on their way to their keepers or being hung up. A program whose pipes
        # are closed is given up at the end, as at every stop.
        has_terminals = any(live.terminal is not None for live in self._sessions.live())
        return bool(self._connections.connection_count or self._commands_running() or has_terminals)

    async def _close_changed_keys(self) -> None:
        """Another process removed a key, or a workspace in its scope has another name, and cannot reach the connections
        it has here: their scope is as it was at the login, and the old name may be another workspace's by now."""
        try:
            if await self._store.changed_elsewhere() or not self._knows_keys:
                self._knows_keys = False  # until all of this is done
                known = {(key.id, key.workspaces) for key in await self._store.list_keys()}
                logged_in = self._connections.principals
                for fingerprint in {who.fingerprint for who in logged_in if (who.key_id, who.workspaces) not in known}:
                    self._connections.disconnect_key(fingerprint)
                self._knows_keys = True
        except GatewayError:
            log_failure(Event.STORE_FAILED, reason="keys")
