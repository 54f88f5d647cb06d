"""Commands where no gateway runs: on the state itself, under its lock, as the account that owns it.

Belongs to the wiring like app.py. What is costly or may be refused (a launcher, the keepers) is made when a command
asks for it, so that `homeport ls` works on a machine where nothing could be started.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from gateway.caller_keys import TRIAL_KEY
from gateway.config import Config, config_file, load_config
from gateway.errors import CommandRefused
from gateway.github.account import GithubAccount
from gateway.ids import new_id
from gateway.interfaces import Workspace
from gateway.launchers.choose import choose_launcher
from gateway.launchers.inside import installed_shells
from gateway.launchers.keepers import WorkspaceKeepers
from gateway.launchers.launcher import KeeperLauncher
from gateway.lobby.client import write_all
from gateway.lobby.command import EXIT_OK, EXIT_REFUSED
from gateway.lobby.context import LobbyContext, Output
from gateway.lobby.host_person import HostPerson
from gateway.lobby.run import run_command
from gateway.lobby.services import Services, StopBegun
from gateway.log import set_up_logging
from gateway.privileges import become
from gateway.processes import GatewayProcesses, others_gone
from gateway.recording.recordings import Archive
from gateway.services import (
    ArchiveShelf,
    Programs,
    credential_broker,
    database_file,
    git_hosts,
    github_account,
    own_name,
    way_into,
    workspace_archives,
)
from gateway.state import TRIAL_FOLDER, Places, StateLock, prepare
from gateway.store.migrate import migrate, schema_status
from gateway.store.store import Store
from gateway.tree_status import Synced, TreeStatus
from gateway.upkeep.backup import Backups
from gateway.way_in import WayIn
from gateway.workspaces.archive_places import Archived
from gateway.workspaces.archives import Say, WorkspaceArchives
from gateway.workspaces.create import WorkspaceYard
from gateway.workspaces.unsaved import Unsaved


def run_on_state(
    words: list[str], *, stdin: bytes, columns: int, is_terminal: bool, has_colour: bool, shows_traceback: bool
) -> int:
    """Run one command of the table. As root this starts the program again, as the state's owner."""
    config, places, stdin = _as_owner(stdin, shows_traceback=shows_traceback)
    with StateLock(places.state_lock):
        return asyncio.run(
            _run(config, places, words, stdin=stdin, columns=columns, is_terminal=is_terminal, has_colour=has_colour)
        )


def show_database_status(*, as_json: bool) -> int:
    """`db status`. Reads only, so it needs no lock; it is the owner too, since SQLite leaves files beside what it
    reads."""
    config, places, _ = _as_owner()
    status = asyncio.run(schema_status(database_file(config, places)))
    named = {"applied": status.applied, "pending": status.pending, "unknown": status.unknown}
    lines = [f"{name}: {', '.join(versions) or 'none'}" for name, versions in named.items()]
    write_all(1, ((json.dumps(named) if as_json else "\n".join(lines)) + "\n").encode())
    return EXIT_REFUSED if status.unknown else EXIT_OK


def upgrade_database() -> int:
    """`db upgrade`."""
    config, places, _ = _as_owner()
    with StateLock(places.state_lock):
        applied = asyncio.run(migrate(database_file(config, places), backups_dir=places.backups_dir))
    said = f"applied {', '.join(applied)}" if applied else "nothing to do: the database is up to date"
    write_all(1, f"{said}\n".encode())
    return EXIT_OK


def _as_owner(stdin: bytes = b"", *, shows_traceback: bool = False) -> tuple[Config, Places, bytes]:
    config = load_config()
    stdin = become(config, lambda: stdin)
    # A person watches: the command itself says what happened, and a failure's traceback is for those who ask.
    set_up_logging(as_json=False, level="debug" if shows_traceback else "critical")
    return config, prepare(config), stdin


async def _run(
    config: Config, places: Places, words: list[str], *, stdin: bytes, columns: int, is_terminal: bool, has_colour: bool
) -> int:
    async with AsyncExitStack() as resources:
        store = await Store.open(
            database_file(config, places),
            backups_dir=places.backups_dir,
            workspaces_dir=places.workspaces_dir,
            workspaces_max=config.workspaces_max,
        )
        resources.push_async_callback(store.close)
        lobby = LobbyContext(
            stdin=_Given(stdin),
            stdout=_Descriptor(1),
            stderr=_Descriptor(2),
            services=_services(config, places, store, _OnDemand(config, places, store, resources)),
            columns=columns,
            is_terminal=is_terminal,
            has_colour=has_colour,
            person=HostPerson(),
            more_about_failures="see more with: homeport --debug …",
        )
        return await run_command(lobby, words, on_host=True)


def _services(config: Config, places: Places, store: Store, on_demand: _OnDemand) -> Services:
    backups = Backups(
        places.backups_dir, store, database_file=database_file(config, places), kept=config.schedule.backups_kept
    )
    return Services(
        store=store,
        sessions=on_demand,
        workspaces=on_demand,
        archives=_ArchivesOnDemand(on_demand.archives),
        recordings=ArchiveShelf(Archive(recordings_dir=places.recordings_dir, spools_dir=places.spools_dir)),
        backup=backups.make,
        stop=on_demand.stop,
        reload=_refuse_reload,
        disconnect=lambda fingerprint: 0,  # no gateway, no connections
        ends_at=dict,  # and nobody who would end an idle session
        shells=installed_shells,
        way_in=on_demand.way_into,
        own_name=own_name,
        github=on_demand.github,
    )


async def _refuse_reload(say: object) -> None:
    raise CommandRefused("no gateway is running; start it with: homeport serve")


class _OnDemand:
    """What the lobby's commands act on; launcher, keepers and GitHub account are made at the first use."""

    def __init__(self, config: Config, places: Places, store: Store, resources: AsyncExitStack) -> None:
        self._config = config
        self._places = places
        self._store = store
        self._resources = resources
        self._launcher: KeeperLauncher | None = None
        self._keepers: WorkspaceKeepers | None = None
        self._github: GithubAccount | None = None

    def github(self) -> GithubAccount:
        if self._github is None:
            self._github = github_account(self._config, self._places, self._store)
            self._resources.push_async_callback(self._github.close)
        return self._github

    async def kill(self, session_id: str) -> None:
        await (await self._programs()).kill(session_id)

    async def kill_workspace(self, workspace_id: str) -> None:
        await (await self._programs()).kill_workspace(workspace_id)

    async def programs_in(self, workspace_id: str) -> int:
        return await (await self._programs()).programs_in(workspace_id)

    async def stop(self, ends_programs: bool) -> StopBegun:
        processes = GatewayProcesses(self._places.gateways_dir)
        # Replaced ones, whose successor was killed: nobody else would tell them.
        if processes.ask_others_to_stop():
            await others_gone(processes)
        return await (await self._programs()).stop_without_gateway(ends_programs)

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
        yard = await self._yard()
        return await yard.create(name=name, source=source, branch=branch, description=description,
                                 is_declared=is_declared, progress=progress, is_terminal=is_terminal,
                                 columns=columns)  # fmt: skip

    async def status(self, workspace: Workspace) -> TreeStatus:
        return await (await self._yard()).status(workspace)

    async def sync(
        self, workspace: Workspace, *, by: str, progress: Output, is_terminal: bool, columns: int = 80
    ) -> Synced:
        yard = await self._yard()
        return await yard.sync(workspace, by=by, progress=progress, is_terminal=is_terminal, columns=columns)

    async def rename(self, workspace: Workspace, name: str) -> tuple[Workspace, list[str]]:
        return await (await self._yard()).rename(workspace, name)

    async def archives(self) -> WorkspaceArchives:
        recordings = Archive(recordings_dir=self._places.recordings_dir, spools_dir=self._places.spools_dir)
        return workspace_archives(
            self._config,
            self._places,
            keepers=await self._found_keepers(),
            launcher=await self._chosen_launcher(),
            rows=self._store,
            recordings=_Removal(recordings),
        )

    async def way_into(self, workspace: Workspace) -> WayIn:
        tree = (await self._chosen_launcher()).inside(workspace).tree
        trial_key = self._places.state_dir / TRIAL_FOLDER / TRIAL_KEY
        identity = str(trial_key) if trial_key.parent.is_dir() else None  # the folder is its caller's alone
        return way_into(workspace, self._config.ssh.listen, tree=tree, places=self._places, identity=identity)

    async def _programs(self) -> Programs:
        return Programs(rows=self._store, keepers=await self._found_keepers())

    async def _yard(self) -> WorkspaceYard:
        keepers = await self._found_keepers()
        if keepers.watch is None:  # a private repository is cloned with the account's token
            tasks = await self._resources.enter_async_context(asyncio.TaskGroup())
            broker = credential_broker(self._config, account=self.github(), store=self._store, keepers=keepers,
                                       launcher=await self._chosen_launcher(),
                                       spawn=lambda work, name: tasks.create_task(work, name=name))  # fmt: skip
            self._resources.callback(broker.close)
        return WorkspaceYard(
            workspaces_dir=self._places.workspaces_dir,
            keepers=keepers,
            launcher=await self._chosen_launcher(),
            rows=self._store,
            clone_seconds_max=self._config.clone_seconds_max,
            hosts=git_hosts(self._config),
            github=self.github(),
        )

    async def _chosen_launcher(self) -> KeeperLauncher:
        if self._launcher is None:
            config = self._config
            self._launcher, _ = await choose_launcher(
                config.isolation,
                listeners_are_loopback=config.ssh.listen.is_loopback and config.http.listen.is_loopback,
                private_paths=(self._places.state_dir, self._places.runtime_dir, config_file()),
                runtime_dir=self._places.runtime_dir,
            )
        return self._launcher

    async def _found_keepers(self) -> WorkspaceKeepers:
        """Those an earlier gateway left running, and the way to new ones."""
        if self._keepers is None:
            keepers = WorkspaceKeepers(
                await self._chosen_launcher(),
                runtime_dir=self._places.runtime_dir,
                gateway_id=new_id(),
                settings=self._config.session,
            )
            self._resources.push_async_callback(keepers.close)
            await keepers.find()
            self._keepers = keepers
        return self._keepers


class _ArchivesOnDemand:
    """Archives of the lobby; what was interrupted is finished before anything else is begun."""

    def __init__(self, make: Callable[[], Awaitable[WorkspaceArchives]]) -> None:
        self._make = make

    async def archive(self, workspace: Workspace, *, say: Say) -> Archived:
        return await (await self._ready()).archive(workspace, say=say)

    async def unarchive(self, workspace: Workspace, *, is_archive_kept: bool, say: Say) -> Path | None:
        return await (await self._ready()).unarchive(workspace, is_archive_kept=is_archive_kept, say=say)

    async def unsaved(self, workspace: Workspace) -> Unsaved:
        return await (await self._ready()).unsaved(workspace)

    async def purge(self, workspace: Workspace, *, refuse: Callable[[Unsaved], None]) -> int:
        return await (await self._ready()).purge(workspace, refuse=refuse)

    async def list_archived(self) -> list[Archived]:
        return await (await self._make()).list_archived()

    async def _ready(self) -> WorkspaceArchives:
        archives = await self._make()
        await archives.sweep(await archives.recover())
        return archives


class _Removal:
    """Implements RecordingRemoval where no session is live."""

    def __init__(self, recordings: Archive) -> None:
        self._recordings = recordings

    async def delete(self, session_ids: Sequence[str]) -> object:
        return await asyncio.to_thread(self._recordings.delete, session_ids)


class _Given:
    """The caller's input, read before the account changed."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read_all(self) -> bytes:
        return self._data


class _Descriptor:
    """One of our own standard streams. A write may wait for its reader: nothing else runs in this process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def write(self, data: bytes) -> None:
        write_all(self._fd, data)
