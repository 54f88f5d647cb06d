"""A key for some workspaces learns nothing of the others, whatever it types."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.interfaces import SessionStatus
from gateway.lobby.table import COMMANDS
from tests.support.channel import OWNER, SCOPED
from tests.support.lobby import FakeLobby, FakeStore, Recording, session, workspace

OURS, THEIRS = "01932b7e-8f3c-7c4e-9d31-5a1f0c8e2b77", "01a57000-8f3d-7c4e-9d31-5a1f0c8e2b77"
# Everything that only the other workspace has: names, ids, what runs there, who, from where.
HIDDEN = ("zebra", THEIRS[:8], "hush", "octo/quiet", "192.0.2.99", "id-zebra", "shhh")


def house() -> FakeLobby:
    hidden = replace(workspace("zebra"), github_repo="octo/quiet", description="shhh")
    common = {"workspace_name": "zebra", "principal": "hush", "client_ip": "192.0.2.99", "command": "hush"}
    store = FakeStore(
        workspaces=[workspace("my-app"), hidden, workspace("zebra-old", is_active=False)],
        sessions=[
            session(OURS, name="logs"),
            session(THEIRS, **common, name="logs"),  # type: ignore[arg-type]
            session("01a57000-0000", **common, ended=True, status=SessionStatus.TERMINATED),  # type: ignore[arg-type]
        ],
    )
    recordings = [Recording(OURS), Recording(THEIRS, workspace_name="zebra"), Recording("01a57000-0000", "my-app")]
    lobby = FakeLobby(store=store)
    lobby.shelf.recordings, lobby.shelf.pieces = recordings, [b"played"]
    return lobby


# What a curious person would try: names, beginnings of ids, options.
WORDS = st.sampled_from(
    ["my-app", "my-ap", "zebra", "zebr", "ZEBRA", "zebra-old", "zebra+logs", "my-app+logs", OURS, THEIRS, THEIRS[:4],
     THEIRS[:8], "01a5", "0193", "--all", "--json", "--workspace", "--help", "-", "--host", "h", "missing"]
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    command=st.sampled_from([command.name for command in COMMANDS] + ["help", "sesions"]),
    words=st.lists(WORDS, max_size=3),
    is_terminal=st.booleans(),
)
async def test_nothing_of_another_workspace_is_ever_said(command: str, words: list[str], is_terminal: bool):
    lobby = house()
    await lobby(*command.split(), *words, principal=SCOPED, is_terminal=is_terminal, columns=200)
    said = (lobby.stdout.text + lobby.stderr.text).lower()
    for word in sorted(words, key=len, reverse=True):  # what was typed may be repeated
        said = said.replace(word.lower(), "")
    assert not [hidden for hidden in HIDDEN if hidden in said], said
    assert set(lobby.sessions.killed) <= {OURS, "id-my-app"}
    assert set(lobby.shelf.played) <= {OURS}
    assert [each.is_active for each in lobby.store.workspaces] == [True, True, False]
    assert lobby.yard.made == lobby.archives.done == lobby.yard.renamed == []
    assert {name for name, _ in lobby.yard.synced} <= {"my-app"}


@pytest.mark.parametrize(
    "words",
    [
        ["connect", "{}"],
        ["status", "{}"],
        ["sync", "{}"],
        ["kill", "--workspace", "{}"],
        ["kill", "{}+logs"],
        ["rec", "play", "{}+logs"],
        ["kill", "{}"],
    ],
)
async def test_missing_and_outside_get_the_same_words(words: list[str]):
    said = []
    for name in ("zebra", "arbez"):
        lobby = house()
        status = await lobby(*(word.format(name) for word in words), principal=SCOPED)
        said.append((status, lobby.stderr.text.replace(name, "NAME"), lobby.stdout.text))
    assert said[0] == said[1]
    assert said[0][0] != 0


async def test_what_is_within_the_scope_works_as_for_everybody():
    lobby = house()
    for words in (
        ["ls"],
        ["sessions"],
        ["rec", "ls"],
        ["connect", "my-app"],
        ["status", "my-app"],
        ["sync", "my-app"],
        ["whoami"],
        ["theme"],
    ):
        assert await lobby(*words, principal=SCOPED) == 0, words
    assert await lobby("rec", "play", "my-app+logs", principal=SCOPED) == 0
    assert lobby.stdout.text == "played"
    assert await lobby("kill", "my-app+logs", principal=SCOPED) == 0
    assert lobby.sessions.killed == [OURS]
    assert await lobby("keys", "ls", principal=SCOPED) == 1
    assert await lobby("kill", THEIRS, principal=OWNER) == 0


async def test_a_key_whose_workspaces_are_gone_is_not_told_to_make_some():
    lobby = FakeLobby()
    assert await lobby("ls", principal=SCOPED) == 0
    assert lobby.stderr.text == "homeport: there is no workspace that this key may enter\n"


async def test_a_recording_belongs_where_its_session_does_not_where_its_file_says():
    """A workspace may have got the name that another one had when the recording was made."""
    lobby = house()
    await lobby("rec", "ls", "--json", principal=SCOPED)
    assert OURS in lobby.stdout.text
    assert "01a57000" not in lobby.stdout.text


async def test_a_trial_s_own_files_are_not_told_to_a_guest():
    lobby = house()
    lobby.way = replace(lobby.way, known_hosts="/home/ana/known_hosts", identity="/home/ana/key")
    await lobby("connect", "my-app", "--json", principal=SCOPED)
    assert "/home/ana" not in lobby.stdout.text
    await lobby("connect", "my-app", "--json", principal=OWNER)
    assert "/home/ana" in lobby.stdout.text
