"""What a key may enter is asked anew for each session, although its connection has the scope of its login."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.errors import LoginRefused
from gateway.interfaces import AccessKey, Principal, Workspace
from gateway.sessions.sessions import Sessions
from tests.support.lobby import workspace

SCOPE = frozenset({"my-app"})


class Keys:
    def __init__(self, key: AccessKey | None) -> None:
        self._key = key

    async def find_key(self, fingerprint: str) -> AccessKey | None:
        assert fingerprint == "SHA256:ci"
        return self._key

    async def find_workspace(self, login_name: str) -> Workspace | None:
        return workspace(login_name)


def sessions(key: AccessKey | None) -> Sessions:
    nothing = cast(Any, None)
    return Sessions(
        store=cast(Any, Keys(key)), keepers=nothing, launcher=nothing, recordings=nothing, screens=nothing,
        displays=nothing, config=nothing, spawn=nothing,
    )  # fmt: skip


def key(scope: frozenset[str] | None) -> AccessKey:
    return AccessKey("k1", "ci", "SHA256:ci", "ssh-ed25519 AAAA", workspaces=scope)


PRINCIPAL = Principal("k1", "ci", "SHA256:ci", workspaces=SCOPE)


@pytest.mark.parametrize("scope", [frozenset(), frozenset({"better"})])
async def test_a_name_that_left_the_scope_may_be_another_workspace_s(scope: frozenset[str]) -> None:
    """Purged or renamed, and the connection is not closed yet."""
    with pytest.raises(LoginRefused, match="connect again"):
        await sessions(key(scope)).workspace_for(PRINCIPAL, "my-app")


@pytest.mark.parametrize("known", [key(SCOPE), None])
async def test_a_scope_that_is_as_it_was_is_entered(known: AccessKey | None) -> None:
    """Also when the key has expired meanwhile, which counts at the next login."""
    assert (await sessions(known).workspace_for(PRINCIPAL, "my-app")).name == "my-app"
