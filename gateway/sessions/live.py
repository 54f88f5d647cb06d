"""A session of this gateway with everything that belongs to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from gateway.interfaces import EndReason, Keeper, Recorder, SessionKind, Workspace
from gateway.sessions.pipe_session import PipeSession
from gateway.sessions.session import SessionState
from gateway.sessions.sftp_audit import SftpAudit
from gateway.sessions.terminal_session import TerminalSession


@dataclass(slots=True)
class Live:
    """Made by `Sessions.track`, gone when its end is written down or another gateway has it."""

    session: TerminalSession | PipeSession
    keeper: Keeper
    workspace: Workspace
    kind: SessionKind
    recorder: Recorder | None
    started: float  # time.monotonic()
    owner: str  # fingerprint of the key that began it
    name: str | None = None  # `logs` of ssh my-app+logs@host; nameless ones belong to their owner
    is_kept: bool = False  # its program outlives its clients
    end_reason: EndReason = EndReason.EXIT
    row: asyncio.Task[None] | None = None  # writing it; never fails
    audit: SftpAudit | None = None
    detached_at: datetime | None = None
    job: str | None = None  # what ran in the foreground when the last client left
    job_ended_at: datetime | None = None

    @property
    def session_id(self) -> str:
        return self.session.session_id

    @property
    def workspace_name(self) -> str:
        return self.workspace.name

    @property
    def is_attached(self) -> bool:
        return self.session.is_attached

    @property
    def last_activity_at(self) -> datetime:
        return self.session.last_activity_at

    @property
    def terminal(self) -> TerminalSession | None:
        """The session, if a client may come to it."""
        session = self.session
        is_there = session.state in (SessionState.ATTACHED, SessionState.DETACHED)
        if isinstance(session, TerminalSession) and is_there and not session.is_hung_up:
            return session
        return None

    @property
    def terminal_fd(self) -> int | None:
        """The master's, as long as it is open."""
        return self.terminal.terminal_fd if self.terminal is not None else None

    def say(self, text: str) -> None:
        """To the clients that look at its terminal; nothing of ours on the streams of commands and transfers."""
        if self.terminal is not None:
            self.terminal.say(text)

    @property
    def has_ended(self) -> bool:
        return self.session.program.exited.done()
