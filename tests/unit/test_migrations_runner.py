"""The migration runner: everything of a migration or nothing, a copy before, and no surprise from a foreign file."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from base64 import b64encode
from pathlib import Path

import pytest

from gateway.errors import SchemaRefused, StoreUnavailable
from gateway.store import migrate as runner
from gateway.store.copy import check_database
from gateway.store.migrate import (
    Migration,
    MigrationConnection,
    SchemaStatus,
    Step,
    load_migrations,
    migrate,
    schema_status,
)
from tests.support.store import copied, dump, migrated_file

ROOT = Path(__file__).parents[2]
FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH = load_migrations()[:6]
TABLES = ("settings", "workspaces", "sessions", "auth_logs", "system_metrics", "access_keys")
ROWS = """
INSERT INTO settings (theme, preferences) VALUES ('dark', '{}');
INSERT INTO workspaces (id, name, slug, local_path) VALUES ('w1', 'Demo', 'demo', '/1'), ('w2', 'two', 'two', '/2');
INSERT INTO sessions (id, workspace_id) VALUES ('s1', 'w1'), ('s2', 'w1'), ('s3', NULL);
INSERT INTO auth_logs (id, action, success) VALUES ('a1', 'login', 1);
INSERT INTO system_metrics (metric, value) VALUES ('cpu_usage', 0.5);
INSERT INTO access_keys (id, name, fingerprint, public_key) VALUES ('k1', 'laptop', 'SHA256:x', 'ssh-ed25519 AAAA');
"""


async def nothing(db: MigrationConnection) -> str:
    return "SELECT 1"


def migration(name: str, upgrade: Step, *, keeps_foreign_keys: bool = True) -> Migration:
    return Migration(name, upgrade, nothing, keeps_foreign_keys)


@pytest.fixture
async def filled(tmp_path: Path) -> Path:
    """A database of the first schema with rows in every table."""
    file = tmp_path / "homeport.db"
    await migrate(file, backups_dir=tmp_path / "backups", migrations=[FIRST])
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript(ROWS)
    return file


def rows(file: Path) -> dict[str, list[tuple[object, ...]]]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in TABLES}


async def upgrade(file: Path, *more: Migration) -> list[str]:
    return await migrate(file, backups_dir=file.parent / "backups", migrations=[FIRST, *more])


async def test_a_missing_file_is_made_private_and_complete(tmp_path: Path) -> None:
    file = tmp_path / "state" / "homeport.db"
    applied = await migrate(file, backups_dir=tmp_path / "backups")
    assert applied == [migration.version for migration in load_migrations()]
    assert file.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "backups").exists()  # there was nothing to keep
    assert await migrate(file, backups_dir=tmp_path / "backups") == []


async def test_upgrading_a_filled_database_keeps_every_row(filled: Path) -> None:
    """The second migration on a database with rows in every table."""
    before = rows(filled)
    assert await upgrade(filled, SECOND) == [SECOND.version]
    check_database(filled)  # integrity and foreign keys
    after = rows(filled)
    assert [row[-1] for row in after["workspaces"]] == [None, None]  # github_id, the new column
    after["workspaces"] = [row[:-1] for row in after["workspaces"]]
    assert after == before


async def test_the_third_migration_leaves_workspaces_without_a_word_on_forwards_and_shell(filled: Path) -> None:
    await upgrade(filled, SECOND)
    before = rows(filled)
    assert await upgrade(filled, SECOND, THIRD) == [THIRD.version]
    check_database(filled)
    after = rows(filled)
    assert [row[-2:] for row in after["workspaces"]] == [(None, None)] * 2
    after["workspaces"] = [row[:-2] for row in after["workspaces"]]
    assert after == before


async def test_the_fifth_migration_copies_every_session(filled: Path) -> None:
    """It makes the table anew: no column may land in another's place, and the indexes must be there again."""
    with contextlib.closing(sqlite3.connect(filled)) as connection:
        names = [name for _, name, *_ in connection.execute("PRAGMA table_info(sessions)")]
        odd = {"status": "terminated", "kind": "exec", "end_reason": "lost", "workspace_id": "w1", "environment": "{}",
               "exit_code": 3, "exit_signal": None, "socket_id": None, "shell_pid": None}  # fmt: skip
        values = [odd.get(name, f"{number}") for number, name in enumerate(names)]
        connection.execute(f"INSERT INTO sessions VALUES ({', '.join('?' * len(names))})", values)
        connection.commit()
    await upgrade(filled, SECOND, THIRD, FOURTH)
    before = rows(filled)
    assert await upgrade(filled, SECOND, THIRD, FOURTH, FIFTH) == [FIFTH.version]
    check_database(filled)
    after = rows(filled)
    assert [row[-3:] for row in after["sessions"]] == [(None, None, None)] * 4
    after["sessions"] = [row[:-3] for row in after["sessions"]]
    assert after == before


async def test_a_gateway_of_the_previous_version_works_on_while_the_fifth_migration_is_applied(filled: Path) -> None:
    """What it has prepared is prepared again, what it writes meanwhile waits its turn, and nothing of it is lost."""
    await upgrade(filled, SECOND, THIRD, FOURTH)
    begin = (
        "INSERT INTO sessions (id, workspace_id, kind, bytes_in, bytes_out, created_at, last_activity_at) "
        "VALUES (?, 'w1', 'exec', 0, 0, '2030-01-01', '2030-01-01')"
    )
    end = (
        "UPDATE sessions SET status = 'terminated', ended_at = '2030-01-02', end_reason = 'exit', exit_code = 0 "
        "WHERE id = ? AND status IN ('active', 'paused')"
    )
    count = "SELECT COUNT(id) FROM sessions WHERE status IN ('active', 'paused')"
    is_upgraded = threading.Event()
    with contextlib.closing(sqlite3.connect(filled)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # as any gateway leaves it; to change it one must be alone

    def previous_gateway() -> int:
        """One connection for all of it, as its store has: statements stay prepared. The sessions it wrote."""
        with contextlib.closing(sqlite3.connect(filled, timeout=5, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            written = 0
            after = 0
            while after < 20:
                after += is_upgraded.is_set()
                connection.execute(begin, (f"p{written}",))
                assert connection.execute(count).fetchone() == (4,)  # three of ROWS, and this one
                assert connection.execute(end, (f"p{written}",)).rowcount == 1
                written += 1
                time.sleep(0.002)  # no wait: without a pause between writes SQLite may let nobody else in for seconds
            return written

    working = asyncio.create_task(asyncio.to_thread(previous_gateway))
    try:
        assert await upgrade(filled, SECOND, THIRD, FOURTH, FIFTH) == [FIFTH.version]
    finally:
        is_upgraded.set()
        written = await working
    assert len([row for row in rows(filled)["sessions"] if str(row[0]).startswith("p")]) == written


async def test_undoing_the_fifth_migration_gives_idle_sessions_a_reason_that_the_previous_version_knows(
    filled: Path,
) -> None:
    await upgrade(filled, SECOND, THIRD, FOURTH, FIFTH)
    with contextlib.closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute(
            "UPDATE sessions SET status = 'terminated', ended_at = '2030-01-02', end_reason = 'idle' WHERE id = 's1'"
        )
    back = dataclasses.replace(FIFTH, version="5_1_back.py", upgrade=FIFTH.downgrade)
    await upgrade(filled, SECOND, THIRD, FOURTH, FIFTH, back)
    with contextlib.closing(sqlite3.connect(filled)) as connection:
        assert connection.execute("SELECT end_reason FROM sessions ORDER BY id").fetchall() == [
            ("killed",), (None,), (None,)
        ]  # fmt: skip


async def test_an_upgraded_database_has_the_same_schema_as_a_new_one(filled: Path, tmp_path: Path) -> None:
    def schema(file: Path) -> set[tuple[str, str]]:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            return set(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))

    (tmp_path / "new").mkdir()
    new = await migrated_file(tmp_path / "new")
    await migrate(filled, backups_dir=tmp_path / "backups")
    assert schema(filled) == schema(new)


async def test_a_sound_private_copy_is_made_before_an_upgrade(filled: Path) -> None:
    before = rows(filled)
    await upgrade(filled, SECOND)
    (backup,) = (filled.parent / "backups").iterdir()
    assert backup.stat().st_mode & 0o777 == 0o600
    assert rows(backup) == before
    assert (await schema_status(backup)).pending[0] == SECOND.version


async def test_only_the_newest_copies_are_kept(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "UPGRADE_BACKUPS_KEPT", 2)
    steps = [migration(f"{number}_1_step.py", nothing) for number in range(1, 5)]
    for count in range(1, 5):
        await upgrade(filled, *steps[:count])
    names = sorted(path.name for path in (filled.parent / "backups").iterdir())
    assert [name.rpartition("-")[2] for name in names] == ["2.db", "3.db"]


async def test_without_room_for_the_copy_nothing_is_upgraded(filled: Path) -> None:
    (filled.parent / "backups").write_text("not a directory")
    before = dump(filled)
    with pytest.raises(StoreUnavailable, match="the backup cannot be written"):
        await upgrade(filled, SECOND)
    assert dump(filled) == before


async def test_a_migration_that_fails_halfway_leaves_the_database_as_it_was(filled: Path) -> None:
    async def half(db: MigrationConnection) -> str:
        await db.execute_query("CREATE TABLE extra (id INT)")
        await db.execute_query("UPDATE workspaces SET branch = 'changed'")
        await db.execute_query("DELETE FROM sessions")
        await db.execute_query("ALTER TABLE nowhere ADD COLUMN x INT")
        return "SELECT 1"

    before = dump(filled)
    with pytest.raises(SchemaRefused, match=r"1_1_half\.py failed and was undone: no such table: nowhere"):
        await upgrade(filled, migration("1_1_half.py", half))
    assert dump(filled) == before
    assert await upgrade(filled, SECOND) == [SECOND.version]  # and it can still be upgraded


async def test_a_mistake_in_a_migration_is_undone_as_well(filled: Path) -> None:
    async def mistaken(db: MigrationConnection) -> str:
        await db.execute_query("DELETE FROM sessions")
        raise ZeroDivisionError

    before = dump(filled)
    with pytest.raises(ZeroDivisionError):
        await upgrade(filled, migration("1_1_mistaken.py", mistaken))
    assert dump(filled) == before


async def test_a_returned_script_is_refused_because_it_could_not_be_undone(filled: Path) -> None:
    async def script(db: MigrationConnection) -> str:
        return "CREATE TABLE a (id INT); CREATE TABLE b (id INT);"

    before = dump(filled)
    with pytest.raises(SchemaRefused, match="each statement as its own execute_query"):
        await upgrade(filled, migration("1_1_script.py", script))
    assert dump(filled) == before


async def test_a_migration_that_waits_for_something_else_is_refused(filled: Path) -> None:
    async def waits(db: MigrationConnection) -> str:
        await asyncio.sleep(0)
        return "SELECT 1"

    with pytest.raises(SchemaRefused, match="awaits something other"):
        await upgrade(filled, migration("1_1_waits.py", waits))


async def test_a_migration_that_commits_by_itself_is_refused(filled: Path) -> None:
    async def commits(db: MigrationConnection) -> str:
        await db.execute_query("COMMIT")
        return "SELECT 1"

    with pytest.raises(SchemaRefused, match="ended the transaction by itself"):
        await upgrade(filled, migration("1_1_commits.py", commits))


async def test_rebuilding_a_parent_table_keeps_its_children(filled: Path) -> None:
    """With foreign keys on, DROP TABLE workspaces would delete every session, and report success."""

    async def rebuild(db: MigrationConnection) -> str:
        await db.execute_query("CREATE TABLE new (id VARCHAR(36) NOT NULL PRIMARY KEY, name TEXT NOT NULL)")
        await db.execute_query("INSERT INTO new SELECT id, name FROM workspaces")
        await db.execute_query("DROP TABLE workspaces")
        await db.execute_query("ALTER TABLE new RENAME TO workspaces")
        return "SELECT 1"

    sessions = rows(filled)["sessions"]
    assert await upgrade(filled, migration("1_1_rebuild.py", rebuild, keeps_foreign_keys=False)) == ["1_1_rebuild.py"]
    assert rows(filled)["sessions"] == sessions
    check_database(filled)


async def test_a_rebuild_that_loses_parents_is_undone(filled: Path) -> None:
    async def careless(db: MigrationConnection) -> str:
        await db.execute_query("DELETE FROM workspaces")
        return "SELECT 1"

    before = dump(filled)
    with pytest.raises(SchemaRefused, match="a row of 'sessions' without its parent in 'workspaces'"):
        await upgrade(filled, migration("1_1_careless.py", careless, keeps_foreign_keys=False))
    assert dump(filled) == before


async def test_a_newer_database_is_refused_and_not_touched(filled: Path) -> None:
    await upgrade(filled, SECOND, migration("2_1_future.py", nothing))
    before = dump(filled)
    with pytest.raises(SchemaRefused, match=r"newer than this program: it has 2_1_future\.py"):
        await migrate(filled, backups_dir=filled.parent / "backups")
    assert dump(filled) == before
    assert (await schema_status(filled)).unknown == ("2_1_future.py",)


async def test_migrations_applied_in_another_order_are_refused(filled: Path) -> None:
    first = migration("1_1_a.py", nothing)
    second = migration("2_1_b.py", nothing)
    await upgrade(filled, second)
    with pytest.raises(SchemaRefused, match="another order"):
        await upgrade(filled, first, second)


async def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE bookmarks (id INT)")
    with pytest.raises(SchemaRefused, match="belongs to another program"):
        await migrate(file, backups_dir=tmp_path)


async def test_a_file_that_is_no_database_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "homeport.db"
    file.write_bytes(b"this is a text, and a long one, not a database " * 100)
    with pytest.raises(StoreUnavailable, match="put the newest backup in its place"):
        await migrate(file, backups_dir=tmp_path)


async def test_the_status_reads_and_changes_nothing(filled: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    assert await schema_status(missing) == SchemaStatus((), tuple(one.version for one in load_migrations()), ())
    assert not missing.exists()
    before = filled.read_bytes()
    assert (await schema_status(filled)).applied == (FIRST.version,)
    assert filled.read_bytes() == before


async def test_two_upgrades_at_once_apply_each_migration_once(filled: Path) -> None:
    results = await asyncio.gather(upgrade(filled, SECOND), upgrade(filled, SECOND))
    assert sorted(results, key=len) == [[], [SECOND.version]]


async def test_an_upgrade_does_not_wait_for_ever_for_another(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOCK_WAIT_SECONDS", 0.01)
    with runner._upgrade_lock(filled), pytest.raises(StoreUnavailable, match="another process has been upgrading"):
        await upgrade(filled, SECOND)


class Planted:
    """Runs `os.mkdir(path)` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


async def test_a_pickle_planted_in_the_aerich_table_is_never_opened(filled: Path, tmp_path: Path) -> None:
    """aerich unpickles what stands in its table; a restored backup from elsewhere may hold anything there."""
    trap = tmp_path / "trap"
    content = json.dumps({"x": {"type": "index", "val": b64encode(pickle.dumps(Planted(trap))).decode()}})
    with contextlib.closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute("UPDATE aerich SET content = ?", (content,))
    await schema_status(filled)
    await upgrade(filled, SECOND)
    assert not trap.exists()


async def test_no_migration_file_carries_a_pickle() -> None:
    """MODELS_STATE is read by aerich when the next migration is written."""
    from aerich.utils import decompress_dict

    for file in (ROOT / "migrations/models").glob("[0-9]*.py"):
        state = runner._load(file)
        assert state.version == file.name
        namespace: dict[str, str] = {}
        text = file.read_text()
        exec(text[text.index("MODELS_STATE = ") :], namespace)  # a literal, nothing else
        described = json.dumps(decompress_dict(namespace["MODELS_STATE"]))
        assert '"val"' not in described


async def test_later_migrations_can_be_undone(filled: Path) -> None:
    before = rows(filled)
    applied: list[Migration] = []
    for step in (SECOND, THIRD, FOURTH, FIFTH, SIXTH):
        applied.append(step)
        await upgrade(filled, *applied)
    for number, step in enumerate((SIXTH, FIFTH, FOURTH, THIRD, SECOND), start=6):
        applied.append(dataclasses.replace(step, version=f"{number}_1_back.py", upgrade=step.downgrade))
        await upgrade(filled, *applied)
    assert rows(filled) == before


async def test_writers_next_door_do_not_spoil_the_copy(filled: Path) -> None:
    """The copy is taken with SQLite's own means: what stands in the write-ahead log is in it."""
    with contextlib.closing(sqlite3.connect(filled)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO auth_logs (id, action, success) VALUES ('a2', 'login', 0)")
        connection.commit()
        assert len(rows(copied(filled, filled.parent / "plain.db"))["auth_logs"]) == 1  # a plain copy misses it
        await upgrade(filled, SECOND)
    (backup,) = (filled.parent / "backups").iterdir()
    assert len(rows(backup)["auth_logs"]) == 2


@pytest.mark.slow
def test_the_generator_finds_no_change_between_models_and_migrations(tmp_path: Path) -> None:
    """Whoever changes a model writes a migration. Offline: it must not look at any database."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("models", "migrations", "gateway"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [str(Path(sys.executable).with_name("aerich")), "migrate", "--offline", "--name", "unexpected"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=True)
    assert "No changes detected" in done.stdout


ADDITIVE = [one for one in load_migrations() if one.is_additive]


async def test_beside_a_gateway_that_goes_on_only_an_additive_migration_is_made(filled: Path, tmp_path: Path) -> None:
    """All of them, or none: a first that is additive must not be left behind by a second that is not."""

    async def add(db: MigrationConnection) -> str:
        await db.execute_query("ALTER TABLE settings ADD COLUMN colour TEXT")
        return "SELECT 1"

    additive = dataclasses.replace(migration("1_colour.py", add), is_additive=True)
    another = migration("2_not_additive.py", nothing)
    with pytest.raises(SchemaRefused, match=r"2_not_additive\.py cannot be made while .* restart the gateway"):
        await migrate(filled, backups_dir=tmp_path / "backups", migrations=[FIRST, additive, another], is_in_use=True)
    assert (await schema_status(filled, migrations=[FIRST, additive])).pending == ("1_colour.py",)
    applied = await migrate(filled, backups_dir=tmp_path / "backups", migrations=[FIRST, additive], is_in_use=True)
    assert applied == ["1_colour.py"]


def shape(file: Path) -> dict[str, dict[str, tuple[object, ...]]]:
    """Table → column → (type, may not be null, default, place in the primary key)."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: {column[1]: tuple(column[2:]) for column in connection.execute(f"PRAGMA table_info({name})")}
            for name in names
        }


@pytest.mark.parametrize("version", [one.version for one in ADDITIVE])
async def test_what_calls_itself_additive_takes_nothing_away_and_asks_for_nothing(version: str, tmp_path: Path) -> None:
    """What the previous version reads is all there, and a row it writes need say nothing new."""
    known = load_migrations()
    index = next(number for number, one in enumerate(known) if one.version == version)
    file = tmp_path / "homeport.db"
    await migrate(file, backups_dir=tmp_path / "backups", migrations=known[:index])
    before = shape(file)
    await migrate(file, backups_dir=tmp_path / "backups", migrations=known[: index + 1])
    after = shape(file)
    for table, columns in before.items():
        assert columns.items() <= after[table].items(), f"{table} lost or changed a column"
        for name in after[table].keys() - columns.keys():
            _, may_not_be_null, default, _ = after[table][name]
            assert not may_not_be_null or default is not None, f"{table}.{name} must be given"
