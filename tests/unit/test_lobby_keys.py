"""`keys add|ls|rm`: all keys of a file or none, nothing silently widened."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest

from tests.support.lobby import FakeLobby, FakeStore, workspace


def key_line(number: int, comment: str = "") -> str:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes([number]) * 32
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {comment}".rstrip()


@pytest.fixture
def lobby() -> FakeLobby:
    return FakeLobby(store=FakeStore(workspaces=[workspace("my-app"), workspace("notes")]))


async def add(lobby: FakeLobby, text: str, *words: str, file: str = "-") -> int:
    return await lobby("keys", "add", file, *words, stdin=text.encode())


async def test_every_key_of_a_file_is_added_and_comments_are_skipped(lobby: FakeLobby):
    assert await add(lobby, f"# mine\n\n{key_line(1, 'ana@laptop')}\r\n  {key_line(2, 'ben@desk')}\n") == 0
    assert [key.name for key in lobby.store.keys] == ["ana@laptop", "ben@desk"]


async def test_one_bad_line_keeps_every_key_out_and_each_is_named(lobby: FakeLobby):
    text = f'{key_line(1)}\nnonsense\n{key_line(2)}\ncommand="ls" {key_line(3)}\n'
    assert await add(lobby, text) == 1
    assert lobby.store.keys == []
    assert "nothing was added" in lobby.stderr.text
    assert "line 2:" in lobby.stderr.text
    assert "line 4:" in lobby.stderr.text


async def test_a_key_that_cannot_be_stored_takes_back_those_before_it(lobby: FakeLobby):
    lobby.store.refuse_key_named = "two"
    assert await add(lobby, f"{key_line(1, 'one')}\n{key_line(2, 'two')}") == 1
    assert lobby.store.keys == []


@pytest.mark.parametrize(
    ("comment", "file", "name"), [("ana", "x.pub", "ana"), ("", "/a/work.pub", "work"), ("", "-", "key")]
)
async def test_a_key_is_named_after_its_comment_or_its_file(lobby: FakeLobby, comment: str, file: str, name: str):
    await add(lobby, key_line(1, comment), file=file)
    assert lobby.store.keys[0].name == name


async def test_names_that_are_taken_get_a_number(lobby: FakeLobby):
    await add(lobby, f"{key_line(1, 'ana')}\n{key_line(2, 'ana')}")
    await add(lobby, key_line(3, "ana"))
    assert [key.name for key in lobby.store.keys] == ["ana", "ana-2", "ana-3"]


async def test_a_name_that_was_asked_for_and_is_taken_is_refused(lobby: FakeLobby):
    await add(lobby, key_line(1, "ana"))
    assert await add(lobby, key_line(2), "--name", "ana") == 1
    assert len(lobby.store.keys) == 1


async def test_scope_and_expiry_are_stored(lobby: FakeLobby):
    assert await add(lobby, key_line(1), "--workspaces", "My-App, notes", "--expires", "2999-12-31") == 0
    key = lobby.store.keys[0]
    assert key.workspaces == frozenset({"my-app", "notes"})
    assert key.expires_at == datetime(3000, 1, 1, tzinfo=UTC)


async def test_how_far_a_key_may_forward_is_stored_and_shown(lobby: FakeLobby):
    await add(lobby, key_line(1, "ana"), "--forwarding", "off")
    await add(lobby, key_line(2, "ben"))
    assert [key.options for key in lobby.store.keys] == [{"forwarding": "off"}, {}]
    assert "forwarding off" not in lobby.stdout.text
    await lobby("keys", "ls")
    assert [line.split()[2] for line in lobby.stdout.text.splitlines()] == ["FORWARDING", "off", "-"]
    await lobby("keys", "ls", "--json")
    assert [key["forwarding"] for key in json.loads(lobby.stdout.text)] == ["off", None]


async def test_a_key_cannot_forward_in_a_way_that_does_not_exist(lobby: FakeLobby):
    assert await add(lobby, key_line(1), "--forwarding", "everywhere") == 2
    assert "'off', 'loopback', 'anywhere'" in lobby.stderr.text
    assert lobby.store.keys == []


@pytest.mark.parametrize(("scope", "status"), [("my-ap", 1), (",", 2), ("", 2)])
async def test_a_scope_that_names_nothing_that_exists_is_refused(lobby: FakeLobby, scope: str, status: int):
    """An empty scope must not become `all workspaces`."""
    assert await add(lobby, key_line(1), "--workspaces", scope) == status
    assert lobby.store.keys == []


async def test_adding_a_known_key_again_changes_nothing_and_is_no_failure(lobby: FakeLobby):
    await add(lobby, key_line(1, "ana"), "--workspaces", "notes")
    assert await add(lobby, key_line(1, "ana")) == 0
    assert len(lobby.store.keys) == 1
    assert "already there as ana" in lobby.stderr.text
    assert "(notes)" in lobby.stderr.text


@pytest.mark.parametrize("option", [("--workspaces", "notes"), ("--forwarding", "off"), ("--expires", "1d")])
async def test_options_for_a_known_key_are_refused_because_they_would_not_take_effect(
    lobby: FakeLobby, option: tuple[str, str]
):
    await add(lobby, key_line(1, "ana"))
    assert await add(lobby, key_line(1), *option) == 1
    assert "homeport keys rm SHA256:" in lobby.stderr.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n", "private key"),
        ("", "no public key"),
        ("# only a comment\n", "no public key"),
        ("\n".join(key_line(1 + number % 200) for number in range(201)), ""),
    ],
)
async def test_what_is_no_file_of_public_keys_is_refused(lobby: FakeLobby, text: str, said: str):
    status = await add(lobby, text)
    assert said in lobby.stderr.text
    assert status == (1 if said else 0)


async def test_a_binary_file_is_refused(lobby: FakeLobby):
    assert await lobby("keys", "add", "key.gpg", stdin=b"\xff\xfe\x00") == 1
    assert "not text" in lobby.stderr.text


async def test_keys_ls_shows_scope_and_last_use(lobby: FakeLobby):
    await add(lobby, key_line(1, "ana"), "--workspaces", "notes")
    await lobby("keys", "ls")
    assert "notes" in lobby.stdout.text
    await lobby("keys", "ls", "--json")
    assert json.loads(lobby.stdout.text)[0]["workspaces"] == ["notes"]


async def test_without_keys_the_list_says_that_nobody_can_log_in(lobby: FakeLobby):
    assert await lobby("keys", "ls") == 0
    assert "nobody can log in" in lobby.stderr.text


async def test_keys_rm_takes_a_name_or_a_fingerprint(lobby: FakeLobby):
    await add(lobby, f"{key_line(1, 'ana')}\n{key_line(2, 'ben')}")
    assert await lobby("keys", "rm", "ana") == 0
    assert await lobby("keys", "rm", lobby.store.keys[0].fingerprint) == 0
    assert lobby.store.keys == []


async def test_an_unknown_key_is_refused_with_the_nearest_name(lobby: FakeLobby):
    await add(lobby, key_line(1, "ana@laptop"))
    assert await lobby("keys", "rm", "ana@lapto") == 1
    assert 'did you mean "ana@laptop"?' in lobby.stderr.text


async def test_the_journal_tells_which_keys_came_and_went(lobby: FakeLobby):
    await add(lobby, f"{key_line(1, 'ana')}\n{key_line(2, 'ben')}")
    await lobby("keys", "rm", "ana")
    assert [(action, details["key"]) for action, details in lobby.store.journal] == [
        ("key_added", "ana"),
        ("key_added", "ben"),
        ("key_removed", "ana"),
    ]


async def test_the_journal_tells_what_a_key_may_not_do(lobby: FakeLobby):
    limits = ("--workspaces", "notes,my-app", "--forwarding", "off", "--expires", "2999-12-31")
    await add(lobby, key_line(1, "ana"), *limits)
    await add(lobby, key_line(2, "ben"))
    told = [
        {name: details.get(name) for name in ("workspaces", "forwarding", "expires_at")}
        for _, details in lobby.store.journal
    ]
    assert told == [
        {"workspaces": ["my-app", "notes"], "forwarding": "off", "expires_at": "3000-01-01T00:00:00.000Z"},
        {"workspaces": None, "forwarding": None, "expires_at": None},
    ]
