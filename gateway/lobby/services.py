"""What the commands need from the rest of the gateway, as protocols: the edges do not import each other.

`gateway/services.py` fills `Services` from the real parts; tests do with fakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from gateway.github.account import GithubStatus, LoggedOut
    from gateway.github.values import DeviceCode, GithubUser, RepositoryPage
    from gateway.interfaces import (
        AccessKey,
        ApiScope,
        ApiToken,
        Forwarding,
        SessionRow,
        SessionStatistics,
        Workspace,
    )
    from gateway.journal import JournalAction, JournalRow
    from gateway.lobby.context import Output
    from gateway.tree_status import Synced, TreeStatus
    from gateway.way_in import WayIn


class LobbyStore(Protocol):
    """The questions the commands ask the database (gateway/store)."""

    async def find_workspace(self, login_name: str) -> Workspace | None: ...

    async def list_workspaces(self, *, include_inactive: bool = False) -> list[Workspace]: ...

    async def set_workspace_recorded(self, workspace_id: str, *, is_recorded: bool) -> None: ...

    async def set_workspace_forwarding(self, workspace_id: str, forwarding: Forwarding | None) -> None: ...

    async def set_workspace_shell(self, workspace_id: str, shell: str | None) -> None: ...

    async def list_keys(self) -> list[AccessKey]: ...

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
        """Raises NameTaken."""
        ...

    async def remove_key(self, name_or_fingerprint: str) -> AccessKey | None:
        """The removed key, or None if there was none."""
        ...

    async def list_api_tokens(self) -> list[ApiToken]: ...

    async def add_api_token(
        self, *, name: str, token_hash: str, scope: ApiScope, created_by: str, expires_at: datetime
    ) -> ApiToken:
        """Raises NameTaken."""
        ...

    async def remove_api_token(self, name: str) -> ApiToken | None:
        """The removed one, or None if there was none."""
        ...

    async def list_sessions(
        self, *, include_ended: bool = False, limit: int = 200, workspaces: Collection[str] | None = None
    ) -> list[SessionRow]:
        """The most recently used first; of these workspaces (by name) alone, or of all."""
        ...

    async def session_statistics(self) -> SessionStatistics: ...

    async def theme(self) -> str | None:
        """The colour set's name; None: the default."""
        ...

    async def set_theme(self, theme: str | None) -> None: ...

    async def record(
        self,
        action: JournalAction,
        *,
        success: bool,
        client_ip: str | None = None,
        user_agent: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None: ...

    async def list_auth_logs(
        self,
        *,
        action: JournalAction | None = None,
        workspace: str | None = None,
        principal: str | None = None,
        since: datetime | None = None,
        limit: int = 200,
    ) -> list[JournalRow]:
        """Newest first."""
        ...


class SessionControl(Protocol):
    """Ends programs, wherever they live: attached, kept by a keeper, or both."""

    async def kill(self, session_id: str) -> None:
        """Hang the program up and mark its session killed. Returns once that is done; one already ended is fine."""
        ...

    async def kill_workspace(self, workspace_id: str) -> None:
        """End everything that runs in the workspace: its sessions, background programs and keeper."""
        ...

    async def programs_in(self, workspace_id: str) -> int:
        """How many programs the workspace runs, background ones included."""
        ...


class WorkspaceYard(Protocol):
    """Makes workspaces and puts them away (gateway/workspaces)."""

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
        """An empty git repository, or a clone of `source`, or the declaration of one. Cancelled or failed, it leaves
        nothing half made."""
        ...

    async def status(self, workspace: Workspace) -> TreeStatus: ...

    async def sync(
        self, workspace: Workspace, *, by: str, progress: Output, is_terminal: bool, columns: int = 80
    ) -> Synced:
        """Fetch and go forward; writes both into the journal, as they end."""
        ...

    async def rename(self, workspace: Workspace, name: str) -> tuple[Workspace, list[str]]:
        """With the fingerprints of the keys whose scope had the old name, and has the new one now."""
        ...


class Unsaved(Protocol):
    """What of a workspace exists nowhere else (gateway/workspaces/unsaved.py)."""

    @property
    def reasons(self) -> Sequence[str]: ...
    @property
    def is_clean(self) -> bool: ...
    @property
    def ignored_count(self) -> int: ...
    @property
    def home_file_count(self) -> int: ...


class Archived(Protocol):
    """A workspace's archive, as it lies there (gateway/workspaces/archive_places.py)."""

    @property
    def workspace(self) -> Workspace: ...
    @property
    def place(self) -> Path | None: ...  # None: its files are missing
    @property
    def archived_at(self) -> datetime | None: ...
    @property
    def size_bytes(self) -> int | None: ...  # None, as the next: made by an earlier version
    @property
    def content_bytes(self) -> int | None: ...
    @property
    def has_bundle(self) -> bool: ...
    @property
    def skipped_count(self) -> int: ...
    @property
    def unsaved(self) -> Unsaved: ...


class WorkspaceArchives(Protocol):
    """Puts workspaces away and brings them back (gateway/workspaces). What is refused or cancelled changes nothing."""

    async def archive(self, workspace: Workspace, *, say: Callable[[str], Awaitable[None]]) -> Archived:
        """Everything into one file, read back before anything is removed. The row stays, inactive."""
        ...

    async def unarchive(
        self, workspace: Workspace, *, is_archive_kept: bool, say: Callable[[str], Awaitable[None]]
    ) -> Path | None:
        """Everything back; returns where the archive is kept, if it is."""
        ...

    async def unsaved(self, workspace: Workspace) -> Unsaved:
        """Looked for now; of an archived one, as it was then."""
        ...

    async def purge(self, workspace: Workspace, *, refuse: Callable[[Unsaved], None]) -> int:
        """Delete for good, unless `refuse` raises; how many sessions went with it."""
        ...

    async def list_archived(self) -> Sequence[Archived]: ...


class RecordingInfo(Protocol):
    """One recording, as `rec ls` shows it (gateway/recording)."""

    @property
    def session_id(self) -> str: ...
    @property
    def workspace_name(self) -> str: ...
    @property
    def started_at(self) -> datetime: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def duration(self) -> timedelta | None: ...  # None: nothing has reached the file yet
    @property
    def is_live(self) -> bool: ...


class RecordingShelf(Protocol):
    """Reads recordings (gateway/recording), those of running sessions too."""

    async def list(self) -> Sequence[RecordingInfo]:
        """Newest first."""
        ...

    def play(self, session_id: str, *, speed: float, idle_seconds_max: float) -> AsyncGenerator[bytes, None]:
        """The terminal's output at its own pace: iterating waits between the pieces."""
        ...

    def asciicast(self, session_id: str, *, version: int) -> AsyncGenerator[str, None]:
        """The lines of an asciicast file, each with its line end."""
        ...


class GithubDesk(Protocol):
    """The owner's GitHub account (gateway/github/account.py)."""

    @property
    def scopes(self) -> str:
        """What a device login asks for, with spaces between."""
        ...

    @property
    def why_not_for_git(self) -> str:
        """Why git in workspaces gets no token even from a good login; empty if it does."""
        ...

    async def begin_device_login(self) -> DeviceCode: ...

    async def finish_device_login(self, code: DeviceCode) -> GithubUser:
        """Waits for the person, for minutes. Cancelled, it leaves nothing."""
        ...

    async def login_with_token(self, token: str) -> GithubUser: ...

    async def logout(self) -> LoggedOut: ...

    async def status(self) -> GithubStatus: ...

    async def repositories(self, *, search: str | None, page: int, limit: int) -> RepositoryPage: ...

    async def user_keys(self, login: str) -> list[str]: ...

    async def rotate_vault(self) -> int:
        """How many old keys there were."""
        ...


class BackupMade(Protocol):
    """What a backup run did (gateway/upkeep)."""

    @property
    def path(self) -> Path: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def duration_ms(self) -> float: ...
    @property
    def pruned_count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class StopBegun:
    """What `stop` set in motion."""

    was_running: bool
    kept: Sequence[SessionRow]  # programs that go on without the gateway
    ended_count: int


@dataclass(frozen=True, slots=True)
class Services:
    store: LobbyStore
    sessions: SessionControl
    workspaces: WorkspaceYard
    archives: WorkspaceArchives
    recordings: RecordingShelf
    backup: Callable[[], Awaitable[BackupMade]]
    stop: Callable[[bool], Awaitable[StopBegun]]  # the argument: end the programs as well
    # Have another process of this program replace the gateway; the argument takes lines on how far it is.
    reload: Callable[[Callable[[str], Awaitable[None]]], Awaitable[None]]
    disconnect: Callable[[str], int]  # close the connections a key (by fingerprint) has open; how many there were
    ends_at: Callable[[], Mapping[str, datetime]]  # sessions that end for want of use, and when
    shells: Callable[[], Sequence[str]]  # installed login shells, as paths, the usual one first
    way_in: Callable[[Workspace], Awaitable[WayIn]]  # its host is the one listened on
    own_name: Callable[[], Awaitable[str | None]]  # this machine's name on the network, if it has one
    github: Callable[[], GithubDesk]  # made when it is first asked for
