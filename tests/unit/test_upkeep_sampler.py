"""What goes into `system_metrics` every minute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.events import Event
from gateway.interfaces import Measurement
from gateway.upkeep.sampler import LoginTally, Sampler

# The four that history promises, and what readiness depends on.
EXPECTED = {"cpu_usage", "memory_usage", "disk_usage", "active_sessions", "loop_lag_ms", "auth_failures", "fd_used",
            "pty_used", "db_bytes", "wal_bytes", "backup_age_s"}  # fmt: skip


class FakeStore:
    def __init__(self) -> None:
        self.rows: list[Measurement] = []

    async def add_metrics(self, rows: Sequence[Measurement]) -> None:
        self.rows += rows


async def sampled(tmp_path: Path, *, backup_age_seconds: float | None = 60.0) -> dict[str, Measurement]:
    (tmp_path / "homeport.db").write_bytes(b"x" * 4096)
    store = FakeStore()
    sampler = Sampler(
        store,
        state_dir=tmp_path,
        database_file=tmp_path / "homeport.db",
        session_counts=lambda: {("shell", "active"): 2, ("exec", "active"): 1, ("shell", "paused"): 4},
        take_loop_lag_seconds=lambda: 0.0125,
        backup_age_seconds=lambda: backup_age_seconds,
        logins=LoginTally(),
    )
    assert await sampler.run() == len(store.rows)
    return {row.metric: row for row in store.rows}


async def test_each_figure_is_there_once_with_its_unit(tmp_path: Path) -> None:
    rows = await sampled(tmp_path)
    assert set(rows) == EXPECTED
    for name in ("cpu_usage", "memory_usage", "disk_usage"):
        assert (rows[name].unit, 0 <= rows[name].value <= 100) == ("percent", True)
    assert (rows["loop_lag_ms"].value, rows["loop_lag_ms"].unit) == (12.5, "milliseconds")
    assert (rows["db_bytes"].value, rows["wal_bytes"].value) == (4096, 0)
    assert rows["fd_used"].value > 2


async def test_active_sessions_are_those_with_a_client_and_the_kinds_are_told(tmp_path: Path) -> None:
    row = (await sampled(tmp_path))["active_sessions"]
    assert (row.value, row.metadata) == (3, {"shell": 2, "exec": 1, "paused": 4})


async def test_what_cannot_be_measured_is_left_out_rather_than_zero(tmp_path: Path) -> None:
    assert "backup_age_s" not in await sampled(tmp_path, backup_age_seconds=None)


def test_logins_are_told_once_each() -> None:
    tally = LoginTally()
    tally.count(Event.LOGIN_REFUSED, {"reason": "unknown_key"})
    tally.count(Event.LOGIN_ACCEPTED, {"handshake_ms": 30})
    tally.count(Event.LOGIN_ACCEPTED, {"handshake_ms": 50})
    tally.count(Event.LOGIN_ACCEPTED, {"handshake_ms": "odd"})
    assert tally.take() == [
        Measurement("auth_failures", 1, "count"),
        Measurement("handshake_ms", 40.0, "milliseconds", {"logins": 2}),
    ]
    assert tally.take() == [Measurement("auth_failures", 0, "count")]
