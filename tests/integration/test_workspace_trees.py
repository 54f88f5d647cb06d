"""`status`, `sync` and `rename` of trees that a real git made, in every state they may be in."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.errors import CommandRefused, GitFailed, KeeperRefused
from gateway.github.values import GithubRepository
from gateway.interfaces import Workspace
from gateway.tree_status import Synced
from gateway.workspaces import git as workspaces_git
from gateway.workspaces import renamed, trees
from gateway.workspaces.git import READ_BYTES, SAID_FREELY_BYTES, SAID_PAUSE_SECONDS
from tests.support.git_server import GitServer, git_server
from tests.support.yard import Rig, git, opened_rig


@pytest.fixture
def far(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "far", token=None) as server:
        server.make("octo/hello")
        yield server


@pytest.fixture
async def rig(tmp_path: Path, far: GitServer) -> AsyncIterator[Rig]:
    async with opened_rig(tmp_path, far.url) as rig:
        yield rig


@pytest.fixture
async def app(rig: Rig) -> Workspace:
    return await rig.create("app", "octo/hello")


def commit(workspace: Workspace, file: str, text: str = "mine") -> None:
    (workspace.tree / file).write_text(text)
    git(workspace.tree, "add", file)
    git(workspace.tree, "-c", "user.name=Ada", "-c", "user.email=a@b", "commit", "-q", "-m", f"add {file}")


async def sync(rig: Rig, workspace: Workspace) -> Synced:
    return await rig.yard.sync(workspace, by="ada", progress=rig.progress, is_terminal=False)


# ------------------------------------------------------------------------------------------------- status


async def test_a_fresh_clone_is_clean_and_as_its_upstream(rig: Rig, app: Workspace):
    status = await rig.yard.status(app)
    assert (status.branch, status.upstream, status.ahead, status.behind) == ("main", "origin/main", 0, 0)
    assert (status.is_clean, status.is_complete) == (True, True)
    assert status.last_commit is not None
    assert (status.last_commit.author, status.last_commit.subject) == ("far", "first")
    assert status.last_commit.id == status.commit_id == git(app.tree, "rev-parse", "HEAD")


async def test_every_kind_of_change_is_counted(rig: Rig, app: Workspace):
    for file in ("one", "two", "three"):
        commit(app, file)
    (app.tree / "one").write_text("changed")
    git(app.tree, "mv", "two", "renamed and\nodd")
    (app.tree / "three").write_text("both")
    git(app.tree, "add", "three")
    (app.tree / "three").write_text("again")
    (app.tree / "new").write_text("x")
    (app.tree / "folder").mkdir()
    for name in ("a", "b"):
        (app.tree / "folder" / name).write_text("x")
    status = await rig.yard.status(app)
    assert (status.ahead, status.staged, status.modified, status.untracked) == (3, 2, 2, 2)


async def test_an_empty_repository_a_detached_head_and_no_upstream(rig: Rig, app: Workspace):
    empty = await rig.yard.status(await rig.create("notes"))
    assert (empty.branch, empty.commit_id, empty.upstream, empty.last_commit) == ("main", None, None, None)
    git(app.tree, "checkout", "-q", "-b", "mine")
    alone = await rig.yard.status(app)
    assert (alone.branch, alone.upstream, alone.ahead, alone.behind) == ("mine", None, None, None)
    git(app.tree, "checkout", "-q", "--detach")
    detached = await rig.yard.status(app)
    assert detached.branch is None
    assert detached.last_commit is not None


async def test_more_files_than_are_counted_are_said_to_be_more(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    notes = await rig.create("notes")
    for number in range(200):
        (notes.tree / f"file-{number:03}").write_text("x")
    assert (await rig.yard.status(notes)).untracked == 200
    monkeypatch.setattr(trees, "STATUS_MAX_BYTES", 1000)
    status = await rig.yard.status(notes)
    assert 0 < status.untracked < 100
    assert not status.is_complete


async def test_looking_runs_none_of_the_trees_programs_that_it_need_not(rig: Rig, app: Workspace, tmp_path: Path):
    mark = tmp_path / "ran"
    monitor = tmp_path / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch {mark}\n")
    monitor.chmod(0o755)
    git(app.tree, "config", "core.fsmonitor", str(monitor))
    await rig.yard.status(app)
    assert not mark.exists()
    git(app.tree, "status")
    assert mark.exists()  # the trap works


async def test_a_filter_that_talks_without_end_is_listened_to_slowly(
    rig: Rig, app: Workspace, monkeypatch: pytest.MonkeyPatch
):
    """Or one workspace's program would have the gateway work for nobody else."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(workspaces_git, "asyncio", SimpleNamespace(sleep=pause))
    git(app.tree, "config", "filter.loud.clean", f"head -c {2 * SAID_FREELY_BYTES} /dev/zero | tr '\\0' '\\n' >&2; cat")
    (app.tree / ".git/info/attributes").write_text("* filter=loud\n")
    os.utime(app.tree / "README", (1, 1))  # git has to look into it again
    assert (await rig.yard.status(app)).is_clean
    assert len(pauses) >= SAID_FREELY_BYTES // READ_BYTES
    assert set(pauses) == {SAID_PAUSE_SECONDS}


async def test_a_folder_that_is_no_repository_any_more_is_said_to_be_none(rig: Rig, tmp_path: Path):
    notes = await rig.create("notes")
    subprocess.run(["rm", "-rf", notes.tree / ".git"], check=True)
    with pytest.raises(GitFailed, match="no git repository"):
        await rig.yard.status(notes)


async def test_one_that_is_declared_only_has_no_status_yet(rig: Rig):
    declared = await rig.create("app", "octo/hello", is_declared=True)
    for refused in (rig.yard.status(declared), sync(rig, declared)):
        with pytest.raises(CommandRefused, match="not cloned yet"):
            await refused


# --------------------------------------------------------------------------------------------------- sync


async def test_a_branch_goes_forward_to_what_was_fetched(rig: Rig, far: GitServer, app: Workspace):
    before = git(app.tree, "rev-parse", "HEAD")
    assert (await sync(rig, app)).commit_count == 0
    far.commit("octo/hello", "one", "1")
    far.commit("octo/hello", "two", "2")
    synced = await sync(rig, app)
    assert synced == Synced("main", before, git(app.tree, "rev-parse", "HEAD"), 2)
    assert (app.tree / "two").read_text() == "2"
    last = rig.rows.rows[0].last_sync_at
    assert last is not None
    details = {"workspace": "app", "by": "ada"}
    assert rig.rows.journal[-2:] == [("workspace_sync_fetch", True, details), ("workspace_sync_pull", True, details)]


async def refused_sync(rig: Rig, workspace: Workspace) -> str:
    """Its words; and nothing may have moved, nothing be called synced."""
    before = (await rig.yard.status(workspace)).commit_id
    rig.rows.change(workspace.id, last_sync_at=None)
    rig.rows.journal.clear()
    with pytest.raises(CommandRefused) as refused:
        await sync(rig, workspace)
    assert rig.rows.rows[0].last_sync_at is None
    assert (await rig.yard.status(workspace)).commit_id == before
    assert rig.rows.journal[-1][1] is False
    return refused.value.user_message


async def test_what_has_diverged_is_not_merged(rig: Rig, far: GitServer, app: Workspace):
    commit(app, "mine")
    far.commit("octo/hello", "theirs", "x")
    assert "have diverged (1 commits here, 1 there)" in await refused_sync(rig, app)
    assert [entry[:2] for entry in rig.rows.journal] == [("workspace_sync_fetch", True), ("workspace_sync_pull", False)]
    assert (app.tree / "mine").read_text() == "mine"


@pytest.mark.parametrize("is_tracked", [True, False])
async def test_changed_and_new_files_are_not_overwritten(rig: Rig, far: GitServer, app: Workspace, is_tracked: bool):
    file = "README" if is_tracked else "new"
    (app.tree / file).write_text("unsaved work")
    far.commit("octo/hello", file, "theirs")
    assert "stand in the way, so nothing was moved" in await refused_sync(rig, app)
    assert (app.tree / file).read_text() == "unsaved work"


async def test_changes_that_are_not_in_the_way_stay(rig: Rig, far: GitServer, app: Workspace):
    (app.tree / "README").write_text("unsaved work")
    far.commit("octo/hello", "other", "x")
    assert (await sync(rig, app)).commit_count == 1
    assert (app.tree / "README").read_text() == "unsaved work"


async def test_commits_that_were_not_pushed_stay(rig: Rig, app: Workspace):
    commit(app, "mine")
    assert (await sync(rig, app)).commit_count == 0
    assert (await rig.yard.status(app)).ahead == 1


async def test_without_a_branch_or_an_upstream_nothing_moves(rig: Rig, far: GitServer, app: Workspace):
    far.commit("octo/hello", "other", "x")
    git(app.tree, "checkout", "-q", "-b", "alone")
    assert "has no upstream to follow" in await refused_sync(rig, app)
    git(app.tree, "checkout", "-q", "--detach")
    assert "on no branch" in await refused_sync(rig, app)


async def test_a_merge_that_is_not_done_comes_first(rig: Rig, far: GitServer, app: Workspace):
    commit(app, "README", "mine")
    far.commit("octo/hello", "README", "theirs")
    git(app.tree, "fetch", "-q")
    merge = ["git", "-C", app.tree, "-c", "user.name=a", "-c", "user.email=a@b", "merge", "-q", "origin/main"]
    subprocess.run(merge, capture_output=True, check=False)
    assert "in the middle of a merge with 1 conflicts" in await refused_sync(rig, app)


async def test_a_network_that_fails_is_in_the_journal_and_changes_nothing(rig: Rig, far: GitServer, app: Workspace):
    far.failing_count = 10
    assert "503" in await refused_sync(rig, app)
    assert [entry[:2] for entry in rig.rows.journal] == [("workspace_sync_fetch", False)]


async def test_one_that_was_made_empty_has_nothing_to_fetch_from(rig: Rig):
    with pytest.raises(CommandRefused, match="no repository to fetch from"):
        await sync(rig, await rig.create("notes"))


async def test_a_clone_of_an_empty_repository_says_what_to_do(rig: Rig, far: GitServer):
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", far.root / "octo/empty.git"], check=True)
    made = await rig.create("empty", "octo/empty")
    assert "has no commit yet" in await refused_sync(rig, made)


# ------------------------------------------------------------------------------------------------- rename


async def test_a_renamed_workspace_keeps_its_files_and_loses_its_idle_keeper(rig: Rig, app: Workspace):
    await rig.yard.status(app)  # a keeper is up, with nothing to do
    renamed, fingerprints = await rig.yard.rename(app, "Better")
    assert (renamed.name, renamed.tree, fingerprints) == ("better", app.tree, [])
    assert rig.keepers.running() == []
    assert (await rig.yard.status(renamed)).branch == "main"


async def test_a_workspace_is_not_renamed_under_its_programs(rig: Rig, app: Workspace, monkeypatch: pytest.MonkeyPatch):
    keeper = await rig.keepers.keeper_for(app)
    counts = [2]

    async def process_count() -> int:
        return counts.pop(0)

    monkeypatch.setattr(keeper, "process_count", process_count)
    with pytest.raises(CommandRefused, match=r'2 programs run in "app".* homeport kill --workspace app'):
        await rig.yard.rename(app, "better")
    counts += [0, 1]  # one came while the row was written
    with pytest.raises(CommandRefused, match='a program runs in "app"'):
        await rig.yard.rename(app, "better")
    assert (rig.rows.rows[0].name, len(rig.keepers.running())) == ("app", 1)


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_rename_that_does_not_come_to_its_end_is_undone(
    rig: Rig, app: Workspace, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
):
    """Or the keys' scopes would have changed, and nobody would close what is open with the old ones."""
    ending = asyncio.Event()

    async def end_keeper(workspace_id: str) -> None:
        ending.set()
        if is_cancelled:
            await asyncio.Event().wait()
        raise KeeperRefused("the keeper of a workspace did not end")

    monkeypatch.setattr(rig.yard, "_end_keeper", end_keeper)
    task = asyncio.create_task(rig.yard.rename(app, "better"))
    await ending.wait()
    if is_cancelled:
        task.cancel()
    with pytest.raises((KeeperRefused, asyncio.CancelledError)):
        await task
    assert rig.rows.rows[0].name == "app"


# ------------------------------------------------------------------------------- a repository with another name


class Directory:
    """A GitHub that knows repositories by id: `names` may change at any time."""

    def __init__(self, **names: str) -> None:
        self.names = {int(number.removeprefix("id")): name for number, name in names.items()}
        self.asked: list[str | int] = []

    async def repository(self, full_name: str) -> GithubRepository | None:
        self.asked.append(full_name)
        return next((_known(number, name) for number, name in self.names.items() if name == full_name), None)

    async def repository_by_id(self, repository_id: int) -> GithubRepository | None:
        self.asked.append(repository_id)
        name = self.names.get(repository_id)
        return None if name is None else _known(repository_id, name)


def _known(number: int, name: str) -> GithubRepository:
    return GithubRepository(number, name, "main", is_private=False, is_archived=False, description=None, pushed_at=None)


async def test_a_repository_that_was_renamed_is_followed_by_its_id(tmp_path: Path, far: GitServer):
    """GitHub leads git from the old name to the new one only until somebody else takes the old one."""
    github = Directory(id7="octo/hello")
    async with opened_rig(tmp_path, far.url, github) as rig:
        app = await rig.create("app", "octo/hello")
        assert (app.github_id, app.github_repo) == (7, "octo/hello")
        (far.root / "octo/hello.git").rename(far.root / "octo/Hallo.git")
        github.names[7] = "octo/Hallo"
        await sync(rig, app)
        (row,) = rig.rows.rows
        assert (row.github_repo, row.github_url) == ("octo/Hallo", f"{far.url}/octo/Hallo")
        assert git(app.tree, "remote", "get-url", "origin") == row.github_url
        assert github.asked == ["octo/hello", 7]


async def test_an_origin_that_somebody_has_set_is_left_alone(tmp_path: Path, far: GitServer):
    github = Directory(id7="octo/hello")
    async with opened_rig(tmp_path, far.url, github) as rig:
        app = await rig.create("app", "octo/hello")
        git(app.tree, "remote", "set-url", "origin", f"{far.url}/octo/hello.git")
        github.names[7] = "octo/other"
        await sync(rig, app)
        assert git(app.tree, "remote", "get-url", "origin") == f"{far.url}/octo/hello.git"
        assert rig.rows.rows[0].github_repo == "octo/other"


async def test_a_github_that_knows_nothing_or_hangs_holds_nothing_up(
    tmp_path: Path, far: GitServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(renamed, "ANSWER_SECONDS", 0.05)
    github = Directory()
    async with opened_rig(tmp_path, far.url, github) as rig:
        app = await rig.create("app", "octo/hello")
        assert app.github_id is None

        async def hang(_: object) -> GithubRepository | None:
            await asyncio.Event().wait()
            return None

        github.repository = hang  # type: ignore[method-assign]
        await sync(rig, app)
        assert rig.rows.rows[0].github_repo == "octo/hello"
