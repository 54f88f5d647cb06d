"""Two gateways on one database, while one of them retires: what is kept in memory is not believed for ever."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from tests.support.store import opened_store


def write_elsewhere(directory: Path, statement: str) -> None:
    """As another process would."""
    with contextlib.closing(sqlite3.connect(directory / "homeport.db")) as connection:
        connection.execute(statement)
        connection.commit()


async def test_a_key_removed_by_another_gateway_is_not_known_any_more(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        await store.add_key(name="laptop", fingerprint="SHA256:x", public_key="ssh-ed25519 AAAA")
        await store.changed_elsewhere()
        assert await store.find_key("SHA256:x") is not None
        write_elsewhere(tmp_path, "DELETE FROM access_keys")
        assert await store.find_key("SHA256:x") is not None, "nobody has looked yet"
        assert await store.changed_elsewhere()
        assert await store.find_key("SHA256:x") is None


async def test_its_own_writes_are_no_change_elsewhere(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        await store.changed_elsewhere()
        await store.add_key(name="laptop", fingerprint="SHA256:x", public_key="ssh-ed25519 AAAA")
        assert not await store.changed_elsewhere()
