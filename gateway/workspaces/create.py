"""Makes workspaces and puts them away.

A new workspace is built under another name (`.new-ID`), filled by git inside its own walls, renamed, and only then
gets its row: whatever happens before that leaves nothing anyone could see. What a crash leaves is removed at the next
start by `remove_half_made`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

from gateway.errors import CommandRefused, KeeperGone, KeeperRefused, NameTaken
from gateway.events import Event
from gateway.ids import new_id
from gateway.interfaces import Keeper, Keepers, Launcher, Workspace
from gateway.log import log_event, log_warning
from gateway.workspace_name import NAME_CHARACTERS_MAX, RepositoryUrl, parse_repository_url, parse_workspace_name
from gateway.workspaces.git import FIRST_BRANCH, run_git

HALF_MADE_PREFIX = ".new-"
KEEPER_END_SECONDS = 10
GIT_ANSWER_SECONDS = 60  # `git init` and `git symbolic-ref`; only a clone takes longer


class Progress(Protocol):
    async def write(self, data: bytes) -> None: ...


class WorkspaceRows(Protocol):
    """What this module asks of the database (gateway/store)."""

    async def find_workspace(self, login_name: str) -> Workspace | None: ...

    async def find_workspace_by_repo(self, github_repo: str) -> Workspace | None: ...

    async def add_workspace(
        self,
        name: str,
        *,
        github_repo: str | None = None,
        github_url: str | None = None,
        branch: str = FIRST_BRANCH,
        description: str | None = None,
        id: str | None = None,
    ) -> Workspace:
        """Raises NameTaken."""
        ...

    async def archive_workspace(self, workspace_id: str) -> None: ...


class WorkspaceYard:
    """Where workspaces are made and put away."""

    def __init__(
        self,
        *,
        workspaces_dir: Path,
        archive_dir: Path,
        keepers: Keepers,
        launcher: Launcher,
        rows: WorkspaceRows,
        clone_seconds_max: float,
    ) -> None:
        self._workspaces_dir = workspaces_dir
        self._archive_dir = archive_dir
        self._keepers = keepers
        self._launcher = launcher
        self._rows = rows
        self._clone_seconds_max = clone_seconds_max

    async def create(self, *, name: str | None, source: str | None, progress: Progress, is_terminal: bool) -> Workspace:
        """An empty git repository, or a clone of `source` (whose name is the default). Raises NameTaken, UsageWrong,
        CommandRefused with git's words, LauncherUnavailable. Cancelled or failed, it leaves nothing behind."""
        origin = parse_repository_url(source) if source is not None else None
        name = parse_workspace_name(name or (name_of_clone(origin.url) if origin else "")).display
        await self._refuse_taken(name, origin)
        place = self._workspaces_dir / f"{HALF_MADE_PREFIX}{new_id()}"
        try:
            made = await self._build(place, name, origin, progress, is_terminal=is_terminal)
        except BaseException:
            await uninterrupted(self._undo(place))
            raise
        log_event(Event.WORKSPACE_CREATED, workspace=made.name, is_clone=origin is not None)
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

    async def _build(
        self, place: Path, name: str, origin: RepositoryUrl | None, progress: Progress, *, is_terminal: bool
    ) -> Workspace:
        for folder in (place, place / "home", place / "tree"):
            folder.mkdir(mode=0o700)
        workspace = Workspace(id=_id_of(place), name=name, home=place / "home", tree=place / "tree")
        branch = await self._fill(workspace, origin, progress, is_terminal=is_terminal)
        await self._end_keeper(workspace.id)  # its walls were built around the place's first name
        final = self._workspaces_dir / workspace.id
        place.rename(final)
        try:
            return await self._rows.add_workspace(
                name,
                github_repo=origin.github_repo if origin else None,
                github_url=origin.url if origin else None,
                branch=branch,
                id=workspace.id,
            )
        except BaseException:
            final.rename(place)
            raise

    async def _fill(
        self, workspace: Workspace, origin: RepositoryUrl | None, progress: Progress, *, is_terminal: bool
    ) -> str:
        """Have git make the tree; returns the branch it is on."""
        keeper = await self._keepers.keeper_for(workspace)
        inside = self._launcher.inside(workspace)

        async def show(text: str) -> None:
            await progress.write(text.encode())

        if origin is None:
            arguments = ["init", "--quiet", "."]
            await run_git(keeper, inside, arguments, seconds_max=GIT_ANSWER_SECONDS, on_progress=show)
            return FIRST_BRANCH
        shown = "--progress" if is_terminal else "--no-progress"
        arguments = ["clone", shown, "--", origin.url, "."]
        await run_git(keeper, inside, arguments, seconds_max=self._clone_seconds_max, on_progress=show)
        # An empty repository has a branch too, and a detached HEAD (a tag as the default) has none.
        arguments = ["symbolic-ref", "--quiet", "--short", "HEAD"]
        with contextlib.suppress(CommandRefused):
            branch = await run_git(keeper, inside, arguments, seconds_max=GIT_ANSWER_SECONDS, on_progress=show)
            return branch.strip() or FIRST_BRANCH
        return FIRST_BRANCH

    async def archive(self, workspace: Workspace) -> str:
        """End the workspace's keeper and move its files; the row stays, inactive. Returns where they are now."""
        await self._rows.archive_workspace(workspace.id)  # first, so that no login starts a program in what moves
        await self._end_keeper(workspace.id)
        target = self._archive_dir / f"{workspace.name}-{workspace.id}"
        try:
            await asyncio.to_thread(workspace.tree.parent.rename, target)
        except OSError as error:
            raise CommandRefused(
                f'"{workspace.name}" is archived, but its files stay in workspaces/{workspace.id}: {error.strerror}'
            ) from None
        log_event(Event.WORKSPACE_ARCHIVED, workspace=workspace.name)
        return str(target)

    async def _end_keeper(self, workspace_id: str) -> None:
        for keeper in [running for running in self._keepers.running() if running.workspace_id == workspace_id]:
            await end_keeper(keeper)

    async def _undo(self, place: Path) -> None:
        try:
            await self._end_keeper(_id_of(place))
        finally:
            await asyncio.to_thread(_remove, place)


async def end_keeper(keeper: Keeper) -> None:
    """End a keeper and everything in its workspace, and wait until it is gone. Raises KeeperGone if it does not go."""
    with contextlib.suppress(KeeperGone):  # that is what we want
        await keeper.terminate()
    try:
        async with asyncio.timeout(KEEPER_END_SECONDS):
            await keeper.closed.wait()
    except TimeoutError:
        raise KeeperRefused(f"the keeper of a workspace did not end within {KEEPER_END_SECONDS} s") from None


async def remove_half_made(workspaces_dir: Path) -> None:
    """Remove what a crash left of workspaces in the making. For the start, when no keeper of theirs runs any more."""
    for place in sorted(workspaces_dir.glob(f"{HALF_MADE_PREFIX}*")):
        await asyncio.to_thread(_remove, place)


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Finish `work` although the task is being cancelled, once or more often. The work has deadlines of its own."""
    task = asyncio.create_task(work, name="workspace:undo")
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    task.result()


def _id_of(place: Path) -> str:
    return place.name.removeprefix(HALF_MADE_PREFIX)


def name_of_clone(url: str) -> str:
    """What git would call the clone, as a workspace's name: the last part of the path."""
    last = url.rstrip("/").replace(":", "/").rpartition("/")[2].removesuffix(".git")
    return re.sub(r"[^a-z0-9_-]+", "-", last.lower()).strip("-_")[:NAME_CHARACTERS_MAX]


def _remove(place: Path) -> None:
    """Remove a tree that a program may have filled with anything. rmtree follows no links (it works by descriptors)."""
    shutil.rmtree(place, ignore_errors=True)
    if not place.exists():
        return
    # Closed folders (0500) keep what is in them, Go's module cache for one. Nothing runs there any more.
    for folder, names, _ in os.walk(place):
        for name in names:
            if not (path := Path(folder, name)).is_symlink():
                path.chmod(0o700)
    shutil.rmtree(place, ignore_errors=True)
    if place.exists():
        log_warning(Event.GATEWAY_WARNED, reason="half_made_workspace_left", place=place.name)
