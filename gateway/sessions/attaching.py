"""Which session a client gets: one that waits for it, one it shares, or a new one.

    ssh my-app@host             the session its key left last; else one whose connection has died; else a new one;
                                `my-app+main` is the same
    ssh my-app+logs@host        the session `logs`, shared by all who may enter; else a new one of that name
    ssh -t my-app+agent@host X  the same, running X when it is new
    ssh my-app+new@host         always a new one, which ends with its connection

Commands and transfers without a terminal or a name, and terminals that cannot show a screen, never meet any of this.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.interfaces import SessionKind, SessionRequest
from gateway.login_name import MAIN, LoginName
from gateway.sessions.live import Live
from gateway.sessions.viewer import Viewer
from gateway.words import duration_text

# A connection that does not answer within this time has lost its sessions to whoever asks for them.
PROBE_SECONDS = 2.0
# Terminals of editors and old machines, on which no screen can be painted.
_PLAIN_TERMINALS = frozenset(("", "dumb", "unknown"))


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for. `is_kept` false: a session that begins and ends with its channel."""

    is_kept: bool
    name: str | None = None

    @classmethod
    def of(cls, request: SessionRequest, login: LoginName) -> Wish:
        has_screen = request.terminal is not None and request.terminal.term not in _PLAIN_TERMINALS
        is_named = login.session_name is not None
        is_kept = has_screen and (
            (request.kind is SessionKind.SHELL and not login.is_fresh)
            or (request.kind is SessionKind.EXEC and is_named)
        )
        return cls(is_kept, login.session_name if is_kept else None)


@dataclass(frozen=True, slots=True)
class Found:
    """A session to attach to, and whether it was taken from a connection that had died."""

    live: Live
    was_taken: bool = False


class Attaching:
    """Looks for sessions among the live ones."""

    def __init__(self, live: Callable[[], Iterable[Live]]) -> None:
        self._live = live
        self._turns: weakref.WeakValueDictionary[tuple[str, str], asyncio.Lock] = weakref.WeakValueDictionary()

    def turn(self, workspace_id: str, wish: Wish, owner: str) -> asyncio.Lock:
        """To be held while looking: two clients that come together must not both make `logs`, nor take one session."""
        key = (workspace_id, f"+{wish.name}" if wish.name is not None else owner)
        return self._turns.setdefault(key, asyncio.Lock())

    async def find(self, workspace_id: str, wish: Wish, request: SessionRequest) -> Found | None:
        """The session that the wish means, if it exists. Takes PROBE_SECONDS at most.

        What is returned can be attached to until the caller waits for something.
        """
        candidates = self._candidates(workspace_id, wish, request)
        if wish.name is None:
            waiting = [live for live in candidates if not live.is_attached]
            if waiting:
                return Found(max(waiting, key=_last_used))
        dead = await _dead_viewers(candidates, request.connection_id)
        candidates = [live for live in self._candidates(workspace_id, wish, request) if live in candidates]
        if wish.name is not None:
            if not candidates:
                return None
            live = candidates[0]
            return Found(live, _dismiss(live, dead) and not live.is_attached)
        lost = [live for live in candidates if live.session_id in dead or not live.is_attached]
        if not lost:
            return None
        live = max(lost, key=_last_used)
        return Found(live, _dismiss(live, dead))

    def _candidates(self, workspace_id: str, wish: Wish, request: SessionRequest) -> list[Live]:
        owner = request.principal.fingerprint
        return [
            live
            for live in self._live()
            if live.workspace.id == workspace_id
            and live.terminal is not None
            and not live.has_ended
            and live.is_kept
            and live.name == wish.name
            and (wish.name is not None or (live.owner == owner and live.kind is SessionKind.SHELL))
        ]


async def _dead_viewers(candidates: list[Live], own_connection_id: str) -> dict[str, list[Viewer]]:
    """Session → those of its viewers that have stopped answering. The asking connection is alive, as it asks."""
    viewers = {
        viewer: live
        for live in candidates
        if live.terminal is not None
        for viewer in live.terminal.viewers
        if viewer.connection_id != own_connection_id
    }
    answers = await asyncio.gather(*(viewer.channel.is_answering(PROBE_SECONDS) for viewer in viewers))
    dead: dict[str, list[Viewer]] = {}
    for (viewer, live), is_alive in zip(viewers.items(), answers, strict=True):
        if not is_alive:
            dead.setdefault(live.session_id, []).append(viewer)
    return dead


def _dismiss(live: Live, dead: dict[str, list[Viewer]]) -> bool:
    """Take the session from clients that did not answer. They may only have been stopped, and read this later."""
    viewers = [viewer for viewer in dead.get(live.session_id, ()) if not viewer.is_gone]
    for viewer in viewers:
        if live.terminal is not None:
            live.terminal.dismiss(viewer, "this connection had stopped answering, and a new one has the session now")
    return bool(viewers)


def _last_used(live: Live) -> datetime:
    return live.detached_at or live.last_activity_at


def attach_notice(live: Live, *, was_taken: bool, now: datetime | None = None) -> str:
    """One quiet line: where one is, since when nobody was, and how to get a shell of one's own."""
    now = now or datetime.now(UTC)
    where = live.name or MAIN
    others = len(live.terminal.viewers) if live.terminal is not None else 0
    if others:
        state = f"in {where}, together with {others} other{'s' if others > 1 else ''}"
    elif was_taken:
        state = f"back in {where}, taken over from a connection that stopped answering"
    elif live.detached_at is not None:
        state = f"back in {where}, detached {duration_text(now - live.detached_at)} ago"
    else:
        state = f"back in {where}"
    if live.job is not None and live.job_ended_at is not None:
        state += f"; {live.job} ended {duration_text(now - live.job_ended_at)} ago"
    return f"homeport: {state}; fresh shell: ssh {live.workspace.name}+new@host"
