"""Measurements over time (`system_metrics`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import models
from gateway.journal import MetricSample
from gateway.store.database import Database


class MetricQueries:
    _database: Database

    async def add_metrics(self, samples: Sequence[MetricSample]) -> None:
        """Write samples down, all or none; those without a time were taken now."""
        now = datetime.now(UTC)
        rows = [
            models.SystemMetric(
                metric=sample.metric,
                value=sample.value,
                unit=sample.unit,
                metadata=json.dumps(dict(sample.metadata)) if sample.metadata else None,
                created_at=sample.created_at or now,
            )
            for sample in samples
        ]
        if rows:
            await self._database.write("add_metrics", lambda: models.SystemMetric.bulk_create(rows))

    async def latest_metric(self, metric: str) -> MetricSample | None:
        """The newest sample of one metric."""
        async with self._database.asked("latest_metric"):
            row = await models.SystemMetric.filter(metric=metric).order_by("-created_at").first()
        return None if row is None else _sample(row)

    async def list_metrics(self, metric: str, *, since: datetime, limit: int = 1440) -> list[MetricSample]:
        """One metric's samples from `since` on, newest first."""
        async with self._database.asked("list_metrics"):
            chosen = models.SystemMetric.filter(metric=metric, created_at__gte=since)
            return [_sample(row) for row in await chosen.order_by("-created_at").limit(limit)]


def _sample(row: models.SystemMetric) -> MetricSample:
    return MetricSample(
        metric=row.metric,
        value=row.value,
        unit=row.unit,
        metadata=json.loads(row.metadata) if row.metadata else {},
        created_at=row.created_at,
    )
