"""Journal rows in crowds: none waits, few writes, none lost without a count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.events import Event
from gateway.journal import JournalAction
from gateway.log import subscribe
from gateway.store import database as database_module
from gateway.store import notes as notes_module
from gateway.store.database import Database
from gateway.store.store import Store
from tests.support.store import opened_store

Write = Callable[[], Awaitable[Any]]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path) as store:
        yield store


def note(store: Store, number: int, **details: object) -> None:
    store.note(JournalAction.FILE, success=True, client_ip="192.0.2.7", details={"number": number, **details})


async def numbers(store: Store) -> list[int]:
    """What is on disk, the oldest first."""
    rows = await store._database.query("SELECT details FROM auth_logs ORDER BY id")
    return [json.loads(row["details"])["number"] for row in rows]


class Writes:
    """Every write of a database, seen as it is asked for; `fail_next` of them fail as on a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.questions: list[str] = []
        self.fail_next = 0
        self.failed = asyncio.Event()
        self.done = asyncio.Event()
        real = Database.write

        async def write(database: Database, question: str, write: Write) -> object:
            self.questions.append(question)
            if self.fail_next:
                self.fail_next -= 1
                self.failed.set()
                raise StoreUnavailable("the disk with the database is full; free some space on it")
            result = await real(database, question, write)
            self.done.set()
            return result

        monkeypatch.setattr(Database, "write", write)


async def test_a_note_is_on_disk_soon_without_anybody_asking(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes_module, "DELAY_SECONDS", 0)
    writes = Writes(monkeypatch)
    note(store, 1)
    async with asyncio.timeout(5):
        await writes.done.wait()
    assert await numbers(store) == [1]


async def test_enough_of_them_are_written_without_delay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes_module, "DELAY_SECONDS", 3600)
    writes = Writes(monkeypatch)
    for number in range(notes_module.ROWS_PER_WRITE):
        note(store, number)
    async with asyncio.timeout(5):
        await writes.done.wait()
    assert await numbers(store) == list(range(notes_module.ROWS_PER_WRITE))


async def test_a_crowd_is_a_few_writes_and_in_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes(monkeypatch)
    for number in range(3 * notes_module.ROWS_PER_WRITE):
        note(store, number)
    await store._notes.flush()
    assert writes.questions == ["notes"] * 3
    assert await numbers(store) == list(range(3 * notes_module.ROWS_PER_WRITE))


async def test_whoever_reads_the_journal_sees_what_was_noted_before(store: Store) -> None:
    await store.record(JournalAction.LOGIN, success=True)
    store.note(JournalAction.FORWARD, success=False, client_ip="192.0.2.9", user_agent="ssh", details={"port": 80})
    forward, login = await store.list_auth_logs()
    assert (forward.action, forward.success, forward.client_ip) == (JournalAction.FORWARD, False, "192.0.2.9")
    assert (forward.user_agent, forward.details) == ("ssh", {"port": 80})
    assert forward.created_at >= login.created_at  # told the same way as the ORM's own
    assert await store.list_auth_logs(client_ip="192.0.2.9") == [forward]


async def test_closing_writes_what_still_waits(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        for number in range(700):
            note(store, number)
    async with opened_store(tmp_path) as store:
        assert await numbers(store) == list(range(700))


async def test_a_note_is_cleaned_like_a_recorded_fact(store: Store) -> None:
    evil = "a\r\nlogin ok\x1b[2J\ud800" + "y" * 100_000
    store.note(JournalAction.FILE, success=True, client_ip=evil, user_agent=evil, details={"path": evil})
    (row,) = await store.list_auth_logs()
    assert [len(str(text)) for text in (row.client_ip, row.user_agent, row.details["path"])] == [64, 255, 500]
    assert str(row.details["path"]).startswith("a\\r\\nlogin ok\\x1b[2J\\ud800yyy")


async def test_numbers_that_json_lacks_do_not_spoil_the_rows_beside_them(store: Store) -> None:
    for number, value in enumerate((float("nan"), float("inf"), 10**400, 1.5)):
        note(store, number, value=value)
    rows = await store.list_auth_logs()
    assert [row.details["value"] for row in reversed(rows)] == ["nan", "inf", 10**400, 1.5]


async def test_beyond_the_bound_rows_are_counted_and_the_count_is_a_row(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stands still must not fill the memory, and what is missing must be known."""
    monkeypatch.setattr(notes_module, "ROWS_MAX", 10)
    for number in range(25):
        note(store, number)
    store.note(JournalAction.FORWARD, success=True)
    rows = await store.list_auth_logs()
    assert [row.details["number"] for row in reversed(rows) if row.success] == list(range(10))
    dropped = {row.action: row.details for row in rows if not row.success}
    assert dropped == {
        JournalAction.FILE: {"reason": "journal_full", "dropped_count": 15},
        JournalAction.FORWARD: {"reason": "journal_full", "dropped_count": 1},
    }
    note(store, 99)  # and there is room again
    assert (await store.list_auth_logs(limit=1))[0].details == {"number": 99}


async def test_long_details_are_bounded_in_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes_module, "CHARACTERS_MAX", 3000)
    for number in range(50):
        note(store, number, path="x" * 400)
    assert store._notes._waiting_characters <= 3000
    rows = await store.list_auth_logs()
    assert len(rows) < 10
    assert store._notes._waiting_characters == 0


async def test_a_write_that_fails_is_said_once_and_done_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes_module, "DELAY_SECONDS", 0)
    monkeypatch.setattr(notes_module, "RETRY_SECONDS", 0)
    seen: list[object] = []
    unsubscribe = subscribe(lambda event, keys: seen.append((event, keys.get("reason"), keys.get("count"))))
    writes = Writes(monkeypatch)
    writes.fail_next = 1
    try:
        for number in range(2 * notes_module.ROWS_PER_WRITE):
            note(store, number)
        async with asyncio.timeout(5):
            await writes.failed.wait()
            await writes.done.wait()
    finally:
        unsubscribe()
    await store._notes.flush()
    assert await numbers(store) == list(range(2 * notes_module.ROWS_PER_WRITE))
    assert seen == [(Event.STORE_FAILED, "journal rows wait", 2 * notes_module.ROWS_PER_WRITE)]


async def test_a_write_that_was_given_up_and_done_all_the_same_is_not_repeated(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database may answer after the deadline; the next try must not write the rows a second time."""
    release = asyncio.Event()
    stuck = asyncio.create_task(store._database.write("stuck", release.wait))
    await asyncio.sleep(0)  # now it is the writer's
    monkeypatch.setattr(database_module, "ANSWER_DEADLINE_SECONDS", 0.01)
    note(store, 1)
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await store._notes.flush()
    monkeypatch.undo()
    release.set()
    await stuck
    note(store, 2)  # in one write with the row that is there already
    await store._notes.flush()
    assert await numbers(store) == [1, 2]


async def test_a_flush_that_is_cancelled_loses_and_repeats_nothing(store: Store) -> None:
    """A reader of the journal may go at any moment."""
    for number in range(2 * notes_module.ROWS_PER_WRITE):
        note(store, number)
    reading = asyncio.create_task(store.list_auth_logs())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait({reading})
    await store._notes.flush()
    assert await numbers(store) == list(range(2 * notes_module.ROWS_PER_WRITE))


async def test_rows_that_the_database_refuses_do_not_keep_later_ones_out(store: Store) -> None:
    store._notes.add(notes_module.Note(JournalAction.FILE, True, None, None, "no json"))
    await store._notes.flush()
    note(store, 2)
    await store._notes.flush()
    assert await numbers(store) == [2]


async def test_what_is_lost_at_the_end_is_said_with_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writes = Writes(monkeypatch)
    async with opened_store(tmp_path) as store:
        for number in range(3):
            note(store, number)
        writes.fail_next = 1000
        await store.close()
        writes.fail_next = 0
    (record,) = [record for record in caplog.records if "last journal rows" in str(getattr(record, "keys", ""))]
    assert record.keys["count"] == 3  # type: ignore[attr-defined]
