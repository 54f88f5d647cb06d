"""What the lobby's commands act on, built from the real parts: in a running gateway, or on a state where none runs.

Belongs to the wiring like app.py: it knows the edges, and no edge knows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from gateway.config import Address, Config
from gateway.credentials.broker import BrokerSettings, BrokerStore, CredentialBroker
from gateway.credentials.decision import Origin
from gateway.credentials.desk import Spawn
from gateway.errors import GatewayError, KeeperGone, KeeperRefused, RecordingDamaged
from gateway.github.account import GithubAccount
from gateway.github.tokens import AccountStore, GithubTokens
from gateway.github.vault import Vault
from gateway.interfaces import EndReason, Keeper, Keepers, Launcher, ProgramExit, SessionRow, Workspace
from gateway.launchers.keepers import WorkspaceKeepers
from gateway.launchers.launcher import KeeperLauncher
from gateway.lobby.services import RecordingInfo, StopBegun
from gateway.recording.asciicast import asciicast_v2, asciicast_v3
from gateway.recording.playback import paced
from gateway.recording.recordings import Archive
from gateway.state import Places
from gateway.store.location import parse_database_url
from gateway.way_in import WayIn, known_hosts_name, reached_here
from gateway.workspace_name import GitHosts
from gateway.workspaces.archive_places import ArchivePlaces
from gateway.workspaces.archives import ArchiveLimits, ArchiveRows, RecordingRemoval, WorkspaceArchives
from gateway.workspaces.create import end_keeper

T = TypeVar("T")

# Reading a recording blocks, so it happens in a thread; a few hundred events a time make the hops cheap.
EVENTS_PER_HOP = 256
OWN_NAME_SECONDS = 3


class SessionRows(Protocol):
    """What this module asks of the database (gateway/store)."""

    async def sessions_left_open(self) -> list[SessionRow]: ...

    async def end_session(
        self, session_id: str, *, exit: ProgramExit, reason: EndReason, bytes_in: int, bytes_out: int
    ) -> bool: ...


class LiveSessions(Protocol):
    """The running gateway's own sessions (sessions.py)."""

    async def kill(self, session_id: str) -> bool:
        """False: it is not one of ours."""
        ...


def database_file(config: Config, places: Places) -> Path:
    """Where the database is: in the state, unless a setting names another file."""
    return parse_database_url(config.database_url) if config.database_url else places.database


def github_account(config: Config, places: Places, store: AccountStore) -> GithubAccount:
    """The owner's account on the GitHub of the settings. The caller closes it."""
    from gateway.workspaces.github import GithubClient  # aiohttp: a command without a gateway rarely needs it

    api = GithubClient(config.github)
    tokens = GithubTokens(config.github, api=api, vault=Vault(places.keys_dir), store=store, lock_dir=places.state_dir)
    return GithubAccount(config.github, api=api, tokens=tokens)


def git_hosts(config: Config) -> GitHosts:
    """Where repositories may be cloned from."""
    return GitHosts(config.github.web_url, config.git.hosts)


def credential_broker(
    config: Config,
    *,
    account: GithubAccount,
    store: BrokerStore,
    launcher: KeeperLauncher,
    keepers: WorkspaceKeepers,
    spawn: Spawn,
) -> CredentialBroker:
    """Git in workspaces is told by it from now on. The caller closes it before the keepers."""
    settings = BrokerSettings(
        origin=Origin.of_url(config.github.web_url),
        scope=config.github.credential_scope,
        is_allowed_without_walls=config.github.credentials_without_walls,
    )
    broker = CredentialBroker(
        settings, account=account, store=store, launcher=launcher, place_for=keepers.git_place, spawn=spawn
    )
    keepers.watch = broker
    account.tokens.changed = broker.account_changed
    account.why_not_for_git = broker.why_closed
    return broker


def way_into(workspace: Workspace, address: Address, *, tree: str, places: Places, identity: str | None) -> WayIn:
    """How clients reach a workspace, for `homeport connect`. A trial's state has a known_hosts for the address by which
    this machine reaches it; only then the client's own files are known, and the client is here."""
    here = reached_here(address.host)
    name = known_hosts_name(here, address.port)
    try:
        is_trial = any(line.startswith(f"{name} ") for line in places.known_hosts.read_text().splitlines())
    except OSError:
        is_trial = False
    if not is_trial:
        return WayIn(workspace.name, address.host, address.port, tree)
    return WayIn(workspace.name, here, address.port, tree, str(places.known_hosts), identity)


async def own_name() -> str | None:
    """This machine's name on the network, as `hostname -f` has it; None if that is no name for others."""
    try:
        async with asyncio.timeout(OWN_NAME_SECONDS):
            name = await asyncio.to_thread(_canonical_name)
    except TimeoutError:  # a resolver that does not answer; the thread ends when it gives up
        name = socket.gethostname()
    return None if name in ("", "localhost") or name.startswith("localhost.") else name


def _canonical_name() -> str:
    # Not getfqdn, which asks for the name of the address: where that is 127.0.0.1, it is localhost.
    name = socket.gethostname()
    try:
        found = socket.getaddrinfo(name, None, flags=socket.AI_CANONNAME)[0][3]
    except OSError:
        found = ""
    return found or name


def workspace_archives(
    config: Config,
    places: Places,
    *,
    keepers: Keepers,
    launcher: Launcher,
    rows: ArchiveRows,
    recordings: RecordingRemoval,
) -> WorkspaceArchives:
    return WorkspaceArchives(
        ArchivePlaces(workspaces_dir=places.workspaces_dir, archive_dir=places.archive_dir),
        ArchiveLimits(seconds_max=config.archive.seconds_max, free_bytes_min=config.http.disk_free_min_bytes),
        keepers=keepers,
        launcher=launcher,
        rows=rows,
        recordings=recordings,
    )


class ArchiveShelf:
    """Implements the lobby's RecordingShelf over the recordings on disk."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def list(self) -> Sequence[RecordingInfo]:
        return list(reversed(await asyncio.to_thread(self._archive.list)))

    async def play(self, session_id: str, *, speed: float, idle_seconds_max: float) -> AsyncGenerator[bytes, None]:
        reader = await asyncio.to_thread(self._archive.open, session_id)
        with contextlib.closing(reader):
            async for wait_seconds, data in _in_thread(paced(reader, speed=speed, idle_limit_seconds=idle_seconds_max)):
                await asyncio.sleep(wait_seconds)
                yield data
        _refuse_damage(reader.damage)

    async def asciicast(self, session_id: str, *, version: int) -> AsyncGenerator[str, None]:
        reader = await asyncio.to_thread(self._archive.open, session_id)
        with contextlib.closing(reader):
            lines = asciicast_v2 if version == 2 else asciicast_v3
            async for line in _in_thread(lines(reader.meta, reader)):
                yield line
        _refuse_damage(reader.damage)


class SessionsElsewhere(Protocol):
    """Those of gateways that were replaced and serve on (elsewhere.py)."""

    async def end(self, session_id: str) -> bool:
        """False: none of them has it."""
        ...


class Programs:
    """Implements the lobby's SessionControl over the keepers, with or without a gateway's own sessions beside them."""

    def __init__(
        self,
        *,
        rows: SessionRows,
        keepers: Keepers,
        live: LiveSessions | None = None,
        elsewhere: SessionsElsewhere | None = None,
    ) -> None:
        self._rows = rows
        self._keepers = keepers
        self._live = live
        self._elsewhere = elsewhere

    async def kill(self, session_id: str) -> None:
        if self._live is not None and await self._live.kill(session_id):
            return  # its own task sees the end and writes it down
        if self._elsewhere is not None and await self._elsewhere.end(session_id):
            return  # whoever has it does the same
        for keeper in self._keepers.running():
            with contextlib.suppress(KeeperGone):  # gone: so is the program
                if any(kept.session_id == session_id for kept in await keeper.list()):
                    await keeper.hang_up(session_id)
                    await keeper.forget(session_id)
        await self._end_rows(row for row in await self._rows.sessions_left_open() if row.id == session_id)

    async def kill_workspace(self, workspace_id: str) -> None:
        rows = [row for row in await self._rows.sessions_left_open() if row.workspace_id == workspace_id]
        if self._live is not None:
            for row in rows:  # so that its row says killed, not lost
                if not await self._live.kill(row.id) and self._elsewhere is not None:
                    with contextlib.suppress(KeeperRefused):
                        await self._elsewhere.end(row.id)
        for keeper in self._keepers_of(workspace_id):
            await end_keeper(keeper)
        if self._live is None:
            await self._end_rows(rows)

    async def programs_in(self, workspace_id: str) -> int:
        count = 0
        for keeper in self._keepers_of(workspace_id):
            with contextlib.suppress(KeeperGone):
                count += await keeper.process_count()
        return count

    async def end_everything(self) -> int:
        """End every keeper with all that runs in it (`stop --all`); returns how many there were."""
        keepers = self._keepers.running()
        rows = await self._rows.sessions_left_open()
        for keeper in keepers:
            with contextlib.suppress(GatewayError):  # one that does not end must not keep the others alive
                await end_keeper(keeper)
        await self._end_rows(rows, reason=EndReason.SHUTDOWN)
        return len(keepers)

    async def stop_without_gateway(self, ends_programs: bool) -> StopBegun:
        """The lobby's `stop` where no gateway runs: what is left are kept programs."""
        if ends_programs:
            return StopBegun(was_running=False, kept=(), ended_count=await self.end_everything())
        kept = [row for row in await self._rows.sessions_left_open() if row.columns is not None]  # pipes broke with it
        return StopBegun(was_running=False, kept=kept, ended_count=0)

    def _keepers_of(self, workspace_id: str) -> list[Keeper]:
        return [keeper for keeper in self._keepers.running() if keeper.workspace_id == workspace_id]

    async def _end_rows(self, rows: Iterable[SessionRow], *, reason: EndReason = EndReason.KILLED) -> None:
        for row in rows:
            await self._rows.end_session(
                row.id, exit=ProgramExit(), reason=reason, bytes_in=row.bytes_in, bytes_out=row.bytes_out
            )


async def _in_thread(items: Iterator[T]) -> AsyncGenerator[T, None]:
    """Draw from a blocking iterator without blocking the loop. Cancelled, it first lets the thread come back, so that
    the caller never closes a file that is being read."""
    while True:
        drawing = asyncio.ensure_future(asyncio.to_thread(lambda: list(islice(items, EVENTS_PER_HOP))))
        try:
            batch = await asyncio.shield(drawing)
        except asyncio.CancelledError:
            await asyncio.wait({drawing})
            raise
        if not batch:
            return
        for item in batch:
            yield item


def _refuse_damage(damage: str) -> None:
    """After everything that could be read has been given out."""
    if damage:
        raise RecordingDamaged(f"the recording is damaged: {damage}")
