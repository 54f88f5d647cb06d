"""The schema that the migrations make: columns, indexes and defaults, and states it refuses."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tortoise.fields.relational import BackwardFKRelation, ForeignKeyFieldInstance
from tortoise.models import Model

import models
from gateway.interfaces import EndReason, Forwarding
from tests.support.store import migrated_file

# table → column → (affinity, not null, default), names in snake_case. "now" is
# CURRENT_TIMESTAMP. github_repo and github_url are nullable here, system_metrics.id is an integer.
PROMISED: dict[str, dict[str, tuple[str, bool, str | None]]] = {
    "settings": {
        "id": ("TEXT", True, "'singleton'"),
        "github_token": ("TEXT", False, None),
        "github_token_iv": ("TEXT", False, None),
        "github_refresh_token": ("TEXT", False, None),
        "github_refresh_token_iv": ("TEXT", False, None),
        "github_token_expires_at": ("DATETIME", False, None),
        "theme": ("TEXT", False, None),
        "preferences": ("TEXT", False, None),
        "created_at": ("DATETIME", True, "now"),
        "updated_at": ("DATETIME", True, "now"),
    },
    "workspaces": {
        "id": ("TEXT", True, None),
        "name": ("TEXT", True, None),
        "github_repo": ("TEXT", False, None),
        "github_url": ("TEXT", False, None),
        "github_id": ("INTEGER", False, None),
        "local_path": ("TEXT", True, None),
        "branch": ("TEXT", True, "'main'"),
        "description": ("TEXT", False, None),
        "is_active": ("INTEGER", True, "1"),
        "last_sync_at": ("DATETIME", False, None),
        "created_at": ("DATETIME", True, "now"),
        "updated_at": ("DATETIME", True, "now"),
    },
    "sessions": {
        "id": ("TEXT", True, None),
        "shell_pid": ("INTEGER", False, None),
        "socket_id": ("TEXT", False, None),
        "shell": ("TEXT", True, "'bash'"),
        "status": ("TEXT", True, "'active'"),
        "working_directory": ("TEXT", False, None),
        "environment": ("TEXT", False, None),
        "last_activity_at": ("DATETIME", True, "now"),
        "created_at": ("DATETIME", True, "now"),
        "ended_at": ("DATETIME", False, None),
        "exit_code": ("INTEGER", False, None),
        "workspace_id": ("TEXT", False, None),
    },
    "auth_logs": {
        "id": ("TEXT", True, None),
        "action": ("TEXT", True, None),
        "success": ("INTEGER", True, None),
        "ip_address": ("TEXT", False, None),
        "user_agent": ("TEXT", False, None),
        "details": ("TEXT", False, None),
        "created_at": ("DATETIME", True, "now"),
    },
    "system_metrics": {
        "id": ("INTEGER", True, None),
        "metric": ("TEXT", True, None),
        "value": ("REAL", True, None),
        "unit": ("TEXT", False, None),
        "metadata": ("TEXT", False, None),
        "created_at": ("DATETIME", True, "now"),
    },
}

SEED_INDEXES = {
    ("workspaces", ("name",), True),
    ("workspaces", ("github_repo",), True),
    ("sessions", ("workspace_id", "status"), False),
    ("sessions", ("last_activity_at",), False),
    ("system_metrics", ("metric", "created_at"), False),
}

NEW_WORKSPACE = (
    "INSERT INTO workspaces (id, name, slug, local_path{columns}) VALUES ('w', 'demo', 'demo', '/w'{values})"
)
NEW_SESSION = "INSERT INTO sessions (id{columns}) VALUES ('s'{values})"
NEW_TOKEN = (
    "INSERT INTO api_tokens (id, name, token_hash, scope, created_by, expires_at) "
    "VALUES ('t', '{name}', '{hash}', '{scope}', 'operator', CURRENT_TIMESTAMP)"
)
ENDED = {"status": "'terminated'", "ended_at": "CURRENT_TIMESTAMP", "end_reason": "'exit'"}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    file = await migrated_file(tmp_path)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


def insert(database: sqlite3.Connection, statement: str, **values: str) -> None:
    columns = "".join(f", {name}" for name in values)
    database.execute(statement.format(columns=columns, values="".join(f", {value}" for value in values.values())))


def affinity(declared: str) -> str:
    declared = declared.partition("(")[0].upper()
    return {"VARCHAR": "TEXT", "TIMESTAMP": "DATETIME", "INT": "INTEGER", "BIGINT": "INTEGER"}.get(declared, declared)


@pytest.mark.parametrize("table", PROMISED)
async def test_every_promised_column_is_there_with_its_type_and_default(
    database: sqlite3.Connection, table: str
) -> None:
    found = {
        name: (affinity(declared), bool(not_null), "now" if default == "CURRENT_TIMESTAMP" else default)
        for _, name, declared, not_null, default, _ in database.execute(f"PRAGMA table_info({table})")
    }
    assert {name: found.get(name) for name in PROMISED[table]} == PROMISED[table]
    keys = [name for _, name, _, _, _, key in database.execute(f"PRAGMA table_info({table})") if key]
    assert keys == ["id"]


async def test_every_promised_index_is_there(database: sqlite3.Connection) -> None:
    found = set()
    for table in PROMISED:
        for _, name, is_unique, *_ in database.execute(f"PRAGMA index_list({table})").fetchall():
            columns = tuple(column for _, _, column in database.execute(f"PRAGMA index_info({name})"))
            found.add((table, columns, bool(is_unique)))
    assert found >= SEED_INDEXES


@pytest.mark.parametrize("model", [getattr(models, name) for name in models.__all__])
async def test_models_and_migrations_have_the_same_columns(database: sqlite3.Connection, model: type[Model]) -> None:
    declared = {
        f"{name}_id" if isinstance(field, ForeignKeyFieldInstance) else name: not field.null
        for name, field in model._meta.fields_map.items()
        if not isinstance(field, BackwardFKRelation)
    }
    found = {
        name: bool(not_null) for _, name, _, not_null, *_ in database.execute(f"PRAGMA table_info({model.Meta.table})")
    }
    assert found == declared


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("INSERT INTO settings (id) VALUES ('second'{values})", {}),
        ("INSERT INTO settings (id{columns}) VALUES ('singleton'{values})", {"github_token": "'x'"}),
        ("INSERT INTO settings (id{columns}) VALUES ('singleton'{values})", {"github_refresh_token_iv": "'x'"}),
        ("INSERT INTO settings (id{columns}) VALUES ('singleton'{values})", {"preferences": "'not json'"}),
        ("INSERT INTO settings (id{columns}) VALUES ('singleton'{values})", {"github_profile": "'not json'"}),
        (NEW_WORKSPACE, {"github_repo": "'a/b'"}),
        (NEW_WORKSPACE, {"github_repo": "'ab'", "github_url": "'https://x/'"}),
        (NEW_WORKSPACE, {"github_id": "0"}),
        (NEW_WORKSPACE, {"is_active": "2"}),
        (NEW_WORKSPACE, {"forwarding": "'everywhere'"}),
        (NEW_WORKSPACE, {"forwarding": "''"}),
        (NEW_WORKSPACE, {"shell": "''"}),
        (NEW_WORKSPACE, {"shell": "'zsh'"}),
        (NEW_WORKSPACE, {"is_cloned": "2"}),
        (NEW_WORKSPACE, {"clone_branch": "'-x'"}),
        (NEW_WORKSPACE, {"branch": "'--upload-pack=x'"}),
        ("INSERT INTO workspaces (id, name, slug, local_path) VALUES ('w', '-x', '-x', '/w'{values})", {}),
        ("INSERT INTO workspaces (id, name, slug, local_path) VALUES ('w', 'Demo', 'other', '/w'{values})", {}),
        ("INSERT INTO workspaces (id, name, slug, local_path) VALUES ('w', 'a\n', 'a\n', '/w'{values})", {}),
        (NEW_SESSION, {"status": "'sleeping'"}),
        (NEW_SESSION, {"kind": "'telnet'"}),
        (NEW_SESSION, {"shell": "''"}),
        (NEW_SESSION, {"workspace_id": "'nowhere'"}),
        (NEW_SESSION, {"status": "'terminated'"}),
        (NEW_SESSION, {"ended_at": "CURRENT_TIMESTAMP", "end_reason": "'exit'"}),
        (NEW_SESSION, {"status": "'terminated'", "ended_at": "CURRENT_TIMESTAMP"}),
        (NEW_SESSION, {**ENDED, "end_reason": "'boredom'"}),
        (NEW_SESSION, {**ENDED, "exit_code": "1", "exit_signal": "'TERM'"}),
        (NEW_SESSION, {**ENDED, "shell_pid": "5"}),
        (NEW_SESSION, {"exit_code": "0"}),
        (NEW_SESSION, {"status": "'paused'", "socket_id": "'c'"}),
        (NEW_SESSION, {"detached_at": "CURRENT_TIMESTAMP"}),
        (NEW_SESSION, {"status": "'paused'", "job": "''"}),
        (NEW_SESSION, {"status": "'paused'", "job_ended_at": "CURRENT_TIMESTAMP"}),
        (NEW_SESSION, {"environment": "'LANG=C'"}),
        (NEW_SESSION, {"bytes_out": "-1"}),
        ("INSERT INTO auth_logs (id, action, success{columns}) VALUES ('a', 'login', 1{values})", {"details": "'x'"}),
        ("INSERT INTO auth_logs (id, action, success) VALUES ('a', 'login', 2{values})", {}),
        ("INSERT INTO system_metrics (metric, value{columns}) VALUES ('m', 1{values})", {"metadata": "'x'"}),
        (NEW_TOKEN.format(name="", hash="a" * 64, scope="read"), {}),
        (NEW_TOKEN.format(name="t", hash="a", scope="read"), {}),
        (NEW_TOKEN.format(name="t", hash="a" * 64, scope="admin"), {}),
        ("INSERT INTO access_keys (id, name, fingerprint, public_key) VALUES ('k', '', 'f', 'p'{values})", {}),
    ],
)
async def test_the_database_refuses_impossible_states(
    database: sqlite3.Connection, statement: str, values: dict[str, str]
) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        insert(database, statement, **values)


async def test_the_database_accepts_the_possible_states(database: sqlite3.Connection) -> None:
    insert(database, NEW_WORKSPACE, github_repo="'a/b'", github_url="'https://github.com/a/b'", github_id="7")
    for forwarding in Forwarding:
        database.execute("UPDATE workspaces SET forwarding = ?, shell = '/bin/zsh'", (forwarding,))
    insert(database, NEW_SESSION, workspace_id="'w'", socket_id="'c'", shell_pid="2")
    database.execute(
        "UPDATE sessions SET status = 'paused', socket_id = NULL, detached_at = CURRENT_TIMESTAMP, job = 'make', "
        "job_ended_at = CURRENT_TIMESTAMP"
    )
    database.execute(
        "UPDATE sessions SET status = 'terminated', shell_pid = NULL, ended_at = CURRENT_TIMESTAMP, "
        "exit_signal = 'HUP', end_reason = 'exit'"
    )
    for reason in EndReason:
        database.execute("UPDATE sessions SET end_reason = ?", (reason,))
    database.execute("INSERT INTO settings (theme) VALUES ('dark')")
    database.execute("INSERT INTO system_metrics (metric, value) VALUES ('cpu_usage', 0.5)")
    database.execute(NEW_TOKEN.format(name="grafana", hash="a" * 64, scope="read"))
    database.execute("INSERT INTO auth_logs (id, action, success, details) VALUES ('a', 'login', 1, '{}')")


async def test_names_and_repositories_are_taken_in_any_case_and_several_workspaces_have_none(
    database: sqlite3.Connection,
) -> None:
    """Unique without case; nulls are not equal to each other."""
    add = "INSERT INTO workspaces (id, name, slug, local_path, github_repo, github_url) VALUES (?, ?, ?, '/w', ?, 'u')"
    database.execute(add, ("1", "Demo", "demo", "octocat/Hello"))
    database.execute(add, ("2", "two", "two", None))
    database.execute(add, ("3", "three", "three", None))
    with pytest.raises(sqlite3.IntegrityError, match="slug"):
        database.execute(add, ("4", "dEmo", "demo", None))
    with pytest.raises(sqlite3.IntegrityError, match="github_repo"):
        database.execute(add, ("5", "five", "five", "OCTOCAT/hello"))


async def test_deleting_a_workspace_deletes_its_sessions(database: sqlite3.Connection) -> None:
    insert(database, NEW_WORKSPACE)
    insert(database, NEW_SESSION, workspace_id="'w'")
    database.execute("DELETE FROM workspaces")
    assert database.execute("SELECT COUNT(*) FROM sessions").fetchone() == (0,)
