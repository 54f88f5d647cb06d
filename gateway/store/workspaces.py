"""Workspaces: their rows. Their files are made and moved by others; the paths are made here, from the id alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from tortoise.expressions import Q
from tortoise.functions import Count, Max
from tortoise.transactions import in_transaction

import models
from gateway.errors import CommandRefused, NameTaken, WorkspaceMissing
from gateway.ids import new_id
from gateway.interfaces import AccessKey, Forwarding, SessionStatus, Workspace
from gateway.store.cache import ReadCache
from gateway.store.database import Database
from gateway.store.keys import KEYS_MAX
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
    _keys: ReadCache[str, AccessKey]
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
        """By name, each with its attached sessions and last activity: two queries, however many there are."""
        async with self._database.asked("list_workspaces"):
            chosen = models.Workspace.all() if include_inactive else models.Workspace.filter(is_active=True)
            # Archived ones stay as rows for good and are not counted by workspaces_max, hence the limit apart.
            rows = await chosen.order_by("slug").limit(max(self._workspaces_max, 10_000))
            uses = await uses_of([row.id for row in rows])
        return [self._workspace(row, *uses.get(row.id, (0, None))) for row in rows]

    async def add_workspace(
        self,
        name: str,
        *,
        github_repo: str | None = None,
        github_url: str | None = None,
        branch: str = "main",
        description: str | None = None,
        id: str | None = None,
        is_cloned: bool = True,
        clone_branch: str | None = None,
    ) -> Workspace:
        """Write a new workspace down. `id`: made by the caller, who prepared its directories already. Which GitHub a
        URL is on, and whether it is allowed, the caller knows (`GitHosts`).

        Raises NameRefused; NameTaken, with different words for a taken name and a repository that has a workspace
        already; CommandRefused when there are as many as `workspaces_max` allows.
        """
        parsed = parse_workspace_name(name)
        if github_repo is not None:
            github_url = github_url or url_on_github(parse_github_repo(github_repo))
        if github_url is not None:
            parse_repository_url(github_url, is_http_allowed=True)
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
            is_cloned=is_cloned,
            last_sync_at=datetime.now(UTC) if is_cloned and github_url is not None else None,
            clone_branch=None if clone_branch is None else parse_branch(clone_branch),
        )

        async def write() -> None:
            # Nothing comes between the questions and the insert: this runs in the one writer task.
            await _refuse_taken(parsed.slug, github_repo)
            await self._refuse_one_more()
            await row.save(force_create=True)

        await self._database.write("add_workspace", write)
        return self._workspace(row)

    async def refuse_one_more_workspace(self) -> None:
        """CommandRefused where `workspaces_max` allows no more: before a clone, which may take an hour."""
        async with self._database.asked("refuse_one_more_workspace"):
            await self._refuse_one_more()

    async def _refuse_one_more(self) -> None:
        if await models.Workspace.filter(is_active=True).count() >= self._workspaces_max:
            raise CommandRefused(
                f"there are {self._workspaces_max} workspaces already, and workspaces_max allows no more; "
                "archive one with: homeport rm NAME"
            )

    async def mark_workspace_cloned(self, workspace_id: str, *, branch: str) -> None:
        """A declared one has its tree now, on this branch."""
        await self._update_workspace(
            workspace_id, is_cloned=True, branch=parse_branch(branch), last_sync_at=datetime.now(UTC)
        )

    async def set_workspace_repository(
        self, workspace_id: str, *, github_id: int, github_repo: str, github_url: str
    ) -> None:
        """What GitHub calls its repository now. Raises NameTaken if another workspace has it."""
        parsed = parse_github_repo(github_repo)

        async def write() -> None:
            other = await models.Workspace.filter(github_repo=parsed).exclude(id=workspace_id).first()
            if other is not None:
                raise NameTaken(f"the repository {parsed} has a workspace already: {other.slug}")
            await models.Workspace.filter(id=workspace_id).update(
                github_id=github_id, github_repo=parsed, github_url=github_url, updated_at=datetime.now(UTC)
            )
            self._workspaces.clear()

        await self._database.write("set_workspace_repository", write)

    async def rename_workspace(self, workspace_id: str, name: str) -> list[str]:
        """Give it another login name, in the scopes of keys as well; the old one is free. Returns the fingerprints of
        the keys whose scope had it. Raises NameRefused and NameTaken."""
        parsed = parse_workspace_name(name)

        async def write() -> list[str]:
            row = await models.Workspace.get_or_none(id=workspace_id)
            if row is None:
                raise WorkspaceMissing("no such workspace; list them with: homeport ls")
            if row.slug != parsed.slug:
                await _refuse_taken(parsed.slug, None)
            scopes = await _scopes_renamed(row.slug, parsed.slug)
            async with in_transaction():  # nothing is read in it, see database.py
                values = {"name": parsed.display, "slug": parsed.slug, "updated_at": datetime.now(UTC)}
                await models.Workspace.filter(id=workspace_id).update(**values)
                for fingerprint, scope in scopes.items():
                    await models.AccessKey.filter(fingerprint=fingerprint).update(workspaces=scope)
            self._workspaces.clear()
            self._keys.clear()
            return list(scopes)

        return await self._database.write("rename_workspace", write)

    async def close_workspace(self, workspace_id: str) -> None:
        """Refuse logins from now on. The row stays, its sessions stay, the name stays taken."""
        await self._update_workspace(workspace_id, is_active=False, archived_at=None)

    async def mark_workspace_archived(self, workspace_id: str, archived_at: datetime) -> None:
        """Closed, and its files are in the archive."""
        await self._update_workspace(workspace_id, is_active=False, archived_at=archived_at)

    async def open_workspace(self, workspace_id: str, *, is_counted: bool) -> None:
        """Logins again. `is_counted`: raises CommandRefused if there are as many as `workspaces_max` allows."""

        async def write() -> None:
            if is_counted:
                await self._refuse_one_more()
            values = {"is_active": True, "archived_at": None, "updated_at": datetime.now(UTC)}
            await models.Workspace.filter(id=workspace_id).update(**values)
            self._workspaces.clear()

        await self._database.write("open_workspace", write)

    async def delete_workspace(self, workspace_id: str) -> list[str]:
        """Delete the row, and with it those of its sessions, whose ids are returned. None was there: none. Its name
        goes from the scopes of keys: the next workspace of that name is another one."""

        async def write() -> list[str]:
            sessions = models.Session.filter(workspace_id=workspace_id)
            ids = [str(id) for id in await sessions.values_list("id", flat=True)]
            row = await models.Workspace.get_or_none(id=workspace_id)
            scopes = {} if row is None else await _scopes_renamed(row.slug, None)
            async with in_transaction():  # nothing is read in it, see database.py
                for fingerprint, scope in scopes.items():
                    await models.AccessKey.filter(fingerprint=fingerprint).update(workspaces=scope)
                await models.Workspace.filter(id=workspace_id).delete()  # the database deletes the sessions (CASCADE)
            self._workspaces.clear()
            self._keys.clear()
            return ids

        return await self._database.write("delete_workspace", write)

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

    def _workspace(
        self, row: models.Workspace, active_session_count: int = 0, last_activity_at: datetime | None = None
    ) -> Workspace:
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
            github_id=row.github_id,
            description=row.description,
            created_at=row.created_at,
            last_sync_at=row.last_sync_at,
            is_cloned=row.is_cloned,
            clone_branch=row.clone_branch,
            archived_at=row.archived_at,
            active_session_count=active_session_count,
            last_activity_at=last_activity_at,
        )


async def uses_of(workspace_ids: list[str]) -> dict[str, tuple[int, datetime | None]]:
    """How many sessions are attached in each, and when any was used last."""
    if not workspace_ids:
        return {}
    used = (
        models.Session.filter(workspace_id__in=workspace_ids)
        .group_by("workspace_id")
        .annotate(active_count=Count("id", _filter=Q(status=SessionStatus.ACTIVE)), last_at=Max("last_activity_at"))
    )
    rows = await used.values_list("workspace_id", "active_count", "last_at")
    return {workspace_id: (count, _moment(last_at)) for workspace_id, count, last_at in rows}


def _moment(value: object) -> datetime | None:
    """What an aggregate gives for a column of moments: SQLite has no type of its own for them."""
    if value is None or isinstance(value, datetime):
        return value
    moment = datetime.fromisoformat(str(value))
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


async def _scopes_renamed(before: str, after: str | None) -> dict[str, str]:
    """The new scope, as it is kept, of every key that may enter `before`, by its fingerprint. `after` None: without."""
    renamed = {}
    for key in await models.AccessKey.filter(workspaces__contains=json.dumps(before)).limit(KEYS_MAX):
        names = set(json.loads(key.workspaces or "[]"))
        if before in names and before != after:
            renamed[key.fingerprint] = json.dumps(sorted(names - {before} | ({after} if after else set())))
    return renamed


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
