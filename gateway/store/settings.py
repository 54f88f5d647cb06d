"""The one row of settings that people change at run time."""

from __future__ import annotations

import json
from collections.abc import Mapping

import models
from gateway.store.database import Database
from models.settings import SINGLETON_ID


class SettingsQueries:
    _database: Database

    async def theme(self) -> str | None:
        """The colour set's name; None: the default."""
        async with self._database.asked("theme"):
            row = await models.Settings.get_or_none(id=SINGLETON_ID)
        return None if row is None else row.theme

    async def set_theme(self, theme: str | None) -> None:
        await self._update_settings(theme=theme)

    async def preferences(self) -> dict[str, object]:
        """All preferences. Read tolerantly: what is not a JSON object counts as none."""
        async with self._database.asked("preferences"):
            row = await models.Settings.get_or_none(id=SINGLETON_ID)
        return {} if row is None else _object(row.preferences)

    async def set_preferences(self, preferences: Mapping[str, object]) -> None:
        """Replace them all; the caller keeps those it does not know."""
        await self._update_settings(preferences=json.dumps(dict(preferences)))

    async def _update_settings(self, **values: str | None) -> None:
        async def write() -> None:
            # Only the writer task makes the row, so that no second one can be under way.
            row = await models.Settings.get_or_none(id=SINGLETON_ID) or models.Settings(id=SINGLETON_ID)
            row.update_from_dict(values)
            await row.save()

        await self._database.write("update_settings", write)


def _object(text: str | None) -> dict[str, object]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
