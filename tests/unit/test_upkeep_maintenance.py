"""What is old goes, in order; what lives stays."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import pytest

from gateway.config import RetentionSettings
from gateway.errors import StoreUnavailable
from gateway.upkeep.maintenance import BATCH_ROWS, Maintenance

NOW = datetime(2026, 5, 1, 1, 0, tzinfo=UTC)


class FakeStore:
    """Counts of rows that are old enough, and the calls in their order."""

    def __init__(self, *, sessions: int = 0, auth_logs: int = 0, metrics: int = 0) -> None:
        self.left = {"sessions": sessions, "auth_logs": auth_logs, "metrics": metrics}
        self.calls: list[tuple[str, datetime]] = []
        self.failing: set[str] = set()

    def _delete(self, table: str, cutoff: datetime, batch: int) -> int:
        self.calls.append((table, cutoff))
        if table in self.failing:
            raise StoreUnavailable("database is locked")
        count = min(batch, self.left[table])
        self.left[table] -= count
        return count

    async def delete_sessions_ended_before(self, cutoff: datetime, batch: int) -> list[str]:
        return [f"s{self.left['sessions']}-{n}" for n in range(self._delete("sessions", cutoff, batch))]

    async def delete_auth_logs_before(self, cutoff: datetime, batch: int) -> int:
        return self._delete("auth_logs", cutoff, batch)

    async def delete_metrics_before(self, cutoff: datetime, batch: int) -> int:
        return self._delete("metrics", cutoff, batch)

    async def optimize(self) -> None:
        self.calls.append(("optimize", NOW))


class FakeRecordings:
    def __init__(self, unused: Collection[str] = ()) -> None:
        self.unused = unused
        self.cutoff: datetime | None = None
        self.deleted: list[str] = []

    async def delete(self, session_ids: Collection[str]) -> None:
        self.deleted += session_ids

    async def unused_since(self, cutoff: datetime) -> Collection[str]:
        self.cutoff = cutoff
        return self.unused


def maintenance(store: FakeStore, recordings: FakeRecordings, live: Collection[str] = ()) -> Maintenance:
    return Maintenance(store, recordings, RetentionSettings(), live_session_ids=lambda: live, now=lambda: NOW)


async def test_steps_run_in_order_each_with_its_own_age() -> None:
    """Together, deletes and vacuum were "database is locked"."""
    store, recordings = FakeStore(), FakeRecordings()
    await maintenance(store, recordings).run()
    assert store.calls == [
        ("sessions", NOW - timedelta(days=7)),
        ("auth_logs", NOW - timedelta(days=30)),
        ("metrics", NOW - timedelta(days=7)),
        ("optimize", NOW),
    ]
    assert recordings.cutoff == NOW - timedelta(days=7)


async def test_many_rows_go_in_batches_and_are_counted() -> None:
    """One transaction over a million rows would keep every login waiting."""
    store, recordings = FakeStore(sessions=BATCH_ROWS + 3, auth_logs=2 * BATCH_ROWS, metrics=1), FakeRecordings()
    done = await maintenance(store, recordings).run()
    assert (done.session_count, done.auth_log_count, done.metric_count) == (BATCH_ROWS + 3, 2 * BATCH_ROWS, 1)
    assert [table for table, _ in store.calls].count("sessions") == 2
    assert set(store.left.values()) == {0}


async def test_recordings_of_removed_sessions_go_with_them() -> None:
    store, recordings = FakeStore(sessions=2), FakeRecordings()
    await maintenance(store, recordings).run()
    assert len(recordings.deleted) == 2


async def test_the_recording_of_a_session_that_lives_is_kept_however_old_it_is() -> None:
    """A build that is quiet for a week is not a dead session."""
    recordings = FakeRecordings(unused=["alive", "orphan"])
    done = await maintenance(FakeStore(), recordings, live=["alive"]).run()
    assert (recordings.deleted, done.recording_count) == (["orphan"], 1)


@pytest.mark.parametrize("table", ["sessions", "auth_logs", "metrics"])
async def test_a_step_that_fails_is_told_and_does_not_keep_the_others_from_running(table: str) -> None:
    store, recordings = FakeStore(auth_logs=1, metrics=1), FakeRecordings(unused=["orphan"])
    store.failing = {table}
    with pytest.raises(StoreUnavailable):
        await maintenance(store, recordings).run()
    assert [name for name, _ in store.calls] == ["sessions", "auth_logs", "metrics", "optimize"]
    assert recordings.deleted == ["orphan"]
