"""The store: every question the program asks its database. The questions themselves stand by subject beside this."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gateway.errors import StoreUnavailable
from gateway.events import Event
from gateway.interfaces import AccessKey, SessionActivity, Workspace
from gateway.journal import JournalAction
from gateway.log import log_failure
from gateway.store.api_tokens import ApiTokenQueries
from gateway.store.cache import ReadCache
from gateway.store.database import Database
from gateway.store.health import HealthQueries
from gateway.store.journal import JournalQueries
from gateway.store.keys import KeyQueries
from gateway.store.metrics import MetricQueries
from gateway.store.migrate import migrate
from gateway.store.notes import Notes
from gateway.store.pages import PageQueries
from gateway.store.refusals import RefusalLimit
from gateway.store.retention import RetentionQueries
from gateway.store.sessions import SessionQueries
from gateway.store.settings import SettingsQueries
from gateway.store.statistics import StatisticsQueries
from gateway.store.workspaces import WorkspaceQueries

CACHE_ENTRIES_MAX = 10_000  # half a kilobyte each


class Store(
    KeyQueries,
    PageQueries,
    WorkspaceQueries,
    SessionQueries,
    JournalQueries,
    MetricQueries,
    SettingsQueries,
    StatisticsQueries,
    RetentionQueries,
    HealthQueries,
    ApiTokenQueries,
):
    """One open database. At most one per process at a time; the state's lock keeps other processes away, but for a
    gateway that was replaced and serves on what it has (`changed_elsewhere`).

    Every question may raise StoreUnavailable, with what to do in its words.
    """

    def __init__(self, database: Database, *, workspaces_dir: Path, workspaces_max: int) -> None:
        self._database = database
        self._workspaces_dir = workspaces_dir
        self._workspaces_max = workspaces_max
        self._keys: ReadCache[str, AccessKey] = ReadCache(CACHE_ENTRIES_MAX)
        self._workspaces: ReadCache[str, Workspace] = ReadCache(CACHE_ENTRIES_MAX)
        self._ended: dict[str, datetime] = {}
        self._keys_used: dict[str, datetime] = {}
        self._api_tokens_used: dict[str, datetime] = {}
        self._refusals = {action: RefusalLimit() for action in (JournalAction.LOGIN, JournalAction.API_ACCESS)}
        self._notes = Notes(database)
        self._data_version = 0

    @classmethod
    async def open(
        cls,
        database_file: Path,
        *,
        backups_dir: Path,
        workspaces_dir: Path,
        workspaces_max: int,
        is_in_use: bool = False,
    ) -> Store:
        """Bring the file up to date (made if missing) and connect. The caller awaits `close`.

        `is_in_use`: see `migrate`. Raises SchemaRefused and StoreUnavailable.
        """
        await migrate(database_file, backups_dir=backups_dir, is_in_use=is_in_use)
        database = await Database.open(database_file)
        store = cls(database, workspaces_dir=workspaces_dir, workspaces_max=workspaces_max)
        store._notes.start()
        return store

    async def close(self) -> None:
        """Write what is still in memory, finish all writes, disconnect. Twice is harmless."""
        try:
            await self._notes.close()
            await self._flush_ended()
            await self._flush_keys_used()
            await self._flush_api_tokens_used()
            await self._flush_refusals(is_final=True)
        except StoreUnavailable:
            log_failure(Event.STORE_FAILED, reason="the last flush")
        finally:
            await self._database.close()

    async def changed_elsewhere(self) -> bool:
        """Whether another process has written since the last time this was asked; then nothing that was kept in memory
        is believed any more (https://www.sqlite.org/pragma.html#pragma_data_version)."""
        async with self._database.asked("data_version"):
            (row,) = await self._database.query("PRAGMA data_version")
        before, self._data_version = self._data_version, int(row["data_version"])
        if before == self._data_version:
            return False
        self._keys.clear()
        self._workspaces.clear()
        return True

    async def flush_activity(self, activity: Sequence[SessionActivity]) -> None:
        """Write what live sessions did since the last time, and with it which keys and tokens were used, and who was
        refused how often."""
        await self._write_activity(activity)
        await self._flush_ended()
        await self._flush_keys_used()
        await self._flush_api_tokens_used()
        await self._flush_refusals()
