"""Workspaces' rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.errors import CommandRefused, NameRefused, NameTaken, WorkspaceMissing
from gateway.interfaces import EndReason, Forwarding, ProgramExit
from gateway.store.database import Database
from gateway.store.store import Store
from tests.support.store import open_session, opened_store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path) as store:
        yield store


async def test_a_workspace_is_found_by_its_name_in_any_case(store: Store) -> None:
    added = await store.add_workspace("My-App", description="the\tapp\x1b[31m")
    for login_name in ("my-app", "MY-APP"):
        assert await store.find_workspace(login_name) == added
    assert await store.workspace(added.id) == added
    assert (added.name, added.branch, added.description) == ("my-app", "main", "the app [31m")
    assert await store.find_workspace("other") is None
    assert await store.workspace("other") is None


async def test_paths_come_from_the_id_alone(store: Store, tmp_path: Path) -> None:
    workspace = await store.add_workspace("demo", id="0193-made-before")
    assert workspace.home == tmp_path / "workspaces" / "0193-made-before" / "home"
    assert workspace.tree == tmp_path / "workspaces" / "0193-made-before" / "tree"
    (row,) = await store._database.query("SELECT local_path FROM workspaces")
    assert row["local_path"] == str(workspace.tree)


async def test_a_repository_gives_its_url_and_is_found_in_any_case(store: Store) -> None:
    """Whose repository a URL is, is not asked here: which GitHub is configured, the caller knows."""
    by_repo = await store.add_workspace("a", github_repo="octocat/Hello-World")
    assert by_repo.github_url == "https://github.com/octocat/Hello-World"
    url = "git@github.example:octocat/spoon.git"
    by_url = await store.add_workspace("b", github_url=url, github_repo="octocat/spoon")
    assert (by_url.github_url, by_url.github_repo) == (url, "octocat/spoon")
    elsewhere = await store.add_workspace("c", github_url="https://git.example.org/x/y.git", branch="develop")
    assert (elsewhere.github_repo, elsewhere.branch) == (None, "develop")
    assert await store.find_workspace_by_repo("OCTOCAT/hello-world") == by_repo
    assert await store.find_workspace_by_repo("octocat/none") is None


async def test_a_repository_with_another_name_is_written_down_unless_a_workspace_has_it(store: Store) -> None:
    added = await store.add_workspace("app", github_repo="octo/old", github_url="https://github.com/octo/old")
    await store.add_workspace("two", github_repo="octo/taken", github_url="https://github.com/octo/taken")
    assert await store.find_workspace("app") == added  # kept in memory
    new = {"github_id": 7, "github_repo": "octo/new", "github_url": "https://github.com/octo/new"}
    await store.set_workspace_repository(added.id, **new)
    found = await store.find_workspace("app")
    assert found is not None
    assert (found.github_id, found.github_repo, found.github_url) == (7, "octo/new", "https://github.com/octo/new")
    with pytest.raises(NameTaken, match="two"):
        await store.set_workspace_repository(added.id, **{**new, "github_repo": "OCTO/taken"})
    assert await store.find_workspace("app") == found


async def test_a_declared_workspace_becomes_a_cloned_one(store: Store) -> None:
    declared = await store.add_workspace("a", github_repo="o/r", is_cloned=False, clone_branch="next")
    assert (declared.is_cloned, declared.clone_branch, declared.last_sync_at) == (False, "next", None)
    assert await store.find_workspace("a") == declared
    await store.mark_workspace_cloned(declared.id, branch="next")
    cloned = await store.find_workspace("a")
    assert cloned is not None
    assert (cloned.is_cloned, cloned.branch) == (True, "next")
    assert cloned.last_sync_at is not None


async def test_a_renamed_workspace_is_found_by_its_new_name_and_the_old_one_is_free(store: Store) -> None:
    workspace = await store.add_workspace("demo")
    assert await store.find_workspace("demo") == workspace
    assert await store.rename_workspace(workspace.id, "Better") == []
    assert await store.find_workspace("demo") is None
    renamed = await store.find_workspace("better")
    assert renamed is not None
    assert (renamed.id, renamed.tree) == (workspace.id, workspace.tree)
    await store.add_workspace("demo")


async def test_a_rename_goes_through_the_scopes_of_keys_and_changes_no_others(store: Store) -> None:
    workspace = await store.add_workspace("demo")
    for name, scope in (("one", {"demo", "x"}), ("two", {"demo-2"}), ("three", None)):
        await store.add_key(
            name=name, fingerprint=f"SHA256:{name}", public_key=name,
            workspaces=None if scope is None else frozenset(scope),
        )  # fmt: skip
    assert await store.find_key("SHA256:one") is not None  # and kept in memory
    assert await store.rename_workspace(workspace.id, "better") == ["SHA256:one"]
    key = await store.find_key("SHA256:one")
    assert key is not None
    assert key.workspaces == frozenset({"better", "x"})
    scopes = {key.name: key.workspaces for key in await store.list_keys()}
    assert (scopes["two"], scopes["three"]) == (frozenset({"demo-2"}), None)


async def test_a_rename_to_a_taken_or_odd_name_changes_nothing(store: Store) -> None:
    workspace = await store.add_workspace("demo")
    other = await store.add_workspace("other")
    await store.close_workspace(other.id)
    await store.add_key(name="k", fingerprint="SHA256:k", public_key="k", workspaces=frozenset({"demo"}))
    with pytest.raises(NameTaken):
        await store.rename_workspace(workspace.id, "OTHER")
    with pytest.raises(NameRefused):
        await store.rename_workspace(workspace.id, "lobby")
    assert await store.find_workspace("demo") == workspace
    (key,) = await store.list_keys()
    assert key.workspaces == frozenset({"demo"})
    with pytest.raises(WorkspaceMissing):
        await store.rename_workspace("nowhere", "free")


async def test_the_list_tells_when_each_was_used_last(store: Store) -> None:
    one = await store.add_workspace("one")
    await store.add_workspace("two")
    session_id = await open_session(store, one)
    await store.end_session(session_id, exit=ProgramExit(0), reason=EndReason.EXIT, bytes_in=0, bytes_out=0)
    row = await store.find_session(session_id)
    assert row is not None
    used = {workspace.name: workspace.last_activity_at for workspace in await store.list_workspaces()}
    assert used == {"one": row.last_activity_at, "two": None}


async def test_a_taken_name_and_a_taken_repository_have_different_words(store: Store) -> None:
    await store.add_workspace("demo", github_repo="octocat/hello")
    with pytest.raises(NameTaken, match="a workspace named 'demo' exists already; choose another name, like demo-2"):
        await store.add_workspace("DEMO")
    with pytest.raises(NameTaken, match="the repository OctoCat/Hello has a workspace already: demo"):
        await store.add_workspace("other", github_repo="OctoCat/Hello")


async def test_what_cannot_be_accepted_is_refused_before_the_database_is_asked(store: Store) -> None:
    for arguments in (
        {"name": "-x"},
        {"name": "lobby"},
        {"name": "a", "github_repo": "../.."},
        {"name": "a", "github_url": "ext::sh -c id"},
        {"name": "a", "branch": "--upload-pack=x"},
        {"name": "a", "description": "x" * 201},
    ):
        with pytest.raises(NameRefused):
            await store.add_workspace(**arguments)  # type: ignore[arg-type]
    assert await store.list_workspaces() == []


async def test_there_are_no_more_workspaces_than_the_setting_allows(tmp_path: Path) -> None:
    """Archived ones do not count."""
    async with opened_store(tmp_path, workspaces_max=2) as store:
        first = await store.add_workspace("one")
        await store.add_workspace("two")
        for refused in (store.add_workspace("three"), store.refuse_one_more_workspace()):
            with pytest.raises(CommandRefused, match="there are 2 workspaces already"):
                await refused
        await store.close_workspace(first.id)
        await store.refuse_one_more_workspace()
        await store.add_workspace("three")


async def test_an_archived_workspace_keeps_its_row_its_sessions_and_its_name(store: Store) -> None:
    workspace = await store.add_workspace("demo")
    session_id = await open_session(store, workspace)
    await store.end_session(session_id, exit=ProgramExit(0), reason=EndReason.EXIT, bytes_in=0, bytes_out=0)
    await store.close_workspace(workspace.id)
    await store.mark_workspace_archived(workspace.id, datetime.now(UTC))
    assert await store.list_workspaces() == []
    (archived,) = await store.list_workspaces(include_inactive=True)
    assert not archived.is_active
    found = await store.find_workspace("demo")
    assert found is not None
    assert found.id == archived.id
    assert await store.find_session(session_id) is not None
    with pytest.raises(NameTaken, match="an archived workspace has the name 'demo'"):
        await store.add_workspace("demo")


async def test_an_archived_workspace_is_opened_again_if_there_is_room(tmp_path: Path) -> None:
    async with opened_store(tmp_path, workspaces_max=1) as store:
        first = await store.add_workspace("one")
        await store.mark_workspace_archived(first.id, datetime.now(UTC))
        second = await store.add_workspace("two")
        with pytest.raises(CommandRefused, match="there are 1 workspaces already"):
            await store.open_workspace(first.id, is_counted=True)
        await store.close_workspace(second.id)
        await store.open_workspace(first.id, is_counted=True)
        opened = await store.find_workspace("one")
        assert opened is not None
        assert (opened.is_active, opened.archived_at) == (True, None)


async def test_a_deleted_workspace_takes_its_sessions_along_and_frees_its_name(store: Store) -> None:
    workspace, other = await store.add_workspace("demo"), await store.add_workspace("other")
    session_id, kept_id = await open_session(store, workspace), await open_session(store, other)
    await store.add_key(name="guest", fingerprint="SHA256:g", public_key="ssh-ed25519 g",
                        workspaces=frozenset({"demo", "other"}))  # fmt: skip
    await store.add_key(name="only", fingerprint="SHA256:o", public_key="ssh-ed25519 o", workspaces=frozenset({"demo"}))
    assert await store.delete_workspace(workspace.id) == [session_id]
    # The next workspace of that name is another one, which nobody let them into.
    assert {key.name: key.workspaces for key in await store.list_keys()} == {
        "guest": frozenset({"other"}), "only": frozenset(),
    }  # fmt: skip
    assert await store.find_session(session_id) is None
    assert await store.find_session(kept_id) is not None
    assert await store.find_workspace("demo") is None
    await store.add_workspace("demo")
    assert await store.delete_workspace(workspace.id) == []


async def test_changing_a_workspace_that_is_not_there_is_refused(store: Store) -> None:
    with pytest.raises(WorkspaceMissing):
        await store.close_workspace("nowhere")


async def test_recording_is_switched_and_a_sync_is_remembered(store: Store) -> None:
    workspace = await store.add_workspace("demo")
    await store.set_workspace_recorded(workspace.id, is_recorded=False)
    await store.mark_workspace_synced(workspace.id)
    changed = await store.workspace(workspace.id)
    assert changed is not None
    assert not changed.is_recorded
    assert changed.last_sync_at is not None


async def test_forwarding_and_shell_are_changed_one_by_one_and_hold_for_the_next_question(store: Store) -> None:
    """Logins are answered from memory: a narrowed workspace must not stay wide for those who were there before."""
    workspace = await store.add_workspace("demo")
    assert (workspace.forwarding, workspace.shell) == (None, None)
    assert await store.find_workspace("demo") == workspace
    await store.set_workspace_forwarding(workspace.id, Forwarding.OFF)
    await store.set_workspace_shell(workspace.id, "/usr/bin/zsh")
    changed = await store.find_workspace("demo")
    assert changed is not None
    assert (changed.forwarding, changed.shell) == (Forwarding.OFF, "/usr/bin/zsh")
    await store.set_workspace_forwarding(workspace.id, None)
    changed = await store.find_workspace("demo")
    assert changed is not None
    assert (changed.forwarding, changed.shell) == (None, "/usr/bin/zsh")
    with pytest.raises(WorkspaceMissing):
        await store.set_workspace_shell("nowhere", None)


async def test_the_list_counts_attached_sessions(store: Store) -> None:
    one, two = await store.add_workspace("one"), await store.add_workspace("two")
    await store.add_workspace("three")
    await open_session(store, one)
    ended, paused = await open_session(store, one), await open_session(store, two)
    await store.end_session(ended, exit=ProgramExit(0), reason=EndReason.EXIT, bytes_in=0, bytes_out=0)
    await store.mark_paused(paused)
    counts = {workspace.name: workspace.active_session_count for workspace in await store.list_workspaces()}
    assert counts == {"one": 1, "three": 0, "two": 0}


async def test_the_list_takes_the_same_number_of_queries_however_long_it_is(
    store: Store, statements: list[str]
) -> None:

    async def queries() -> int:
        statements.clear()
        await store.list_workspaces()
        return len(statements)

    await store.add_workspace("first")
    few = await queries()
    for number in range(10):
        await open_session(store, await store.add_workspace(f"more-{number}"))
    assert await queries() == few == 2


@pytest.fixture
async def statements(store: Store) -> AsyncIterator[list[str]]:
    """Every statement SQLite runs on the store's connection."""
    seen: list[str] = []
    connection = connection_of(store._database)
    await connection.set_trace_callback(seen.append)
    yield seen
    await connection.set_trace_callback(None)


def connection_of(database: Database) -> object:
    return database._context.connections.get("default")._connection  # type: ignore[attr-defined]
