"""What the HTTP API asks of the store: tokens, and pages with their totals."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import NameTaken
from gateway.interfaces import ApiScope, ApiToken, EndReason, Measurement, ProgramExit
from gateway.journal import JournalAction
from gateway.store.refusals import ROWS_PER_SOURCE_MAX
from gateway.store.store import Store
from tests.support.store import open_session, opened_store

IN_AN_HOUR = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path) as store:
        yield store


async def add(store: Store, name: str, *, expires_at: datetime = IN_AN_HOUR) -> ApiToken:
    token_hash = hashlib.sha256(f"{name}{expires_at}".encode()).hexdigest()
    return await store.add_api_token(
        name=name, token_hash=token_hash, scope=ApiScope.WRITE, created_by="ana", expires_at=expires_at
    )


async def test_token_is_found_by_its_hash_until_it_is_removed(store: Store) -> None:
    token = await add(store, "ci")
    token_hash = hashlib.sha256(f"ci{IN_AN_HOUR}".encode()).hexdigest()
    found = await store.find_api_token(token_hash)
    assert found is not None
    assert (found.id, found.scope, found.created_by, found.expires_at) == (token.id, "write", "ana", IN_AN_HOUR)
    assert await store.find_api_token("0" * 64) is None
    assert await store.remove_api_token("ci") is not None
    assert await store.remove_api_token("ci") is None
    assert await store.find_api_token(token_hash) is None


async def test_name_of_a_token_is_taken_until_it_expires(store: Store) -> None:
    await add(store, "old", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    await add(store, "old")
    with pytest.raises(NameTaken):
        await add(store, "old", expires_at=IN_AN_HOUR + timedelta(seconds=1))
    assert [token.name for token in await store.list_api_tokens()] == ["old"]


async def test_last_use_of_a_token_is_written_with_the_next_flush(store: Store) -> None:
    """S42, T26: not one write for each call."""
    token = await add(store, "ci")
    store.note_api_token_used(token.id)
    assert (await store.list_api_tokens())[0].last_used_at is None
    await store.flush_activity([])
    used = (await store.list_api_tokens())[0].last_used_at
    assert used is not None
    assert used > datetime.now(UTC) - timedelta(minutes=1)


async def test_pages_of_workspaces_and_their_total_go_by_one_filter(store: Store) -> None:
    """S139, T20: the total counts what the pages show."""
    for number in range(5):
        await store.add_workspace(f"w{number}")
    archived = await store.find_workspace("w3")
    assert archived is not None
    await store.close_workspace(archived.id)
    rows, total = await store.workspace_page(skip=2, limit=2)
    assert ([row.name for row in rows], total) == (["w2", "w4"], 4)
    rows, total = await store.workspace_page(skip=0, limit=10, include_inactive=True)
    assert ([row.name for row in rows], total) == (["w0", "w1", "w2", "w3", "w4"], 5)
    assert await store.workspace_page(skip=10, limit=10) == ([], 4)


async def test_page_of_workspaces_knows_who_is_attached_in_three_queries(store: Store) -> None:
    """S138: however many workspaces there are."""
    for number in range(3):
        workspace = await store.add_workspace(f"w{number}")
        for _ in range(number):
            await open_session(store, workspace)
    asked: list[str] = []
    connection = store._database._context.connections.get("default")
    execute = connection.execute_query_dict

    async def counting(query: str, values: list[object] | None = None) -> object:
        asked.append(query)
        return await execute(query, values)

    connection.execute_query_dict = counting  # type: ignore[method-assign,assignment]
    rows, _ = await store.workspace_page(skip=0, limit=10)
    assert [row.active_session_count for row in rows] == [0, 1, 2]
    assert len(asked) <= 3


async def test_pages_of_sessions_are_of_one_workspace_and_of_those_that_live(store: Store) -> None:
    one, other = await store.add_workspace("one"), await store.add_workspace("other")
    ids = [await open_session(store, one) for _ in range(3)]
    await open_session(store, other)
    await store.end_session(ids[1], exit=ProgramExit(0), reason=EndReason.EXIT, bytes_in=0, bytes_out=0)
    rows, total = await store.session_page(workspace="ONE", skip=0, limit=1)
    assert ([row.id for row in rows], total) == ([ids[2]], 2)
    rows, total = await store.session_page(workspace="one", include_ended=True, skip=1, limit=5)
    assert ([row.id for row in rows], total) == ([ids[1], ids[0]], 3)
    assert (await store.session_page(skip=0, limit=10))[1] == 3
    assert await store.session_page(workspace="none", skip=0, limit=10) == ([], 0)


async def test_pages_of_the_journal_and_their_total_go_by_one_filter(store: Store) -> None:
    for number in range(4):
        await store.record(JournalAction.LOGIN, success=True, details={"principal": "ana", "number": number})
    await store.record(JournalAction.LOGOUT, success=True)
    rows, total = await store.auth_log_page(action=JournalAction.LOGIN, skip=1, limit=2)
    assert ([row.details["number"] for row in rows], total) == ([2, 1], 4)
    assert (await store.auth_log_page(principal="nobody", skip=0, limit=9)) == ([], 0)
    assert (await store.auth_log_page(skip=0, limit=1))[1] == 5
    assert (await store.auth_log_page(since=IN_AN_HOUR, skip=0, limit=1)) == ([], 0)


async def test_pages_of_measurements_are_of_one_metric_and_time(store: Store) -> None:
    before = datetime.now(UTC)
    for number in range(3):
        await store.add_metrics([Measurement("cpu_usage", number, "percent"), Measurement("fd_used", 1, "count")])
    now = datetime.now(UTC)
    rows, total = await store.metric_page("cpu_usage", since=before, until=now, skip=1, limit=1)
    assert ([row.value for _, row in rows], total) == ([1.0], 3)
    assert await store.metric_page("cpu_usage", since=now, until=now + timedelta(hours=1), skip=0, limit=9) == ([], 0)


async def test_flood_of_refused_calls_writes_few_rows_and_its_own_count(store: Store) -> None:
    """S53, and flaw 37: whoever guesses tokens must not fill the disk, nor hide refused logins."""
    for _ in range(100):
        await store.record(JournalAction.API_ACCESS, success=False, client_ip="203.0.113.5")
    await store.record(JournalAction.LOGIN, success=False, client_ip="203.0.113.5")
    await store._flush_refusals(is_final=True)
    rows = await store.list_auth_logs(action=JournalAction.API_ACCESS, limit=1000)
    counted = sum(int(str(row.details.get("more_refused_count", 0))) for row in rows)
    written = len([row for row in rows if not row.details])
    assert written + counted == 100
    assert written <= 2 * ROWS_PER_SOURCE_MAX  # the test may run across the end of a minute
    assert len(await store.list_auth_logs(action=JournalAction.LOGIN)) == 1
