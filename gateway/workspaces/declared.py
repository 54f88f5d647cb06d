"""Workspaces that are declared first and cloned at their first login.

One clone at a time for each, however many logins wait for it; it belongs to none of them, and goes on when they leave.
A failure leaves the workspace declared, so the next login tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Protocol

from gateway.errors import CommandRefused, GatewayError, LoginRefused, WorkspaceMissing
from gateway.events import Event
from gateway.interfaces import CloneWatcher, Workspace
from gateway.journal import JournalAction
from gateway.log import log_event, log_failure
from gateway.workspaces.making import Made, Maker, Wanted
from gateway.workspaces.progress import GitProgress


class DeclaredRows(Protocol):
    """What this module asks of the database (gateway/store)."""

    async def workspace(self, workspace_id: str) -> Workspace | None: ...

    async def mark_workspace_cloned(self, workspace_id: str, *, branch: str) -> None: ...

    async def record(
        self, action: JournalAction, *, success: bool, details: Mapping[str, object] | None = None
    ) -> None: ...


class DeclaredClones:
    """Implements sessions.FirstClones."""

    def __init__(self, maker: Maker, *, rows: DeclaredRows, workspaces_dir: Path) -> None:
        self._maker = maker
        self._rows = rows
        self._workspaces_dir = workspaces_dir
        self._running: dict[str, _Clone] = {}
        self._is_closed = False

    async def ready(self, workspace: Workspace, watcher: CloneWatcher | None = None) -> Workspace:
        """The workspace with its tree. Raises GatewayError with the reason if it cannot be cloned."""
        if workspace.is_cloned:
            return workspace
        if self._is_closed:
            raise LoginRefused("the gateway is restarting; connect again in a moment")
        clone = self._running.get(workspace.id)
        if clone is None:
            clone = self._running[workspace.id] = _Clone()
            clone.task = asyncio.create_task(self._clone(workspace, clone), name=f"clone:{workspace.name}")
            clone.task.add_done_callback(lambda task: self._ended(workspace.id, task))
        assert clone.task is not None
        async with clone.watched_by(watcher, f"cloning {workspace.github_url}; this happens once"):
            # Shielded: it is the others' clone as well.
            return await asyncio.shield(clone.task)

    async def close(self) -> None:
        """Undo what is under way; whoever waits for it is cancelled."""
        self._is_closed = True
        tasks = {clone.task for clone in self._running.values() if clone.task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)  # each has its deadlines

    def _ended(self, workspace_id: str, task: asyncio.Task[Workspace]) -> None:
        self._running.pop(workspace_id, None)
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any more; it is in the journal

    async def _clone(self, workspace: Workspace, clone: _Clone) -> Workspace:
        details: dict[str, object] = {"workspace": workspace.name, "how": "first login"}
        try:
            branch = await self._fill(workspace, clone)
            await self._rows.mark_workspace_cloned(workspace.id, branch=branch)
        except GatewayError as error:
            details["reason"] = error.user_message[:200]
            await self._rows.record(JournalAction.WORKSPACE_SYNC_CLONE, success=False, details=details)
            raise
        except Exception:
            # Said to every client that waits, in words of ours; the reason is for the operator.
            log_failure(Event.WORKSPACE_CLONE_FAILED, workspace=workspace.name)
            raise CommandRefused(f'"{workspace.name}" could not be cloned; the gateway\'s log has the reason') from None
        await self._rows.record(JournalAction.WORKSPACE_SYNC_CLONE, success=True, details=details)
        log_event(Event.WORKSPACE_CLONED, workspace=workspace.name)
        return await self._active(workspace)

    async def _fill(self, workspace: Workspace, clone: _Clone) -> str:
        """Returns the branch. What an earlier gateway made whole, and had no time to write down, is taken as it is."""
        if await asyncio.to_thread(_has_repository, workspace):
            return await self._maker.branch_of(workspace)
        made = await self._maker.make(workspace, Wanted(workspace.github_url, workspace.clone_branch), clone)
        try:
            await self._active(workspace)
            await asyncio.to_thread(self._move, made, workspace)
        except OSError as error:
            await self._maker.undo(made.place)
            if await asyncio.to_thread(_has_repository, workspace):
                return made.branch  # another gateway, which is being replaced, was faster
            raise CommandRefused(f"the tree could not be put into its place: {error.strerror}") from None
        except BaseException:
            await self._maker.undo(made.place)
            raise
        return made.branch

    async def _active(self, workspace: Workspace) -> Workspace:
        found = await self._rows.workspace(workspace.id)
        if found is None or not found.is_active:
            raise WorkspaceMissing(f'"{workspace.name}" was archived meanwhile')
        return found

    def _move(self, made: Made, workspace: Workspace) -> None:
        """In a thread. A rename replaces an empty directory and nothing else (rename(2))."""
        final = self._workspaces_dir / workspace.id
        # Somebody may have looked inside before: then there is an empty tree, and a home that may have files.
        with contextlib.suppress(FileNotFoundError):
            (made.place / "tree").rename(final / "tree")
            self._maker.remove(made.place)
            return
        made.place.rename(final)


class _Clone:
    """A clone under way, and who watches it. Stands in for a GitProgress that all of them see."""

    is_terminal = True  # git shall tell its percentages: whoever can show them does

    def __init__(self) -> None:
        self.task: asyncio.Task[Workspace] | None = None
        self._shown: list[GitProgress] = []

    @contextlib.asynccontextmanager
    async def watched_by(self, watcher: CloneWatcher | None, greeting: str) -> AsyncIterator[None]:
        if watcher is None:
            yield
            return
        shown = GitProgress(_Plain(watcher), is_terminal=True, columns=watcher.columns, line_end="\r\n")
        await shown.say(greeting)
        self._shown.append(shown)
        try:
            yield
        finally:
            self._shown.remove(shown)

    async def feed(self, text: str) -> None:
        for shown in list(self._shown):
            await shown.feed(text)

    async def say(self, text: str) -> None:
        for shown in list(self._shown):
            await shown.say(text)

    async def end(self) -> None:
        for shown in list(self._shown):
            await shown.end()


class _Plain:
    """A watcher as an Output."""

    def __init__(self, watcher: CloneWatcher) -> None:
        self._watcher = watcher

    async def write(self, data: bytes) -> None:
        self._watcher.write(data)


def _has_repository(workspace: Workspace) -> bool:
    return (workspace.tree / ".git").is_dir()
