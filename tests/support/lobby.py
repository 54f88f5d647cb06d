"""A lobby over fakes: commands run for real, against services that only remember."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.errors import NameTaken
from gateway.interfaces import (
    AccessKey,
    ApiScope,
    ApiToken,
    EndReason,
    Forwarding,
    Principal,
    SessionKind,
    SessionRow,
    SessionStatistics,
    SessionStatus,
    Workspace,
)
from gateway.journal import JournalAction, JournalRow
from gateway.lobby.context import LobbyContext, Nobody, Output, Person
from gateway.lobby.door import PROG
from gateway.lobby.run import run_command
from gateway.lobby.services import GithubDesk, RecordingInfo, Services, StopBegun
from gateway.tree_status import Synced, TreeStatus
from gateway.way_in import WayIn
from tests.support.fake_archives import FakeArchives

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def workspace(name: str, *, is_active: bool = True) -> Workspace:
    place = Path("/nowhere") / f"id-{name}"
    return Workspace(
        id=f"id-{name}", name=name, home=place / "home", tree=place / "tree", is_active=is_active, created_at=NOW
    )


def session(identifier: str, *, workspace_name: str = "my-app", ended: bool = False, **changes: object) -> SessionRow:
    row = SessionRow(
        id=identifier,
        workspace_id=f"id-{workspace_name}",
        workspace_name=workspace_name,
        kind=SessionKind.SHELL,
        status=SessionStatus.TERMINATED if ended else SessionStatus.ACTIVE,
        name=None,
        command=None,
        shell="bash",
        shell_pid=None if ended else 7,
        connection_id=None,
        principal="ana",
        key_fingerprint="SHA256:x",
        client_ip="192.0.2.7",
        columns=80,
        rows=24,
        recording=None,
        bytes_in=1,
        bytes_out=2048,
        created_at=NOW,
        last_activity_at=NOW,
        ended_at=NOW if ended else None,
        end_reason=EndReason.EXIT if ended else None,
        exit_code=7 if ended else None,
        exit_signal=None,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


@dataclass
class FakeStore:
    """Implements LobbyStore in memory."""

    workspaces: list[Workspace] = field(default_factory=list)
    keys: list[AccessKey] = field(default_factory=list)
    sessions: list[SessionRow] = field(default_factory=list)
    api_tokens: dict[str, ApiToken] = field(default_factory=dict)  # by hash
    refuse_key_named: str = ""
    theme_name: str | None = None
    journal: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    journal_addresses: list[str | None] = field(default_factory=list)
    journal_rows: list[JournalRow] = field(default_factory=list)  # what reading it finds, newest first
    asked: Mapping[str, object] = field(default_factory=dict)  # of the journal, the last time

    async def find_workspace(self, login_name: str) -> Workspace | None:
        return next((each for each in self.workspaces if each.name == login_name), None)

    async def list_workspaces(self, *, include_inactive: bool = False) -> list[Workspace]:
        return [each for each in self.workspaces if include_inactive or each.is_active]

    async def set_workspace_recorded(self, workspace_id: str, *, is_recorded: bool) -> None:
        self._change(workspace_id, is_recorded=is_recorded)

    async def set_workspace_forwarding(self, workspace_id: str, forwarding: Forwarding | None) -> None:
        self._change(workspace_id, forwarding=forwarding)

    async def set_workspace_shell(self, workspace_id: str, shell: str | None) -> None:
        self._change(workspace_id, shell=shell)

    def _change(self, workspace_id: str, **values: Any) -> None:
        self.workspaces = [replace(each, **values) if each.id == workspace_id else each for each in self.workspaces]

    async def list_keys(self) -> list[AccessKey]:
        return list(self.keys)

    async def add_key(
        self,
        *,
        name: str,
        fingerprint: str,
        public_key: str,
        workspaces: frozenset[str] | None = None,
        options: Mapping[str, str] | None = None,
        expires_at: datetime | None = None,
    ) -> AccessKey:
        if name == self.refuse_key_named:
            raise NameTaken("another command was faster")
        key = AccessKey(f"key-{name}", name, fingerprint, public_key, workspaces, options or {}, expires_at)
        self.keys.append(key)
        return key

    async def remove_key(self, name_or_fingerprint: str) -> AccessKey | None:
        for key in self.keys:
            if name_or_fingerprint in (key.name, key.fingerprint):
                self.keys.remove(key)
                return key
        return None

    async def session_statistics(self) -> SessionStatistics:
        return SessionStatistics(active=1, paused=2, total=9, ended_last_day=4, life_seconds_mean=90.5)

    async def theme(self) -> str | None:
        return self.theme_name

    async def set_theme(self, theme: str | None) -> None:
        self.theme_name = theme

    async def list_api_tokens(self) -> list[ApiToken]:
        return list(self.api_tokens.values())

    async def add_api_token(
        self, *, name: str, token_hash: str, scope: ApiScope, created_by: str, expires_at: datetime
    ) -> ApiToken:
        if any(token.name == name for token in self.api_tokens.values()):
            raise NameTaken(f"there is a token named {name!r}")
        token = ApiToken(f"id-{name}", name, scope, created_by, expires_at, created_at=NOW)
        self.api_tokens[token_hash] = token
        return token

    async def remove_api_token(self, name: str) -> ApiToken | None:
        found = next((each for each, token in self.api_tokens.items() if token.name == name), None)
        return None if found is None else self.api_tokens.pop(found)

    async def record(
        self,
        action: JournalAction,
        *,
        success: bool,
        client_ip: str | None = None,
        user_agent: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        self.journal.append((action.value, details or {}))
        self.journal_addresses.append(client_ip)

    async def list_auth_logs(
        self,
        *,
        action: JournalAction | None = None,
        workspace: str | None = None,
        principal: str | None = None,
        since: datetime | None = None,
        limit: int = 200,
    ) -> list[JournalRow]:
        self.asked = {"action": action, "workspace": workspace, "principal": principal, "since": since, "limit": limit}
        return self.journal_rows[:limit]

    async def list_sessions(
        self, *, include_ended: bool = False, limit: int = 200, workspaces: Collection[str] | None = None
    ) -> list[SessionRow]:
        return [
            row
            for row in self.sessions
            if (include_ended or row.status != "terminated")
            and (workspaces is None or row.workspace_name in workspaces)
        ][:limit]


@dataclass
class FakeSessions:
    """Implements SessionControl; remembers what it was asked."""

    killed: list[str] = field(default_factory=list)
    program_count: int = 0

    async def kill(self, session_id: str) -> None:
        self.killed.append(session_id)

    async def kill_workspace(self, workspace_id: str) -> None:
        self.killed.append(workspace_id)

    async def programs_in(self, workspace_id: str) -> int:
        return self.program_count


@dataclass
class FakeYard:
    """Implements WorkspaceYard."""

    made: list[tuple[str | None, str | None]] = field(default_factory=list)
    archived: list[str] = field(default_factory=list)
    wanted: list[tuple[str | None, str | None, bool]] = field(default_factory=list)
    tree: TreeStatus = field(default_factory=lambda: TreeStatus("main", "a" * 40, "origin/main", 0, 0))
    synced: list[tuple[str, str]] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    renamed_keys: list[str] = field(default_factory=list)  # fingerprints

    async def create(
        self,
        *,
        name: str | None,
        source: str | None,
        branch: str | None = None,
        description: str | None = None,
        is_declared: bool = False,
        progress: Output,
        is_terminal: bool,
        columns: int = 80,
    ) -> Workspace:
        self.made.append((name, source))
        self.wanted.append((branch, description, is_declared))
        await progress.write(b"receiving objects\n")
        return replace(workspace(name or "cloned"), is_cloned=not is_declared, description=description)

    async def status(self, workspace: Workspace) -> TreeStatus:
        return self.tree

    async def sync(
        self, workspace: Workspace, *, by: str, progress: Output, is_terminal: bool, columns: int = 80
    ) -> Synced:
        self.synced.append((workspace.name, by))
        return Synced("main", "a" * 40, "b" * 40, 2)

    async def rename(self, workspace: Workspace, name: str) -> tuple[Workspace, list[str]]:
        self.renamed.append((workspace.name, name))
        return replace(workspace, name=name), self.renamed_keys


@dataclass(frozen=True)
class Recording:
    session_id: str
    workspace_name: str = "my-app"
    started_at: datetime = NOW
    size_bytes: int = 4200
    duration: timedelta | None = timedelta(seconds=83)
    is_live: bool = False


@dataclass
class FakeShelf:
    """Implements RecordingShelf."""

    recordings: list[Recording] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    played: list[str] = field(default_factory=list)

    async def list(self) -> Sequence[RecordingInfo]:
        return self.recordings

    async def play(self, session_id: str, *, speed: float, idle_seconds_max: float) -> AsyncGenerator[bytes, None]:
        self.played.append(session_id)
        for piece in self.pieces:
            yield piece

    async def asciicast(self, session_id: str, *, version: int) -> AsyncGenerator[str, None]:
        yield f'{{"version": {version}}}\n'
        for number in range(10_000):
            yield f'[0.1, "o", "{number}"]\n'


@dataclass(frozen=True)
class Backup:
    path: Path = Path("/state/backups/homeport.db.gz")
    size_bytes: int = 1234
    duration_ms: float = 12.3
    pruned_count: int = 2


class Bytes:
    """An Output, and an Input, of memory."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    async def write(self, data: bytes) -> None:
        self.data += data

    async def read_all(self) -> bytes:
        return self.data

    @property
    def text(self) -> str:
        return self.data.decode()


NOTHING_KEPT = StopBegun(was_running=True, kept=(), ended_count=0)


@dataclass
class FakeLobby:
    """Everything a command needs; `await lobby("ls", "--json")` runs one and returns its exit status."""

    store: FakeStore = field(default_factory=FakeStore)
    sessions: FakeSessions = field(default_factory=FakeSessions)
    yard: FakeYard = field(default_factory=FakeYard)
    archives: FakeArchives = field(default_factory=FakeArchives)
    person: Person = field(default_factory=Nobody)
    shelf: FakeShelf = field(default_factory=FakeShelf)
    stop_begun: StopBegun = NOTHING_KEPT
    connection_count: int = 0  # open with any key
    ends_at: dict[str, datetime] = field(default_factory=dict)  # of idle sessions
    shells: list[str] = field(default_factory=lambda: ["/bin/bash", "/usr/bin/zsh"])
    way: WayIn = field(default_factory=lambda: WayIn("", "192.0.2.1", 2222, ""))
    own_name: str | None = "gateway.example"
    github: GithubDesk | None = None  # tests/support/github_account.py has one over a fake GitHub
    stdout: Bytes = field(default_factory=Bytes)
    stderr: Bytes = field(default_factory=Bytes)
    disconnected: list[str] = field(default_factory=list)  # fingerprints

    async def reload(self, say: Callable[[str], Awaitable[None]]) -> None:
        await say("replaced by process 4711")

    def services(self) -> Services:
        async def backup() -> Backup:
            return Backup()

        async def stop(ends_programs: bool) -> StopBegun:
            return self.stop_begun

        async def way_in(workspace: Workspace) -> WayIn:
            return replace(self.way, workspace=workspace.name, tree=f"/workspaces/{workspace.name}")

        async def own_name() -> str | None:
            return self.own_name

        return Services(
            store=self.store,
            sessions=self.sessions,
            workspaces=self.yard,
            archives=self.archives,
            recordings=self.shelf,
            backup=backup,
            stop=stop,
            reload=self.reload,
            disconnect=self._disconnect,
            ends_at=lambda: self.ends_at,
            shells=lambda: self.shells,
            way_in=way_in,
            own_name=own_name,
            github=self._github,
        )

    def _disconnect(self, fingerprint: str) -> int:
        self.disconnected.append(fingerprint)
        return self.connection_count

    def _github(self) -> GithubDesk:
        assert self.github is not None, "give the lobby a GitHub account first"
        return self.github

    async def __call__(
        self,
        *words: str,
        stdin: bytes = b"",
        columns: int = 80,
        is_terminal: bool = False,
        has_colour: bool = False,
        principal: Principal | None = None,
    ) -> int:
        """As `principal` by SSH; without one as the operator on the host."""
        self.stdout, self.stderr = Bytes(), Bytes()
        lobby = LobbyContext(
            stdin=Bytes(stdin),
            stdout=self.stdout,
            stderr=self.stderr,
            services=self.services(),
            columns=columns,
            is_terminal=is_terminal,
            has_colour=has_colour,
            principal=principal,
            prog="homeport" if principal is None else PROG,
            person=self.person,
        )
        return await run_command(lobby, list(words), on_host=principal is None)
