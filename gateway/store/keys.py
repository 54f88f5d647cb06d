"""Access keys: who may log in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from tortoise.expressions import Q
from tortoise.transactions import in_transaction

import models
from gateway.errors import NameRefused, NameTaken
from gateway.interfaces import AccessKey
from gateway.store.cache import ReadCache
from gateway.store.database import Database

KEYS_MAX = 10_000
NAME_CHARACTERS_MAX = 100  # of a key, and of a fingerprint; the columns are as wide


class KeyQueries:
    _database: Database
    _keys: ReadCache[str, AccessKey]
    _keys_used: dict[str, datetime]

    async def find_key(self, fingerprint: str) -> AccessKey | None:
        """The key with this fingerprint (`SHA256:…`), unless it has expired."""
        if len(fingerprint) > NAME_CHARACTERS_MAX:
            return None
        key = await self._keys.get(fingerprint, lambda: self._read_key(fingerprint))
        is_expired = key is not None and key.expires_at is not None and key.expires_at <= datetime.now(UTC)
        return None if is_expired else key

    async def _read_key(self, fingerprint: str) -> AccessKey | None:
        async with self._database.asked("find_key"):
            row = await models.AccessKey.get_or_none(fingerprint=fingerprint)
        return None if row is None else _access_key(row)

    async def list_keys(self) -> list[AccessKey]:
        """All of them, expired ones too, by name."""
        async with self._database.asked("list_keys"):
            return [_access_key(row) for row in await models.AccessKey.all().order_by("name").limit(KEYS_MAX)]

    async def add_key(
        self,
        *,
        name: str,
        fingerprint: str,
        public_key: str,
        workspaces: frozenset[str] | None = None,
        options: Mapping[str, str] | None = None,
        expires_at: datetime | None = None,
    ) -> AccessKey:
        """Let a key in. `workspaces` None: all of them. Raises NameTaken if the key or its name is known already."""
        if not 1 <= len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
            raise NameRefused(f"a key's name has 1 to {NAME_CHARACTERS_MAX} printable characters; give one with --name")

        async def write() -> models.AccessKey:
            taken = await models.AccessKey.filter(Q(name=name) | Q(fingerprint=fingerprint)).first()
            if taken is not None and taken.fingerprint == fingerprint:
                raise NameTaken(f"this key is known already, as {taken.name!r}; see: homeport keys ls")
            if taken is not None:
                raise NameTaken(f"another key has the name {name!r}; give this one another with --name")
            return await models.AccessKey.create(
                name=name,
                fingerprint=fingerprint,
                public_key=public_key,
                workspaces=None if workspaces is None else json.dumps(sorted({name.lower() for name in workspaces})),
                options=json.dumps(dict(options or {})),
                expires_at=expires_at,
            )

        return _access_key(await self._database.write("add_key", write))

    async def remove_key(self, name_or_fingerprint: str) -> AccessKey | None:
        """The removed key, or None if there was none. Its open connections are the caller's to end."""
        if len(name_or_fingerprint) > NAME_CHARACTERS_MAX:
            return None

        async def write() -> models.AccessKey | None:
            named = Q(name=name_or_fingerprint) | Q(fingerprint=name_or_fingerprint)
            row = await models.AccessKey.filter(named).first()
            if row is not None:
                await row.delete()
                self._keys.clear()  # here, so that not even a caller who is gone leaves the key working
            return row

        removed = await self._database.write("remove_key", write)
        return None if removed is None else _access_key(removed)

    def note_key_used(self, key_id: str) -> None:
        """Remember that the key logged in now; written with the next `flush_activity` or on close."""
        self._keys_used[key_id] = datetime.now(UTC)

    async def _flush_keys_used(self) -> None:
        if not self._keys_used:
            return
        used, self._keys_used = self._keys_used, {}

        async def write() -> None:
            async with in_transaction():
                for key_id, last_used_at in used.items():
                    await models.AccessKey.filter(id=key_id).update(last_used_at=last_used_at)

        await self._database.write("flush_keys_used", write)


def _access_key(row: models.AccessKey) -> AccessKey:
    return AccessKey(
        id=row.id,
        name=row.name,
        fingerprint=row.fingerprint,
        public_key=row.public_key,
        workspaces=None if row.workspaces is None else frozenset(json.loads(row.workspaces)),
        options=json.loads(row.options),
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        created_at=row.created_at,
    )
