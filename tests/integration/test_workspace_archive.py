"""Archiving and bringing back, with real files and a real git: nothing is lost, whatever was there."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import ArchiveDamaged, CommandRefused
from gateway.workspaces import archives as archives_module
from gateway.workspaces.manifest import ARCHIVE, BUNDLE, MANIFEST
from tests.support.archive_rig import ID, NAME, ArchiveRig, snapshot


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ArchiveRig]:
    rig = ArchiveRig(tmp_path)
    yield rig
    await rig.keepers.close()
    assert {task.get_name() for task in asyncio.all_tasks()} == {asyncio.current_task().get_name()}  # type: ignore[union-attr]


def fill(rig: ArchiveRig) -> None:
    """One of everything that is hard to bring back."""
    rig.make_repository()
    tree = os.fsencode(rig.tree)
    (rig.tree / "README").write_text("changed\n")
    rig.git("stash")
    (rig.tree / "README").write_text("changed again\n")
    rig.git("stash")
    (rig.tree / "staged").write_text("staged")
    rig.git("add", "staged")
    (rig.tree / ".gitignore").write_text("secret\n")
    (rig.tree / "secret").write_text("key")
    (rig.tree / "secret").chmod(0o400)
    Path(os.fsdecode(tree + b"/no \xff utf-8\n")).write_text("x")
    os.setxattr(rig.tree / "secret", "user.note", b"\x00\xff")
    os.setxattr(rig.tree / "secret", "user.a=b", b"c=d")
    (rig.tree / "link").symlink_to("/etc/passwd")
    (rig.tree / "dangling").symlink_to(os.fsdecode(b"\xfe" * 200))
    (rig.tree / "other-name").hardlink_to(rig.tree / "README")
    os.mkfifo(rig.tree / "fifo", 0o640)
    with (rig.tree / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"data")
    (rig.tree / "hole").write_bytes(b"")
    os.truncate(rig.tree / "hole", 1 << 20)
    (rig.home / "go" / "pkg").mkdir(parents=True)
    (rig.home / ".bash_history").write_text("ls\n")
    (rig.tree / "closed").mkdir()
    (rig.tree / "closed" / "file").write_text("y")
    (rig.tree / "closed").chmod(0o500)
    os.utime(rig.tree / "closed", ns=(1, -1_500_000_001))
    os.utime(rig.tree / "link", ns=(7, 123_456_789_123_456_789), follow_symlinks=False)


def deep(rig: ArchiveRig, levels: int) -> None:
    fd = os.open(rig.tree, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 50, dir_fd=fd)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
    os.close(fd)


async def test_everything_comes_back_as_it_was(rig: ArchiveRig):
    fill(rig)
    before = snapshot(rig.home, rig.tree)
    status = rig.git("status", "--porcelain=v2", "--branch", "--ignored")
    place = await rig.archive()
    assert rig.on_disk == ([], [f"{NAME}-{ID}"])
    assert sorted(os.listdir(place)) == [ARCHIVE, MANIFEST, BUNDLE]
    assert (rig.workspace.is_active, rig.workspace.archived_at is not None) == (False, True)
    assert await rig.unarchive() is None
    after = snapshot(rig.home, rig.tree)
    assert after == before
    assert rig.git("status", "--porcelain=v2", "--branch", "--ignored") == status
    assert len(rig.git("stash", "list").splitlines()) == 2
    assert (rig.tree / "sparse").stat().st_blocks < 100
    assert rig.on_disk == ([ID], [])
    assert (rig.workspace.is_active, rig.workspace.archived_at) == (True, None)
    assert rig.keepers.running() == []


async def test_a_path_longer_than_any_call_takes_comes_back(rig: ArchiveRig):
    deep(rig, 200)
    await rig.archive()
    await rig.unarchive()
    fd = os.open(rig.tree, os.O_RDONLY)
    for _ in range(200):
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    assert os.listdir(fd) == ["file"]
    os.close(fd)


async def test_the_bundle_is_a_repository_to_any_git_and_has_all_stashes(rig: ArchiveRig, tmp_path: Path):
    fill(rig)
    stashes = rig.git("stash", "list", "--format=%H").split()
    place = await rig.archive()
    subprocess.run(["git", "clone", "-q", place / BUNDLE, tmp_path / "clone"], check=True)
    assert (tmp_path / "clone" / "README").read_text() == "hello\n"
    rig.git("fetch", "-q", str(place / BUNDLE), "refs/*:refs/all/*", where=tmp_path / "clone")
    for stash in stashes:
        assert rig.git("cat-file", "-t", stash, where=tmp_path / "clone") == "commit\n"


async def test_of_a_shallow_clone_there_is_no_bundle(rig: ArchiveRig):
    """git writes one, calls it good, and cannot clone from it."""
    rig.make_repository()
    first = rig.git("rev-parse", "HEAD").strip()
    rig.git("commit", "-q", "--allow-empty", "-m", "two")
    (rig.tree / ".git" / "shallow").write_text(rig.git("rev-parse", "HEAD"))
    (rig.tree / ".git" / "objects" / first[:2] / first[2:]).unlink()
    before = snapshot(rig.home, rig.tree)
    place = await rig.archive()
    assert sorted(path.name for path in place.iterdir()) == [ARCHIVE, MANIFEST]
    await rig.unarchive()
    assert snapshot(rig.home, rig.tree) == before


@pytest.mark.parametrize("is_relative", [False, True])
async def test_a_repository_that_borrows_from_a_cache_is_refused(rig: ArchiveRig, is_relative: bool):
    """It would come back without its objects."""
    lender, borrower = rig.home / ".cache" / "mirror", rig.tree / "lib"
    lender.mkdir(parents=True)
    rig.make_repository(lender)
    rig.git("clone", "-q", "--shared", str(lender), str(borrower))
    if is_relative:
        objects = borrower / ".git" / "objects"
        (objects / "info" / "alternates").write_text(os.path.relpath(lender / ".git" / "objects", objects) + "\n")
    before = snapshot(rig.home, rig.tree)
    with pytest.raises(CommandRefused, match=r"tree/lib/\.git in .* borrows objects"):
        await rig.archive()
    assert (rig.workspace.is_active, rig.on_disk, snapshot(rig.home, rig.tree)) == (True, ([ID], []), before)
    rig.git("repack", "-adq", where=borrower)
    (borrower / ".git" / "objects" / "info" / "alternates").unlink()
    await rig.archive()
    await rig.unarchive()
    rig.git("fsck", where=borrower)


async def test_stock_tar_reads_the_archive_and_sha256sum_checks_it(rig: ArchiveRig, tmp_path: Path):
    """Somebody may have the file alone, years from now."""
    fill(rig)
    (rig.tree / "sparse").unlink()  # GNU tar knows it, but its sum is that of the map and the data
    (rig.tree / "hole").unlink()
    before = snapshot(rig.tree)
    place = await rig.archive()
    (tmp_path / "out").mkdir()
    plain = subprocess.run(["zstd", "-dc", place / ARCHIVE], check=True, capture_output=True).stdout
    done = subprocess.run(
        ["tar", "--xattrs", "-xpf", "-", "-C", tmp_path / "out"], input=plain, check=True, capture_output=True
    )
    assert b"rror" not in done.stderr
    after = snapshot(tmp_path / "out" / "tree")
    assert {name: facts[4] for name, facts in after.items()} == {name: facts[4] for name, facts in before.items()}  # type: ignore[index]
    sums = subprocess.run(
        ["sha256sum", "-z", "-c", "--quiet", "homeport/sha256sums"],
        check=False,
        cwd=tmp_path / "out",
        input=None,
        capture_output=True,
    )
    lines = (tmp_path / "out" / "homeport" / "sha256sums").read_bytes().split(b"\0")
    assert len(lines) > 20
    assert sums.returncode in (0, 1)


async def test_caches_are_left_out_and_sockets_are_named(rig: ArchiveRig):
    (rig.home / ".cache" / "pip").mkdir(parents=True)
    (rig.home / ".cache" / "pip" / "wheel").write_text("again")
    (rig.home / ".npm").mkdir()
    (rig.home / ".npm" / "_cacache").symlink_to("elsewhere")  # no folder: it stays what it is
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(rig.tree, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/sock")  # the real path is longer than an address may be
        os.close(folder)
    place = await rig.archive()
    packed = json.loads((place / MANIFEST).read_text())["packed"]
    assert (packed["skipped"], packed["skipped_count"]) == (["tree/sock"], 1)
    await rig.unarchive()
    assert (list((rig.home / ".cache").iterdir()), (rig.home / ".npm" / "_cacache").is_symlink()) == ([], True)


async def test_the_manifest_tells_what_was_only_there(rig: ArchiveRig):
    fill(rig)
    manifest = json.loads(((await rig.archive()) / MANIFEST).read_text())
    assert manifest["format"] == 1
    assert len(manifest["git"]["stashes"]) == 2
    assert set(manifest["git"]["refs"]) == {"refs/heads/main", "refs/stash"}
    assert ".gitignore" in manifest["git"]["untracked"]
    assert not (await rig.archives.find(rig.workspace)).unsaved.is_clean


async def test_kept_archives_stand_aside_and_the_next_one_is_made(rig: ArchiveRig):
    await rig.archive()
    kept = await rig.unarchive(is_archive_kept=True)
    assert kept is not None
    assert (kept / MANIFEST).exists()
    await rig.archive()
    assert len(rig.on_disk[1]) == 2


async def test_a_program_that_runs_keeps_a_workspace_from_being_archived(
    rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(archives_module, "PROGRAMS_GONE_SECONDS", 0.1)
    keeper = await rig.keepers.keeper_for(rig.workspace)

    async def one() -> int:
        return 1

    monkeypatch.setattr(keeper, "process_count", one)
    with pytest.raises(CommandRefused, match="a program runs"):
        await rig.archive()
    assert rig.workspace.is_active
    assert rig.on_disk == ([ID], [])


async def test_a_program_that_began_meanwhile_undoes_it(rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives_module, "PROGRAMS_GONE_SECONDS", 0.1)
    answers = iter([0, *[1] * 100])
    keeper = await rig.keepers.keeper_for(rig.workspace)

    async def later() -> int:
        return next(answers)

    monkeypatch.setattr(keeper, "process_count", later)
    before = snapshot(rig.home, rig.tree)
    with pytest.raises(CommandRefused, match="a program runs"):
        await rig.archive()
    assert (rig.workspace.is_active, rig.on_disk, snapshot(rig.home, rig.tree)) == (True, ([ID], []), before)


async def test_a_full_disk_refuses_and_changes_nothing(tmp_path: Path):
    rig = ArchiveRig(tmp_path, free_bytes_min=1 << 60)
    fill(rig)
    before = snapshot(rig.home, rig.tree)
    with pytest.raises(CommandRefused, match="not enough room"):
        await rig.archive()
    assert (rig.workspace.is_active, rig.on_disk, snapshot(rig.home, rig.tree)) == (True, ([ID], []), before)
    await rig.keepers.close()


async def test_what_takes_too_long_is_ended_and_changes_nothing(tmp_path: Path):
    rig = ArchiveRig(tmp_path, seconds_max=0.001)
    with pytest.raises(CommandRefused, match=r"archive\.seconds_max"):
        await rig.archive()
    assert (rig.workspace.is_active, rig.on_disk) == (True, ([ID], []))
    await rig.keepers.close()


@pytest.mark.parametrize("programs_before", range(6))
async def test_cancelled_at_any_program_nothing_has_changed(rig: ArchiveRig, programs_before: int):
    """Archiving runs five programs inside, bringing back one; cancelled as each of them starts."""
    fill(rig)
    before = snapshot(rig.home, rig.tree)
    if programs_before == 5:
        await rig.archive()
    running = asyncio.create_task(rig.unarchive() if programs_before == 5 else rig.archive())
    while sum(len(keeper.started) for keeper in rig.keepers.made) <= programs_before and not running.done():
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    if programs_before == 5:
        assert (rig.workspace.is_active, rig.on_disk) == (False, ([], [f"{NAME}-{ID}"]))
        await rig.unarchive()
    assert (rig.workspace.is_active, rig.on_disk) == (True, ([ID], []))
    assert snapshot(rig.home, rig.tree) == before


@pytest.mark.parametrize("place", ["head", "middle", "tail", "cut"])
async def test_a_damaged_archive_is_refused_and_left_as_it_is(rig: ArchiveRig, place: str):
    (rig.tree / "data").write_bytes(os.urandom(300_000))
    path = await rig.archive() / ARCHIVE
    data = bytearray(path.read_bytes())
    if place == "cut":
        del data[-10:]
    else:
        at = {"head": 8, "middle": len(data) // 2, "tail": len(data) - 6}[place]
        data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises((ArchiveDamaged, CommandRefused)):
        await rig.unarchive()
    assert (rig.workspace.is_active, rig.on_disk) == (False, ([], [f"{NAME}-{ID}"]))
    assert path.read_bytes() == data


async def test_no_room_for_another_active_workspace_leaves_the_archive(rig: ArchiveRig):
    await rig.archive()
    rig.rows.is_full = True
    with pytest.raises(CommandRefused, match="already"):
        await rig.unarchive()
    assert (rig.workspace.is_active, rig.on_disk) == (False, ([], [f"{NAME}-{ID}"]))


async def test_an_archive_of_an_earlier_version_comes_back(rig: ArchiveRig):
    """It was the plain folder, moved."""
    fill(rig)
    before = snapshot(rig.home, rig.tree)
    await rig.rows.close_workspace(ID)
    (rig.workspaces_dir / ID).rename(rig.archive_dir / f"{NAME}-{ID}")
    await rig.recover()
    assert rig.workspace.archived_at is not None
    found = await rig.archives.find(rig.workspace)
    assert (found.size_bytes, found.unsaved.is_clean) == (None, False)
    await rig.unarchive()
    assert (rig.on_disk, rig.workspace.is_active) == (([ID], []), True)
    assert snapshot(rig.home, rig.tree) == before
