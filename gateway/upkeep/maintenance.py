"""Retention: what is old goes, in order and in batches, and never anything of a session that lives.

Steps run one after the other (deleting and vacuuming at once is "database is locked"). A step that fails does not
keep the others from running; the run as a whole then counts as failed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from gateway.config import RetentionSettings
from gateway.events import Event
from gateway.log import log_failure

# Each batch is one short transaction of the writer; a login waits for at most one of them.
BATCH_ROWS = 500


class RetentionStore(Protocol):
    """The store's part. Each call deletes at most `batch` rows; fewer means that was all."""

    async def delete_sessions_ended_before(self, cutoff: datetime, batch: int) -> list[str]:
        """Ids of the removed sessions. Only sessions that have ended, however old they are."""
        ...

    async def delete_auth_logs_before(self, cutoff: datetime, batch: int) -> int: ...

    async def delete_metrics_before(self, cutoff: datetime, batch: int) -> int: ...

    async def optimize(self) -> object:
        """Give free pages back in part and refresh the planner's statistics; never a full VACUUM."""
        ...


class RetentionRecordings(Protocol):
    """The recordings' part."""

    async def delete(self, session_ids: Sequence[str]) -> object:
        """Remove the recordings of these sessions; those without one are passed over."""
        ...

    async def unused_since(self, cutoff: datetime) -> Sequence[str]:
        """Sessions whose recording was last written before `cutoff`."""
        ...


@dataclass(frozen=True, slots=True)
class MaintenanceDone:
    """What one run removed."""

    session_count: int
    auth_log_count: int
    metric_count: int
    recording_count: int
    duration_ms: float


class Maintenance:
    """`live_session_ids` names the sessions that must keep everything, however long they have been quiet."""

    def __init__(
        self,
        store: RetentionStore,
        recordings: RetentionRecordings,
        retention: RetentionSettings,
        *,
        live_session_ids: Callable[[], Sequence[str]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._recordings = recordings
        self._retention = retention
        self._live_session_ids = live_session_ids
        self._now = now

    async def run(self) -> MaintenanceDone:
        """All steps. Raises the first failure once every step had its turn."""
        started = time.monotonic()
        failures: list[Exception] = []

        async def step(name: str, work: Callable[[], Awaitable[int]]) -> int:
            try:
                return await work()
            except Exception as error:
                log_failure(Event.JOB_STEP_FAILED, job="maintenance", step=name)
                failures.append(error)
                return 0

        session_count = await step("sessions", self._sessions)
        auth_log_count = await step("auth_logs", self._auth_logs)
        metric_count = await step("metrics", self._metrics)
        recording_count = await step("recordings", self._old_recordings)
        await step("optimize", self._optimize)
        if failures:
            raise failures[0]
        duration_ms = round((time.monotonic() - started) * 1000, 1)
        return MaintenanceDone(session_count, auth_log_count, metric_count, recording_count, duration_ms)

    async def _sessions(self) -> int:
        """Rows of ended sessions, and the recordings that belonged to them."""
        cutoff = self._cutoff(self._retention.sessions_days)

        async def batch() -> int:
            removed = await self._store.delete_sessions_ended_before(cutoff, BATCH_ROWS)
            # At once, batch by batch: nobody could list a recording whose session has no row any more.
            await self._recordings.delete(removed)
            return len(removed)

        return await _all_batches(batch)

    async def _auth_logs(self) -> int:
        cutoff = self._cutoff(self._retention.auth_logs_days)
        return await _all_batches(lambda: self._store.delete_auth_logs_before(cutoff, BATCH_ROWS))

    async def _metrics(self) -> int:
        cutoff = self._cutoff(self._retention.metrics_days)
        return await _all_batches(lambda: self._store.delete_metrics_before(cutoff, BATCH_ROWS))

    async def _old_recordings(self) -> int:
        """Recordings with a shorter life than their rows, and what an interrupted run left without a row."""
        unused = await self._recordings.unused_since(self._cutoff(self._retention.recordings_days))
        # Asked after, not before: a session that began in between is alive, and too new to be among the unused.
        ended = sorted(set(unused) - set(self._live_session_ids()))
        for begin in range(0, len(ended), BATCH_ROWS):
            await self._recordings.delete(ended[begin : begin + BATCH_ROWS])
        return len(ended)

    async def _optimize(self) -> int:
        await self._store.optimize()
        return 0

    def _cutoff(self, days: int) -> datetime:
        return self._now() - timedelta(days=days)


async def _all_batches(delete_batch: Callable[[], Awaitable[int]]) -> int:
    total = 0
    while True:
        deleted = await delete_batch()
        total += deleted
        if deleted < BATCH_ROWS:
            return total
