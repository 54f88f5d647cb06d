"""The values that travel between the parts, and the protocols they meet through. Standard library only.

Nothing here does I/O. A value is parsed once, at the edge it came in by, and is frozen from then on.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

# ---------------------------------------------------------------------------------------------- who and where


class Forwarding(StrEnum):
    """How far the forwards of a key, or of a workspace, may reach (RFC 4254 §7). In order, the narrowest first."""

    OFF = "off"
    LOOPBACK = "loopback"  # ports and unix sockets of the workspace itself
    ANYWHERE = "anywhere"  # whatever the workspace's own programs could reach


@dataclass(frozen=True, slots=True)
class Principal:
    """Who the key says you are. Made from an access key, never from the SSH user name."""

    key_id: str
    name: str
    fingerprint: str  # SHA256:…
    workspaces: frozenset[str] | None = None  # names this key may enter; None: all of them
    forwarding: Forwarding | None = None  # None: says nothing about it

    @property
    def is_owner(self) -> bool:
        """May enter every workspace, and so change what concerns them all."""
        return self.workspaces is None

    def may_enter(self, workspace_name: str) -> bool:
        return self.workspaces is None or workspace_name in self.workspaces


@dataclass(frozen=True, slots=True)
class Workspace:
    """A named home plus a working tree. Paths come from the immutable id, never from the name."""

    id: str
    name: str
    home: Path  # outside the sandbox
    tree: Path  # outside the sandbox
    is_active: bool = True
    is_recorded: bool = True
    forwarding: Forwarding | None = None  # None: says nothing about it
    shell: str | None = None  # absolute path of the login shell; None: the launcher's choice
    branch: str = "main"
    github_repo: str | None = None
    github_url: str | None = None
    github_id: int | None = None  # of the repository at GitHub: stays when that is renamed
    description: str | None = None
    created_at: datetime | None = None
    last_sync_at: datetime | None = None
    is_cloned: bool = True  # False: declared; the clone is made at the first login
    clone_branch: str | None = None  # of a declared one; None: the remote's default
    archived_at: datetime | None = None
    active_session_count: int = 0  # this and the next: in lists alone
    last_activity_at: datetime | None = None  # of any session in it that is still on record


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A public key that may log in."""

    id: str
    name: str
    fingerprint: str
    public_key: str  # one OpenSSH line without options: "ssh-ed25519 AAAA… comment"
    workspaces: frozenset[str] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class GitToken:
    """What git may present to the GitHub that is configured, and to no other host."""

    host: str  # exactly as it stands in a URL, with the port where it is not the scheme's own: "github.com"
    protocol: str  # https; http only for a loopback host
    secret: str = field(repr=False)
    username: str = "x-access-token"
    expires_at: datetime | None = None


class GitTokens(Protocol):
    """Has the owner's GitHub token (gateway/github/account.py)."""

    async def git_token(self) -> GitToken:
        """One that is valid for some minutes yet, renewed if need be (one renewal at a time). Raises CommandRefused,
        with the command that logs in, if there is none or GitHub has revoked it."""
        ...


class ApiScope(StrEnum):
    """What a bearer token of the HTTP API may do."""

    READ = "read"
    WRITE = "write"  # reads as well


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A bearer token of the HTTP API, without the token itself: only its hash is kept."""

    id: str
    name: str
    scope: ApiScope
    created_by: str
    expires_at: datetime
    last_used_at: datetime | None = None
    created_at: datetime | None = None


# ------------------------------------------------------------------------------------------------- sessions


class SessionKind(StrEnum):
    """The three ways a session starts its program (RFC 4254 §6.5)."""

    SHELL = "shell"
    EXEC = "exec"
    SUBSYSTEM = "subsystem"


class SessionStatus(StrEnum):
    ACTIVE = "active"  # a client is attached
    PAUSED = "paused"  # the program runs on, nobody is attached
    TERMINATED = "terminated"


class EndReason(StrEnum):
    EXIT = "exit"  # the program ended by itself, by code or signal
    HANGUP = "hangup"  # the client went first, the program was hung up
    KILLED = "killed"  # ended by `homeport kill`
    LOST = "lost"  # its keeper is gone, or the gateway was and nothing could be adopted
    SHUTDOWN = "shutdown"  # ended by `homeport stop --all`, or it could not outlive the gateway (pipes)
    FAILED = "failed"  # the program never started
    IDLE = "idle"  # nobody used it for longer than the limits allow


@dataclass(frozen=True, slots=True)
class WindowSize:
    """A terminal's size: columns × rows, then pixels (RFC 4254 §6.7). Zero means unknown."""

    columns: int
    rows: int
    width_pixels: int = 0
    height_pixels: int = 0


@dataclass(frozen=True, slots=True)
class Terminal:
    """What the client asked for with pty-req (RFC 4254 §6.2)."""

    term: str
    size: WindowSize
    modes: Mapping[int, int]  # encoded terminal modes, RFC 4254 §8: opcode → argument


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """Everything one session channel asked for, complete when shell, exec or subsystem arrives."""

    session_id: str
    connection_id: str
    principal: Principal
    login_name: str  # as typed before the @
    kind: SessionKind
    client_address: tuple[str, int]
    server_address: tuple[str, int]
    terminal: Terminal | None = None
    command: bytes | None = None  # exec: as sent, not necessarily UTF-8
    subsystem: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # already through the allow-list
    forwards_agent: bool = False  # its connection does
    display: str | None = None  # of a forwarded X server: "localhost:10.0"


@dataclass(frozen=True, slots=True)
class CloneWatcher:
    """The terminal of somebody who waits for a workspace to be cloned."""

    write: Callable[[bytes], None]  # never waits; what a slow client cannot take may be left out
    columns: int


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One row of `sessions`, as the store hands it out."""

    id: str
    workspace_id: str | None
    workspace_name: str | None
    kind: SessionKind
    status: SessionStatus
    name: str | None
    command: str | None
    shell: str
    shell_pid: int | None
    connection_id: str | None  # the column `socket_id`
    principal: str | None
    key_fingerprint: str | None
    client_ip: str | None
    columns: int | None
    rows: int | None
    recording: str | None
    bytes_in: int
    bytes_out: int
    created_at: datetime
    last_activity_at: datetime
    ended_at: datetime | None
    end_reason: EndReason | None
    exit_code: int | None
    exit_signal: str | None
    detached_at: datetime | None = None  # the last client left; None while one is attached
    job: str | None = None  # the foreground job when the last client left, or after; None: a shell at its prompt
    job_ended_at: datetime | None = None  # that job has ended meanwhile, while nobody was attached

    @property
    def login_name(self) -> str | None:
        """What stands before the @ to get to it: `my-app` or `my-app+logs`. None: its workspace's row is gone."""
        if self.workspace_name is None or self.name is None:
            return self.workspace_name
        return f"{self.workspace_name}+{self.name}"


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """Figures over the rows that retention keeps."""

    active: int  # a client is attached
    paused: int
    total: int
    ended_last_day: int
    life_seconds_mean: float | None  # of those that ended in the last 7 days; None: none did


@dataclass(frozen=True, slots=True)
class SessionActivity:
    """What a live session did since the last flush; flushed in batches, never per chunk."""

    session_id: str
    last_activity_at: datetime
    bytes_in: int  # totals since the session's start
    bytes_out: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of `system_metrics`: what was measured, in which unit, and what else belongs to the figure."""

    metric: str  # cpu_usage, memory_usage, disk_usage, active_sessions, ...
    value: float
    unit: str  # percent, count, bytes, milliseconds, seconds
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of a policy question, with its reason."""

    is_allowed: bool
    reason: str = ""

    @classmethod
    def allow(cls) -> Decision:
        return cls(True)

    @classmethod
    def refuse(cls, reason: str) -> Decision:
        return cls(False, reason)


# --------------------------------------------------------------------------------------- programs and keepers


@dataclass(frozen=True, slots=True)
class ProgramExit:
    """How a program ended: exactly one of the two is set (RFC 4254 §6.10); neither if its keeper is gone."""

    exit_code: int | None = None
    signal: str | None = None  # without SIG: "TERM"
    core_dumped: bool = False


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """What a keeper shall start. Paths and environment are as seen *inside* the workspace."""

    session_id: str
    argv: tuple[bytes, ...]  # argv[0] may differ from `executable` (login shells: "-bash")
    executable: bytes
    environment: Mapping[bytes, bytes]
    directory: bytes
    terminal: Terminal | None = None  # None: three pipes
    wants_stderr_messages: bool = False  # what it writes there is a log of which each message counts


@dataclass(slots=True)
class Program:
    """A started or adopted program, the gateway's side. The receiver owns the descriptors and closes them.

    All descriptors are non-blocking and close-on-exec, and were checked for their kind. `exited` is done when the
    keeper reported the exit, or with `ProgramExit()` (neither code nor signal) when the keeper is gone.
    """

    session_id: str
    pid: int  # as seen in the workspace
    exited: asyncio.Future[ProgramExit]
    terminal_fd: int | None = None  # the PTY's master
    stdin_fd: int | None = None
    stdout_fd: int | None = None
    stderr_fd: int | None = None
    has_stderr_messages: bool = False  # each read of `stderr_fd` is one write of the program; false: just bytes
    backlog: bytes = b""  # adopted: output read by the keeper while nobody owned the terminal
    backlog_lost_bytes: int = 0  # adopted: how much older output the keeper's ring dropped before `backlog`

    def close(self) -> None:
        """Close the descriptors of a program that no session took over."""
        for fd in (self.terminal_fd, self.stdin_fd, self.stdout_fd, self.stderr_fd):
            if fd is not None:
                os.close(fd)


@dataclass(frozen=True, slots=True)
class KeptProgram:
    """One line of a keeper's `list`."""

    session_id: str
    pid: int
    is_terminal: bool
    is_owned: bool
    exit: ProgramExit | None


class Wanted(StrEnum):
    """What one gateway asks of another for a program that the other owns."""

    RELEASE = "release"  # at once
    RELEASE_IF_SILENT = "release_if_silent"  # if its clients have stopped answering
    END = "end"


class Keeper(Protocol):
    """The gateway's handle on one workspace's keeper. Every call has a deadline and raises KeeperGone or
    KeeperRefused; the answers are treated as hostile (bounded, known ids, checked descriptors)."""

    @property
    def workspace_id(self) -> str: ...

    @property
    def closed(self) -> asyncio.Event:
        """Set once the keeper is gone; by then every program's `exited` is done."""
        ...

    async def start(self, spec: ProgramSpec) -> Program:
        """Start a program. Raises ProgramFailed with the exit status a shell would give."""
        ...

    async def list(self) -> list[KeptProgram]: ...

    async def adopt(self, session_id: str, *, until_confirmed: bool = False) -> Program:
        """Take over an unowned program (terminal, or one that has already exited).

        `until_confirmed`: the keeper keeps the backlog until `confirm_backlog`, and would hand it out again if this
        gateway died before it was on record. Then the confirmation must follow, or the next adoption repeats it.
        """
        ...

    def confirm_backlog(self, session_id: str) -> None:
        """The backlog of an adoption `until_confirmed` is on record: the keeper may drop its copy."""
        ...

    async def release(self, session_id: str) -> None:
        """Give a terminal back: the keeper drains it from now on. The caller has stopped reading it before."""
        ...

    async def want(self, session_id: str, how: Wanted) -> bool:
        """Have the gateway that owns the program asked for it. It answers when it can, see `KeeperListener`. False:
        nobody else has it. Raises KeeperRefused if this keeper cannot ask."""
        ...

    def keep(self, session_id: str) -> None:
        """Answer another gateway's wish: this program stays with us."""
        ...

    async def signal(self, session_id: str, name: str) -> None:
        """Signal the program's process group; `name` without SIG (RFC 4254 §6.9)."""
        ...

    async def hang_up(self, session_id: str, *, then_kill: bool = True) -> None:
        """Close the keeper's copy of the terminal and send HUP, then KILL after a while unless `then_kill` is false."""
        ...

    async def forget(self, session_id: str) -> None:
        """The exit is on record: the keeper may drop it; if the program still runs, once it has ended."""
        ...

    async def tcp_socket(self, family: socket.AddressFamily) -> socket.socket:
        """An unconnected, non-blocking TCP socket made inside the workspace's network namespace."""
        ...

    async def unix_connection(self, path: bytes) -> socket.socket:
        """A non-blocking stream socket connected to a unix path as seen inside."""
        ...

    async def unix_listener(self, path: bytes) -> socket.socket:
        """A socket listening on a unix path inside, made for its owner alone. `unlisten` removes the path, and so does
        the end of this gateway's connection to the keeper."""
        ...

    def unlisten(self, path: bytes) -> None:
        """The listener there is closed: have its path removed. Never waits; without a keeper there is nothing to do."""
        ...

    async def process_count(self) -> int:
        """All processes of the workspace, also those in the background that belong to no session."""
        ...

    async def terminate(self) -> None:
        """End the keeper and everything in the workspace."""
        ...


class KeeperListener(Protocol):
    """Hears of what other gateways at the same keeper do. Called on the event loop, must not block. A keeper may lie:
    nothing is done for a session that is not this workspace's."""

    def unowned(self, keeper: Keeper, session_id: str) -> None:
        """Another gateway released the program, or is gone."""
        ...

    def kept(self, keeper: Keeper, session_id: str) -> None:
        """Another gateway was asked for the program, and keeps it."""
        ...

    def wanted(self, keeper: Keeper, session_id: str, how: Wanted) -> None:
        """Another gateway asks for a program of ours."""
        ...


class Keepers(Protocol):
    """All keepers of this gateway: finds the running ones, starts missing ones, one per workspace."""

    async def find(self) -> list[Keeper]:
        """Connect to every keeper an earlier gateway left running; remove the remains of dead ones."""
        ...

    def silent(self) -> Set[str]:
        """Workspaces whose keeper lives, but did not answer when it was looked for the last time."""
        ...

    async def keeper_for(self, workspace: Workspace) -> Keeper:
        """The workspace's keeper, found or started (one start at a time per workspace).

        Raises LauncherUnavailable, KeeperGone. Cancelling leaves no half-started process behind.
        """
        ...

    def running(self) -> list[Keeper]: ...

    def listen_to(self, listener: KeeperListener | None) -> None:
        """From now on `listener` hears of other gateways, at every keeper."""
        ...

    async def close(self) -> None:
        """Close our ends; the keepers and their programs live on."""
        ...


@dataclass(frozen=True, slots=True)
class Inside:
    """How a workspace looks from within, which depends on the launcher."""

    home: str
    tree: str
    user: str
    runtime_dir: str | None  # XDG_RUNTIME_DIR: 0700, private to the workspace
    shell: str  # absolute path of the login shell
    sftp_server: tuple[str, ...]  # argv of sftp-server, or of our fallback
    agent_socket: str | None = None  # where a forwarded agent answers, if one is forwarded
    git_directory: str | None = None  # what the gateway tells git: settings, and a socket for its questions
    credential_helper: tuple[str, ...] = ()  # the command with which git asks there
    python: tuple[str, ...] = ()  # argv that runs a program of ours, and
    programs: str = ""  # the folder they lie in (gateway/keeper)


class Launcher(Protocol):
    """Starts keepers. One per kind of wall: none, bubblewrap, ..."""

    @property
    def name(self) -> str: ...

    def inside(self, workspace: Workspace) -> Inside: ...


# ------------------------------------------------------------------------------------------------ recording


@dataclass(frozen=True, slots=True, order=True)
class StreamPosition:
    """A place between two events of a session's recording. Positions of one session are ordered by time."""

    lap: int  # of the spool; the recording file has one block for each
    offset: int  # bytes of events into the lap


class Recorder(Protocol):
    """Takes one terminal session's output. The hot path is `read_from` alone: one readv into mapped memory."""

    def read_from(self, fd: int, limit_bytes: int) -> memoryview:
        """Read what `fd` has (at most `limit_bytes`) straight into the spool and return a view of it.

        The view is valid until the next call. Empty: end of file. Raises BlockingIOError and OSError as os.readv does.
        Never waits: if the recording falls behind, the oldest unrecorded bytes become a marked gap.
        """
        ...

    @property
    def output_bytes(self) -> int:
        """All output since the session's start, across gateways."""
        ...

    @property
    def position(self) -> StreamPosition:
        """Behind everything that was recorded so far. Cheap."""
        ...

    def append(self, data: bytes) -> None:
        """Record output that was read elsewhere (a keeper's ring)."""
        ...

    def mark_gap(self, lost_bytes: int) -> None: ...

    def mark_resize(self, size: WindowSize) -> None: ...

    def mark_attach(self, principal: str, size: WindowSize) -> None: ...

    def mark_detach(self, reason: str) -> None: ...

    def mark_exit(self, end: ProgramExit) -> None: ...

    async def close(self, *, is_final: bool) -> None:
        """Flush. `is_final`: the session ended, everything goes to the recording file and the spool is removed.
        Otherwise the spool stays for the next gateway."""
        ...


class Recordings(Protocol):
    """Makes recorders, and finds them again after a crash or restart."""

    def recorder_for(self, session_id: str, *, workspace: Workspace, size: WindowSize, term: str) -> Recorder:
        """A new recorder, or, where a spool of this session exists, its continuation."""
        ...

    async def finish_left_over(self, session_ids_alive: frozenset[str]) -> None:
        """Fold the spools of sessions that are gone into their recordings."""
        ...


# ---------------------------------------------------------------------------------------------------- screens


@dataclass(frozen=True, slots=True)
class Painting:
    """What brings a client's terminal into a session's state at one position of its recording."""

    data: bytes
    is_exact: bool  # False: plain last lines only; have the program draw itself (a window change)


class Screens(Protocol):
    """Knows what each terminal session's screen looks like, from its recording (recording/screen). No call raises, and
    each ends in bounded time: without the terminal model a client gets plain lines."""

    async def paint(
        self,
        session_id: str,
        until: StreamPosition,
        *,
        size: WindowSize,
        term: str,
        notice: str = "",
        is_again: bool = False,
    ) -> Painting:
        """The screen as of `until`, for a client's terminal of `size`, which may be larger than the window.

        `is_again`: it shows an earlier painting, whose place this one takes; its scrollback is left alone. Else all
        that it shows goes there, and the session's history. `notice` is one line of ours; it stands just above the
        screen, in the client's own scrollback. The bytes ask the client's terminal nothing. Ends within a second; in a
        few, if very many clients come at once.
        """
        ...

    def follow(self, session_id: str, until: StreamPosition) -> None:
        """Bring the session's keyframe up to there in the background: after each lap, at a detach, at an adoption."""
        ...

    async def answers(self, session_id: str, since: StreamPosition, until: StreamPosition) -> bytes:
        """What a terminal replies to the questions in the output between; empty if there are none."""
        ...

    def forget(self, session_id: str) -> None:
        """The session has ended: its keyframe goes."""
        ...
