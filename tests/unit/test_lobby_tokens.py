"""`token mint|ls|revoke`: printed once, kept as a hash, and gone when nobody saw it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from gateway.bearer import TOLERANCE, has_expired, hash_of, new_token
from gateway.interfaces import ApiScope, ApiToken
from tests.support.lobby import Bytes, FakeLobby


@pytest.fixture
def lobby() -> FakeLobby:
    return FakeLobby()


async def test_token_is_printed_alone_and_kept_as_its_hash(lobby: FakeLobby) -> None:
    """S195. A script takes it from standard output; the words for people are beside it."""
    assert await lobby("token", "mint", "ci") == 0
    secret = lobby.stdout.text.removesuffix("\n")
    ((kept, token),) = lobby.store.api_tokens.items()
    assert (kept, token.name, token.scope, token.created_by) == (hash_of(secret), "ci", "read", "operator")
    assert secret.startswith("hp_")
    assert timedelta(days=29) < token.expires_at - datetime.now(UTC) <= timedelta(days=30)
    assert secret not in lobby.stderr.text
    assert secret not in str(lobby.store.journal)
    assert lobby.store.journal[0][0] == "token_minted"


async def test_scope_and_end_are_those_asked_for(lobby: FakeLobby) -> None:
    assert await lobby("token", "mint", "ci", "--scope", "write", "--expires", "1h", "--json") == 0
    shown = json.loads(lobby.stdout.text)
    ((kept, token),) = lobby.store.api_tokens.items()
    assert (token.scope, hash_of(shown["token"]), shown["scope"]) == (ApiScope.WRITE, kept, "write")
    assert timedelta(minutes=59) < token.expires_at - datetime.now(UTC) <= timedelta(hours=1)


@pytest.mark.parametrize(
    "words",
    [
        ("two words",),
        ("-x",),
        ("",),
        ("ok\n",),
        ("a" * 51,),
        ("ci", "--expires", "2y"),
        ("ci", "--expires", "367d"),
        ("ci", "--expires", "2020-01-01"),
        ("ci", "--scope", "admin"),
    ],
)
async def test_what_makes_no_token_is_not_understood(lobby: FakeLobby, words: tuple[str, ...]) -> None:
    assert await lobby("token", "mint", *words) == 2
    assert lobby.store.api_tokens == {}


async def test_name_that_is_taken_is_refused(lobby: FakeLobby) -> None:
    await lobby("token", "mint", "ci")
    assert await lobby("token", "mint", "ci") == 1
    assert len(lobby.store.api_tokens) == 1


async def test_token_that_nobody_saw_is_taken_back(lobby: FakeLobby, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(self: Bytes, data: bytes) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(Bytes, "write", gone)
    with pytest.raises(ConnectionResetError):
        await lobby("token", "mint", "ci")
    assert lobby.store.api_tokens == {}


async def test_ls_shows_no_secret_and_revoke_takes_one_away(lobby: FakeLobby) -> None:
    await lobby("token", "mint", "ci")
    secret = lobby.stdout.text.strip()
    assert await lobby("token", "ls", "--json") == 0
    (shown,) = json.loads(lobby.stdout.text)
    assert set(shown) == {"id", "name", "scope", "created_by", "expires_at", "last_used_at", "created_at"}
    await lobby("token", "ls")
    assert "ci" in lobby.stdout.text
    assert secret not in lobby.stdout.text
    assert await lobby("token", "revoke", "cii") == 1
    assert 'did you mean "ci"' in lobby.stderr.text
    assert await lobby("token", "revoke", "ci") == 0
    assert lobby.store.api_tokens == {}
    assert [action for action, _ in lobby.store.journal] == ["token_minted", "token_revoked"]


def test_tokens_are_long_and_never_the_same() -> None:
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert {len(token) for token in made} == {46}


@pytest.mark.parametrize("text", ["", "hp_", "hp_" + "a" * 42, "hp_" + "a" * 44, "hp_" + "ä" * 43, "xx_" + "a" * 43])
def test_what_cannot_be_a_token_has_no_hash(text: str) -> None:
    assert hash_of(text) is None


def test_expired_token_is_taken_for_half_a_minute_more() -> None:
    """S195: the tolerance for clocks."""
    end = datetime(2030, 1, 1, tzinfo=UTC)
    token = ApiToken("1", "ci", ApiScope.READ, "operator", end)
    assert not has_expired(token, end + TOLERANCE - timedelta(seconds=1))
    assert has_expired(token, end + TOLERANCE)
