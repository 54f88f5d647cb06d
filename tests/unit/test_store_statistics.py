"""Figures over all sessions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.interfaces import EndReason, ProgramExit, SessionStatistics
from gateway.store.store import Store
from tests.support.store import open_session, opened_store


async def ended(store: Store, session_id: str, *, hours_ago: float) -> None:
    at = datetime.now(UTC) - timedelta(hours=hours_ago)
    await store.end_session(
        session_id, exit=ProgramExit(0), reason=EndReason.EXIT, bytes_in=0, bytes_out=0, ended_at=at
    )


async def test_no_session_makes_no_mean(tmp_path: Path):
    async with opened_store(tmp_path) as store:
        assert await store.session_statistics() == SessionStatistics(0, 0, 0, 0, None)


async def test_sessions_are_counted_by_state_and_age_and_the_mean_is_of_a_week(tmp_path: Path):
    async with opened_store(tmp_path) as store:
        workspace = await store.add_workspace("demo")
        for hours_ago in (1, 30, 24 * 8):
            session_id = await open_session(store, workspace)
            begun = str(datetime.now(UTC) - timedelta(hours=hours_ago, seconds=10 * hours_ago))
            await store._database.query("UPDATE sessions SET created_at = ? WHERE id = ?", [begun, session_id])
            await ended(store, session_id, hours_ago=hours_ago)
        await open_session(store, workspace)
        await store.mark_paused(await open_session(store, workspace))
        figures = await store.session_statistics()
    assert (figures.active, figures.paused, figures.total, figures.ended_last_day) == (1, 1, 5, 1)
    assert figures.life_seconds_mean == pytest.approx((10 + 300) / 2, abs=0.1)  # not the one of eight days ago


async def test_sessions_are_listed_by_workspace(tmp_path: Path):
    async with opened_store(tmp_path) as store:
        demo = await store.add_workspace("demo")
        other = await store.add_workspace("other")
        await open_session(store, other)
        mine = await open_session(store, demo)
        assert [row.id for row in await store.list_sessions(workspaces={"demo"})] == [mine]
        assert await store.list_sessions(workspaces=frozenset()) == []
        assert len(await store.list_sessions()) == 2
