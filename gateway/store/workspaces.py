"""Workspaces: their rows. Their files are made and moved by others; the paths are made here, from the id alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tortoise.functions import Count

import models
from gateway.errors import CommandRefused, NameTaken, WorkspaceMissing
from gateway.ids import new_id
from gateway.interfaces import Forwarding, SessionStatus, Workspace
from gateway.store.cache import ReadCache
from gateway.store.database import Database
from gateway.workspace_name import (
    NAME_CHARACTERS_MAX,
    clean_description,
    parse_branch,
    parse_github_repo,
    parse_repository_url,
    parse_workspace_name,
    url_on_github,
)


class WorkspaceQueries:
    _database: Database
    _workspaces: ReadCache[str, Workspace]
    _workspaces_dir: Path
    _workspaces_max: int

    async def find_workspace(self, login_name: str) -> Workspace | None:
        """The workspace with this name in any case, archived or not; the caller looks at `is_active`."""
        if len(login_name) > NAME_CHARACTERS_MAX:
            return None
        slug = login_name.lower()
        return await self._workspaces.get(slug, lambda: self._read_workspace(slug))

    async def _read_workspace(self, slug: str) -> Workspace | None:
        async with self._database.asked("find_workspace"):
            row = await models.Workspace.get_or_none(slug=slug)
        return None if row is None else self._workspace(row)

    async def find_workspace_by_repo(self, github_repo: str) -> Workspace | None:
        """The workspace made from this `owner/repo`, in any case."""
        async with self._database.asked("find_workspace_by_repo"):
            row = await models.Workspace.get_or_none(github_repo=github_repo)
        return None if row is None else self._workspace(row)

    async def workspace(self, workspace_id: str) -> Workspace | None:
        async with self._database.asked("workspace"):
            row = await models.Workspace.get_or_none(id=workspace_id)
        return None if row is None else self._workspace(row)

    async def list_workspaces(self, *, include_inactive: bool = False) -> list[Workspace]:
        """By name, each with its number of attached sessions: two queries, however many there are."""
        async with self._database.asked("list_workspaces"):
            chosen = models.Workspace.all() if include_inactive else models.Workspace.filter(is_active=True)
            # Archived ones stay as rows for good and are not counted by workspaces_max, hence the limit apart.
            rows = await chosen.order_by("slug").limit(max(self._workspaces_max, 10_000))
            counts = await active_session_counts([row.id for row in rows])
        return [self._workspace(row, counts.get(row.id, 0)) for row in rows]

    async def add_workspace(
        self,
        name: str,
        *,
        github_repo: str | None = None,
        github_url: str | None = None,
        branch: str = "main",
        description: str | None = None,
        id: str | None = None,
    ) -> Workspace:
        """Write a new workspace down. `id`: made by the caller, who prepared its directories already.

        Raises NameRefused; NameTaken, with different words for a taken name and a repository that has a workspace
        already; CommandRefused when there are as many as `workspaces_max` allows.
        """
        parsed = parse_workspace_name(name)
        if github_repo is not None:
            github_url = github_url or url_on_github(parse_github_repo(github_repo))
        if github_url is not None:
            checked = parse_repository_url(github_url)
            github_url, github_repo = checked.url, github_repo or checked.github_repo
        workspace_id = id or new_id()
        row = models.Workspace(
            id=workspace_id,
            name=parsed.display,
            slug=parsed.slug,
            github_repo=github_repo,
            github_url=github_url,
            local_path=str(self._tree(workspace_id)),
            branch=parse_branch(branch),
            description=clean_description(description),
        )

        async def write() -> None:
            # Nothing comes between the questions and the insert: this runs in the one writer task.
            await _refuse_taken(parsed.slug, github_repo)
            if await models.Workspace.filter(is_active=True).count() >= self._workspaces_max:
                raise CommandRefused(
                    f"there are {self._workspaces_max} workspaces already, and workspaces_max allows no more; "
                    "archive one with: homeport rm NAME"
                )
            await row.save(force_create=True)

        await self._database.write("add_workspace", write)
        return self._workspace(row)

    async def archive_workspace(self, workspace_id: str) -> None:
        """Refuse logins from now on. The row stays, its sessions stay, the name stays taken."""
        await self._update_workspace(workspace_id, is_active=False)

    async def mark_workspace_synced(self, workspace_id: str) -> None:
        """A git operation with the repository succeeded just now."""
        await self._update_workspace(workspace_id, last_sync_at=datetime.now(UTC))

    async def set_workspace_recorded(self, workspace_id: str, *, is_recorded: bool) -> None:
        """Whether new sessions in it are recorded."""
        await self._update_workspace(workspace_id, is_recorded=is_recorded)

    async def set_workspace_forwarding(self, workspace_id: str, forwarding: Forwarding | None) -> None:
        """How far new forwards in it may reach; None: it says nothing about them."""
        await self._update_workspace(workspace_id, forwarding=forwarding)

    async def set_workspace_shell(self, workspace_id: str, shell: str | None) -> None:
        """The login shell of new sessions in it, an absolute path; None: the launcher's choice."""
        await self._update_workspace(workspace_id, shell=shell)

    async def _update_workspace(self, workspace_id: str, **values: object) -> None:
        async def write() -> int:
            changed = await models.Workspace.filter(id=workspace_id).update(updated_at=datetime.now(UTC), **values)
            self._workspaces.clear()
            return changed

        if await self._database.write("update_workspace", write) == 0:
            raise WorkspaceMissing("no such workspace; list them with: homeport ls")

    def _tree(self, workspace_id: str) -> Path:
        return self._workspaces_dir / workspace_id / "tree"

    def _workspace(self, row: models.Workspace, active_session_count: int = 0) -> Workspace:
        return Workspace(
            id=row.id,
            name=row.slug,  # the login name: it goes into paths inside the workspace, where case must not matter
            home=self._workspaces_dir / row.id / "home",
            tree=self._tree(row.id),
            is_active=row.is_active,
            is_recorded=row.is_recorded,
            forwarding=row.forwarding,
            shell=row.shell,
            branch=row.branch,
            github_repo=row.github_repo,
            github_url=row.github_url,
            description=row.description,
            created_at=row.created_at,
            last_sync_at=row.last_sync_at,
            is_cloned=row.is_cloned,
            clone_branch=row.clone_branch,
            archived_at=row.archived_at,
            active_session_count=active_session_count,
        )


async def active_session_counts(workspace_ids: list[str]) -> dict[str, int]:
    counted = (
        models.Session.filter(workspace_id__in=workspace_ids, status=SessionStatus.ACTIVE)
        .group_by("workspace_id")
        .annotate(active_count=Count("id"))
    )
    return dict(await counted.values_list("workspace_id", "active_count")) if workspace_ids else {}


async def _refuse_taken(slug: str, github_repo: str | None) -> None:
    by_name = await models.Workspace.get_or_none(slug=slug)
    if by_name is not None and not by_name.is_active:
        raise NameTaken(
            f"an archived workspace has the name {slug!r}, which stays taken; choose another, like {slug}-2"
        )
    if by_name is not None:
        raise NameTaken(f"a workspace named {slug!r} exists already; choose another name, like {slug}-2")
    by_repo = None if github_repo is None else await models.Workspace.get_or_none(github_repo=github_repo)
    if by_repo is not None:
        raise NameTaken(f"the repository {github_repo} has a workspace already: {by_repo.slug}")
