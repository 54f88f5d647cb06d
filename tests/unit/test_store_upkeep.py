"""Retention, health, copies, and the plans of the queries that need an index."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import ConfigInvalid, StoreUnavailable
from gateway.interfaces import EndReason, Measurement, ProgramExit
from gateway.journal import JournalAction
from gateway.store.copy import check_database, copy_database
from gateway.store.location import parse_database_url
from gateway.store.store import Store
from tests.support.store import open_session, opened_store

NOW = datetime.now(UTC)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path) as store:
        yield store


async def ended_session(store: Store, workspace_id: str, *, days_ago: float) -> str:
    workspace = await store.workspace(workspace_id)
    assert workspace is not None
    session_id = await open_session(store, workspace)
    await store.end_session(
        session_id,
        exit=ProgramExit(0),
        reason=EndReason.EXIT,
        bytes_in=0,
        bytes_out=0,
        ended_at=NOW - timedelta(days=days_ago),
    )
    return session_id


# ------------------------------------------------------------------------------------------------ retention


async def test_only_sessions_that_ended_long_ago_are_deleted_and_their_ids_returned(store: Store) -> None:
    """However old and quiet, a session that has not ended keeps its row."""
    workspace = await store.add_workspace("demo")
    old = [await ended_session(store, workspace.id, days_ago=8 + number) for number in range(3)]
    recent = await ended_session(store, workspace.id, days_ago=6)
    quiet = await open_session(store, workspace)
    await store._database.query("UPDATE sessions SET last_activity_at = '2001-01-01 00:00:00+00:00'")
    cutoff = NOW - timedelta(days=7)
    assert await store.delete_sessions_ended_before(cutoff, 2) == [old[2], old[1]]  # the oldest first
    assert await store.delete_sessions_ended_before(cutoff, 2) == [old[0]]
    assert await store.delete_sessions_ended_before(cutoff, 2) == []
    assert {row.id for row in await store.list_sessions(include_ended=True)} == {recent, quiet}


async def test_old_journal_rows_and_measurements_are_deleted_in_batches(store: Store) -> None:
    for _ in range(5):
        await store.record(JournalAction.LOGOUT, success=True)
        await store.add_metrics([Measurement("cpu_usage", 1, "percent")])
    for table in ("auth_logs", "system_metrics"):
        first_three = f"SELECT rowid FROM {table} LIMIT 3"
        await store._database.query(f"UPDATE {table} SET created_at = '2001-01-01' WHERE rowid IN ({first_three})")
    for delete in (store.delete_auth_logs_before, store.delete_metrics_before):
        assert [await delete(NOW - timedelta(days=1), 2) for _ in range(3)] == [2, 1, 0]
    assert len(await store.list_auth_logs()) == 2
    assert len(await store.metric_history("cpu_usage", since=NOW - timedelta(days=1))) == 2


async def test_optimize_gives_free_pages_back(store: Store) -> None:
    for _ in range(300):
        await store.record(JournalAction.LOGOUT, success=True, details={"text": "x" * 400})
    await store.delete_auth_logs_before(NOW + timedelta(days=1), 1000)
    (before,) = await store._database.query("PRAGMA freelist_count")
    await store.optimize()
    (after,) = await store._database.query("PRAGMA freelist_count")
    assert before["freelist_count"] > 10
    assert after["freelist_count"] == 0


# --------------------------------------------------------------------------------------------------- health


async def test_a_writable_database_is_writable_and_the_probe_leaves_nothing(store: Store) -> None:
    await store.probe_writable()
    for table in ("settings", "auth_logs", "system_metrics"):
        assert await store._database.query(f"SELECT * FROM {table}") == []


async def test_every_file_of_the_database_is_private(store: Store) -> None:
    await store.add_workspace("demo")
    files = {path.name: path.stat().st_mode & 0o777 for path in store._database.file.parent.glob("homeport.db*")}
    assert files == dict.fromkeys(["homeport.db", "homeport.db-shm", "homeport.db-wal", "homeport.db.lock"], 0o600)


async def test_the_connection_has_its_pragmas(store: Store) -> None:
    """Without foreign_keys a cascade is silently off."""
    pragmas = {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 1, "busy_timeout": 5000}
    found = {name: next(iter((await store._database.query(f"PRAGMA {name}"))[0].values())) for name in pragmas}
    assert found == pragmas


async def test_a_read_only_database_is_noticed(store: Store) -> None:
    await store._database.query("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable, match="the database is read-only; check its owner and mode"):
        await store.probe_writable()
    assert await store.list_workspaces() == []  # reading goes on
    await store._database.query("PRAGMA query_only = OFF")
    await store.probe_writable()


async def test_a_lock_held_by_another_program_is_named(store: Store) -> None:
    await store._database.query("PRAGMA busy_timeout = 10")
    with contextlib.closing(sqlite3.connect(store._database.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked by another program"):
            await store.probe_writable()
        other.execute("ROLLBACK")
    await store.probe_writable()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_is_noticed_and_freed_space_too(small_disk: Path) -> None:
    async with opened_store(small_disk) as store:
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError):
            ballast.write_bytes(bytes(2_000_000))
        await store.list_workspaces()  # reading still works, so it tells nothing
        with pytest.raises(StoreUnavailable, match="the disk with the database is full; free some space"):
            for _ in range(1000):  # the log's last page may have room
                await store.probe_writable()
        ballast.unlink()
        await store.probe_writable()
        await store.add_workspace("demo")


async def test_a_copy_is_whole_private_and_has_what_is_only_in_the_log(store: Store, tmp_path: Path) -> None:
    await store.add_workspace("demo")
    copy = tmp_path / "copy.db"
    await store.backup_to(copy)
    assert copy.stat().st_mode & 0o777 == 0o600
    check_database(copy)
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT slug FROM workspaces").fetchall() == [("demo",)]


async def test_a_copy_never_overwrites_and_a_failed_one_leaves_nothing(store: Store, tmp_path: Path) -> None:
    taken = tmp_path / "taken.db"
    taken.write_text("precious")
    with pytest.raises(StoreUnavailable, match="File exists"):
        await store.backup_to(taken)
    assert taken.read_text() == "precious"
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        await store.backup_to(tmp_path / "missing" / "copy.db")
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(store._database.file.read_bytes()[:2048] * 4)
    with pytest.raises(StoreUnavailable):
        copy_database(damaged, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


# ---------------------------------------------------------------------------------------------------- plans

PLANS = {
    "find_key": "access_keys_fingerprint_key",
    "find_workspace": "workspaces_slug_key",
    "find_workspace_by_repo": "workspaces_github_repo_key",
    "list_workspaces": "sessions_workspace_id_status_idx",
    "sessions_left_open": "sessions_status_ended_at_idx",
    "find_session": "sqlite_autoindex_sessions_1",
    "list_sessions": "sessions_last_activity_idx",
    "delete_sessions_ended_before": "sessions_status_ended_at_idx",
    "list_auth_logs": "auth_logs_created_at_idx",
    "list_auth_logs by action": "auth_logs_action_created_at_idx",
    "list_auth_logs by address": "auth_logs_ip_address_created_at_idx",
    "list_auth_logs by workspace": "auth_logs_workspace_created_at_idx",
    "list_auth_logs by principal": "auth_logs_principal_created_at_idx",
    "list_auth_logs since": "auth_logs_created_at_idx (created_at>?)",
    "delete_auth_logs_before": "auth_logs_created_at_idx",
    "metric_history": "system_metrics_metric_created_idx",
}


async def ask(store: Store, question: str) -> None:
    match question:
        case "list_auth_logs by action":
            await store.list_auth_logs(action=JournalAction.LOGIN)
        case "list_auth_logs by address":
            await store.list_auth_logs(client_ip="192.0.2.1")
        case "list_auth_logs by workspace":
            await store.list_auth_logs(workspace="demo", since=NOW)
        case "list_auth_logs by principal":
            await store.list_auth_logs(principal="anna", since=NOW)
        case "list_auth_logs since":
            await store.list_auth_logs(since=NOW)
        case "find_key" | "find_workspace" | "find_workspace_by_repo" | "find_session":
            await getattr(store, question)("0193abcd")
        case "metric_history":
            await store.metric_history("cpu_usage", since=NOW)
        case "list_sessions":
            await store.list_sessions(include_ended=True)
        case "delete_sessions_ended_before" | "delete_auth_logs_before":
            await getattr(store, question)(NOW, 10)
        case _:
            await getattr(store, question)()


@pytest.mark.parametrize("question", PLANS)
async def test_the_question_is_answered_by_its_index(store: Store, question: str) -> None:
    """The statements are those that the store really sends, caught on their way."""
    await store.add_workspace("demo")
    seen: list[str] = []
    connection = store._database._context.connections.get("default")._connection  # type: ignore[attr-defined]
    await connection.set_trace_callback(seen.append)
    await ask(store, question)
    await connection.set_trace_callback(None)
    plans = []
    for statement in [one for one in seen if one.startswith("SELECT")]:
        plan = [row["detail"] for row in await store._database.query(f"EXPLAIN QUERY PLAN {statement}")]
        plans.append(" | ".join(plan))
    assert any(PLANS[question] in plan for plan in plans), plans
    if question not in ("list_workspaces", "sessions_left_open"):  # those sort a few rows
        assert not any("TEMP B-TREE" in plan for plan in plans), plans


# -------------------------------------------------------------------------------------------------- location


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///var/lib/homeport.db", "/var/lib/homeport.db"),
        ("file:/var/lib/homeport.db", "/var/lib/homeport.db"),
        ("file:///var/lib/homeport.db", "/var/lib/homeport.db"),
        ("/var/lib/homeport.db", "/var/lib/homeport.db"),
        ("sqlite://data/x.db", str(Path.cwd() / "data/x.db")),
        ("file:./data/x.db", str(Path.cwd() / "data/x.db")),
    ],
)
def test_the_database_may_be_named_by_url_or_path(text: str, path: str) -> None:
    assert str(parse_database_url(text)) == path


@pytest.mark.parametrize(
    "text", ["postgres://u:secret@host/db", "mysql://x", "sqlite://", ":memory:", "sqlite://:memory:", "/a/", "/a?x=1"]
)
def test_other_databases_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="write for example: sqlite:///var") as refusal:
        parse_database_url(text)
    assert "secret" not in str(refusal.value)
