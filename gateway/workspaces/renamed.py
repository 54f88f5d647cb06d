"""A repository keeps its id when it is renamed or handed on at GitHub: by that its workspace follows it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Protocol

from gateway.errors import NameTaken
from gateway.events import Event
from gateway.github.values import GithubRepository
from gateway.interfaces import Inside, Keeper, Workspace
from gateway.log import log_event
from gateway.workspaces.git import run_git, say_nothing

# Git finds a renamed repository by itself for a while; nobody waits long for a better answer.
ANSWER_SECONDS = 3.0
GIT_SECONDS = 20


class GithubRepositories(Protocol):
    """What GitHub knows (gateway/github/account.py). None: nothing, or it does not answer."""

    async def repository(self, full_name: str) -> GithubRepository | None:
        """Also by a name it had before."""
        ...

    async def repository_by_id(self, repository_id: int) -> GithubRepository | None: ...


class RepositoryRows(Protocol):
    async def set_workspace_repository(
        self, workspace_id: str, *, github_id: int, github_repo: str, github_url: str
    ) -> None:
        """Raises NameTaken if another workspace has the repository."""
        ...


class RepositoryNames:
    """`github` None: nobody is asked, and every name stays."""

    def __init__(self, github: GithubRepositories | None, rows: RepositoryRows) -> None:
        self._github = github
        self._rows = rows

    async def current(self, workspace: Workspace) -> Workspace:
        """The workspace with its repository's id and present name, which are written down if they are new. Never fails
        for want of an answer."""
        if self._github is None or workspace.github_repo is None or workspace.github_url is None:
            return workspace
        found = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                if workspace.github_id is not None:
                    found = await self._github.repository_by_id(workspace.github_id)
                else:
                    found = await self._github.repository(workspace.github_repo)
        if found is None or (found.id, found.full_name) == (workspace.github_id, workspace.github_repo):
            return workspace
        url = _renamed(workspace.github_url, workspace.github_repo, found.full_name)
        try:
            await self._rows.set_workspace_repository(
                workspace.id, github_id=found.id, github_repo=found.full_name, github_url=url
            )
        except NameTaken:  # the new name has a workspace of its own: this one stays what it was
            return workspace
        if url != workspace.github_url:
            log_event(Event.WORKSPACE_FOLLOWED, workspace=workspace.name)
        return replace(workspace, github_id=found.id, github_repo=found.full_name, github_url=url)


async def follow_in_tree(keeper: Keeper, inside: Inside, before: Workspace, after: Workspace) -> bool:
    """Have `origin` name the repository as it is called now, if it named it as it was called before."""
    if before.github_url == after.github_url or before.github_url is None or after.github_url is None:
        return False
    asked = ["remote", "get-url", "origin"]
    url = await run_git(keeper, inside, asked, seconds_max=GIT_SECONDS, on_progress=say_nothing)
    if url.strip() != before.github_url:
        return False  # somebody inside has set it, and knows better
    told = ["remote", "set-url", "--", "origin", after.github_url]
    await run_git(keeper, inside, told, seconds_max=GIT_SECONDS, on_progress=say_nothing)
    return True


def _renamed(url: str, before: str, after: str) -> str:
    """The URL with the new name, however it was written."""
    at = url.lower().rfind(before.lower())
    return url if at < 0 else url[:at] + after + url[at + len(before) :]
