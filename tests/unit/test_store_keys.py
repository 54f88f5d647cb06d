"""Access keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import NameRefused, NameTaken
from gateway.interfaces import AccessKey
from gateway.store.store import Store
from tests.support.store import opened_store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path) as store:
        yield store


async def add(store: Store, name: str, *, expires_at: datetime | None = None) -> AccessKey:
    return await store.add_key(
        name=name, fingerprint=f"SHA256:{name}", public_key=f"ssh-ed25519 AAAA{name}", expires_at=expires_at
    )


async def test_a_key_is_found_by_its_fingerprint_with_all_it_was_given(store: Store) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=1)
    added = await store.add_key(
        name="laptop",
        fingerprint="SHA256:x",
        public_key="ssh-ed25519 AAAA",
        workspaces=frozenset({"Demo", "two"}),
        options={"from": "192.0.2.0/24"},
        expires_at=expires_at,
    )
    found = await store.find_key("SHA256:x")
    assert found == added
    assert found is not None
    assert found.workspaces == {"demo", "two"}  # login names are folded, so is the scope
    assert (found.options, found.expires_at) == ({"from": "192.0.2.0/24"}, expires_at)
    assert await store.find_key("SHA256:y") is None


async def test_a_key_for_no_workspace_is_not_one_for_all(store: Store) -> None:
    await store.add_key(name="a", fingerprint="SHA256:a", public_key="ssh-ed25519 A", workspaces=frozenset())
    await store.add_key(name="b", fingerprint="SHA256:b", public_key="ssh-ed25519 B", workspaces=None)
    assert [key.workspaces for key in await store.list_keys()] == [frozenset(), None]


async def test_an_expired_key_is_not_found_but_listed(store: Store) -> None:
    await add(store, "old", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert await store.find_key("SHA256:old") is None
    assert [key.name for key in await store.list_keys()] == ["old"]


async def test_a_known_key_and_a_taken_name_are_refused_in_different_words(store: Store) -> None:
    await add(store, "laptop")
    with pytest.raises(NameTaken, match="this key is known already, as 'laptop'"):
        await store.add_key(name="other", fingerprint="SHA256:laptop", public_key="ssh-ed25519 A")
    with pytest.raises(NameTaken, match="another key has the name 'laptop'"):
        await store.add_key(name="laptop", fingerprint="SHA256:new", public_key="ssh-ed25519 A")


async def test_names_and_fingerprints_that_cannot_be_are_refused_or_not_found(store: Store) -> None:
    for name in ("", "x" * 101, "a\x1b[31m"):
        with pytest.raises(NameRefused):
            await add(store, name)
    assert await store.find_key("x" * 10_000) is None
    assert await store.remove_key("x" * 10_000) is None


async def test_a_key_is_removed_by_name_or_fingerprint(store: Store) -> None:
    await add(store, "one")
    await add(store, "two")
    assert [getattr(await store.remove_key(text), "name", None) for text in ("one", "SHA256:two", "one")] == [
        "one",
        "two",
        None,
    ]
    assert await store.list_keys() == []


async def test_the_last_use_of_a_key_is_written_with_the_next_flush(store: Store) -> None:
    key = await add(store, "laptop")
    store.note_key_used(key.id)
    store.note_key_used("one that was removed meanwhile")
    assert (await store.list_keys())[0].last_used_at is None
    await store.flush_activity([])
    used_at = (await store.list_keys())[0].last_used_at
    assert used_at is not None
    assert datetime.now(UTC) - used_at < timedelta(minutes=1)


async def test_the_last_use_of_a_key_is_not_lost_on_close(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        store.note_key_used((await add(store, "laptop")).id)
    async with opened_store(tmp_path) as store:
        assert (await store.list_keys())[0].last_used_at is not None
