"""What is written down of one forward: events in the log, which the metrics count, and rows in the journal.

A stream has one row, when it ends or is refused, with its target and bytes. A listener has one when it opens and one
when it closes. Targets are in the journal alone: the log is read by more people.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol

from gateway.errors import GatewayError, LoginRefused
from gateway.events import Event
from gateway.forwarding.forwards import Target, TcpTarget
from gateway.interfaces import Principal
from gateway.journal import JournalAction
from gateway.log import log_event, log_failure


class ForwardKind(StrEnum):
    """The protocol's own words (RFC 4254 §7, PROTOCOL §2.4 of OpenSSH)."""

    DIRECT_TCPIP = "direct-tcpip"
    DIRECT_STREAMLOCAL = "direct-streamlocal"
    FORWARDED_TCPIP = "forwarded-tcpip"
    FORWARDED_STREAMLOCAL = "forwarded-streamlocal"
    TCPIP_FORWARD = "tcpip-forward"  # from here on, listeners
    STREAMLOCAL_FORWARD = "streamlocal-forward"
    AGENT = "agent"
    X11 = "x11"

    @classmethod
    def direct(cls, target: Target) -> ForwardKind:
        return cls.DIRECT_TCPIP if isinstance(target, TcpTarget) else cls.DIRECT_STREAMLOCAL

    @classmethod
    def forwarded(cls, target: Target) -> ForwardKind:
        return cls.FORWARDED_TCPIP if isinstance(target, TcpTarget) else cls.FORWARDED_STREAMLOCAL

    @classmethod
    def listener(cls, target: Target) -> ForwardKind:
        return cls.TCPIP_FORWARD if isinstance(target, TcpTarget) else cls.STREAMLOCAL_FORWARD


_LISTENERS = (ForwardKind.TCPIP_FORWARD, ForwardKind.STREAMLOCAL_FORWARD, ForwardKind.AGENT, ForwardKind.X11)


class ClientFacts(Protocol):
    """The connection that forwards."""

    @property
    def connection_id(self) -> str: ...
    @property
    def client_ip(self) -> str: ...
    @property
    def client_version(self) -> str: ...
    @property
    def login_name(self) -> str: ...
    @property
    def principal(self) -> Principal | None: ...


class Journal(Protocol):
    """Where rows go that come in crowds (gateway/store)."""

    def note(
        self,
        action: JournalAction,
        *,
        success: bool,
        client_ip: str | None = None,
        user_agent: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        """Write a row soon. Never waits."""
        ...


class ForwardRecord:
    """One forward's. As a context, around its opening: what fails in there is its refusal. Only one end is written."""

    def __init__(self, journal: Journal, facts: ClientFacts, kind: ForwardKind, target: Target | None) -> None:
        self.kind = kind
        self.target = target
        self.workspace: str | None = None  # its name, once found
        self._journal = journal
        self._facts = facts
        self._started = time.monotonic()
        self._has_ended = False

    def __enter__(self) -> ForwardRecord:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self.refused(error)

    @property
    def _is_listener(self) -> bool:
        return self.kind in _LISTENERS

    def found(self, port: int) -> None:
        """The port that was found for 0."""
        if isinstance(self.target, TcpTarget):
            self.target = TcpTarget(self.target.host, port)

    def opened(self) -> None:
        port = self.target.port if isinstance(self.target, TcpTarget) else None
        self._log(Event.LISTENER_OPENED if self._is_listener else Event.FORWARD_OPENED, port=port)
        if self._is_listener:
            self._write("opened", success=True)

    def refused(self, error: BaseException | str) -> None:
        """By policy, by whoever was called, or because the connection ended meanwhile."""
        if self._has_ended:
            return
        self._has_ended = True
        reason, words = _reason(error)
        if reason == "internal":
            log_failure(Event.FORWARD_REFUSED, connection_id=self._facts.connection_id, kind=self.kind.value)
        else:
            self._log(Event.FORWARD_REFUSED, reason=reason)
        self._write("refused", success=False, reason=reason, message=words or None)

    def ended(self, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """`bytes_in`: from the client."""
        if self._has_ended:
            return
        self._has_ended = True
        duration_ms = round((time.monotonic() - self._started) * 1000, 1)
        if self._is_listener:
            self._log(Event.LISTENER_CLOSED, duration_ms=duration_ms)
            self._write("closed", success=True, duration_ms=duration_ms)
        else:
            traffic = {"bytes_in": bytes_in, "bytes_out": bytes_out, "duration_ms": duration_ms}
            self._log(Event.FORWARD_ENDED, **traffic)
            self._write("ended", success=True, **traffic)

    def _log(self, event: Event, **keys: object) -> None:
        known: dict[str, Any] = {key: value for key, value in keys.items() if value is not None}
        log_event(event, connection_id=self._facts.connection_id, kind=self.kind.value, **known)

    def _write(self, result: str, *, success: bool, **more: object) -> None:
        facts = self._facts
        details: dict[str, object] = {
            "kind": self.kind.value,
            "result": result,
            "target": None if self.target is None else str(self.target),
            "workspace": self.workspace,
            "login_name": facts.login_name if self.workspace is None else None,
            "principal": None if facts.principal is None else facts.principal.name,
            "connection_id": facts.connection_id,
            **more,
        }
        self._journal.note(
            JournalAction.FORWARD,
            success=success,
            client_ip=facts.client_ip,
            user_agent=facts.client_version,
            details={key: value for key, value in details.items() if value is not None},
        )


def _reason(error: BaseException | str) -> tuple[str, str]:
    """A stable code, and words."""
    match error:
        case str():
            return error, ""
        case LoginRefused():
            return "policy", error.user_message
        case GatewayError():
            return error.code, error.user_message
        case OSError():
            return "connect_failed", error.strerror or ""
        case asyncio.CancelledError():
            return "connection_lost", ""
        case _:
            return "internal", ""
