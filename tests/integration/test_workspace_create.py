"""Making and putting away workspaces, with a real git. Whatever happens on the way, nothing half made is left."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import CommandRefused, KeeperGone, NameRefused, NameTaken
from gateway.interfaces import Workspace
from gateway.workspaces.create import name_of_clone, remove_half_made
from gateway.workspaces.making import uninterrupted
from tests.support.yard import Rig, git, make_far_repository, opened_rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with opened_rig(tmp_path) as rig:
        yield rig


@pytest.fixture
def far_repository(tmp_path: Path) -> str:
    """Its address."""
    place = tmp_path / "far" / "Hello.World.git"
    make_far_repository(place)
    return f"git@far.example:{place}"


async def test_an_empty_workspace_is_a_git_repository_with_a_home_beside_it(rig: Rig):
    made = await rig.create("notes")
    assert git(made.tree, "symbolic-ref", "HEAD") == "refs/heads/main"
    assert made.home.is_dir()
    assert rig.left_on_disk == [made.id]


async def test_a_clone_has_the_files_the_branch_and_the_url(rig: Rig, far_repository: str):
    made = await rig.create(None, far_repository)
    assert (made.name, made.branch, made.github_url) == ("hello-world", "trunk", far_repository)
    assert (made.tree / "README").read_text() == "hello\n"
    assert (made.last_sync_at, rig.progress.text) == (None, "")  # no terminal, no percentages


async def test_a_clone_of_a_repository_without_commits_works(rig: Rig, tmp_path: Path):
    subprocess.run(["git", "init", "-q", "--bare", "--initial-branch=trunk", tmp_path / "empty.git"], check=True)
    made = await rig.create(None, f"git@far.example:{tmp_path}/empty.git")
    assert made.branch == git(made.tree, "symbolic-ref", "--short", "HEAD") == "main"


async def test_the_keeper_that_built_it_is_ended_and_everything_forgotten(rig: Rig, far_repository: str):
    """Its walls were built around the place's first name; the first login starts another."""
    await rig.create(None, far_repository)
    (keeper,) = rig.keepers.made
    assert keeper.closed.is_set()
    assert keeper.forgotten == [spec.session_id for spec in keeper.started]


async def test_git_may_not_use_other_protocols_or_take_the_url_for_an_option(rig: Rig, far_repository: str):
    await rig.create(None, far_repository)
    clone = rig.keepers.made[0].started[0]
    assert clone.environment[b"GIT_ALLOW_PROTOCOL"] == b"https:ssh"
    assert clone.environment[b"GIT_TERMINAL_PROMPT"] == b"0"
    assert clone.argv[-3:] == (b"--", far_repository.encode(), b".")


async def test_a_clone_that_fails_gives_gits_words_and_leaves_nothing(rig: Rig, tmp_path: Path):
    with pytest.raises(CommandRefused, match=r"git failed: .*read from remote repository"):
        await rig.create("app", f"git@far.example:{tmp_path}/missing.git")
    rig.assert_nothing_left()


async def test_words_about_missing_credentials_come_with_a_way_out(rig: Rig, far_repository: str):
    rig.keepers.environment[b"GIT_SSH_COMMAND"] = b"echo 'git@far: Permission denied (publickey).' >&2; false"
    with pytest.raises(CommandRefused, match="`homeport github login`; or make an empty workspace"):
        await rig.create("app", far_repository)


async def test_what_the_far_side_says_cannot_act_on_the_terminal(rig: Rig, far_repository: str):
    rig.keepers.environment[b"SSH_SAYS"] = "welcome\x1b]0;gotcha\x07 to \x9b2J far\n".encode()
    await rig.create(None, far_repository)
    assert "welcome\N{REPLACEMENT CHARACTER}]0;gotcha" in rig.progress.text
    assert not any(letter in rig.progress.text for letter in "\x1b\x07\x9b")


@pytest.mark.parametrize("cancel_count", [1, 3])
async def test_a_cancelled_clone_ends_git_and_leaves_nothing(rig: Rig, far_repository: str, cancel_count: int):
    rig.keepers.environment[b"GIT_SSH_COMMAND"] = b"echo started >&2; sleep 1000; false"
    creating = asyncio.create_task(rig.create("app", far_repository), name="creating")
    async with asyncio.timeout(10):
        while "started" not in rig.progress.text:
            await asyncio.sleep(0.005)
    for _ in range(cancel_count):
        creating.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await creating
    rig.assert_nothing_left()


async def test_a_clone_that_takes_too_long_is_ended(rig: Rig, far_repository: str):
    rig.keepers.environment[b"GIT_SSH_COMMAND"] = b"sleep 1000; false"
    rig.yard._maker.clone_seconds_max = 0.1
    with pytest.raises(CommandRefused, match="not done after"):
        await rig.create("app", far_repository)
    rig.assert_nothing_left()


async def test_a_keeper_that_dies_under_the_clone_is_said_and_leaves_nothing(rig: Rig, far_repository: str):
    rig.keepers.environment[b"GIT_SSH_COMMAND"] = b"echo started >&2; sleep 1000; false"
    creating = asyncio.create_task(rig.create("app", far_repository), name="creating")
    async with asyncio.timeout(10):
        while "started" not in rig.progress.text:
            await asyncio.sleep(0.005)
    await rig.keepers.made[0].terminate()
    with pytest.raises((KeeperGone, CommandRefused)):
        await creating
    rig.assert_nothing_left()


async def test_cancelled_while_its_row_is_written_it_is_whole(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    """The database goes on writing: a row whose files were taken back would be half a workspace."""
    real, asked = rig.rows.add_workspace, asyncio.Event()

    async def add_workspace(*arguments: Any, **values: Any) -> Workspace:
        written = asyncio.create_task(real(*arguments, **values))
        asked.set()
        await asyncio.wait({written})
        return written.result()

    monkeypatch.setattr(rig.rows, "add_workspace", add_workspace)
    creating = asyncio.create_task(rig.create("notes"), name="creating")
    await asked.wait()
    creating.cancel()
    await asyncio.wait({creating})
    (row,) = rig.rows.rows
    assert rig.left_on_disk == [row.id]
    assert git(row.tree, "symbolic-ref", "HEAD") == "refs/heads/main"


async def test_a_name_that_is_taken_meanwhile_leaves_nothing(rig: Rig):
    rig.rows.refuses_late = True
    with pytest.raises(NameTaken):
        await rig.create("notes")
    rig.assert_nothing_left()


async def test_a_taken_name_or_repository_is_refused_before_git_starts(rig: Rig):
    made = await rig.create("notes")
    rig.rows.rows.append(replace(made, name="app", github_repo="o/r"))
    with pytest.raises(NameTaken, match='there is a workspace "notes" already'):
        await rig.create("notes")
    with pytest.raises(NameTaken, match='o/r is cloned already: it is the workspace "app"'):
        await rig.create("other", "https://github.com/o/r.git")
    assert len(rig.keepers.made) == 1


@pytest.mark.parametrize(
    "source",
    ["ext::sh -c id", "file:///etc", "/etc", "http://h/p", "https://user:pass@h/p", "--upload-pack=id", "git://h/p"],
)
async def test_what_git_must_not_be_given_never_reaches_it(rig: Rig, source: str):
    with pytest.raises(NameRefused):
        await rig.create("app", source)
    rig.assert_nothing_left()
    assert rig.keepers.made == []


async def test_without_git_the_refusal_names_the_package(rig: Rig):
    rig.keepers.environment[b"PATH"] = b"/nonexistent"
    with pytest.raises(CommandRefused, match="apt install git"):
        await rig.create("notes")
    rig.assert_nothing_left()


async def test_what_a_crash_left_half_made_is_removed_and_nothing_else(rig: Rig):
    kept = await rig.create("notes")
    closed = rig.directory / "workspaces" / ".new-123" / "tree" / "closed"
    closed.mkdir(parents=True)
    (closed / "file").write_text("x")
    (closed / "link").symlink_to(kept.tree)
    closed.chmod(0o500)
    await remove_half_made(rig.directory / "workspaces")
    assert rig.left_on_disk == [kept.id]
    assert kept.tree.is_dir()


async def test_a_git_that_still_fills_what_a_crash_left_is_ended_first(rig: Rig, tmp_path: Path):
    place = rig.directory / "workspaces" / ".new-123"
    for folder in (place / "home", place / "tree"):
        folder.mkdir(parents=True)
    keeper = await rig.keepers.keeper_for(Workspace("123", "app", place / "home", place / "tree"))
    other = await rig.keepers.keeper_for(Workspace("456", "other", place / "home", place / "tree"))
    await remove_half_made(rig.directory / "workspaces", rig.keepers.running())
    assert (keeper.closed.is_set(), other.closed.is_set(), rig.left_on_disk) == (True, False, [])


async def test_undoing_is_finished_however_often_it_is_cancelled():
    entered, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        entered.set()
        await go.wait()
        done.set()

    task = asyncio.create_task(uninterrupted(work()), name="undoing")
    await entered.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    go.set()
    await asyncio.wait({task})
    assert done.is_set()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/octocat/Hello-World.git", "hello-world"),
        ("git@host:only.git", "only"),
        ("ssh://git@host:2222/a/b/", "b"),
        ("https://host/what's+new", "what-s-new"),
    ],
)
def test_a_clone_is_named_after_the_repository(url: str, name: str):
    assert name_of_clone(url) == name
