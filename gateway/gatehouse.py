"""Between the SSH server and the rest: finds keys, hands sessions and forwards on, journals logins and forwards.

Journal rows are written beside the login, not before it: a slow disk must not make strangers' and friends' logins
tell apart, and a login is in the log at once anyway. The number waiting is bounded by the store's own queue.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Protocol

from gateway import access
from gateway.errors import LoginRefused
from gateway.events import Event
from gateway.forwarding.agents import AgentForwarder, Agents
from gateway.forwarding.displays import Carry, Display, DisplayRequest, Displays
from gateway.forwarding.forwards import Forwards, Listening, Target
from gateway.forwarding.record import ClientFacts, ForwardKind, ForwardRecord, Journal
from gateway.interfaces import AccessKey, Principal, SessionRequest, Workspace
from gateway.journal import JournalAction
from gateway.log import log_failure
from gateway.login_name import is_lobby
from gateway.sessions.session import Channel
from gateway.sessions.sessions import Sessions, Spawn


class LoginFacts(ClientFacts, Protocol):
    """What the SSH server knows of a connection (ssh/facts.py)."""

    @property
    def offered(self) -> tuple[str, ...]: ...
    @property
    def offer_count(self) -> int: ...
    @property
    def refusal_reason(self) -> str | None: ...
    @property
    def duration_ms(self) -> float: ...


class LoginStore(Journal, Protocol):
    async def find_key(self, fingerprint: str) -> AccessKey | None: ...

    def note_key_used(self, key_id: str) -> None: ...

    async def record(
        self,
        action: JournalAction,
        *,
        success: bool,
        client_ip: str | None = None,
        user_agent: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None: ...


class Lobby(Protocol):
    """The gateway's own commands (lobby/door.py)."""

    async def serve(self, request: SessionRequest, channel: Channel) -> None:
        """Own one channel to its end. Never fails."""
        ...


class OpenListener:
    """A listener of a connection, and its record."""

    def __init__(self, listening: Listening, record: ForwardRecord) -> None:
        self._listening = listening
        self._record = record

    @property
    def sockets(self) -> list[socket.socket]:
        return self._listening.sockets

    @property
    def port(self) -> int:
        return self._listening.port

    async def until_workspace_gone(self) -> None:
        await self._listening.until_workspace_gone()

    def closed(self) -> None:
        self._listening.stopped()
        self._record.ended()


class Gatehouse:
    """Implements what ssh/server.py asks for."""

    def __init__(
        self,
        *,
        store: LoginStore,
        sessions: Sessions,
        lobby: Lobby,
        forwards: Forwards,
        agents: Agents,
        displays: Displays,
        spawn: Spawn,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._lobby = lobby
        self._forwards = forwards
        self._agents = agents
        self._displays = displays
        self._spawn = spawn

    async def find_key(self, fingerprint: str) -> AccessKey | None:
        return await self._store.find_key(fingerprint)

    def logged_in(self, facts: LoginFacts) -> None:
        assert facts.principal is not None
        self._store.note_key_used(facts.principal.key_id)
        self._journal(JournalAction.LOGIN, facts, success=True, details=_who(facts.principal))

    def logged_out(self, facts: LoginFacts) -> None:
        assert facts.principal is not None
        details = {**_who(facts.principal), "duration_ms": facts.duration_ms}
        self._journal(JournalAction.LOGOUT, facts, success=True, details=details)

    def login_refused(self, facts: LoginFacts) -> None:
        details = {
            "reason": facts.refusal_reason,
            "fingerprints": list(facts.offered),
            "offered_count": facts.offer_count,
        }
        self._journal(JournalAction.LOGIN, facts, success=False, details=details)

    async def serve_session(self, request: SessionRequest, channel: Channel) -> None:
        if is_lobby(request.login_name):
            await self._lobby.serve(request, channel)
        else:
            await self._sessions.serve(request, channel)

    # ------------------------------------------------------------------------------------------------ forwards

    async def dial(self, facts: LoginFacts, target: Target) -> tuple[socket.socket, ForwardRecord]:
        """A connected socket into the workspace. Raises LoginRefused, GatewayError or OSError."""
        with ForwardRecord(self._store, facts, ForwardKind.direct(target), target) as record:
            principal, workspace = await self._forwarder(facts, record)
            workspace = await self._sessions.with_tree(workspace)  # a keeper needs a tree
            sock = await self._forwards.dial(principal, workspace, target)
            record.opened()
            return sock, record

    async def listen(self, facts: LoginFacts, target: Target) -> OpenListener:
        """Listening sockets in the workspace. Raises as `dial` does."""
        with ForwardRecord(self._store, facts, ForwardKind.listener(target), target) as record:
            principal, workspace = await self._forwarder(facts, record)
            workspace = await self._sessions.with_tree(workspace)
            listening = await self._forwards.listen(principal, workspace, target)
            record.found(listening.port)
            record.opened()
            return OpenListener(listening, record)

    async def accept(self, facts: LoginFacts, target: Target) -> ForwardRecord:
        """Somebody connected to the listener at `target`: asked again, since the policy may have changed meanwhile."""
        with ForwardRecord(self._store, facts, ForwardKind.forwarded(target), target) as record:
            await self._may_forward(facts, record)
            return record

    async def forward_agent(self, facts: LoginFacts, forwarder: AgentForwarder) -> Callable[[], None]:
        """Have the client's agent answer in the workspace, until the returned function is called. Raises as `dial`."""
        with ForwardRecord(self._store, facts, ForwardKind.AGENT, None) as record:
            workspace = await self._may_forward(facts, record)
            self._agents.enter(workspace.id, forwarder, lambda: self._may_forward(facts, record))
            record.opened()

        def end() -> None:
            self._agents.leave(workspace.id, forwarder)
            record.ended()

        return end

    async def open_display(self, facts: LoginFacts, request: DisplayRequest, carry: Carry) -> Display:
        """A display of the client's X server in the workspace. Raises as `dial` does."""
        with ForwardRecord(self._store, facts, ForwardKind.X11, None) as record:
            workspace = await self._may_forward(facts, record)
            workspace = await self._sessions.with_tree(workspace)
            display = await self._displays.open(workspace, request, carry)
            display.on_closed = record.ended
            record.opened()
            return display

    async def _may_forward(self, facts: LoginFacts, record: ForwardRecord) -> Workspace:
        principal, workspace = await self._forwarder(facts, record)
        decision = access.may_forward(principal, workspace)
        if not decision.is_allowed:
            raise LoginRefused(f"forwarding refused: {decision.reason}")
        return workspace

    async def _forwarder(self, facts: LoginFacts, record: ForwardRecord) -> tuple[Principal, Workspace]:
        assert facts.principal is not None
        if is_lobby(facts.login_name):
            raise LoginRefused("the lobby forwards nothing; connect to a workspace: ssh WORKSPACE@host")
        workspace = await self._sessions.workspace_for(facts.principal, facts.login_name)
        record.workspace = workspace.name
        return facts.principal, workspace

    # ------------------------------------------------------------------------------------------------- journal

    def _journal(
        self, action: JournalAction, facts: LoginFacts, *, success: bool, details: Mapping[str, object]
    ) -> None:
        common = {"method": "publickey", "connection_id": facts.connection_id, "login_name": facts.login_name}
        self._spawn(
            self._write(action, success, facts.client_ip, facts.client_version, {**common, **details}),
            f"journal:{facts.connection_id}",
        )

    async def _write(
        self, action: JournalAction, success: bool, client_ip: str, client_version: str, details: Mapping[str, object]
    ) -> None:
        try:
            await self._store.record(
                action, success=success, client_ip=client_ip, user_agent=client_version, details=details
            )
        except Exception:
            log_failure(Event.STORE_FAILED, reason="journal")


def _who(principal: Principal) -> dict[str, object]:
    return {"principal": principal.name, "fingerprint": principal.fingerprint}
