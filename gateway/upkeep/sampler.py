"""What is measured every minute into `system_metrics`, so that yesterday can be looked at today."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gateway.events import Event
from gateway.interfaces import Measurement, SessionStatus
from gateway.upkeep import host

# Over which the very first CPU figure is taken; later ones cover the time since the sample before.
CPU_FIRST_SECONDS = 0.1

SessionCounts = Mapping[tuple[str, str], int]  # (kind, status) → how many


class MetricsStore(Protocol):
    async def add_metrics(self, rows: Sequence[Measurement]) -> object: ...


class LoginTally:
    """Logins since the last sample. Give `count` to `log.subscribe`."""

    def __init__(self) -> None:
        self._failure_count = 0
        self._handshake_count = 0
        self._handshakes_ms = 0.0

    def count(self, event: Event, keys: Mapping[str, object]) -> None:
        if event is Event.LOGIN_REFUSED:
            self._failure_count += 1
        elif event is Event.LOGIN_ACCEPTED:
            handshake_ms = keys.get("handshake_ms")
            if isinstance(handshake_ms, int | float):
                self._handshake_count += 1
                self._handshakes_ms += handshake_ms

    def take(self) -> list[Measurement]:
        rows = [Measurement("auth_failures", self._failure_count, "count")]
        if self._handshake_count:
            mean_ms = round(self._handshakes_ms / self._handshake_count, 3)
            rows.append(Measurement("handshake_ms", mean_ms, "milliseconds", {"logins": self._handshake_count}))
        self._failure_count, self._handshake_count, self._handshakes_ms = 0, 0, 0.0
        return rows


class Sampler:
    """Measures, and has the store keep it."""

    def __init__(
        self,
        store: MetricsStore,
        *,
        state_dir: Path,
        database_file: Path,
        session_counts: Callable[[], SessionCounts],
        take_loop_lag_seconds: Callable[[], float],
        backup_age_seconds: Callable[[], float | None],
        logins: LoginTally,
    ) -> None:
        self._store = store
        self._state_dir = state_dir
        self._database_file = database_file
        self._session_counts = session_counts
        self._take_loop_lag_seconds = take_loop_lag_seconds
        self._backup_age_seconds = backup_age_seconds
        self._logins = logins
        self._has_cpu_figure = False

    async def run(self) -> int:
        """Measure and store; how many figures. What cannot be measured here is left out."""
        rows = [
            _active_sessions(self._session_counts()),
            Measurement("loop_lag_ms", round(self._take_loop_lag_seconds() * 1000, 3), "milliseconds"),
            *self._logins.take(),
            *await asyncio.to_thread(self._measure),
        ]
        await self._store.add_metrics(rows)
        return len(rows)

    def _measure(self) -> list[Measurement]:
        """The part that may block."""
        if not self._has_cpu_figure:
            host.cpu_percent()
            time.sleep(CPU_FIRST_SECONDS)
            self._has_cpu_figure = True
        memory, scope = host.memory()
        disk, descriptors = host.disk(self._state_dir), host.descriptors()
        rows = [
            Measurement("cpu_usage", host.cpu_percent(), "percent", {"cpus": host.cpu_count()}),
            _share("memory_usage", memory, scope=scope),
            _share("disk_usage", disk),
            Measurement("fd_used", descriptors.used, "count", {"limit": descriptors.limit}),
            Measurement("db_bytes", host.file_bytes(self._database_file), "bytes"),
            Measurement("wal_bytes", host.file_bytes(host.wal_of(self._database_file)), "bytes"),
        ]
        with contextlib.suppress(OSError, ValueError):  # a container may hide it; readiness says so
            ptys = host.ptys()
            rows.append(Measurement("pty_used", ptys.used, "count", {"limit": ptys.limit}))
        backup_age_seconds = self._backup_age_seconds()
        if backup_age_seconds is not None:
            rows.append(Measurement("backup_age_s", round(backup_age_seconds), "seconds"))
        return rows


def _active_sessions(counts: SessionCounts) -> Measurement:
    """How many sessions have a client now; by kind, and how many run on without one, in the metadata."""
    by_kind: dict[str, int] = {}
    paused = 0
    for (kind, status), count in counts.items():
        if status == SessionStatus.ACTIVE:
            by_kind[kind] = by_kind.get(kind, 0) + count
        elif status == SessionStatus.PAUSED:
            paused += count
    return Measurement("active_sessions", sum(by_kind.values()), "count", {**by_kind, "paused": paused})


def _share(metric: str, usage: host.Usage, **metadata: object) -> Measurement:
    figures = {"used_bytes": usage.used, "total_bytes": usage.limit, **metadata}
    return Measurement(metric, round(usage.percent, 2), "percent", figures)
