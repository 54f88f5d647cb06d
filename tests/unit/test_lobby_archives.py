"""archive, rm, unarchive, archives: what they ask, refuse, write down and print."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest

from gateway.errors import CommandRefused
from gateway.interfaces import AccessKey, Workspace
from tests.support.fake_archives import Answering, FakeArchived, FakeUnsaved
from tests.support.lobby import FakeLobby, FakeStore, session, workspace

UNSAVED = FakeUnsaved(("2 stashes, 1 commit that was not pushed (src/\x1b[31m.c)",), ignored_count=2, home_file_count=7)


@pytest.fixture
def lobby() -> FakeLobby:
    return FakeLobby(store=FakeStore(workspaces=[workspace("my-app"), workspace("old", is_active=False)]))


@pytest.mark.parametrize("command", ["archive", "rm"])
async def test_archiving_is_said_and_written_down(lobby: FakeLobby, command: str):
    assert await lobby(command, "My-App") == 0
    assert lobby.archives.done == [("archive", "my-app")]
    assert "bring it back with: homeport unarchive my-app" in lobby.stdout.text
    assert lobby.store.journal[0][0] == "workspace_archived"


async def test_archiving_prints_json(lobby: FakeLobby):
    assert await lobby("archive", "my-app", "--json") == 0
    assert set(json.loads(lobby.stdout.text)) == {
        "id", "name", "archived_at", "place", "size_bytes", "content_bytes", "has_bundle", "skipped_count", "is_clean",
        "unsaved",
    }  # fmt: skip


@pytest.mark.parametrize("words", [("archive",), ("rm",), ("rm", "--purge", "--yes")])
async def test_while_sessions_run_it_is_refused_and_the_way_out_is_named(lobby: FakeLobby, words: tuple[str, ...]):
    lobby.store.sessions.append(session("0193"))
    assert await lobby(*words, "my-app") == 1
    assert "1 session running" in lobby.stderr.text
    assert "--end, or with: homeport kill --workspace my-app" in lobby.stderr.text
    assert lobby.archives.done == []


async def test_while_background_programs_run_it_is_refused(lobby: FakeLobby):
    lobby.sessions.program_count = 2
    assert await lobby("archive", "my-app") == 1
    assert "2 background programs running" in lobby.stderr.text


async def test_end_ends_what_runs_first(lobby: FakeLobby):
    lobby.store.sessions.append(session("0193"))
    assert await lobby("archive", "my-app", "--end") == 0
    assert lobby.sessions.killed == ["id-my-app"]


@pytest.mark.parametrize("option", ["--yes", "--discard-unsaved"])
async def test_options_of_purge_alone_are_not_understood(lobby: FakeLobby, option: str):
    """Somebody who types them thinks of deleting; what would follow is something else."""
    assert await lobby("rm", "my-app", option) == 2
    assert lobby.archives.done == []


async def test_purge_asks_for_the_name_and_says_what_goes(lobby: FakeLobby):
    lobby.archives.found = FakeUnsaved(ignored_count=2, home_file_count=7)
    lobby.person = Answering(["my-app"])
    assert await lobby("rm", "my-app", "--purge") == 0
    assert "its home (7 files) and 2 files or folders that git ignores" in lobby.stderr.text
    assert lobby.archives.done == [("purge", "my-app")]
    action, details = lobby.store.journal[0]
    assert (action, details["how"], details["session_count"]) == ("workspace_deleted", "purged", 3)


@pytest.mark.parametrize("failure", [None, asyncio.CancelledError(), CommandRefused("it is not clean")])
async def test_connections_of_keys_that_lose_the_workspace_are_closed(
    lobby: FakeLobby, monkeypatch: pytest.MonkeyPatch, failure: BaseException | None
):
    """They have the scope of their login, and the next workspace of that name is another one."""
    ci, other = (AccessKey(id, id, f"SHA256:{id}", "", workspaces=frozenset({id})) for id in ("my-app", "old"))
    lobby.store.keys = [ci, other]

    async def purge(workspace: Workspace, *, refuse: object) -> int:
        if not isinstance(failure, CommandRefused):
            lobby.store.keys = [replace(ci, workspaces=frozenset()), other]
        if failure is not None:
            raise failure
        return 0

    monkeypatch.setattr(lobby.archives, "purge", purge)
    with contextlib.suppress(asyncio.CancelledError):
        await lobby("rm", "my-app", "--purge", "--yes")
    assert lobby.disconnected == ([] if isinstance(failure, CommandRefused) else ["SHA256:my-app"])


async def test_purge_of_another_name_deletes_nothing(lobby: FakeLobby):
    lobby.person = Answering(["my-ap"])
    assert await lobby("rm", "my-app", "--purge") == 1
    assert (lobby.archives.done, lobby.store.journal) == ([], [])


async def test_purge_where_nobody_can_be_asked_names_the_option(lobby: FakeLobby):
    assert await lobby("rm", "my-app", "--purge") == 1
    assert "homeport rm my-app --purge --yes" in lobby.stderr.text


@pytest.mark.parametrize("name", ["my-app", "old"])
@pytest.mark.parametrize("yes", [(), ("--yes",)])
async def test_purge_with_unsaved_work_is_refused_and_says_what(lobby: FakeLobby, name: str, yes: tuple[str, ...]):
    lobby.archives.found = UNSAVED
    lobby.person = person = Answering()
    assert await lobby("rm", name, "--purge", *yes) == 1
    assert "2 stashes, 1 commit that was not pushed" in lobby.stderr.text
    assert "\x1b" not in lobby.stderr.text
    assert "--purge --discard-unsaved" in lobby.stderr.text
    assert (lobby.archives.done, person.asked) == ([], [])


async def test_purge_of_unsaved_work_needs_that_to_be_said(lobby: FakeLobby):
    lobby.archives.found = UNSAVED
    assert await lobby("rm", "my-app", "--purge", "--yes", "--discard-unsaved") == 0
    assert lobby.archives.done == [("purge", "my-app")]
    assert lobby.store.journal[0][1]["discarded_unsaved"] is True


async def test_unarchive_brings_back_and_keeps_the_archive_if_asked(lobby: FakeLobby):
    assert await lobby("unarchive", "old", "--keep") == 0
    assert lobby.archives.done == [("unarchive", "old")]
    assert "archive/old-id.restored-x" in lobby.stderr.text
    assert "homeport connect old" in lobby.stdout.text
    assert lobby.store.journal[0][0] == "workspace_restored"


@pytest.mark.parametrize(("name", "said"), [("my-app", "is not archived"), ("my-ap", 'did you mean "my-app"?')])
async def test_unarchive_of_what_is_not_archived_is_refused(lobby: FakeLobby, name: str, said: str):
    assert await lobby("unarchive", name) == 1
    assert said in lobby.stderr.text


async def test_archives_shows_what_is_only_there(lobby: FakeLobby):
    old = workspace("old", is_active=False)
    lobby.archives.listed = [FakeArchived(old, unsaved=UNSAVED), FakeArchived(workspace("clean", is_active=False)),
                             FakeArchived(workspace("lost", is_active=False), place=None)]  # fmt: skip
    assert await lobby("archives") == 0
    text = lobby.stdout.text
    assert "2 stashes" in text
    assert "nothing" in text
    assert "missing" in text
    assert "\x1b" not in text
    await lobby("archives", "--json")
    assert [row["place"] for row in json.loads(lobby.stdout.text)] == ["old-id", "old-id", None]


async def test_nothing_archived_says_what_to_do(lobby: FakeLobby):
    assert await lobby("archives") == 0
    assert (lobby.stdout.text, "homeport archive NAME" in lobby.stderr.text) == ("", True)
