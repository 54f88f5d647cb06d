"""Ends what nobody uses: sessions that are silent for longer than the limits allow, after a warning.

A limit understands work: a shell with a job in the foreground is never idle, and any input or output is use. The
decision is a pure function of what is known of a session; the rest looks at all sessions, once in a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, Protocol

from gateway.config import SessionSettings
from gateway.errors import GatewayError
from gateway.events import Event
from gateway.interfaces import EndReason, SessionKind
from gateway.log import log_event, log_failure, log_warning
from gateway.sessions.jobs import foreground
from gateway.words import duration_text

MINUTE = timedelta(minutes=1)


class IdleSession(Protocol):
    """What this module asks of a session."""

    @property
    def session_id(self) -> str: ...
    @property
    def kind(self) -> SessionKind: ...
    @property
    def is_attached(self) -> bool: ...
    @property
    def terminal_fd(self) -> int | None: ...
    @property
    def workspace_name(self) -> str: ...
    @property
    def detached_at(self) -> datetime | None: ...
    @property
    def last_activity_at(self) -> datetime: ...
    @property
    def has_ended(self) -> bool: ...
    def say(self, text: str) -> None:
        """One line of ours to the clients that look at its terminal; commands on pipes are told nothing."""
        ...


@dataclass(frozen=True, slots=True)
class IdleLimits:
    """How long each may be silent; None: for ever."""

    detached: timedelta | None
    attached: dict[SessionKind, timedelta | None]
    warning: timedelta

    def limit(self, kind: SessionKind, *, is_attached: bool) -> timedelta | None:
        return self.attached[kind] if is_attached else self.detached

    @classmethod
    def of(cls, settings: SessionSettings) -> IdleLimits:
        attached = {
            SessionKind.SHELL: settings.idle_shell_minutes,
            SessionKind.EXEC: settings.idle_exec_minutes,
            SessionKind.SUBSYSTEM: settings.idle_subsystem_minutes,
        }
        return cls(
            detached=timedelta(days=settings.idle_detached_days) or None,
            attached={kind: timedelta(minutes=minutes) or None for kind, minutes in attached.items()},
            warning=timedelta(minutes=settings.idle_warning_minutes),
        )


@dataclass(frozen=True, slots=True)
class Use:
    """What is known of a session's use."""

    kind: SessionKind
    is_attached: bool
    is_busy: bool  # a job is in the foreground of its terminal
    last_used_at: datetime


class Step(Enum):
    NOTHING = auto()
    WARN = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    step: Step
    ends_at: datetime | None = None  # None: not as things are
    is_warned: bool = False


def judge(use: Use, limits: IdleLimits, *, warned_at: datetime | None, now: datetime) -> Verdict:
    """Nobody is cut off without the whole warning, however long the session was idle before it was looked at."""
    limit = limits.limit(use.kind, is_attached=use.is_attached)
    # What a command with a client does is its own business: a terminal's foreground says nothing about it.
    is_at_work = use.is_busy and not (use.is_attached and use.kind is not SessionKind.SHELL)
    if limit is None or is_at_work:
        return Verdict(Step.NOTHING)
    warning = min(limits.warning, limit / 2)  # a short limit is not one long warning
    ends_at = use.last_used_at + limit
    if warned_at is not None and warned_at >= use.last_used_at:
        ends_at = max(ends_at, warned_at + warning)
        return Verdict(Step.END if now >= ends_at else Step.NOTHING, ends_at, is_warned=True)
    if now < ends_at - warning:
        return Verdict(Step.NOTHING, ends_at)
    return Verdict(Step.WARN, max(ends_at, now + warning), is_warned=True)


class IdleWatch:
    """Looks at all sessions of this gateway, warns, and ends."""

    def __init__(
        self,
        sessions: Callable[[], Iterable[IdleSession]],
        limits: IdleLimits,
        *,
        end: Callable[[str, EndReason], Coroutine[Any, Any, object]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._sessions = sessions
        self._limits = limits
        self._end = end
        self._now = now
        self._warned_at: dict[str, datetime] = {}

    async def run(self, check_seconds: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(check_seconds)
            await self.check()

    async def check(self) -> None:
        """One round. What goes wrong with one session is logged and leaves the others alone."""
        now = self._now()
        sessions = {session.session_id: session for session in self._sessions()}
        self._warned_at = {id: at for id, at in self._warned_at.items() if id in sessions}
        for session in sessions.values():
            try:
                await self._check_one(session, now)
                await asyncio.sleep(0)  # questions to a thousand terminals are not asked in one turn
            except GatewayError as error:
                log_warning(Event.SESSION_FAILED, session_id=session.session_id, reason=str(error))
            except Exception:
                log_failure(Event.SESSION_FAILED, session_id=session.session_id, reason="idle")

    def ends_at(self) -> dict[str, datetime]:
        """When sessions will end if nobody uses them: session → when."""
        now = self._now()
        verdicts = {session.session_id: self._judge(session, now) for session in self._sessions()}
        return {id: verdict.ends_at for id, verdict in verdicts.items() if verdict.ends_at is not None}

    async def _check_one(self, session: IdleSession, now: datetime) -> None:
        verdict = self._judge(session, now)
        if not verdict.is_warned:
            self._warned_at.pop(session.session_id, None)
        if verdict.step is Step.WARN:
            assert verdict.ends_at is not None
            self._warned_at[session.session_id] = now
            self._warn(session, verdict.ends_at - now)
        elif verdict.step is Step.END:
            session.say("this session ends for want of use")
            log_event(Event.SESSION_EXPIRED, session_id=session.session_id, workspace=session.workspace_name,
                      kind=session.kind, last_used_at=last_used_at(session).isoformat())  # fmt: skip
            await self._end(session.session_id, EndReason.IDLE)

    def _warn(self, session: IdleSession, left: timedelta) -> None:
        text = duration_text(round(left / MINUTE) * MINUTE if left > MINUTE else left)
        session.say(f"this session ends in {text} for want of use; press a key to keep it")
        log_event(Event.SESSION_WARNED, session_id=session.session_id, workspace=session.workspace_name,
                  kind=session.kind, seconds_left=round(left.total_seconds()))  # fmt: skip

    def _judge(self, session: IdleSession, now: datetime) -> Verdict:
        if session.has_ended or (not session.is_attached and session.detached_at is None):
            return Verdict(Step.NOTHING)  # it is being written down; or nobody can come to it, and nobody waits
        if self._limits.limit(session.kind, is_attached=session.is_attached) is None:
            return Verdict(Step.NOTHING)  # then its terminal is not even asked
        use = Use(session.kind, session.is_attached, is_busy(session), last_used_at(session))
        return judge(use, self._limits, warned_at=self._warned_at.get(session.session_id), now=now)


def last_used_at(session: IdleSession) -> datetime:
    """The last input or output, or the leaving of the last client."""
    detached_at = None if session.is_attached else session.detached_at
    return max(session.last_activity_at, detached_at or session.last_activity_at)


def is_busy(session: IdleSession) -> bool:
    """Whether its terminal has a job in the foreground. In doubt it is not: then its silence counts."""
    fd = session.terminal_fd
    if fd is None:
        return False
    try:
        return foreground(fd, session.kind).job is not None
    except OSError:
        return False
