"""The journal, measurements and settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from gateway.interfaces import Measurement
from gateway.journal import JournalAction
from gateway.store.refusals import ROWS_MAX, ROWS_PER_SOURCE_MAX, RefusalLimit
from gateway.store.store import Store
from gateway.store.text import clean_details, clean_text
from tests.support.store import opened_store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path) as store:
        yield store


async def test_a_fact_is_kept_with_its_details_newest_first(store: Store) -> None:
    await store.record(
        JournalAction.LOGIN,
        success=True,
        client_ip="192.0.2.7",
        user_agent="SSH-2.0-OpenSSH_9.2",
        details={"method": "publickey", "offers": ["SHA256:a", "SHA256:b"], "nothing": None, "duration_ms": 12.5},
    )
    await store.record(JournalAction.LOGOUT, success=True)
    logout, login = await store.list_auth_logs()
    assert (logout.action, logout.client_ip, logout.details) == (JournalAction.LOGOUT, None, {})
    assert (login.action, login.success, login.client_ip) == (JournalAction.LOGIN, True, "192.0.2.7")
    assert login.user_agent == "SSH-2.0-OpenSSH_9.2"
    assert login.details == {"method": "publickey", "offers": ["SHA256:a", "SHA256:b"], "duration_ms": 12.5}
    assert datetime.now(UTC) - login.created_at < timedelta(minutes=1)


async def test_the_journal_is_read_by_action_and_by_address(store: Store) -> None:
    for address in ("192.0.2.1", "192.0.2.2"):
        await store.record(JournalAction.LOGIN, success=True, client_ip=address)
        await store.record(JournalAction.LOGOUT, success=True, client_ip=address)
    logins = await store.list_auth_logs(action=JournalAction.LOGIN)
    assert [row.client_ip for row in logins] == ["192.0.2.2", "192.0.2.1"]
    ours = await store.list_auth_logs(client_ip="192.0.2.1", limit=1)
    assert [row.action for row in ours] == [JournalAction.LOGOUT]


async def test_the_journal_is_read_by_workspace_principal_and_time(store: Store) -> None:
    """A login names the workspace as it was typed, an operator's command who gave it: both are found."""
    details: list[dict[str, object]] = [
        {"login_name": "Demo", "principal": "anna"},
        {"workspace": "demo", "principal": "ben"},
        {"workspace": "other", "login_name": "demo", "by": "anna"},
        {},
    ]
    for one in details:
        await store.record(JournalAction.LOGIN, success=True, details=one)
    by_workspace = await store.list_auth_logs(workspace="demo")
    assert [row.details for row in by_workspace] == [details[1], details[0]]
    assert [row.details for row in await store.list_auth_logs(principal="anna")] == [details[2], details[0]]
    assert [row.details for row in await store.list_auth_logs(principal="anna", workspace="DEMO")] == [details[0]]
    rows = await store.list_auth_logs()
    assert await store.list_auth_logs(since=rows[1].created_at) == rows[:2]
    assert await store.list_auth_logs(since=rows[0].created_at + timedelta(seconds=1)) == []
    kolkata = timezone(timedelta(hours=5, minutes=30))
    assert await store.list_auth_logs(since=rows[1].created_at.astimezone(kolkata)) == rows[:2]


async def test_text_from_clients_cannot_forge_lines_or_colours_nor_fill_the_disk(store: Store) -> None:
    evil = "SSH-2.0-x\r\nlogin ok\x1b[2J\u202e\ud800" + "y" * 100_000
    await store.record(JournalAction.LOGIN, success=True, client_ip=evil, user_agent=evil, details={"version": evil})
    (row,) = await store.list_auth_logs()
    assert row.user_agent is not None
    assert row.user_agent.startswith("SSH-2.0-x\\r\\nlogin ok\\x1b[2J\\u202e\\ud800yyy")
    assert row.client_ip is not None
    assert [len(row.client_ip), len(row.user_agent), len(str(row.details["version"]))] == [64, 255, 500]


def test_text_is_cut_with_a_mark_and_only_when_too_long() -> None:
    assert clean_text("abc", 3) == "abc"
    assert clean_text("abcd", 3) == "ab…"
    assert clean_text("\x00\x00", 5) == "\\x00…"


def test_details_are_bounded_in_number() -> None:
    assert clean_details({str(number): number for number in range(1000)}).count(":") == 30
    assert len(clean_details({"list": ["x" * 10_000] * 1000})) < 20_000


async def test_a_flood_of_refused_logins_writes_few_rows_and_one_count(tmp_path: Path) -> None:
    """One row per attempt would let a stranger fill the disk."""
    async with opened_store(tmp_path) as store:
        for _ in range(200):
            await store.record(JournalAction.LOGIN, success=False, client_ip="203.0.113.5")
        await store.record(JournalAction.LOGIN, success=False, client_ip="192.0.2.9")
        await store.record(JournalAction.LOGIN, success=True, client_ip="203.0.113.5")  # never swallowed
    async with opened_store(tmp_path) as store:
        rows = await store.list_auth_logs(client_ip="203.0.113.5", limit=1000)
        written = len([row for row in rows if not row.success and not row.details])
        counted = sum(int(str(row.details.get("more_refused_count", 0))) for row in rows)
        assert written + counted == 200
        assert written <= 2 * ROWS_PER_SOURCE_MAX  # the test may run across the end of a minute
        assert len([row for row in rows if row.success]) == 1
        assert len(await store.list_auth_logs(client_ip="192.0.2.9")) == 1


def test_refusals_are_admitted_again_in_the_next_minute() -> None:
    limit = RefusalLimit()
    assert sum(limit.admits("192.0.2.1", 0) for _ in range(50)) == ROWS_PER_SOURCE_MAX
    assert limit.take_counts(59) == {}  # the minute is not over
    assert limit.take_counts(60) == {"192.0.2.1": 40}
    assert limit.take_counts(61) == {}
    assert limit.admits("192.0.2.1", 62)


def test_many_sources_share_one_bound_and_one_count() -> None:
    limit = RefusalLimit()
    written = sum(limit.admits(f"198.51.{number // 256}.{number % 256}", 0) for number in range(20_000))
    assert written == ROWS_MAX
    assert limit.take_counts(60) == {None: 20_000 - ROWS_MAX}


def test_a_whole_ipv6_network_is_one_source() -> None:
    limit = RefusalLimit()
    admitted = sum(limit.admits(f"2001:db8::{number:x}", 0) for number in range(100))
    assert admitted == ROWS_PER_SOURCE_MAX
    assert limit.admits("2001:db8:0:1::1", 0)
    assert limit.take_counts(60) == {"2001:db8::/64": 90}


async def test_measurements_are_read_back_newest_first(store: Store) -> None:
    await store.add_metrics(
        [Measurement("cpu_usage", 12.5, "percent", {"cpus": 2}), Measurement("fd_used", 40, "count")]
    )
    await store.add_metrics([Measurement("cpu_usage", 13.5, "percent")])
    since = datetime.now(UTC) - timedelta(minutes=1)
    history = await store.metric_history("cpu_usage", since=since)
    assert [row for _, row in history] == [
        Measurement("cpu_usage", 13.5, "percent"),
        Measurement("cpu_usage", 12.5, "percent", {"cpus": 2}),
    ]
    assert history[0][0] > history[1][0] > since
    assert await store.metric_history("cpu_usage", since=since + timedelta(hours=1)) == []
    await store.add_metrics([])


async def test_settings_are_one_row_however_often_they_change(store: Store) -> None:
    assert (await store.theme(), await store.preferences()) == (None, {})
    await store.set_theme("dark")
    await store.set_preferences({"shell": "zsh", "unknown": [1]})
    await store.set_theme("light")
    assert (await store.theme(), await store.preferences()) == ("light", {"shell": "zsh", "unknown": [1]})
    assert await store._database.query("SELECT id FROM settings") == [{"id": "singleton"}]


async def test_preferences_that_are_no_object_count_as_none(store: Store) -> None:
    await store.set_theme("dark")
    await store._database.query("UPDATE settings SET preferences = '[1]'")
    assert await store.preferences() == {}
