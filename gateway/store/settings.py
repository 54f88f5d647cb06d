"""The one row of settings that people change at run time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

import models
from gateway.github.tokens import GithubRow
from gateway.github.vault import Sealed
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

    async def github_row(self) -> GithubRow:
        """The GitHub account as it stands there, sealed."""
        async with self._database.asked("github_row"):
            row = await models.Settings.get_or_none(id=SINGLETON_ID)
        if row is None:
            return GithubRow()
        return GithubRow(
            token=_sealed(row.github_token, row.github_token_iv),
            refresh_token=_sealed(row.github_refresh_token, row.github_refresh_token_iv),
            expires_at=row.github_token_expires_at,
            profile=_object(row.github_profile),
        )

    async def save_github(self, row: GithubRow) -> None:
        """Replace all of it at once: no reader ever sees one token of an old pair beside one of a new."""
        await self._update_settings(
            github_token=row.token.ciphertext if row.token else None,
            github_token_iv=row.token.iv if row.token else None,
            github_refresh_token=row.refresh_token.ciphertext if row.refresh_token else None,
            github_refresh_token_iv=row.refresh_token.iv if row.refresh_token else None,
            github_token_expires_at=row.expires_at,
            github_profile=json.dumps(dict(row.profile)) if row.profile else None,
        )

    async def _update_settings(self, **values: str | datetime | None) -> None:
        async def write() -> None:
            # Only the writer task makes the row, so that no second one can be under way.
            row = await models.Settings.get_or_none(id=SINGLETON_ID) or models.Settings(id=SINGLETON_ID)
            row.update_from_dict(values)
            await row.save()

        await self._database.write("update_settings", write)


def _sealed(ciphertext: str | None, iv: str | None) -> Sealed | None:
    return None if ciphertext is None or iv is None else Sealed(ciphertext, iv)


def _object(text: str | None) -> dict[str, object]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
