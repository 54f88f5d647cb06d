"""Lists that are read page by page: the rows from one on, and how many there are in all, by one and the same filter."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import models
from gateway.interfaces import Measurement, SessionRow, Workspace
from gateway.store.database import Database
from gateway.store.metrics import measurement
from gateway.store.sessions import LIVE, session_rows
from gateway.store.workspaces import WorkspaceQueries, uses_of


class PageQueries(WorkspaceQueries):  # whose rows it makes into values
    _database: Database

    async def workspace_page(
        self, *, include_inactive: bool = False, skip: int, limit: int
    ) -> tuple[list[Workspace], int]:
        """By name, each with its attached sessions and last activity: three queries, however many there are."""
        chosen = models.Workspace.all() if include_inactive else models.Workspace.filter(is_active=True)
        async with self._database.asked("workspace_page"):
            total = await chosen.count()
            rows = await chosen.order_by("slug").offset(skip).limit(limit)
            uses = await uses_of([row.id for row in rows])
        return [self._workspace(row, *uses.get(row.id, (0, None))) for row in rows], total

    async def counted_workspace(self, name: str) -> Workspace | None:
        """As `find_workspace`, with its attached sessions and last activity."""
        found = await self.find_workspace(name)
        if found is None:
            return None
        async with self._database.asked("counted_workspace"):
            uses = await uses_of([found.id])
        count, last_at = uses.get(found.id, (0, None))
        return replace(found, active_session_count=count, last_activity_at=last_at)

    async def session_page(
        self, *, workspace: str | None = None, include_ended: bool = False, skip: int, limit: int
    ) -> tuple[list[SessionRow], int]:
        """The newest first, which stays so while pages are turned; of the workspace with this name, if given."""
        chosen = models.Session.all() if include_ended else models.Session.filter(status__in=LIVE)
        if workspace is not None:
            chosen = chosen.filter(workspace__slug=workspace.lower())
        async with self._database.asked("session_page"):
            total = await chosen.count()
            rows = await session_rows(chosen.order_by("-id").offset(skip), limit)
        return rows, total

    async def metric_page(
        self, metric: str, *, since: datetime, until: datetime, skip: int, limit: int
    ) -> tuple[list[tuple[datetime, Measurement]], int]:
        """One metric's rows of that time, newest first, each with its time."""
        chosen = models.SystemMetric.filter(metric=metric, created_at__gte=since, created_at__lte=until)
        async with self._database.asked("metric_page"):
            total = await chosen.count()
            rows = await chosen.order_by("-created_at").offset(skip).limit(limit)
        return [(row.created_at, measurement(row)) for row in rows], total
