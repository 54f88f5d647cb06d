"""Brings a database file up to date, at start and for `homeport db upgrade`. Our own runner of aerich's files.

aerich itself is not asked, for three reasons: on SQLite a failing migration of its leaves half its work behind (it
commits before each script), dropping a parent table during a rebuild deletes the children, and it unpickles what stands
in its own table. Here one file lock, a verified copy first, then each migration in one transaction with its version
row. Everything is synchronous on one plain connection and runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import re
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from gateway.errors import GatewayError, SchemaRefused, StoreUnavailable
from gateway.events import Event
from gateway.log import log_event
from gateway.store.copy import BUSY_TIMEOUT_SECONDS, copy_database

APP = "models"  # aerich's name for our one set of tables
UPGRADE_BACKUPS_KEPT = 5
# Another process may be upgrading: a copy of a large file takes seconds.
LOCK_WAIT_SECONDS = 60
_LOCK_POLL_SECONDS = 0.05
_FILE_NAME = re.compile(r"(\d+)_\w+\.py")

Rows = list[dict[str, Any]]


class MigrationConnection:
    """What a migration's `db` is: the one call our files use, without the ORM. Never suspends."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def execute_query(self, query: str, values: Sequence[Any] = ()) -> tuple[int, Rows]:
        """Run one statement; (rows changed or read, rows)."""
        cursor = self._connection.execute(query, values)
        names = [column[0] for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        return max(cursor.rowcount, len(rows)), rows


Step = Callable[[MigrationConnection], Coroutine[Any, Any, str]]


@dataclass(frozen=True, slots=True)
class Migration:
    version: str  # the file's name: what stands in the `aerich` table
    upgrade: Step
    downgrade: Step
    # False: the file rebuilds a table. It then runs with foreign keys off (they can only be switched outside a
    # transaction), is checked by foreign_key_check, and still is one transaction.
    keeps_foreign_keys: bool
    # The previous version of this program works on beside it: nothing it reads or writes is taken away, renamed, bound
    # by new rules or given another meaning. Said by the file itself (IS_ADDITIVE), since only its author knows.
    is_additive: bool = False


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    applied: tuple[str, ...]
    pending: tuple[str, ...]
    unknown: tuple[str, ...]  # applied by a newer version of this program


async def migrate(
    database_file: Path,
    *,
    backups_dir: Path,
    migrations: Sequence[Migration] | None = None,
    is_in_use: bool = False,
) -> list[str]:
    """Apply what is pending and return those versions; a missing file is made (0600).

    `is_in_use`: a gateway of the previous version works on it, and goes on doing so (a reload).
    Raises SchemaRefused (newer database, a migration that cannot be made in use, or one that failed and was undone) and
    StoreUnavailable.
    """
    started = time.monotonic()
    known = load_migrations() if migrations is None else migrations
    applied, backup = await asyncio.to_thread(_migrate, database_file, backups_dir, known, is_in_use)
    if applied:
        log_event(
            Event.STORE_MIGRATED,
            versions=applied,
            backup=str(backup or ""),
            duration_ms=round((time.monotonic() - started) * 1000),
        )
    return applied


async def schema_status(database_file: Path, *, migrations: Sequence[Migration] | None = None) -> SchemaStatus:
    """What is applied, pending and unknown in a file, which is only read and may be missing."""
    known = load_migrations() if migrations is None else migrations
    return await asyncio.to_thread(_status, database_file, known)


def load_migrations(folder: Traversable | None = None) -> list[Migration]:
    """The migration files of this program, in order. No database is read for this, and nothing is unpickled."""
    folder = files("migrations") / APP if folder is None else folder
    numbered = [(int(match[1]), file) for file in folder.iterdir() if (match := _FILE_NAME.fullmatch(file.name))]
    numbered.sort(key=lambda pair: pair[0])
    numbers = [number for number, _ in numbered]
    assert numbers == list(range(len(numbers))), f"migration numbers are not 0, 1, 2, …: {numbers}"
    return [_load(file) for _, file in numbered]


def _load(file: Traversable) -> Migration:
    with as_file(file) as path:
        spec = importlib.util.spec_from_file_location(f"migration_{path.stem}", path)
        assert spec is not None, file
        assert spec.loader is not None, file
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return Migration(file.name, module.upgrade, module.downgrade, getattr(module, "RUN_IN_TRANSACTION", True),
                     getattr(module, "IS_ADDITIVE", False))  # fmt: skip


def _migrate(
    database_file: Path, backups_dir: Path, known: Sequence[Migration], is_in_use: bool
) -> tuple[list[str], Path | None]:
    with _upgrade_lock(database_file), _opened(database_file) as connection:
        applied = _applied_versions(connection, database_file)
        pending = _pending(known, applied, backups_dir)
        if is_in_use:
            _refuse_what_needs_a_stop(pending)
        if not applied:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only possible before the first table
        backup = _back_up(database_file, backups_dir, applied[-1]) if applied and pending else None
        for migration in pending:
            _apply(connection, migration, backup)
        if backup is not None:
            _prune_backups(backups_dir)
    return [migration.version for migration in pending], backup


def _status(database_file: Path, known: Sequence[Migration]) -> SchemaStatus:
    versions = [migration.version for migration in known]
    if not database_file.exists():
        return SchemaStatus((), tuple(versions), ())
    uri = f"{database_file.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS)) as connection:
        applied = _applied_versions(connection, database_file)
    return SchemaStatus(
        tuple(applied),
        tuple(version for version in versions if version not in applied),
        tuple(version for version in applied if version not in versions),
    )


@contextlib.contextmanager
def _upgrade_lock(database_file: Path) -> Iterator[None]:
    """One process at a time upgrades. The lock file stays: removing it would let two processes hold two locks."""
    try:
        database_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{database_file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(
            f"the database's directory cannot be written: {error.strerror}", detail=str(database_file.parent)
        ) from error
    try:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"another process has been upgrading the database for {LOCK_WAIT_SECONDS} s; "
                        f"find it with: fuser {database_file}.lock"
                    ) from None
                time.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _opened(database_file: Path) -> Iterator[sqlite3.Connection]:
    """A connection in autocommit mode, so that every BEGIN is ours. A missing file is made private first."""
    try:
        os.close(os.open(database_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreUnavailable(
            f"the database cannot be opened for writing: {error.strerror}; check its owner and mode",
            detail=str(database_file),
        ) from error
    connection = sqlite3.connect(database_file, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
    with contextlib.closing(connection):
        yield connection


def _applied_versions(connection: sqlite3.Connection, database_file: Path) -> list[str]:
    """Only the versions: the column beside them may hold a pickle, and is not even read."""
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "aerich" in tables:
            rows = connection.execute("SELECT version FROM aerich WHERE app = ? ORDER BY id", (APP,)).fetchall()
            return [version for (version,) in rows]
    except sqlite3.Error as error:
        raise StoreUnavailable(
            f"the database cannot be read: {error}; if it is damaged, put the newest backup in its place",
            detail=str(database_file),
        ) from error
    if tables:
        raise SchemaRefused(
            f"this SQLite file belongs to another program (it has a table {sorted(tables)[0]!r}); "
            "name another file in database_url",
            detail=str(database_file),
        )
    return []


def _pending(known: Sequence[Migration], applied: list[str], backups_dir: Path) -> list[Migration]:
    versions = [migration.version for migration in known]
    unknown = [version for version in applied if version not in versions]
    if unknown:
        raise SchemaRefused(
            f"the database is newer than this program: it has {unknown[-1]}, which this version does not know; "
            "install the newer version again, or put back the copy made before its upgrade",
            detail=f"copies are in {backups_dir}",
        )
    if applied != versions[: len(applied)]:
        raise SchemaRefused(
            "the database's migrations were applied in another order than this program's; put back a backup",
            detail=f"applied: {', '.join(applied)}",
        )
    return list(known[len(applied) :])


def _refuse_what_needs_a_stop(pending: Sequence[Migration]) -> None:
    for migration in pending:
        if not migration.is_additive:
            raise SchemaRefused(
                f"the database upgrade {migration.version} cannot be made while the previous version works on; restart "
                "the gateway instead (terminals go on; commands and transfers end)"
            )


def _back_up(database_file: Path, backups_dir: Path, version: str) -> Path:
    try:
        backups_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"the backup cannot be written: {error.strerror}", detail=str(backups_dir)) from error
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    target = backups_dir / f"before-upgrade-{stamp}-from-{version.partition('_')[0]}.db"
    copy_database(database_file, target)
    return target


def _prune_backups(backups_dir: Path) -> None:
    """Keep the newest few; their names sort by time."""
    for old in sorted(backups_dir.glob("before-upgrade-*.db"))[:-UPGRADE_BACKUPS_KEPT]:
        old.unlink(missing_ok=True)


def _apply(connection: sqlite3.Connection, migration: Migration, backup: Path | None) -> None:
    """All of one migration and its version row, or nothing."""
    connection.execute(f"PRAGMA foreign_keys = {'ON' if migration.keeps_foreign_keys else 'OFF'}")
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            _run_statements(connection, migration.upgrade)
            _refuse_dangling_rows(connection)
            # `content` is for aerich's online mode, which is never used here: an empty object holds no pickle.
            connection.execute(
                "INSERT INTO aerich (version, app, content) VALUES (?, ?, '{}')", (migration.version, APP)
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    except (sqlite3.Error, GatewayError) as error:
        reason = error.user_message if isinstance(error, GatewayError) else str(error)
        raise SchemaRefused(
            f"the database upgrade {migration.version} failed and was undone: {reason}; "
            "the data is as it was, and the previous version of this program still works with it",
            detail=f"copy: {backup}" if backup else "",
        ) from error


def _refuse_dangling_rows(connection: sqlite3.Connection) -> None:
    dangling = connection.execute("PRAGMA foreign_key_check").fetchone()
    if dangling is not None:
        raise SchemaRefused(f"it leaves a row of {dangling[0]!r} without its parent in {dangling[2]!r}")


def _run_statements(connection: sqlite3.Connection, step: Step) -> None:
    """Drive the coroutine by hand: its only awaits are statements, which never suspend, so it needs no event loop."""
    running = step(MigrationConnection(connection))
    try:
        running.send(None)
    except StopIteration as end:
        if str(end.value).strip().rstrip(";") != "SELECT 1":
            raise SchemaRefused("it returns SQL; write each statement as its own execute_query") from None
    else:
        running.close()
        raise SchemaRefused("it awaits something other than its statements")
    if not connection.in_transaction:
        raise SchemaRefused("it ended the transaction by itself, so what it did before that stays")
