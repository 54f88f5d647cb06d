"""Whether the database can be written, and copies of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.errors import StoreUnavailable
from gateway.store.copy import copy_database
from gateway.store.database import Database


class HealthQueries:
    _database: Database

    async def probe_writable(self, *, deadline_seconds: float = 2) -> None:
        """Write and commit a page, through the same task as every other write. Raises StoreUnavailable with the reason.

        Reading works on a full disk, and a write that is rolled back does as well: only a commit tells. Nothing but the
        file's user_version, which has no other use, is written.
        """

        async def write() -> None:
            await self._database.query("PRAGMA user_version = 0")

        try:
            async with asyncio.timeout(deadline_seconds):
                await self._database.write("probe_writable", write)
        except TimeoutError as error:
            raise StoreUnavailable(f"the database did not take a write within {deadline_seconds:g} s") from error

    async def backup_to(self, path: Path) -> None:
        """Write a consistent, verified copy (0600) to a path that does not exist yet. Reads and writes go on meanwhile.

        Raises StoreUnavailable and leaves no half-made copy.
        """
        await asyncio.to_thread(copy_database, self._database.file, path)
