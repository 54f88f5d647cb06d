"""Foreground jobs: what a terminal is busy with, and when that ended while nobody was attached.

The kernel tells a shell at its prompt from one that has something to do: a job has a process group of its own, and a
shell that edits a line has switched the terminal's own editing off. Both are asked of the terminal, from the outside;
nothing has to be set up in the shell, and nothing inside is trusted. Tried with bash, zsh, fish and dash.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from gateway.interfaces import SessionKind

LOOK_SECONDS = 1.0
# A job that follows another is written down after this, the next one after twice as long, and so on up to a bound: in
# a loop of jobs each of them would be a write.
RENAMED_AFTER = timedelta(seconds=2)
RENAMED_AFTER_MAX = timedelta(minutes=5)
# Somebody may detach a thousand sessions; the names of their jobs are worth a look each, not a search.
CHILDREN_MAX = 64
UNNAMED = "a program"
_NAME_CHARACTERS_MAX = 100
_TIOCGSID = 0x5429  # asm-generic/ioctls.h; Python has no name for it
_PID = struct.Struct("i")
_SHELLS_THAT_EDIT = frozenset(("bash", "fish", "nu", "rbash", "tcsh", "xonsh", "zsh"))
# These read a line as cat does: waiting for a command and running a builtin look alike.
_SHELLS_THAT_READ = frozenset(("ash", "busybox", "csh", "dash", "ksh", "ksh93", "mksh", "sh", "yash"))
_SHELLS_OR_NONE = _SHELLS_THAT_EDIT | _SHELLS_THAT_READ | {None}

Note = Callable[[str, str | None, datetime | None], Coroutine[Any, Any, None]]
Spawn = Callable[[Coroutine[Any, Any, None], str], object]


class WatchedSession(Protocol):
    """What this module reads of a session, and writes: `job` and `job_ended_at`."""

    job: str | None
    job_ended_at: datetime | None

    @property
    def session_id(self) -> str: ...
    @property
    def kind(self) -> SessionKind: ...
    @property
    def is_attached(self) -> bool: ...
    @property
    def terminal_fd(self) -> int | None:
        """The master's; None once it is not ours any more."""
        ...


@dataclass(frozen=True, slots=True)
class Foreground:
    """What a terminal is busy with. `job` None: its shell waits for somebody to type."""

    job: str | None
    is_certain: bool = True  # False: a shell that does not edit lines; it may be between two jobs
    group: int = 0  # its process group


def foreground(terminal_fd: int, kind: SessionKind, known: Foreground | None = None) -> Foreground:
    """Ask the terminal. Never waits. Raises OSError if no program has it any more.

    `known`: the answer of a moment ago. If it still holds, which costs one question of a microsecond, names are not
    looked up again, which costs 25.
    """
    group = _asked(terminal_fd, termios.TIOCGPGRP)  # as seen by this process, whatever pid namespace it is in
    # A shell's name is not believed: of a job that is not its program yet, or of a shell that is at its prompt by now.
    if known is not None and known.group == group and known.job not in _SHELLS_OR_NONE:
        return known
    leader = _asked(terminal_fd, _TIOCGSID)
    if group != leader:
        return Foreground(_name(group) or _name_of_member(group, leader) or UNNAMED, group=group)
    name = _name(leader) or UNNAMED
    if _is_line_edited(terminal_fd) and name in _SHELLS_THAT_EDIT | _SHELLS_THAT_READ:
        return Foreground(None)
    if kind is SessionKind.SHELL and name in _SHELLS_THAT_READ:
        return Foreground(None, is_certain=False)
    # A shell in a loop of its own, in `wait`, or replaced by a program (`exec vim`); or the command of an exec.
    return Foreground(name, group=group)


class JobWatch:
    """Notices when the jobs of detached sessions end. One timer for all, which rests while there is nothing to watch.

    A job that goes on costs one question to its terminal each LOOK_SECONDS; a shell at its prompt costs one more look,
    since its client may have left before the shell read the last line, and then nothing.
    """

    def __init__(
        self,
        note: Note,
        spawn: Spawn,
        *,
        ask: Callable[[int, SessionKind, Foreground | None], Foreground] = foreground,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`note` writes down (session, job, when it ended)."""
        self._note = note
        self._spawn = spawn
        self._ask = ask
        self._now = now
        self._watched: dict[str, _Watched] = {}
        self._timer: asyncio.TimerHandle | None = None

    def detached(self, session: WatchedSession) -> None:
        """The last client has left: find the session's job, and watch it to its end. The caller writes the job down."""
        found = self._foreground_of(session)
        if found is not None:
            session.job, session.job_ended_at = found.job, None
            self._watch(session)

    def adopted(self, session: WatchedSession) -> None:
        """It was taken over without a client. A job that is known of it, and gone, ended between then and now."""
        now = self._now()
        self._look_at(_Watched(session, written=session.job, written_at=now), now)
        self._watch(session)

    def close(self) -> None:
        """Watch no more. Twice is harmless."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def watched_count(self) -> int:
        return len(self._watched)

    def _watch(self, session: WatchedSession) -> None:
        self._watched[session.session_id] = _Watched(session, written=session.job, written_at=self._now())
        self._look_later()

    def _look_later(self) -> None:
        if self._timer is None and self._watched:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._now()
        for watched in list(self._watched.values()):
            if not self._look_at(watched, now):
                del self._watched[watched.session.session_id]
        self._look_later()

    def _look_at(self, watched: _Watched, now: datetime) -> bool:
        """Note what has changed; False: there is nothing left to watch."""
        session = watched.session
        found = None if session.is_attached else self._foreground_of(session, watched.found)
        watched.found = found
        if found is None:
            return False
        if found.job is not None:
            watched.prompt_seen_at = None
            if session.job is None or session.job_ended_at is not None:
                session.job, session.job_ended_at = found.job, None
                self._write_down(session, watched, now)
            elif found.job not in _SHELLS_THAT_EDIT:  # between two jobs the shell itself is in front
                session.job = found.job
                if watched.written != found.job and now - watched.written_at >= watched.patience:
                    self._write_down(session, watched, now)
                    watched.patience = min(watched.patience * 2, RENAMED_AFTER_MAX)
            return True
        if session.job is None or session.job_ended_at is not None:
            return False
        if not found.is_certain and watched.prompt_seen_at is None:
            watched.prompt_seen_at = now
            return True
        session.job_ended_at = watched.prompt_seen_at or now
        self._write_down(session, watched, now)
        return False

    def _write_down(self, session: WatchedSession, watched: _Watched, now: datetime) -> None:
        watched.written, watched.written_at = session.job, now
        self._spawn(self._note(session.session_id, session.job, session.job_ended_at), f"job:{session.session_id}")

    def _foreground_of(self, session: WatchedSession, known: Foreground | None = None) -> Foreground | None:
        """None: its terminal is gone, or has no program any more. Its end will be told by others."""
        fd = session.terminal_fd
        if fd is None:
            return None
        try:
            return self._ask(fd, session.kind, known)
        except OSError:
            return None


@dataclass(slots=True)
class _Watched:
    session: WatchedSession
    written: str | None  # the job that is written down, and when it was
    written_at: datetime
    patience: timedelta = RENAMED_AFTER
    found: Foreground | None = None  # by the last look
    prompt_seen_at: datetime | None = None


def _asked(fd: int, question: int) -> int:
    (pid,) = _PID.unpack(fcntl.ioctl(fd, question, bytes(_PID.size)))
    return int(pid)


def _is_line_edited(fd: int) -> bool:
    """Whether a program has taken over the editing of lines, as shells do at their prompts."""
    try:
        return not termios.tcgetattr(fd)[3] & termios.ICANON
    except termios.error as error:  # no OSError, for some reason
        raise OSError(*error.args) from None


def _name(pid: int) -> str:
    """What a process calls itself, made harmless; empty if it is gone."""
    try:
        name = Path(f"/proc/{pid}/comm").read_bytes().removesuffix(b"\n").decode(errors="replace")
    except OSError:
        return ""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:_NAME_CHARACTERS_MAX]


def _name_of_member(group: int, leader: int) -> str:
    """The first program of a pipeline has ended, the others have not: they are children of the shell."""
    try:
        children = Path(f"/proc/{leader}/task/{leader}/children").read_bytes().split()[:CHILDREN_MAX]
        for child in map(int, children):
            if _group(child) == group:
                return _name(child)
    except (OSError, ValueError, IndexError):
        pass
    return ""


def _group(pid: int) -> int:
    # proc_pid_stat(5): the name, in parentheses, may hold anything; after it come state, parent and process group.
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[2])
