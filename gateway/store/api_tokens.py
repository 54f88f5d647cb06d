"""Bearer tokens of the HTTP API: their hashes, scopes and ends."""

from __future__ import annotations

from datetime import UTC, datetime

from tortoise.transactions import in_transaction

import models
from gateway.errors import CommandRefused, NameTaken
from gateway.interfaces import ApiScope, ApiToken
from gateway.store.database import Database

API_TOKENS_MAX = 1000


class ApiTokenQueries:
    _database: Database
    _api_tokens_used: dict[str, datetime]

    async def find_api_token(self, token_hash: str) -> ApiToken | None:
        """Expired or not: the caller looks at `expires_at`. Never from memory, so a revoked one ends with its row, also
        for a gateway that was replaced."""
        async with self._database.asked("find_api_token"):
            row = await models.ApiToken.get_or_none(token_hash=token_hash)
        return None if row is None else _api_token(row)

    async def list_api_tokens(self) -> list[ApiToken]:
        """All of them, expired ones too, by name."""
        async with self._database.asked("list_api_tokens"):
            rows = await models.ApiToken.all().order_by("name").limit(API_TOKENS_MAX)
        return [_api_token(row) for row in rows]

    async def add_api_token(
        self, *, name: str, token_hash: str, scope: ApiScope, created_by: str, expires_at: datetime
    ) -> ApiToken:
        """An expired one gives its name to the new one. Raises NameTaken; CommandRefused if there are too many."""
        row = models.ApiToken(
            name=name, token_hash=token_hash, scope=scope, created_by=created_by, expires_at=expires_at,
            created_at=datetime.now(UTC),
        )  # fmt: skip

        async def write() -> None:
            async with in_transaction():
                await models.ApiToken.filter(name=name, expires_at__lte=datetime.now(UTC)).delete()
                if await models.ApiToken.exists(name=name):
                    raise NameTaken(f"there is a token named {name!r}; choose another name, or: token revoke {name}")
                if await models.ApiToken.all().count() >= API_TOKENS_MAX:
                    raise CommandRefused(f"there are {API_TOKENS_MAX} tokens already; revoke those nobody needs")
                await row.save(force_create=True)

        await self._database.write("add_api_token", write)
        return _api_token(row)

    async def remove_api_token(self, name: str) -> ApiToken | None:
        """The removed one, or None if there was none. Nothing is answered to it from now on."""

        async def write() -> models.ApiToken | None:
            row = await models.ApiToken.get_or_none(name=name)
            if row is not None:
                await row.delete()
            return row

        removed = await self._database.write("remove_api_token", write)
        return None if removed is None else _api_token(removed)

    def note_api_token_used(self, token_id: str) -> None:
        """Remember that it was used now; written with the next `flush_activity` or on close."""
        self._api_tokens_used[token_id] = datetime.now(UTC)

    async def _flush_api_tokens_used(self) -> None:
        if not self._api_tokens_used:
            return
        used, self._api_tokens_used = self._api_tokens_used, {}

        async def write() -> None:
            async with in_transaction():
                for token_id, last_used_at in used.items():
                    await models.ApiToken.filter(id=token_id).update(last_used_at=last_used_at)

        await self._database.write("flush_api_tokens_used", write)


def _api_token(row: models.ApiToken) -> ApiToken:
    return ApiToken(
        id=row.id,
        name=row.name,
        scope=row.scope,
        created_by=row.created_by,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        created_at=row.created_at,
    )
