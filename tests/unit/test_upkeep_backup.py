"""A backup is one that can be restored; everything else leaves no trace."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import BackupFailed, GatewayError, StoreUnavailable
from gateway.upkeep import backup as module
from gateway.upkeep.backup import Backups


class Database:
    """A live SQLite database in WAL mode whose rows are only in its log, as after a busy minute."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.failure: Exception | None = None
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("CREATE TABLE t (n INTEGER)")
        self.add(5000)

    def add(self, count: int) -> None:
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO t VALUES (?)", ((n,) for n in range(count)))
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    async def backup_to(self, path: Path) -> None:
        if self.failure is not None:
            path.write_bytes(b"half a copy")
            raise self.failure
        with sqlite3.connect(self.file) as connection:
            connection.execute("VACUUM INTO ?", (str(path),))
        connection.close()


@pytest.fixture
def database(tmp_path: Path):  # type: ignore[no-untyped-def]
    opened = Database(tmp_path / "homeport.db")
    yield opened
    opened.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def backups_of(database: Database, directory: Path, *, kept: int = 30) -> Backups:
    return Backups(directory, database, database_file=database.file, kept=kept)


def rows_in(packed: Path, tmp_path: Path) -> int:
    """Restore a backup the way an operator would: gunzip, open, check."""
    restored = tmp_path / "restored.db"
    restored.write_bytes(gzip.decompress(packed.read_bytes()))
    connection = sqlite3.connect(restored)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])
    finally:
        connection.close()


async def test_a_backup_of_a_live_database_restores_with_every_row(
    database: Database, directory: Path, tmp_path: Path
) -> None:
    """A copy of the file alone opened with "no such table"; the rows stand in the write-ahead log."""
    made = await backups_of(database, directory).make()
    assert rows_in(made.path, tmp_path) == 5000
    assert made.size_bytes == made.path.stat().st_size
    assert made.database_bytes > made.size_bytes


async def test_a_backup_is_private_and_named_by_its_time(database: Database, directory: Path) -> None:
    """It holds what the database holds; a lenient umask must not open it."""
    before = os.umask(0)
    try:
        made = await backups_of(database, directory).make()
    finally:
        os.umask(before)
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    stamp = datetime.strptime(made.path.name, "homeport-%Y%m%dT%H%M%SZ.db.gz").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - stamp).total_seconds()) < 60
    assert os.listdir(directory) == [made.path.name]


async def test_two_backups_in_one_second_are_two(database: Database, directory: Path, frozen: None) -> None:
    backups = backups_of(database, directory)
    names = [(await backups.make()).path.name for _ in range(3)]
    assert names == [
        "homeport-20260102T030405Z.db.gz",
        "homeport-20260102T030405Z-2.db.gz",
        "homeport-20260102T030405Z-3.db.gz",
    ]
    assert [backup.path.name for backup in backups.existing()] == names[::-1]


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):  # type: ignore[no-untyped-def]
            return cls(2026, 1, 2, 3, 4, 5, 678, tzinfo=tz)

    monkeypatch.setattr(module, "datetime", Frozen)


async def test_the_newest_are_kept_and_foreign_files_are_left_alone(database: Database, directory: Path) -> None:
    """One rule, by the time in the name; `ls -t | xargs rm` removed whatever was touched last."""
    directory.mkdir()
    for day in range(1, 8):
        (directory / f"homeport-2025010{day}T020000Z.db.gz").write_bytes(b"old")
    for foreign in ("before-upgrade.db", "homeport-20250101T020000Z.db", "notes.txt", "homeport-2025.db.gz"):
        (directory / foreign).write_bytes(b"mine")
    made = await backups_of(database, directory, kept=3).make()
    assert made.pruned_count == 5
    assert sorted(os.listdir(directory)) == sorted(
        [
            "before-upgrade.db",
            "homeport-20250101T020000Z.db",
            "notes.txt",
            "homeport-2025.db.gz",
            "homeport-20250106T020000Z.db.gz",
            "homeport-20250107T020000Z.db.gz",
            made.path.name,
        ]
    )


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (StoreUnavailable("the copy of the database is damaged"), StoreUnavailable),
        (OSError(errno.ENOSPC, "No space left on device"), BackupFailed),
        (OSError(errno.EIO, "Input/output error"), BackupFailed),
    ],
)
async def test_a_failed_copy_leaves_the_old_backups_and_nothing_else(
    database: Database, directory: Path, failure: Exception, expected: type[GatewayError]
) -> None:
    """Pruned only after a verified new one: a year of failing backups must not end with none."""
    backups = backups_of(database, directory, kept=1)
    old = [(await backups.make()).path.name]
    database.failure = failure
    with pytest.raises(expected):
        await backups.make()
    assert os.listdir(directory) == old


@pytest.mark.parametrize("place", ["fsync", "write", "rename"])
async def test_a_disk_that_fills_up_midway_is_a_clean_failure(
    database: Database, directory: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"fsync": (os, "fsync"), "write": (gzip.GzipFile, "write"), "rename": (Path, "rename")}[place]
    monkeypatch.setattr(*target, full)
    with pytest.raises(BackupFailed, match="free some space"):
        await backups_of(database, directory).make()
    assert os.listdir(directory) == []


async def test_a_disk_without_room_is_refused_before_anything_is_written(
    database: Database, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.host, "disk", lambda path: module.host.Usage(1000, 1001))
    database.failure = AssertionError("the copy was begun")
    with pytest.raises(BackupFailed, match="no room"):
        await backups_of(database, directory).make()


async def test_a_backup_that_reads_back_differently_is_none(
    database: Database, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_digest_of_content", lambda path, stop: b"other")
    with pytest.raises(BackupFailed, match="read back"):
        await backups_of(database, directory).make()
    assert os.listdir(directory) == []


async def test_the_remains_of_a_killed_run_are_removed_by_the_next(database: Database, directory: Path) -> None:
    directory.mkdir()
    (directory / ".homeport-0193.partial").write_bytes(b"killed here")
    (directory / ".homeport-0193.partial-journal").write_bytes(b"and here")
    made = await backups_of(database, directory).make()
    assert os.listdir(directory) == [made.path.name]


async def test_a_cancelled_run_stops_its_thread_and_leaves_nothing(
    database: Database, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread cannot be cancelled: it must notice, and be waited for."""
    reading, may_go_on = threading.Event(), threading.Event()
    read = module._read

    def slow_read(reader, stop):  # type: ignore[no-untyped-def]
        reading.set()
        may_go_on.wait(5)
        return read(reader, stop)

    monkeypatch.setattr(module, "_read", slow_read)
    run = asyncio.create_task(backups_of(database, directory).make())
    await asyncio.to_thread(reading.wait, 5)
    run.cancel()
    asyncio.get_running_loop().call_soon(may_go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await run
    assert os.listdir(directory) == []
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "backup:thread"] == []


async def test_backups_asked_for_at_once_are_made_one_after_the_other(database: Database, directory: Path) -> None:
    backups = backups_of(database, directory)
    made = await asyncio.gather(*(backups.make() for _ in range(4)))
    assert len({one.path for one in made}) == 4


async def test_a_missed_day_is_overdue_and_a_fresh_backup_is_not(database: Database, directory: Path) -> None:
    """A laptop is off at two in the morning, every night."""
    backups = backups_of(database, directory)
    assert backups.age_seconds() is None
    assert await backups.is_overdue()
    directory.mkdir()
    old = datetime.now(UTC) - timedelta(hours=25)
    (directory / f"homeport-{old.strftime('%Y%m%dT%H%M%SZ')}.db.gz").write_bytes(b"")
    assert await backups.is_overdue()
    await backups.make()
    assert not await backups.is_overdue()
    assert (backups.age_seconds() or 0) < 60


def test_names_that_are_no_backup_of_ours_are_not_read_as_one(tmp_path: Path) -> None:
    for name in ("homeport-20261399T999999Z.db.gz", "homeport-20260101T000000Z-.db.gz", "homeport-20260101T000000Z.gz"):
        (tmp_path / name).write_bytes(b"")
        assert module._parse(tmp_path / name) is None
