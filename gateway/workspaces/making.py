"""Makes what lies behind a workspace: `.new-ID/{home,tree}`, filled by git inside walls of its own.

Nobody can see it before it is whole and renamed. Each try has a place and a keeper of its own, so that what one left is
nothing to the next; what a crash leaves is removed at the next start (`remove_half_made` in create.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from gateway.errors import CommandRefused, GitFailed
from gateway.ids import new_id
from gateway.interfaces import Inside, Keeper, Keepers, Launcher, Workspace
from gateway.workspaces.git import FIRST_BRANCH, protocols_for, run_git, say_nothing

HALF_MADE_PREFIX = ".new-"
GIT_ANSWER_SECONDS = 60  # `git init` and `git symbolic-ref`; only a clone takes longer
# A router that restarts is back within them; who waits longer would rather try again in person.
RETRY_WAITS_SECONDS = (1.0, 4.0, 15.0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the tree shall hold: a clone of `url` (of its default branch, or of `branch`), or an empty repository."""

    url: str | None = None
    branch: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    place: Path  # with home and tree, whole; the caller renames it, or has it undone
    branch: str  # that the tree is on


class Shown(Protocol):
    """Where the progress goes (progress.py)."""

    @property
    def is_terminal(self) -> bool: ...

    async def feed(self, text: str) -> None: ...

    async def say(self, text: str) -> None: ...

    async def end(self) -> None: ...


class Maker:
    """`end_keeper` ends the keeper of a place and all it runs; `remove` removes a place, in a thread."""

    def __init__(
        self,
        *,
        workspaces_dir: Path,
        keepers: Keepers,
        launcher: Launcher,
        clone_seconds_max: float,
        end_keeper: Callable[[str], Awaitable[None]],
        remove: Callable[[Path], None],
    ) -> None:
        self._workspaces_dir = workspaces_dir
        self._keepers = keepers
        self._launcher = launcher
        self._end_keeper = end_keeper
        self.remove = remove
        self.clone_seconds_max = clone_seconds_max
        self.retry_waits_seconds = RETRY_WAITS_SECONDS

    async def make(self, workspace: Workspace, wanted: Wanted, progress: Shown) -> Made:
        """Everything but the last rename. A network that fails is tried again, with words.

        Raises GitFailed and what keepers raise. Cancelled or failed, it leaves nothing behind.
        """
        ends_at = time.monotonic() + self.clone_seconds_max
        for wait_seconds in (*self.retry_waits_seconds, None):
            try:
                return await self._try(workspace, wanted, progress, seconds_max=ends_at - time.monotonic())
            except GitFailed as error:
                if not error.is_network or wait_seconds is None or time.monotonic() + wait_seconds > ends_at:
                    raise _explained(error, wanted) from None
                said = error.user_message.removeprefix("git failed: ")
                await progress.say(f"{said}; trying again in {wait_seconds:.0f} s")
            await asyncio.sleep(wait_seconds)
        raise AssertionError("unreachable")

    async def undo(self, place: Path) -> None:
        """Remove what was made, however often whoever waits for it is cancelled."""
        await uninterrupted(self._undo(place))

    async def branch_of(self, workspace: Workspace) -> str:
        """The branch that a tree which is there already is on."""
        keeper = await self._keepers.keeper_for(workspace)
        return await _branch(keeper, self._launcher.inside(workspace))

    async def _try(self, workspace: Workspace, wanted: Wanted, progress: Shown, *, seconds_max: float) -> Made:
        place = self._workspaces_dir / f"{HALF_MADE_PREFIX}{new_id()}"
        try:
            for folder in (place, place / "home", place / "tree"):
                folder.mkdir(mode=0o700)
            half_made = replace(workspace, id=_id_of(place), home=place / "home", tree=place / "tree")
            try:
                branch = await self._fill(half_made, wanted, progress, seconds_max=seconds_max)
            finally:
                await progress.end()
            await self._end_keeper(half_made.id)  # its walls were built around the place's first name
        except OSError as error:
            await self.undo(place)
            if isinstance(error, ConnectionError):  # whoever watched the progress is gone
                raise
            raise CommandRefused(
                f"the workspace's folder cannot be made: {error.strerror}; make room on the gateway's disk, or see to"
                " the permissions of its state, then try again"
            ) from None
        except BaseException:
            await self.undo(place)
            raise
        return Made(place, branch)

    async def _fill(self, half_made: Workspace, wanted: Wanted, progress: Shown, *, seconds_max: float) -> str:
        """Have git make the tree; returns the branch it is on."""
        keeper = await self._keepers.keeper_for(half_made)
        inside = self._launcher.inside(half_made)
        if wanted.url is None:
            arguments = ["init", "--quiet", "."]
            await run_git(keeper, inside, arguments, seconds_max=GIT_ANSWER_SECONDS, on_progress=progress.feed)
            return FIRST_BRANCH
        shown = "--progress" if progress.is_terminal else "--no-progress"
        chosen = [] if wanted.branch is None else [f"--branch={wanted.branch}"]
        await run_git(keeper, inside, ["clone", shown, *chosen, "--", wanted.url, "."], seconds_max=seconds_max,
                      on_progress=progress.feed, protocols=protocols_for(wanted.url))  # fmt: skip
        return await _branch(keeper, inside)

    async def _undo(self, place: Path) -> None:
        try:
            await self._end_keeper(_id_of(place))
        finally:
            await asyncio.to_thread(self.remove, place)


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Finish `work` although the task is being cancelled, once or more often. The work has deadlines of its own."""
    task = asyncio.create_task(work, name="workspace:undo")
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    task.result()


async def _branch(keeper: Keeper, inside: Inside) -> str:
    """An empty repository has a branch too, and a detached HEAD (a tag as the default) has none."""
    arguments = ["symbolic-ref", "--quiet", "--short", "HEAD"]
    with contextlib.suppress(GitFailed):
        branch = await run_git(keeper, inside, arguments, seconds_max=GIT_ANSWER_SECONDS, on_progress=say_nothing)
        return branch.strip() or FIRST_BRANCH
    return FIRST_BRANCH


def _explained(error: GitFailed, wanted: Wanted) -> GitFailed:
    if wanted.branch is not None and any("Remote branch" in line and "not found" in line for line in error.lines):
        return GitFailed(
            f'the repository has no branch "{wanted.branch}"; leave --branch out for its default one', lines=error.lines
        )
    return error


def _id_of(place: Path) -> str:
    return place.name.removeprefix(HALF_MADE_PREFIX)
