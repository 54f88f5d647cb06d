"""The store: every question the program asks its database. The questions themselves stand by subject beside this."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gateway.errors import StoreUnavailable
from gateway.events import Event
from gateway.interfaces import AccessKey, SessionActivity, Workspace
from gateway.log import log_failure
from gateway.store.cache import ReadCache
from gateway.store.database import Database
from gateway.store.health import HealthQueries
from gateway.store.journal import JournalQueries
from gateway.store.keys import KeyQueries
from gateway.store.metrics import MetricQueries
from gateway.store.migrate import migrate
from gateway.store.notes import Notes
from gateway.store.refusals import RefusalLimit
from gateway.store.retention import RetentionQueries
from gateway.store.sessions import SessionQueries
from gateway.store.settings import SettingsQueries
from gateway.store.workspaces import WorkspaceQueries

CACHE_ENTRIES_MAX = 10_000  # half a kilobyte each


class Store(
    KeyQueries,
    WorkspaceQueries,
    SessionQueries,
    JournalQueries,
    MetricQueries,
    SettingsQueries,
    RetentionQueries,
    HealthQueries,
):
    """One open database. At most one per process at a time; the state's lock keeps other processes away.

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
        self._refusals = RefusalLimit()
        self._notes = Notes(database)

    @classmethod
    async def open(cls, database_file: Path, *, backups_dir: Path, workspaces_dir: Path, workspaces_max: int) -> Store:
        """Bring the file up to date (made if missing) and connect. The caller awaits `close`.

        Raises SchemaRefused and StoreUnavailable.
        """
        await migrate(database_file, backups_dir=backups_dir)
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
            await self._flush_refusals(is_final=True)
        except StoreUnavailable:
            log_failure(Event.STORE_FAILED, reason="the last flush")
        finally:
            await self._database.close()

    async def flush_activity(self, activity: Sequence[SessionActivity]) -> None:
        """Write what live sessions did since the last time, and with it which keys were used and refused how often."""
        await self._write_activity(activity)
        await self._flush_ended()
        await self._flush_keys_used()
        await self._flush_refusals()
