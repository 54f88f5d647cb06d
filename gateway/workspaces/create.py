"""Makes workspaces. archives.py puts them away.

A new workspace is built under another name (making.py), renamed, and only then gets its row: whatever happens before
that leaves nothing anyone could see. What a crash leaves is removed at the next start by `remove_half_made`. One that
is only declared has its row first and its tree later (declared.py), by the same rename.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from gateway.errors import CommandRefused, GatewayError, KeeperGone, KeeperRefused, NameRefused, NameTaken, UsageWrong
from gateway.events import Event
from gateway.ids import new_id
from gateway.interfaces import Keeper, Keepers, Launcher, Workspace
from gateway.journal import JournalAction
from gateway.log import log_event
from gateway.tree_status import Synced, TreeStatus
from gateway.workspace_name import (
    NAME_CHARACTERS_MAX,
    GitHosts,
    RepositoryUrl,
    clean_description,
    parse_branch,
    parse_workspace_name,
)
from gateway.workspaces.declared import DeclaredClones
from gateway.workspaces.git import FIRST_BRANCH
from gateway.workspaces.making import HALF_MADE_PREFIX, Made, Maker, Wanted, uninterrupted
from gateway.workspaces.progress import GitProgress
from gateway.workspaces.removal import remove_for_good
from gateway.workspaces.renamed import GithubRepositories, RepositoryNames, follow_in_tree
from gateway.workspaces.trees import Recorder, status_of, sync_tree

KEEPER_END_SECONDS = 10


class Progress(Protocol):
    async def write(self, data: bytes) -> None: ...


class WorkspaceRows(Protocol):
    """What this folder asks of the database (gateway/store)."""

    async def find_workspace(self, login_name: str) -> Workspace | None: ...

    async def find_workspace_by_repo(self, github_repo: str) -> Workspace | None: ...

    async def workspace(self, workspace_id: str) -> Workspace | None: ...

    async def refuse_one_more_workspace(self) -> None:
        """Raises CommandRefused if there are as many as the settings allow."""
        ...

    async def add_workspace(
        self,
        name: str,
        *,
        github_repo: str | None = None,
        github_url: str | None = None,
        branch: str = FIRST_BRANCH,
        description: str | None = None,
        id: str | None = None,
        is_cloned: bool = True,
        clone_branch: str | None = None,
    ) -> Workspace:
        """Raises NameTaken."""
        ...

    async def mark_workspace_cloned(self, workspace_id: str, *, branch: str) -> None: ...

    async def mark_workspace_synced(self, workspace_id: str) -> None: ...

    async def rename_workspace(self, workspace_id: str, name: str) -> list[str]:
        """Returns the fingerprints of the keys whose scope had the old name. Raises NameRefused, NameTaken."""
        ...

    async def set_workspace_repository(
        self, workspace_id: str, *, github_id: int, github_repo: str, github_url: str
    ) -> None:
        """Raises NameTaken if another workspace has the repository."""
        ...

    async def record(
        self, action: JournalAction, *, success: bool, details: Mapping[str, object] | None = None
    ) -> None: ...


class WorkspaceYard:
    """Where workspaces are made."""

    def __init__(
        self,
        *,
        workspaces_dir: Path,
        keepers: Keepers,
        launcher: Launcher,
        rows: WorkspaceRows,
        clone_seconds_max: float,
        hosts: GitHosts,
        github: GithubRepositories | None = None,
    ) -> None:
        self._workspaces_dir = workspaces_dir
        self._keepers = keepers
        self._launcher = launcher
        self._rows = rows
        self._hosts = hosts
        self._names = RepositoryNames(github, rows)
        self._maker = Maker(workspaces_dir=workspaces_dir, keepers=keepers, launcher=launcher,
                            clone_seconds_max=clone_seconds_max, end_keeper=self._end_keeper,
                            remove=remove_for_good)  # fmt: skip
        self.declared = DeclaredClones(self._maker, rows=rows, workspaces_dir=workspaces_dir)

    async def create(
        self,
        *,
        name: str | None,
        source: str | None,
        branch: str | None = None,
        description: str | None = None,
        is_declared: bool = False,
        progress: Progress,
        is_terminal: bool,
        columns: int = 80,
    ) -> Workspace:
        """An empty git repository, or a clone of `source` (`owner/repo` or a URL, whose name is the default): of its
        default branch, or of `branch`. `is_declared`: cloned at the first login.

        Raises NameRefused, NameTaken, UsageWrong, CommandRefused with git's words, LauncherUnavailable. Cancelled or
        failed, it leaves nothing behind.
        """
        origin = self._hosts.parse(source) if source is not None else None
        name = parse_workspace_name(name or (name_of_clone(origin.url) if origin else "")).display
        if origin is None and (branch is not None or is_declared):
            raise UsageWrong("an empty workspace is made at once, on the branch main; --branch and --later are for a"
                             " repository to clone")  # fmt: skip
        wanted = Wanted(origin.url if origin else None, None if branch is None else parse_branch(branch))
        description = clean_description(description)
        await self._refuse_taken(name, origin)
        await self._rows.refuse_one_more_workspace()
        workspace = self._unmade(name, origin, description)
        if is_declared:
            made = await self._add(workspace, name, wanted.branch or FIRST_BRANCH, wanted=wanted, is_cloned=False)
        else:
            shown = GitProgress(progress, is_terminal=is_terminal, columns=columns)
            made = await self._names.current(await self._make(workspace, name, wanted, shown))
        log_event(Event.WORKSPACE_CREATED, workspace=made.name, is_clone=origin is not None, is_declared=is_declared)
        return made

    async def _refuse_taken(self, name: str, origin: RepositoryUrl | None) -> None:
        """Before the clone, in a moment; the row, after it, decides."""
        taken = await self._rows.find_workspace(name)
        if taken is not None:
            state = "" if taken.is_active else ", archived, and its name stays taken"
            raise NameTaken(f'there is a workspace "{taken.name}" already{state}; choose another name')
        if origin is not None and origin.github_repo is not None:
            taken = await self._rows.find_workspace_by_repo(origin.github_repo)
        if taken is not None:
            raise NameTaken(f'{taken.github_repo} is cloned already: it is the workspace "{taken.name}"')

    def _unmade(self, name: str, origin: RepositoryUrl | None, description: str | None) -> Workspace:
        """As it will be, for its walls: they have the login name inside."""
        workspace_id = new_id()
        place = self._workspaces_dir / workspace_id
        return Workspace(id=workspace_id, name=name.lower(), home=place / "home", tree=place / "tree",
                         github_repo=origin.github_repo if origin else None,
                         github_url=origin.url if origin else None, description=description)  # fmt: skip

    async def _make(self, workspace: Workspace, name: str, wanted: Wanted, progress: GitProgress) -> Workspace:
        made = await self._maker.make(workspace, wanted, progress)
        added: list[Workspace] = []
        # Not to be cancelled: the row is written all the same, and would be one without files.
        await uninterrupted(self._put_in_place(workspace, name, made, wanted, added))
        return added[0]

    async def _put_in_place(
        self, workspace: Workspace, name: str, made: Made, wanted: Wanted, added: list[Workspace]
    ) -> None:
        final = self._workspaces_dir / workspace.id
        try:
            made.place.rename(final)
            try:
                added.append(await self._add(workspace, name, made.branch, wanted=wanted))
            except BaseException:
                final.rename(made.place)
                raise
        except BaseException:
            await self._maker.undo(made.place)
            raise

    async def _add(
        self, workspace: Workspace, name: str, branch: str, *, wanted: Wanted, is_cloned: bool = True
    ) -> Workspace:
        return await self._rows.add_workspace(
            name,
            github_repo=workspace.github_repo,
            github_url=workspace.github_url,
            branch=branch,
            description=workspace.description,
            id=workspace.id,
            is_cloned=is_cloned,
            clone_branch=None if is_cloned else wanted.branch,
        )

    async def status(self, workspace: Workspace) -> TreeStatus:
        """What git says of the tree. Raises CommandRefused, also for one that is not cloned yet."""
        _refuse_unmade(workspace)
        return await status_of(await self._keepers.keeper_for(workspace), self._launcher.inside(workspace))

    async def sync(
        self, workspace: Workspace, *, by: str, progress: Progress, is_terminal: bool, columns: int = 80
    ) -> Synced:
        """Fetch, and go forward to what the upstream has, if nothing stands in the way; both are in the journal.
        Raises CommandRefused with the reason."""
        _refuse_unmade(workspace)
        if workspace.github_url is None:
            raise CommandRefused(f'"{workspace.name}" was made empty: there is no repository to fetch from; enter it'
                                 " and use git there")  # fmt: skip
        keeper = await self._keepers.keeper_for(workspace)
        followed = await self._names.current(workspace)
        await follow_in_tree(keeper, self._launcher.inside(workspace), workspace, followed)
        shown = GitProgress(progress, is_terminal=is_terminal, columns=columns)
        recorder = Recorder(self._rows.record, workspace, by)
        synced = await sync_tree(keeper, self._launcher.inside(workspace), workspace, recorder, shown,
                                 seconds_max=self._maker.clone_seconds_max)  # fmt: skip
        await self._rows.mark_workspace_synced(workspace.id)
        return synced

    async def rename(self, workspace: Workspace, name: str) -> tuple[Workspace, list[str]]:
        """Give it another login name; returns it, and the fingerprints of keys whose scope went with it. Raises
        CommandRefused while programs run in it: their paths have the old name."""
        parsed = parse_workspace_name(name)
        await self._refuse_running(workspace)
        try:
            fingerprints = await self._rows.rename_workspace(workspace.id, parsed.display)
            # A login by the old name may have been under way; by the new one nobody knows it yet.
            await self._refuse_running(workspace)
            await self._end_keeper(workspace.id)  # idle; its walls were built around the old name
        except (NameRefused, NameTaken):
            raise
        except BaseException:  # cancelled as well: half a rename leaves keys that may enter by a name nobody has
            await uninterrupted(self._named_again(workspace))
            raise
        log_event(Event.WORKSPACE_RENAMED, workspace=parsed.slug, before=workspace.name)
        return replace(workspace, name=parsed.slug), fingerprints

    async def _named_again(self, workspace: Workspace) -> None:
        await self._rows.rename_workspace(workspace.id, workspace.name)

    async def _refuse_running(self, workspace: Workspace) -> None:
        for keeper in self._keepers_of(workspace.id):
            with contextlib.suppress(KeeperGone):
                if count := await keeper.process_count():
                    programs = "a program runs" if count == 1 else f"{count} programs run"
                    raise CommandRefused(
                        f'{programs} in "{workspace.name}", and their paths have its name; end them first with:'
                        f" homeport kill --workspace {workspace.name}"
                    )

    async def _end_keeper(self, workspace_id: str) -> None:
        for keeper in self._keepers_of(workspace_id):
            await end_keeper(keeper)

    def _keepers_of(self, workspace_id: str) -> list[Keeper]:
        return [keeper for keeper in self._keepers.running() if keeper.workspace_id == workspace_id]


async def end_keeper(keeper: Keeper) -> None:
    """End a keeper and everything in its workspace, and wait until it is gone. Raises KeeperGone if it does not go."""
    with contextlib.suppress(KeeperGone):  # that is what we want
        await keeper.terminate()
    try:
        async with asyncio.timeout(KEEPER_END_SECONDS):
            await keeper.closed.wait()
    except TimeoutError:
        raise KeeperRefused(f"the keeper of a workspace did not end within {KEEPER_END_SECONDS} s") from None


async def remove_half_made(workspaces_dir: Path, running: Sequence[Keeper] = ()) -> None:
    """Remove what a crash left of workspaces in the making. For the start. `running`: the keepers that were found; a
    git that one of them still runs, for a gateway that is no more, is ended first."""
    for place in sorted(workspaces_dir.glob(f"{HALF_MADE_PREFIX}*")):
        for keeper in running:
            if keeper.workspace_id == place.name.removeprefix(HALF_MADE_PREFIX):
                with contextlib.suppress(GatewayError):  # one that hangs must not keep the gateway from its start
                    await end_keeper(keeper)
        await asyncio.to_thread(remove_for_good, place)


def _refuse_unmade(workspace: Workspace) -> None:
    if not workspace.is_cloned:
        raise CommandRefused(f'"{workspace.name}" is declared and not cloned yet; its first login clones it')


def name_of_clone(url: str) -> str:
    """What git would call the clone, as a workspace's name: the last part of the path."""
    last = url.rstrip("/").replace(":", "/").rpartition("/")[2].removesuffix(".git")
    return re.sub(r"[^a-z0-9_-]+", "-", last.lower()).strip("-_")[:NAME_CHARACTERS_MAX]
