"""Measurements over time (`system_metrics`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import models
from gateway.interfaces import Measurement
from gateway.store.database import Database


class MetricQueries:
    _database: Database

    async def add_metrics(self, rows: Sequence[Measurement]) -> None:
        """Write what was measured just now, all or none of it."""
        now = datetime.now(UTC)
        new = [
            models.SystemMetric(
                metric=row.metric,
                value=row.value,
                unit=row.unit,
                metadata=json.dumps(dict(row.metadata)) if row.metadata else None,
                created_at=now,
            )
            for row in rows
        ]
        if new:
            await self._database.write("add_metrics", lambda: models.SystemMetric.bulk_create(new))

    async def metric_history(
        self, metric: str, *, since: datetime, limit: int = 1440
    ) -> list[tuple[datetime, Measurement]]:
        """One metric's rows from `since` on, newest first, each with its time."""
        async with self._database.asked("metric_history"):
            chosen = models.SystemMetric.filter(metric=metric, created_at__gte=since)
            rows = await chosen.order_by("-created_at").limit(limit)
        return [(row.created_at, measurement(row)) for row in rows]


def measurement(row: models.SystemMetric) -> Measurement:
    return Measurement(row.metric, row.value, row.unit or "", json.loads(row.metadata) if row.metadata else {})
