"""Figures over all sessions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gateway.interfaces import SessionStatistics
from gateway.store.database import Database

ENDED_SINCE = timedelta(days=1)
LIFE_SINCE = timedelta(days=7)  # rows are kept that long by default

# One pass over the rows, which retention keeps few. Times are text of one form and zone, so they compare as such.
_QUERY = """
    SELECT COUNT(*) AS total,
           COALESCE(SUM(status = 'active'), 0) AS active,
           COALESCE(SUM(status = 'paused'), 0) AS paused,
           COALESCE(SUM(status = 'terminated' AND ended_at >= ?), 0) AS ended,
           AVG(CASE WHEN status = 'terminated' AND ended_at >= ?
               THEN (julianday(ended_at) - julianday(created_at)) * 86400 END) AS life_seconds
    FROM sessions
"""


class StatisticsQueries:
    _database: Database

    async def session_statistics(self) -> SessionStatistics:
        now = datetime.now(UTC)
        async with self._database.asked("session_statistics"):
            rows = await self._database.query(_QUERY, [str(now - ENDED_SINCE), str(now - LIFE_SINCE)])
        row = rows[0]
        return SessionStatistics(
            active=row["active"],
            paused=row["paused"],
            total=row["total"],
            ended_last_day=row["ended"],
            life_seconds_mean=None if row["life_seconds"] is None else max(0.0, row["life_seconds"]),
        )
