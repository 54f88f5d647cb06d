"""`status` and `sync`: what git inside a workspace says of its tree, and fetching into it.

The tree's own configuration executes code in there (hooks, filters, a file-system monitor), and only there. Still its
hooks are left out where they are not asked for: a look at the state should change nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Protocol

from gateway.errors import CommandRefused, GatewayError, GitFailed
from gateway.interfaces import Inside, Keeper, Workspace
from gateway.journal import JournalAction
from gateway.tree_status import COMMIT_FORMAT, Synced, TreeStatus, parse_commit, parse_status
from gateway.workspaces.git import protocols_for, run_git, say_nothing
from gateway.workspaces.progress import GitProgress

STATUS_SECONDS = 120  # of a tree with a million files on a slow disk
MERGE_SECONDS = 600
REASON_CHARACTERS_MAX = 200
STATUS_MAX_BYTES = 4 * 1024 * 1024  # some 50,000 entries
# No lock that a program inside would meet, no monitor that would be started and stay.
_LOOK = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


class Record(Protocol):
    async def __call__(
        self, action: JournalAction, *, success: bool, details: Mapping[str, object] | None = None
    ) -> None: ...


async def status_of(keeper: Keeper, inside: Inside) -> TreeStatus:
    """Raises GitFailed, in words that say so where there is no repository."""
    try:
        text = await run_git(
            keeper, inside, [*_LOOK, "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal"],
            seconds_max=STATUS_SECONDS, on_progress=say_nothing, output_max_bytes=STATUS_MAX_BYTES,
        )  # fmt: skip
    except GitFailed as error:
        if "not a git repository" in error.user_message:
            raise GitFailed("the workspace's folder is no git repository (any more); enter it and run: git init",
                            lines=error.lines) from None  # fmt: skip
        raise
    # The bound counts bytes, and a text of as many characters at the most.
    is_complete = len(text.encode(errors="replace")) < STATUS_MAX_BYTES
    status = await asyncio.to_thread(parse_status, text, is_complete=is_complete)
    if status.commit_id is None:
        return status
    shown = await run_git(
        keeper, inside, [*_LOOK, "log", "-1", "--no-show-signature", "--no-color", f"--format={COMMIT_FORMAT}"],
        seconds_max=STATUS_SECONDS, on_progress=say_nothing,
    )  # fmt: skip
    return replace(status, last_commit=parse_commit(shown))


async def sync_tree(
    keeper: Keeper,
    inside: Inside,
    workspace: Workspace,
    recorder: Recorder,
    progress: GitProgress,
    *,
    seconds_max: float,
) -> Synced:
    """Fetch, then fast-forward the branch that the tree is on. Raises CommandRefused with what stands in the way."""
    shown = "--progress" if progress.is_terminal else "--no-progress"
    protocols = protocols_for(workspace.github_url)
    try:
        async with recorder.of(JournalAction.WORKSPACE_SYNC_FETCH):
            await run_git(keeper, inside, ["fetch", shown], seconds_max=seconds_max,
                          on_progress=progress.feed, protocols=protocols)  # fmt: skip
    finally:
        await progress.end()
    async with recorder.of(JournalAction.WORKSPACE_SYNC_PULL):
        before = await status_of(keeper, inside)
        _refuse_unsyncable(workspace, before)
        if not before.behind:
            return Synced(before.branch, before.commit_id, before.commit_id, 0)
        try:
            await run_git(keeper, inside, ["merge", "--ff-only", "--no-stat", "--quiet", "@{upstream}"],
                          seconds_max=MERGE_SECONDS, on_progress=say_nothing, protocols=protocols)  # fmt: skip
        except GitFailed as error:
            raise _in_the_way(workspace, error) from None
        after = await status_of(keeper, inside)
    return Synced(before.branch, before.commit_id, after.commit_id, before.behind)


def _refuse_unsyncable(workspace: Workspace, status: TreeStatus) -> None:
    where = f'"{workspace.name}"'
    if status.branch is None:
        raise CommandRefused(f"fetched; {where} is on no branch (detached HEAD), so nothing was moved; enter it and"
                             " check a branch out")  # fmt: skip
    if status.conflicted:
        raise CommandRefused(f"fetched; {where} is in the middle of a merge with {status.conflicted} conflicts; enter"
                             " it and finish that first")  # fmt: skip
    if status.commit_id is None and status.behind is None:
        # Cloned empty: the upstream is named and has come into being only now, or not yet.
        raise CommandRefused(f"fetched; {where} has no commit yet; enter it and run: git pull")
    if status.upstream is None:
        raise CommandRefused(f"fetched; the branch {status.branch} of {where} has no upstream to follow; enter it and"
                             " run: git branch --set-upstream-to")  # fmt: skip
    if status.behind is None:  # nothing here takes refs away, but somebody inside may
        raise CommandRefused(f"fetched; {status.upstream}, which {status.branch} of {where} follows, is gone from the"
                             " repository; your commits are where they were")  # fmt: skip
    if status.ahead and status.behind:
        raise CommandRefused(
            f"fetched; {status.branch} of {where} and {status.upstream} have diverged ({status.ahead} commits here,"
            f" {status.behind} there), so nothing was moved; enter it and merge or rebase"
        )


def _in_the_way(workspace: Workspace, error: GitFailed) -> GitFailed:
    text = "\n".join(error.lines)
    if any(words in text for words in ("would be overwritten", "Please commit", "Please move")):
        said = f'fetched; changed or new files in "{workspace.name}" stand in the way, so nothing was moved; enter it'
        return GitFailed(f"{said} and commit or stash them", lines=error.lines)
    return error


class Recorder:
    """Writes down how each git operation in a workspace ended, and who asked for it."""

    def __init__(self, record: Record, workspace: Workspace, by: str) -> None:
        self._record = record
        self._details: Mapping[str, object] = {"workspace": workspace.name, "by": by}

    @contextlib.asynccontextmanager
    async def of(self, action: JournalAction) -> AsyncIterator[None]:
        try:
            yield
        except (GatewayError, asyncio.CancelledError) as error:
            reason = error.user_message[:REASON_CHARACTERS_MAX] if isinstance(error, GatewayError) else "interrupted"
            await self._record(action, success=False, details={**self._details, "reason": reason})
            raise
        await self._record(action, success=True, details=self._details)
