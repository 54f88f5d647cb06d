"""Deleting what is old enough. One call deletes one batch, so that other writes get their turn in between."""

from __future__ import annotations

from datetime import datetime

import models
from gateway.interfaces import SessionStatus
from gateway.store.database import Database


class RetentionQueries:
    _database: Database

    async def delete_sessions_ended_before(self, cutoff: datetime, batch: int) -> list[str]:
        """Delete up to `batch` ended sessions, the oldest first; their ids, whose recordings may follow.

        Fewer than `batch`: that was the last of them. A session that has not ended is never touched, however old.
        """

        async def write() -> list[str]:
            ended = models.Session.filter(status=SessionStatus.TERMINATED, ended_at__lt=cutoff)
            ids = [str(id) for id in await ended.order_by("ended_at").limit(batch).values_list("id", flat=True)]
            await models.Session.filter(id__in=ids, status=SessionStatus.TERMINATED).delete()
            return ids

        return await self._database.write("delete_sessions_ended_before", write)

    async def delete_auth_logs_before(self, cutoff: datetime, batch: int) -> int:
        """Delete up to `batch` rows of the journal, the oldest first; how many."""

        async def write() -> int:
            old = models.AuthLog.filter(created_at__lt=cutoff).order_by("created_at").limit(batch)
            ids = await old.values_list("id", flat=True)
            return await models.AuthLog.filter(id__in=ids).delete() if ids else 0

        return await self._database.write("delete_auth_logs_before", write)

    async def delete_metrics_before(self, cutoff: datetime, batch: int) -> int:
        """Delete up to `batch` samples; how many."""

        async def write() -> int:
            # In the order of the key: rows come in order of time, so the first ones looked at are the oldest.
            old = models.SystemMetric.filter(created_at__lt=cutoff).order_by("id").limit(batch)
            ids = await old.values_list("id", flat=True)
            return await models.SystemMetric.filter(id__in=ids).delete() if ids else 0

        return await self._database.write("delete_metrics_before", write)

    async def optimize(self) -> None:
        """Refresh the planner's figures and give some free pages back to the file system; never a full VACUUM."""

        async def write() -> None:
            await self._database.query("PRAGMA optimize")
            await self._database.run_to_end("PRAGMA incremental_vacuum(2000)")

        await self._database.write("optimize", write)
