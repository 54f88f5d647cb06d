"""Everything that looks after the gateway, in one piece: what the app starts, asks and stops.

`Upkeep` is also the source of what /healthz, /readyz and /metrics show (admin_http's StatusSource), and it is where
`homeport backup now` and the like find their job.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from gateway import log
from gateway.config import Config
from gateway.interfaces import Measurement
from gateway.upkeep import host
from gateway.upkeep.backup import BackupMade, Backups
from gateway.upkeep.details import Figures, figures
from gateway.upkeep.loop_lag import LoopLag
from gateway.upkeep.maintenance import Maintenance, RetentionRecordings
from gateway.upkeep.metrics import Metrics, Where
from gateway.upkeep.readiness import Readiness, probes_of_a_login
from gateway.upkeep.sampler import LoginTally, Sampler, SessionCounts
from gateway.upkeep.schedule import Job, Schedule

# Far above what the jobs take (milliseconds to seconds), far below the time to the next run of each.
SAMPLE_SECONDS_MAX = 30.0
MAINTENANCE_SECONDS_MAX = 30 * 60.0
BACKUP_SECONDS_MAX = 60 * 60.0
INACTIVE_SECONDS_MAX = 12 * 60 * 60.0  # one workspace after the other; what is left has its turn the next night


class UpkeepStore(Protocol):
    """What upkeep needs of the store."""

    async def probe_writable(self) -> object: ...

    async def backup_to(self, path: Path) -> object: ...

    async def add_metrics(self, rows: Sequence[Measurement]) -> object: ...

    async def delete_sessions_ended_before(self, cutoff: datetime, batch: int) -> list[str]: ...

    async def delete_auth_logs_before(self, cutoff: datetime, batch: int) -> int: ...

    async def delete_metrics_before(self, cutoff: datetime, batch: int) -> int: ...

    async def optimize(self) -> object: ...


class UpkeepRecordings(RetentionRecordings, Protocol):
    """What upkeep needs of the recordings."""

    async def total_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """What the app tells upkeep about the rest of the gateway. Cheap, on the event loop."""

    is_serving: Callable[[], bool]
    probe_keeper: Callable[[], Awaitable[object]]  # raises when no program could be started
    session_counts: Callable[[], SessionCounts]
    live_session_ids: Callable[[], Sequence[str]]
    connection_count: Callable[[], int]
    warnings: Callable[[], Sequence[str]]
    github_expires_seconds: Callable[[], Awaitable[float | None]]  # None: no token, or one that does not expire


class Upkeep:
    """Made with its parts, then `start`ed on the loop; `stop` waits for running jobs."""

    def __init__(
        self,
        config: Config,
        *,
        version: str,
        database_file: Path,
        backups_dir: Path,
        store: UpkeepStore,
        recordings: UpkeepRecordings,
        sources: Sources,
        more_jobs: Sequence[Job] = (),
        archive_inactive: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`archive_inactive`: None, if the settings want no workspace archived by itself."""
        self._sources = sources
        self._version = version
        self._started = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._unsubscribe: list[Callable[[], None]] = []
        self._logins = LoginTally()
        self.metrics = Metrics(version=version)
        self._loop_lag = LoopLag(self.metrics.observe_loop_lag)
        self.backups = Backups(backups_dir, store, database_file=database_file, kept=config.schedule.backups_kept)
        self._read_figures = partial(
            figures, config.state_dir, database_file, backup_age_seconds=self.backups.age_seconds
        )
        self._readiness = Readiness(
            probes_of_a_login(
                state_dir=config.state_dir,
                cache_seconds=config.http.readiness_cache_seconds,
                disk_free_min_bytes=config.http.disk_free_min_bytes,
                probe_writable=store.probe_writable,
                probe_keeper=sources.probe_keeper,
            ),
            is_serving=sources.is_serving,
        )
        sampler = Sampler(
            store,
            state_dir=config.state_dir,
            database_file=database_file,
            session_counts=sources.session_counts,
            take_loop_lag_seconds=self._loop_lag.take_worst_seconds,
            backup_age_seconds=self.backups.age_seconds,
            logins=self._logins,
        )
        maintenance = Maintenance(store, recordings, config.retention, live_session_ids=sources.live_session_ids)
        self.schedule = Schedule(
            [
                Job("metrics", config.schedule.metrics, sampler.run, SAMPLE_SECONDS_MAX),
                Job("maintenance", config.schedule.maintenance, maintenance.run, MAINTENANCE_SECONDS_MAX),
                Job(
                    "backup",
                    config.schedule.backup,
                    self.backups.make,
                    BACKUP_SECONDS_MAX,
                    is_overdue=self.backups.is_overdue,
                ),
                *more_jobs,
                *_inactive_job(config, archive_inactive),
            ]
        )
        self.metrics.sample("recordings_size_bytes", "All recordings, compressed.", recordings.total_bytes)
        _add_figures(self.metrics, config.state_dir, database_file, self.backups, sources)

    def start(self) -> None:
        self._unsubscribe = [log.subscribe(self.metrics.count), log.subscribe(self._logins.count)]
        self._tasks = [asyncio.create_task(self._loop_lag.run(), name="upkeep:loop-lag")]
        self.schedule.start()

    async def stop(self, deadline_seconds: float) -> None:
        """Wait for running jobs until the deadline, then cancel them. Stopping twice is harmless."""
        await self.schedule.stop(deadline_seconds)
        await self._readiness.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._tasks, self._unsubscribe = [], []

    async def backup_now(self) -> BackupMade:
        """Make a backup, or join the one that is being made."""
        made = await self.schedule.run_now("backup")
        assert isinstance(made, BackupMade)
        return made

    # --------------------------------------------------------------------- what health, readiness and metrics show

    @property
    def version(self) -> str:
        return self._version

    def uptime_seconds(self) -> float:
        return time.monotonic() - self._started

    def is_degraded(self) -> bool:
        return bool(self.schedule.warnings())

    def warnings(self) -> Sequence[str]:
        return [*self._sources.warnings(), *self.schedule.warnings()]

    async def not_ready_reasons(self) -> Sequence[str]:
        return await self._readiness.reasons()

    async def figures(self) -> Figures:
        """For /health/detailed, which needs a token."""
        return await asyncio.to_thread(self._read_figures)

    async def metrics_page(self, *, is_openmetrics: bool) -> bytes:
        return await self.metrics.page(is_openmetrics=is_openmetrics)


def _inactive_job(config: Config, archive_inactive: Callable[[], Awaitable[object]] | None) -> list[Job]:
    if archive_inactive is None:
        return []
    return [Job("inactive", config.schedule.inactive, archive_inactive, INACTIVE_SECONDS_MAX)]


def _add_figures(metrics: Metrics, state_dir: Path, database_file: Path, backups: Backups, sources: Sources) -> None:
    """The figures that are read at each scrape."""

    def in_thread(name: str, documentation: str, read: Callable[[], float | None]) -> None:
        metrics.sample(name, documentation, read, where=Where.THREAD)

    metrics.sample("sessions", "Sessions by kind and status.", sources.session_counts, labels=("kind", "status"))
    metrics.sample("connections_open", "SSH connections open now.", sources.connection_count)
    metrics.sample(
        "github_token_expires_seconds",
        "How long the GitHub token is valid yet; NaN without one, or if it does not expire.",
        sources.github_expires_seconds,
    )
    metrics.sample("event_loop_tasks", "Tasks of the event loop.", lambda: len(asyncio.all_tasks()))
    in_thread("database_size_bytes", "The database file.", lambda: host.file_bytes(database_file))
    in_thread("database_wal_size_bytes", "Its write-ahead log.", lambda: host.file_bytes(host.wal_of(database_file)))
    in_thread("backup_age_seconds", "Age of the newest backup; NaN while there is none.", backups.age_seconds)
    in_thread("state_disk_free_bytes", "Free space where the state is.", lambda: host.disk(state_dir).left)
    in_thread("ptys_used", "Pseudo-terminals in use on this machine.", lambda: host.ptys().used)
    in_thread("ptys_max", "Pseudo-terminals this machine allows.", lambda: host.ptys().limit)
