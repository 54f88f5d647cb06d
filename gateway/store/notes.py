"""Journal rows that come in crowds: kept in memory for a moment, then written many at a time.

A forward or a file operation is over in less time than a transaction takes, and thousands of them may end in one
second. Whoever notes one never waits and never fails: what cannot be kept is counted, and the count becomes a row. The
price is that a killed gateway loses the last second of them, which is why logins and changes are not written this way.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from tortoise.transactions import in_transaction

from gateway.errors import StoreUnavailable
from gateway.events import Event
from gateway.ids import new_id
from gateway.journal import JournalAction
from gateway.log import log_failure, log_warning
from gateway.store.database import Database

ROWS_MAX = 20_000  # at 500 a write, a disk that stands still for some seconds in the middle of a large transfer
CHARACTERS_MAX = 16 * 1024 * 1024  # of their details; an ordinary row has 200
ROWS_PER_WRITE = 500  # 3 ms of the database, so that logins waiting behind it notice nothing
DELAY_SECONDS = 0.5  # for others to come, so that a lone row is not a transaction of its own
RETRY_SECONDS = 5.0

_INSERT = """
INSERT INTO auth_logs (id, action, success, ip_address, user_agent, details, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING
"""


# In the order of the statement: id, action, success, address, agent, details, time. A plain tuple of plain values,
# which the garbage collector soon stops to look at: a collection over ten thousand objects stands everything still.
_Row = tuple[str, str, bool, str | None, str | None, str | None, str]


@dataclass(frozen=True, slots=True)
class Note:
    """What a row shall say, its texts cleaned."""

    action: JournalAction
    success: bool
    client_ip: str | None
    user_agent: str | None
    details: str | None


class Notes:
    """Rows on their way into `auth_logs`, at most ROWS_MAX of them and CHARACTERS_MAX of their details."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[_Row] = deque()
        self._waiting_characters = 0
        self._dropped: Counter[JournalAction] = Counter()
        self._some = asyncio.Event()
        self._many = asyncio.Event()  # enough for a write without further delay
        self._one_flush = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write what is noted; `close` ends it."""
        self._flusher = asyncio.create_task(self._flush_for_ever(), name="store:notes")

    def add(self, note: Note) -> None:
        """Take a row. Never waits; beyond the bounds the row is counted instead."""
        characters = self._waiting_characters + len(note.details or "")
        if len(self._waiting) >= ROWS_MAX or characters > CHARACTERS_MAX:
            self._dropped[note.action] += 1
        else:
            self._append(note)

    async def flush(self) -> None:
        """Write what waits now. Raises StoreUnavailable; then all that was not written waits on."""
        async with self._one_flush:
            self._append_counts()
            for _ in range(-(-len(self._waiting) // ROWS_PER_WRITE)):  # not what comes meanwhile: this must end
                await self._write_some()
            if not self._waiting:
                self._some.clear()
            if len(self._waiting) < ROWS_PER_WRITE:
                self._many.clear()

    async def close(self) -> None:
        """Write what waits, for the last time. Twice is harmless. Raises StoreUnavailable; then it is lost."""
        flusher, self._flusher = self._flusher, None
        if flusher is None:
            return
        flusher.cancel()
        await asyncio.wait({flusher})
        try:
            await self.flush()
        except StoreUnavailable:
            lost = len(self._waiting) + self._dropped.total()
            log_failure(Event.STORE_FAILED, reason="the last journal rows are lost", count=lost)
            raise

    async def _flush_for_ever(self) -> None:
        while True:
            await self._some.wait()
            try:
                async with asyncio.timeout(DELAY_SECONDS):
                    await self._many.wait()
            except TimeoutError:
                pass  # few, and they have waited long enough
            try:
                await self.flush()
            except StoreUnavailable as error:
                log_warning(
                    Event.STORE_FAILED, reason="journal rows wait", count=len(self._waiting), error_code=error.code
                )
                await asyncio.sleep(RETRY_SECONDS)

    async def _write_some(self) -> None:
        """Write the oldest rows. They leave memory only once they are on disk: a flush may be cancelled, and a write
        that was given up may have been done all the same, which the row's id, made beforehand, turns into nothing."""
        rows = list(islice(self._waiting, ROWS_PER_WRITE))

        async def write() -> None:
            async with in_transaction() as connection:
                await connection.execute_many(_INSERT, [list(row) for row in rows])

        try:
            await self._database.write("notes", write)
        except StoreUnavailable:
            raise
        except Exception:  # a row that no retry would make acceptable must not keep all later ones out
            log_failure(Event.STORE_FAILED, reason="journal rows refused", count=len(rows))
        for row in rows:
            self._waiting.popleft()
            self._waiting_characters -= _characters(row)

    def _append_counts(self) -> None:
        """Say what was dropped, in a row for each action. May exceed the bounds by these few."""
        dropped, self._dropped = self._dropped, Counter()
        for action, count in dropped.items():
            said = json.dumps({"reason": "journal_full", "dropped_count": count})
            self._append(Note(action, success=False, client_ip=None, user_agent=None, details=said))

    def _append(self, note: Note) -> None:
        # Past the ORM: making one of its objects costs as much as all the rest. The time is written as the ORM does,
        # which is how Python prints it.
        now = str(datetime.now(UTC))
        row = (new_id(), note.action.value, note.success, note.client_ip, note.user_agent, note.details, now)
        self._waiting.append(row)
        self._waiting_characters += _characters(row)
        self._some.set()
        if len(self._waiting) >= ROWS_PER_WRITE:
            self._many.set()


def _characters(row: _Row) -> int:
    return len(row[5] or "")
