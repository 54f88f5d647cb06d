"""What counts as work that is nowhere else, asked of real repositories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.archive_rig import ArchiveRig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ArchiveRig]:
    """Its tree is a clone, all of it pushed."""
    rig = ArchiveRig(tmp_path)
    rig.make_repository()
    push(rig, rig.tree)
    yield rig
    await rig.keepers.close()


def push(rig: ArchiveRig, where: Path, url: str = "https://git.example/a/b") -> None:
    """As if `origin` on another host had all branches."""
    if "origin" not in rig.git("remote", where=where):
        rig.git("remote", "add", "origin", url, where=where)
    rig.git("update-ref", "refs/remotes/origin/main", "HEAD", where=where)


def commit(rig: ArchiveRig, where: Path) -> None:
    rig.git("commit", "-q", "--allow-empty", "-m", "more", where=where)


async def reasons(rig: ArchiveRig) -> tuple[str, ...]:
    return (await rig.archives.unsaved(rig.workspace)).reasons


async def test_all_committed_and_pushed_is_clean(rig: ArchiveRig):
    unsaved = await rig.archives.unsaved(rig.workspace)
    assert unsaved.reasons == ()
    assert unsaved.changed_at is not None


def stash(rig: ArchiveRig) -> None:
    (rig.tree / "README").write_text("x")
    rig.git("stash")


def detached(rig: ArchiveRig) -> None:
    rig.git("checkout", "-q", "--detach")
    commit(rig, rig.tree)


def branch(rig: ArchiveRig) -> None:
    rig.git("checkout", "-q", "-b", "other")
    commit(rig, rig.tree)
    rig.git("checkout", "-q", "main")


def tag(rig: ArchiveRig) -> None:
    detached(rig)
    rig.git("tag", "v1")
    rig.git("checkout", "-q", "main")


def hidden(rig: ArchiveRig) -> None:
    rig.git("update-index", "--assume-unchanged", "README")
    (rig.tree / "README").write_text("mine")


def conflict(rig: ArchiveRig) -> None:
    branch(rig)
    (rig.tree / "README").write_text("here")
    rig.git("commit", "-qam", "here")
    push(rig, rig.tree)
    rig.git("checkout", "-q", "other")
    (rig.tree / "README").write_text("there")
    rig.git("commit", "-qam", "there")
    rig.git("update-ref", "refs/remotes/origin/other", "HEAD")
    rig.git("merge", "main", check=False)


def nested(rig: ArchiveRig) -> None:
    (rig.tree / "vendor" / "lib").mkdir(parents=True)
    rig.make_repository(rig.tree / "vendor" / "lib")


def at_home(rig: ArchiveRig) -> None:
    (rig.home / "dotfiles").mkdir()
    rig.make_repository(rig.home / "dotfiles")


def bare(rig: ArchiveRig) -> None:
    rig.git("clone", "-q", "--bare", str(rig.tree), str(rig.home / "bare.git"))


def worktree(rig: ArchiveRig) -> None:
    rig.git("worktree", "add", "-q", "--detach", str(rig.home / "second"))
    (rig.home / "second" / "new").write_text("x")


def pushed_to_a_path(rig: ArchiveRig) -> None:
    """What was pushed into the home goes with it."""
    rig.git("remote", "set-url", "origin", str(rig.home / "far.git"))


def pushes_to_a_path(rig: ArchiveRig) -> None:
    """Fetched from another host and pushed into the home, which moves the same refs."""
    rig.git("remote", "set-url", "--push", "origin", str(rig.home / "far.git"))


def broken(rig: ArchiveRig) -> None:
    (rig.tree / ".git" / "HEAD").write_text("nonsense")


def no_repository(rig: ArchiveRig) -> None:
    (rig.tree / ".git").rename(rig.directory / "away")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rig: (rig.tree / "new\x1b").write_text("x"), "1 untracked file (new\N{REPLACEMENT CHARACTER})"),
        (lambda rig: (rig.tree / "README").write_text("x"), "1 modified file (README)"),
        (lambda rig: (rig.tree / "README").unlink(), "1 modified file (README)"),
        (lambda rig: rig.git("rm", "-q", "README"), "1 staged file (README)"),
        (lambda rig: commit(rig, rig.tree), "1 commit that was not pushed"),
        (stash, "1 stash"),
        (detached, "1 commit that was not pushed"),
        (branch, "1 commit that was not pushed"),
        (tag, "1 commit that was not pushed"),
        (hidden, "1 file that git was told to overlook (README)"),
        (conflict, "a merge under way"),
        (nested, "1 commit that was not pushed in vendor/lib"),
        (at_home, "1 commit that was not pushed in home/dotfiles"),
        (bare, "1 commit that was not pushed in home/bare.git"),
        (worktree, "1 untracked file in home/second (new)"),
        (pushed_to_a_path, "1 commit that was not pushed"),
        (pushes_to_a_path, "1 commit that was not pushed"),
        (broken, "the repository tree could not be looked at"),
        (no_repository, "1 file in no repository (README)"),
    ],
)
async def test_each_kind_of_unsaved_work_is_named(rig: ArchiveRig, change: Callable[[ArchiveRig], object], said: str):
    change(rig)
    assert said in "; ".join(await reasons(rig))


async def test_a_nested_clone_that_is_pushed_does_not_count(rig: ArchiveRig):
    """git calls it untracked; it is looked at itself."""
    nested(rig)
    push(rig, rig.tree / "vendor" / "lib")
    assert await reasons(rig) == ()


async def test_what_a_commit_of_a_submodule_has_counts(rig: ArchiveRig):
    library = rig.directory / "library"
    library.mkdir()
    rig.make_repository(library)
    rig.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(library), "sub")
    rig.git("commit", "-q", "-m", "sub")
    push(rig, rig.tree)
    rig.git("remote", "set-url", "origin", "ssh://git.example/lib", where=rig.tree / "sub")
    assert await reasons(rig) == ()
    commit(rig, rig.tree / "sub")
    assert any("1 commit that was not pushed in sub" in reason for reason in await reasons(rig))
    rig.git("submodule", "deinit", "-q", "-f", "sub")
    assert any("1 commit that was not pushed in .git/modules/sub" in reason for reason in await reasons(rig))


async def test_ignored_files_and_the_home_are_counted_and_do_not_refuse(rig: ArchiveRig):
    (rig.tree / ".git" / "info" / "exclude").write_text("secret\n")
    (rig.tree / "secret").write_text("x")
    (rig.home / ".bashrc").write_text("x")
    unsaved = await rig.archives.unsaved(rig.workspace)
    assert (unsaved.reasons, unsaved.ignored_count, unsaved.home_file_count) == ((), 1, 1)


async def test_a_new_empty_workspace_is_clean(tmp_path: Path):
    rig = ArchiveRig(tmp_path)
    rig.git("init", "-q")
    assert await reasons(rig) == ()
    await rig.keepers.close()


async def test_where_nothing_can_be_run_everything_counts(rig: ArchiveRig):
    rig.keepers.environment[b"PATH"] = b"/nonexistent"
    assert not (await rig.archives.unsaved(rig.workspace)).is_clean
