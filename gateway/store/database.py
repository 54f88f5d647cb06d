"""The connection: opened once, one task for all writes, reads directly, failures in words, slow questions logged.

Why one writer task: a task cancelled between Tortoise's lock and its BEGIN (a client that vanished) leaves the lock
taken, and every later query waits for ever. Here a caller hands its write over and only waits for the answer; its own
cancellation reaches the waiting, never the write. Reads are single statements and may be cancelled at any point.

A write that is more than one statement opens `in_transaction()` itself, writes before it reads (SQLite refuses at once
to turn an outdated read transaction into a write), starts no task and waits for nothing but the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tortoise.context import TortoiseContext
from tortoise.exceptions import IntegrityError, OperationalError, TransactionManagementError
from tortoise.timezone import get_default_timezone, get_use_tz

from gateway.errors import GatewayError, StoreUnavailable
from gateway.events import Event
from gateway.log import log_failure, log_warning
from models.orm import orm_config

T = TypeVar("T")
Write = Callable[[], Awaitable[T]]

# A write takes 0.3 ms and waits at most BUSY_TIMEOUT_MS (models/orm.py) for another process: beyond this it is stuck.
ANSWER_DEADLINE_SECONDS = 10
# A thousand sessions ending at once queue a few thousand writes; more than this means the disk has stopped.
WRITES_WAITING_MAX = 10_000
SLOW_MS = 50
# Tortoise announces its settings to the world, and programs started by us would inherit them.
_TORTOISE_VARIABLES = ("USE_TZ", "TIMEZONE")


@dataclass(frozen=True, slots=True)
class _Waiting:
    question: str
    write: Write[Any]
    answer: asyncio.Future[Any]


class Database:
    """One open SQLite file. `open` it once per process (Tortoise's models know one database at a time)."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._context = TortoiseContext()
        self._waiting: asyncio.Queue[_Waiting | None] = asyncio.Queue(WRITES_WAITING_MAX + 1)  # 1: the end mark
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, file: Path) -> Database:
        """Connect to a file that is up to date. The caller closes it."""
        database = cls(file)
        before = {name: os.environ.get(name) for name in _TORTOISE_VARIABLES}
        try:
            with database._context:  # current while it is made; afterwards every task finds it as the fallback
                await database._context.init(config=orm_config(file), _enable_global_fallback=True)
            # Read once, which Tortoise remembers, before its variables are taken out of the environment again.
            get_use_tz()
            get_default_timezone()
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
        try:
            # Connect now: done by the first query, a cancelled one would leave a connection without its PRAGMAs. And
            # look at a page, so that the log's files are made while the disk has room for them.
            async with database.asked("open"):
                await database.query("SELECT COUNT(*) FROM sqlite_master")
        except BaseException:
            await database._context.close_connections()
            raise
        database._writer = asyncio.create_task(database._write_all(), name="store:writer")
        return database

    async def close(self) -> None:
        """Finish the writes that wait, fold the write-ahead log into the file, disconnect. Twice is harmless."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._waiting.put_nowait(None)
        try:
            done, _ = await asyncio.wait({writer}, timeout=ANSWER_DEADLINE_SECONDS)
            if not done:
                log_failure(Event.STORE_FAILED, reason="the last writes did not finish", count=self._waiting.qsize())
                writer.cancel()
                await asyncio.wait({writer}, timeout=1)
            else:
                async with self.asked("checkpoint"):
                    await self.query("PRAGMA wal_checkpoint(TRUNCATE)")
        except StoreUnavailable:
            log_failure(Event.STORE_FAILED, reason="checkpoint")  # the log stays and is folded in at the next start
        finally:
            await self._context.close_connections()

    async def write(self, question: str, write: Write[T]) -> T:
        """Have the writer task run `write`, and return its result. Cancelling the caller does not undo the write.

        Raises StoreUnavailable if the database cannot be written or does not answer in time (the write may still be
        done later), and whatever else `write` raises.
        """
        if self._writer is None or self._writer.done():
            raise StoreUnavailable("the database is closed")
        if self._waiting.qsize() >= WRITES_WAITING_MAX:
            raise StoreUnavailable("the database does not keep up; try again in a moment")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_mark_seen)
        self._waiting.put_nowait(_Waiting(question, write, answer))
        # Not wait_for or a bare await: those would cancel the answer along with the caller.
        done, _ = await asyncio.wait({answer}, timeout=ANSWER_DEADLINE_SECONDS)
        if not done:
            log_failure(Event.STORE_FAILED, reason="no answer", question=question, count=self._waiting.qsize())
            raise StoreUnavailable(f"the database did not answer within {ANSWER_DEADLINE_SECONDS} s")
        return answer.result()

    @contextlib.asynccontextmanager
    async def asked(self, question: str) -> AsyncIterator[None]:
        """Around each question: its deadline, its failures in words, and a log line if it was slow."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_SECONDS):
                yield
        except TimeoutError as error:
            log_failure(Event.STORE_FAILED, reason="no answer", question=question)
            raise StoreUnavailable(f"the database did not answer within {ANSWER_DEADLINE_SECONDS} s") from error
        except (OperationalError, sqlite3.DatabaseError) as error:
            raise self._explained(question, error) from error
        finally:
            _log_if_slow(question, started)

    async def query(self, sql: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
        """One raw statement, for what the models cannot say."""
        return list(await self._context.connections.get("default").execute_query_dict(sql, list(values)))

    async def run_to_end(self, sql: str) -> None:
        """A statement that works while it is stepped and returns nothing (`query` would step it once)."""
        await self._context.connections.get("default").execute_script(sql)

    async def _write_all(self) -> None:
        """The writer task: one write after the other, until the end mark. No failure of one reaches the next."""
        try:
            while (waiting := await self._waiting.get()) is not None:
                started = time.monotonic()
                await self._write_one(waiting)
                _log_if_slow(waiting.question, started)
        finally:
            while not self._waiting.empty():  # cancelled: nobody shall wait for what will not be done
                left = self._waiting.get_nowait()
                if left is not None:
                    _answer(left.answer, StoreUnavailable("the database is closed"))

    async def _write_one(self, waiting: _Waiting) -> None:
        try:
            result = await waiting.write()
        except (GatewayError, IntegrityError) as error:  # an answer like any other: the caller knows what it means
            _answer(waiting.answer, error)
        except (OperationalError, TransactionManagementError, sqlite3.DatabaseError) as error:
            _answer(waiting.answer, self._explained(waiting.question, error))
        except Exception as error:
            log_failure(Event.STORE_FAILED, reason="a mistake of ours", question=waiting.question)
            _answer(waiting.answer, error)
        except asyncio.CancelledError:  # the loop is being closed around us
            _answer(waiting.answer, StoreUnavailable("the database is closed"))
            raise
        else:
            if not waiting.answer.done():
                waiting.answer.set_result(result)

    def _explained(self, question: str, error: Exception) -> StoreUnavailable:
        log_failure(Event.STORE_FAILED, reason=str(error), question=question)
        return StoreUnavailable(_explain(str(error)), detail=f"{self.file}: {error}")


def _explain(reason: str) -> str:
    """SQLite's words (sqlite.org/rescode.html) made into what to do."""
    lower = reason.lower()
    if "readonly" in lower or "read-only" in lower:
        return "the database is read-only; check its owner and mode, and that its disk is not mounted read-only"
    if "full" in lower:
        return "the disk with the database is full; free some space on it"
    if "locked" in lower or "busy" in lower:
        return "the database is locked by another program; find it with fuser, or try again in a moment"
    if "disk i/o" in lower:
        return "the disk with the database is full or damaged; look at the system's log"
    if "malformed" in lower or "not a database" in lower:
        return "the database is damaged; put the newest backup in its place"
    return "the database cannot be read or written; the operator finds the reason in the log"


def _answer(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _mark_seen(answer: asyncio.Future[Any]) -> None:
    """The caller may be gone; its failure was logged, and must not be reported again as never retrieved."""
    if not answer.cancelled():
        answer.exception()


def _log_if_slow(question: str, started: float) -> None:
    duration_ms = round((time.monotonic() - started) * 1000)
    if duration_ms > SLOW_MS:
        log_warning(Event.STORE_SLOW, question=question, duration_ms=duration_ms)
