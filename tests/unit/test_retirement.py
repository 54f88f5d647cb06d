"""A gateway that was replaced: what it sees of what the new one does."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from gateway.errors import StoreUnavailable
from gateway.interfaces import AccessKey, Principal
from gateway.retirement import Retirement
from gateway.sessions.handover import Handover
from gateway.sessions.sessions import Sessions

DEADLINE_SECONDS = 5


class Keys:
    """The database, in which another process has changed the keys: by default all are removed. Somebody else has asked
    for changes already."""

    def __init__(self, *left: AccessKey, failures: int = 0) -> None:
        self._left = list(left)
        self._failures = failures

    async def changed_elsewhere(self) -> bool:
        return False

    async def list_keys(self) -> list[AccessKey]:
        if self._failures:
            self._failures -= 1
            raise StoreUnavailable("the database is locked by another program")
        return self._left


class OneConnection:
    """Of a key for one workspace. Once it has ended, nothing is left to serve."""

    def __init__(self) -> None:
        self.principals = {Principal("k1", "ci", "SHA256:ci", workspaces=frozenset({"my-app"}))}

    @property
    def connection_count(self) -> int:
        return len(self.principals)

    def disconnect_key(self, fingerprint: str) -> int:
        assert [who.fingerprint for who in self.principals] == [fingerprint]
        self.principals.clear()
        return 1


def key(identifier: str, *workspaces: str) -> AccessKey:
    return AccessKey(identifier, "ci", "SHA256:ci", "ssh-ed25519 AAAA", workspaces=frozenset(workspaces))


async def retire(keys: Keys, connections: OneConnection) -> None:
    changed = asyncio.Event()

    async def release_detached() -> None:
        changed.set()  # it need not wait for its next look

    retirement = Retirement(
        sessions=cast(Sessions, SimpleNamespace(live=list, changed=changed)),
        handover=cast(Handover, SimpleNamespace(release_detached=release_detached)),
        connections=connections,
        store=keys,
        commands_running=lambda: 0,
        look=lambda: None,
        drain_seconds=3600,
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        await retirement.run()


async def test_a_key_that_was_removed_loses_its_connections_whoever_heard_of_the_change_first() -> None:
    connections = OneConnection()
    await retire(Keys(), connections)
    assert not connections.principals


async def test_a_database_that_does_not_answer_once_is_asked_again() -> None:
    connections = OneConnection()
    await retire(Keys(failures=2), connections)
    assert not connections.principals


@pytest.mark.parametrize("changed", [key("k1", "better"), key("k1"), key("k2", "my-app")])
async def test_a_key_with_another_scope_loses_its_connections(changed: AccessKey) -> None:
    """Its workspace was renamed or purged, or it was removed and let in again: the name may be another workspace's."""
    connections = OneConnection()
    await retire(Keys(changed), connections)
    assert not connections.principals
