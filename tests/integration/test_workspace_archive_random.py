"""Any state of a workspace comes back from its archive: names, contents, modes, links, and all that git knows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.archive_rig import ArchiveRig, snapshot

# Any name a file can have; often one of a few, so that changes meet.
NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"sub", b".gitignore", b"-rf", b" ", b"a\nb", b"\xff\xfe", b"x" * 255]),
    st.binary(min_size=1, max_size=40).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")),
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
# Never a way out of the tree: what comes later may write through it.
TARGETS = st.one_of(NAMES, st.just(b"sub")).map(lambda name: name if name.strip(b".") else b"dots")
CONTENTS = st.one_of(st.binary(max_size=2000), st.just(bytes(100_000)), st.just(b"a\n"))
Change = Callable[[ArchiveRig], object]


def path(rig: ArchiveRig, name: bytes) -> bytes:
    return os.fsencode(rig.tree) + b"/" + name


def quietly(change: Callable[[ArchiveRig, bytes], object]) -> Callable[[ArchiveRig, bytes], None]:
    """A name may be a folder by now, or be there already, or `..`: then nothing happens."""

    def tried(rig: ArchiveRig, name: bytes) -> None:
        if not {b"..", b".", b".git"} & set(name.lower().split(b"/")):
            with contextlib.suppress(OSError):
                os.makedirs(os.path.dirname(path(rig, name)), exist_ok=True)
                change(rig, name)

    return tried


def opened(rig: ArchiveRig, name: bytes, flags: int = 0) -> int:
    # Not blocking: a fifo that is there already has nobody who reads it.
    return os.open(path(rig, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | flags)


def write(content: bytes) -> Callable[[ArchiveRig, bytes], None]:
    def make(rig: ArchiveRig, name: bytes) -> None:
        with open(opened(rig, name), "wb") as file:
            file.write(content)

    return quietly(make)


def fifo(rig: ArchiveRig, name: bytes) -> None:
    if not name.endswith(b".gitignore"):  # git itself would wait for somebody who writes it
        os.mkfifo(path(rig, name))


def hole(size: int) -> Callable[[ArchiveRig, bytes], None]:
    def make(rig: ArchiveRig, name: bytes) -> None:
        fd = opened(rig, name, os.O_NOFOLLOW)
        os.lseek(fd, size, os.SEEK_SET)
        os.write(fd, b"end")
        os.close(fd)

    return quietly(make)


def mode(value: int) -> Callable[[ArchiveRig, bytes], None]:
    return quietly(lambda rig, name: os.chmod(path(rig, name), value | 0o500))


def linked(target: bytes) -> Callable[[ArchiveRig, bytes], None]:
    return quietly(lambda rig, name: os.symlink(target, path(rig, name)))


FILES = st.builds(
    lambda change, name: lambda rig: change(rig, name),
    st.one_of(
        CONTENTS.map(write),
        st.integers(5000, 300_000).map(hole),
        st.integers(0, 0o7777).map(mode),
        TARGETS.map(linked),
        st.just(quietly(fifo)),
        st.just(quietly(lambda rig, name: os.link(path(rig, b"README"), path(rig, name)))),
        st.just(quietly(lambda rig, name: os.unlink(path(rig, name)))),
        st.just(quietly(lambda rig, name: os.setxattr(path(rig, name), "user.x", b"\0\xff"))),
        st.just(quietly(lambda rig, name: os.utime(path(rig, name), ns=(1, -12_345_678_901)))),
        st.just(quietly(lambda rig, name: os.mkdir(path(rig, name)))),
    ),
    PATHS,
)


def git(*words: str) -> Change:
    return lambda rig: rig.git(*words, check=False)


GIT = st.sampled_from(
    [
        git("add", "--all"),
        git("add", "README"),
        git("commit", "-qam", "more"),
        git("commit", "-q", "--allow-empty", "-m", "empty"),
        git("commit", "-q", "--amend", "-m", "again"),  # leaves an object that only the reflog knows
        git("stash", "--include-untracked"),
        git("stash"),
        git("checkout", "-qf", "-B", "other", "HEAD~1"),
        git("checkout", "-qf", "main"),
        git("checkout", "-qf", "--detach"),
        git("merge", "main"),
        git("merge", "other"),
        git("rebase", "main"),
        git("reset", "-q", "--hard", "HEAD~1"),
        git("tag", "-f", "-m", "annotated", "v1"),
        git("update-index", "--assume-unchanged", "README"),
        git("gc", "-q"),
        git("worktree", "add", "-f", "../home/second", "HEAD"),
        git("notes", "add", "-f", "-m", "note"),
    ]
)


async def round_trip(directory: Path, changes: list[Change]) -> None:
    rig = ArchiveRig(directory)
    rig.make_repository()
    for change in changes:
        change(rig)
    before, known = snapshot(rig.home, rig.tree), what_git_knows(rig)
    try:
        place = await rig.archive()
        assert not rig.home.exists()
        await rig.unarchive()
        assert snapshot(rig.home, rig.tree) == before
        assert what_git_knows(rig) == known
        assert not place.exists()
    finally:
        await rig.keepers.close()


def what_git_knows(rig: ArchiveRig) -> list[str]:
    return [
        rig.git(*words, check=False)
        for words in (
            ("for-each-ref",),
            ("stash", "list"),
            ("reflog", "--all"),
            ("ls-files", "--stage", "-v", "-z"),
            ("status", "--porcelain=v2", "-z", "--branch", "--untracked-files=all", "--ignored"),
            ("fsck", "--full", "--unreachable"),
        )
    ]


def check(changes: list[Change]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(round_trip(Path(directory), changes))


CHANGES = st.lists(st.one_of(FILES, GIT), min_size=3, max_size=14)
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=4, derandomize=True, **QUIET)  # type: ignore[arg-type]
@given(CHANGES)
def test_any_state_comes_back(changes: list[Change]) -> None:
    check(changes)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=200, **QUIET)  # type: ignore[arg-type]
@given(CHANGES)
def test_two_hundred_states_come_back(changes: list[Change]) -> None:
    check(changes)
