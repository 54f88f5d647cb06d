"""The one writer task: clients may vanish at any moment, and the database goes on working."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tortoise.exceptions import IntegrityError
from tortoise.transactions import in_transaction

import models
from gateway.errors import NameTaken, StoreUnavailable
from gateway.events import Event
from gateway.interfaces import EndReason, ProgramExit
from gateway.journal import JournalAction
from gateway.log import subscribe
from gateway.store import database as database_module
from gateway.store.store import Store
from tests.support.store import open_session, opened_store, session_request


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path) as store:
        yield store


async def test_writers_cancelled_at_random_points_leave_a_working_store(store: Store) -> None:
    """A cancelled BEGIN inside the ORM would leave its lock taken: every later query would hang for ever."""
    workspace = await store.add_workspace("demo")
    chance = random.Random(7)

    async def client(number: int) -> None:
        request = session_request()
        await store.find_key(f"SHA256:{number}")
        await store.open_session(request, workspace_id=workspace.id, shell="bash", shell_pid=2)
        await store.list_workspaces()
        await store.end_session(request.session_id, exit=ProgramExit(0), reason=EndReason.EXIT, bytes_in=0, bytes_out=0)

    for _ in range(5):
        tasks = [asyncio.create_task(client(number)) for number in range(30)]
        for _ in range(60):
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            chance.choice(tasks).cancel()
        await asyncio.wait(tasks)
        assert [task.exception() for task in tasks if not task.cancelled()] == [None] * sum(
            not task.cancelled() for task in tasks
        )
    async with asyncio.timeout(5):
        await store.probe_writable()
        await store.add_workspace("after-the-storm")
        assert [workspace.name for workspace in await store.list_workspaces()] == ["after-the-storm", "demo"]


async def test_a_write_is_done_though_its_client_has_gone(store: Store) -> None:
    workspace = await store.add_workspace("demo")
    session_id = await open_session(store, workspace)
    ending = asyncio.create_task(
        store.end_session(session_id, exit=ProgramExit(3), reason=EndReason.HANGUP, bytes_in=1, bytes_out=2)
    )
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait({ending})
    assert ending.cancelled()
    await store.probe_writable()  # comes after it in the queue
    row = await store.find_session(session_id)
    assert row is not None
    assert (row.exit_code, row.end_reason) == (3, EndReason.HANGUP)


async def test_a_failing_write_reaches_its_caller_and_nobody_else(store: Store) -> None:
    await store.add_workspace("demo")
    results = await asyncio.gather(
        store.add_workspace("demo"), store.add_workspace("two"), store.add_workspace("two"), return_exceptions=True
    )
    assert [type(result).__name__ for result in results] == ["NameTaken", "Workspace", "NameTaken"]


async def test_a_transaction_that_fails_is_rolled_back(store: Store) -> None:
    async def write() -> None:
        async with in_transaction():
            await models.AuthLog.create(action=JournalAction.LOGIN, success=True)
            await models.Session.create(shell="")

    with pytest.raises(IntegrityError):
        await store._database.write("test", write)
    assert await store.list_auth_logs() == []


async def test_readers_do_not_see_half_of_a_transaction(store: Store) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        async with in_transaction():
            await models.AuthLog.create(action=JournalAction.LOGIN, success=True)
            inside.set()
            await go_on.wait()
            await models.AuthLog.create(action=JournalAction.LOGOUT, success=True)

    writing = asyncio.create_task(store._database.write("test", write))
    await inside.wait()
    reading = asyncio.create_task(store.list_auth_logs())
    await asyncio.sleep(0)
    assert not reading.done()
    go_on.set()
    assert len(await reading) == 2
    await writing


async def test_a_stuck_database_is_reported_in_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "ANSWER_DEADLINE_SECONDS", 0.02)
    release = asyncio.Event()
    stuck = asyncio.create_task(store._database.write("stuck", release.wait))
    await asyncio.sleep(0)  # now it is in the queue
    with pytest.raises(StoreUnavailable, match="did not answer within"):
        await store.add_workspace("demo")
    with pytest.raises(StoreUnavailable, match="did not answer within"):
        await stuck
    with pytest.raises(StoreUnavailable, match=r"did not take a write within 0\.01 s"):
        await store.probe_writable(deadline_seconds=0.01)
    monkeypatch.undo()
    release.set()
    await store.probe_writable()
    assert [workspace.name for workspace in await store.list_workspaces()] == ["demo"]  # done later, as promised


async def test_too_many_waiting_writes_are_refused_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "WRITES_WAITING_MAX", 3)
    release = asyncio.Event()
    writes = [asyncio.create_task(store._database.write("waiting", release.wait)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="does not keep up"):
        await store.record(JournalAction.LOGIN, success=True)
    release.set()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(result is True for result in results) == 3


async def test_closing_finishes_the_writes_that_wait_and_refuses_later_ones(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        writes = [asyncio.create_task(store.record(JournalAction.LOGOUT, success=True)) for _ in range(50)]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*writes)
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.record(JournalAction.LOGIN, success=True)
    async with opened_store(tmp_path) as store:
        assert len(await store.list_auth_logs()) == 50


async def test_whoever_waits_hears_that_the_writer_was_stopped(store: Store) -> None:
    """A loop that is closed in a hurry cancels the writer like any task; nobody then waits for the deadline."""
    never = asyncio.Event()
    writes = [asyncio.create_task(store._database.write("never", never.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert store._database._writer is not None
    store._database._writer.cancel()
    async with asyncio.timeout(5):
        results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 3


async def test_closing_leaves_no_task_thread_descriptor_or_log_behind(tmp_path: Path) -> None:
    def left() -> tuple[set[str], set[str], int]:
        for thread in threading.enumerate():
            if "_connection_worker_thread" in thread.name:  # told to end, a moment ago
                thread.join(timeout=5)
        tasks = {task.get_name() for task in asyncio.all_tasks()}
        threads = {thread.name for thread in threading.enumerate()}
        return tasks, threads, len(os.listdir("/proc/self/fd"))

    async with opened_store(tmp_path):
        pass  # imports and pools that stay are made here
    before = left()
    async with opened_store(tmp_path) as store:
        await store.add_workspace("demo")
        assert (tmp_path / "homeport.db-wal").stat().st_size > 0
    assert left() == before
    assert {path.name for path in tmp_path.iterdir()} == {"homeport.db", "homeport.db.lock"}


async def test_a_store_opened_in_one_task_answers_in_all_tasks(tmp_path: Path) -> None:
    """The ORM keeps its state in a context variable; callbacks and tasks made before `open` would not see it."""
    opened: asyncio.Future[Store] = asyncio.get_running_loop().create_future()

    async def early() -> int:
        return len(await (await opened).list_workspaces())

    made_before = asyncio.create_task(early())
    await asyncio.sleep(0)
    context = opened_store(tmp_path)
    store = await asyncio.create_task(context.__aenter__())
    try:
        opened.set_result(store)
        assert await made_before == 0
        assert await store.list_workspaces() == []
    finally:
        await context.__aexit__(None, None, None)


async def test_the_environment_of_programs_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ORM writes USE_TZ and TIMEZONE into the environment; a user's own value must survive, and not be believed."""
    monkeypatch.delenv("USE_TZ", raising=False)
    monkeypatch.setenv("TIMEZONE", "Pacific/Kiritimati")
    async with opened_store(tmp_path) as store:
        assert "USE_TZ" not in os.environ
        assert os.environ["TIMEZONE"] == "Pacific/Kiritimati"
        workspace = await store.add_workspace("demo")
        found = await store.find_workspace("demo")
        assert found is not None
        assert found.created_at == workspace.created_at


async def test_slow_questions_are_logged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "SLOW_MS", -1)
    seen: list[tuple[Event, object]] = []
    unsubscribe = subscribe(lambda event, keys: seen.append((event, keys.get("question"))))
    try:
        await store.find_key("SHA256:x")
        await store.add_workspace("demo")
    finally:
        unsubscribe()
    assert [question for event, question in seen if event is Event.STORE_SLOW] == ["find_key", "add_workspace"]


async def test_an_expected_refusal_is_not_logged_as_a_failure(store: Store) -> None:
    await store.add_workspace("demo")
    seen: list[Event] = []
    unsubscribe = subscribe(lambda event, keys: seen.append(event))
    try:
        with pytest.raises(NameTaken):
            await store.add_workspace("demo")
    finally:
        unsubscribe()
    assert Event.STORE_FAILED not in seen
