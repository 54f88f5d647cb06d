"""What a crash can leave, row by row of the table in archive_places.py; a full disk; and deleting for good."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import CommandRefused, KeeperRefused, WorkspaceMissing
from gateway.interfaces import Keeper, Workspace
from gateway.workspaces import archive_file, archives, packer
from gateway.workspaces.archive_places import GONE_PREFIX, MAKING_PREFIX, PURGED_PREFIX
from gateway.workspaces.unsaved import Unsaved
from tests.support.archive_rig import ID, NAME, ArchiveRig, snapshot

ARCHIVE_NAME = f"{NAME}-{ID}"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ArchiveRig]:
    rig = ArchiveRig(tmp_path)
    rig.make_repository()
    yield rig
    await rig.keepers.close()


async def test_one_that_was_being_packed_is_opened_again(rig: ArchiveRig):
    before = snapshot(rig.home, rig.tree)
    await rig.rows.close_workspace(ID)
    (rig.archive_dir / f"{MAKING_PREFIX}{ID}").mkdir()
    (rig.archive_dir / f"{MAKING_PREFIX}{ID}" / "archive.tar.zst").write_bytes(b"half")
    await rig.recover()
    assert (rig.workspace.is_active, rig.on_disk, snapshot(rig.home, rig.tree)) == (True, ([ID], []), before)


async def copied_archive(rig: ArchiveRig) -> dict[str, object]:
    """An archive and the files, both whole: the moment before the files are removed, or after they came back."""
    before = snapshot(rig.home, rig.tree)
    await rig.archive()
    await rig.unarchive(is_archive_kept=True)
    (kept,) = rig.archive_dir.iterdir()
    kept.rename(rig.archive_dir / ARCHIVE_NAME)
    return before


@pytest.mark.parametrize("is_marked", [False, True])
async def test_of_one_that_is_archived_the_files_are_removed(rig: ArchiveRig, is_marked: bool):
    before = await copied_archive(rig)
    await rig.rows.close_workspace(ID)
    if is_marked:
        await rig.rows.mark_workspace_archived(ID, datetime.now(UTC))
    await rig.recover()
    assert (rig.workspace.is_active, rig.on_disk) == (False, ([], [ARCHIVE_NAME]))
    assert rig.workspace.archived_at is not None
    await rig.unarchive()
    assert snapshot(rig.home, rig.tree) == before


async def test_of_one_that_is_back_the_archive_is_kept_aside(rig: ArchiveRig):
    before = await copied_archive(rig)
    await rig.recover()
    assert (rig.workspace.is_active, snapshot(rig.home, rig.tree)) == (True, before)
    assert rig.on_disk[1][0].startswith(f"{ARCHIVE_NAME}.restored-")


async def test_a_row_that_a_power_cut_set_back_follows_the_archive(rig: ArchiveRig):
    await rig.archive()
    await rig.rows.open_workspace(ID, is_counted=False)
    await rig.recover()
    assert (rig.workspace.is_active, rig.on_disk) == (False, ([], [ARCHIVE_NAME]))


async def test_one_that_was_being_deleted_is_deleted(rig: ArchiveRig):
    await copied_archive(rig)
    rig.rows.session_ids = ["s1"]
    await rig.rows.close_workspace(ID)
    (rig.workspaces_dir / f"{PURGED_PREFIX}{ID}").mkdir()
    await rig.recover()
    assert (rig.rows.rows, rig.on_disk, rig.recordings.deleted) == ({}, ([], []), ["s1"])


async def test_one_that_cannot_be_deleted_yet_does_not_keep_the_gateway_from_its_start(
    rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch
):
    (rig.workspaces_dir / f"{PURGED_PREFIX}{ID}").mkdir()

    async def hangs(workspace_id: str) -> None:
        raise KeeperRefused("the keeper of a workspace did not end within 10 s")

    with monkeypatch.context() as patched:
        patched.setattr(rig.archives, "_end_keeper", hangs)
        await rig.recover()
    assert (rig.workspace.is_active, rig.on_disk) == (False, ([f"{PURGED_PREFIX}{ID}", ID], []))
    await rig.recover()
    assert (rig.rows.rows, rig.on_disk) == ({}, ([], []))


async def test_what_belongs_to_nobody_is_removed(rig: ArchiveRig):
    for folder in (rig.workspaces_dir, rig.archive_dir):
        (folder / f"{GONE_PREFIX}x" / "tree").mkdir(parents=True)
    await rig.recover()
    assert rig.on_disk == ([ID], [])


# ------------------------------------------------------------------------------------------------- refused


async def test_a_disk_that_is_full_in_the_middle_changes_nothing(rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch):
    before = snapshot(rig.home, rig.tree)

    def full(self: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archive_file.FileWriter, "_put", full)
    with pytest.raises(CommandRefused, match="No space left on device; make room"):
        await rig.archive()
    assert (rig.workspace.is_active, rig.on_disk, snapshot(rig.home, rig.tree)) == (True, ([ID], []), before)


async def test_what_is_changed_while_it_is_read_refuses_the_archive(rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch):
    """The change comes between the first piece of the pack and the second look at everything."""
    (rig.tree / "large").write_bytes(os.urandom(2_000_000))
    real = archive_file.FileWriter.write
    sizes: list[int] = []

    def write(self: archive_file.FileWriter, data: bytes) -> None:
        sizes.append(len(data))
        (rig.tree / "README").write_text(f"changed {len(sizes)}")
        real(self, data)

    monkeypatch.setattr(archive_file.FileWriter, "write", write)
    with pytest.raises(CommandRefused, match="was changed while it was read"):
        await rig.archive()
    assert (rig.workspace.is_active, rig.on_disk) == (True, ([ID], []))


async def test_what_is_changed_while_it_is_read_back_refuses_the_archive(
    rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch
):
    """By a program that had ended again before anyone looked for one, or from outside."""
    real = packer.Packer.check

    async def check(*arguments: Any) -> dict[str, Any]:
        (rig.tree / "late").write_text("work")
        return await real(*arguments)

    monkeypatch.setattr(packer.Packer, "check", check)
    with pytest.raises(CommandRefused, match="was changed while it was read"):
        await rig.archive()
    assert (rig.workspace.is_active, rig.on_disk) == (True, ([ID], []))
    assert (rig.tree / "late").read_text() == "work"


async def test_an_archive_that_cannot_be_read_back_removes_nothing(rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch):
    before = snapshot(rig.home, rig.tree)
    real = archive_file.FileWriter.finish

    def finish(self: archive_file.FileWriter) -> archive_file.FileFacts:
        facts = real(self)
        path = Path(self._file.name)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        return facts

    monkeypatch.setattr(archive_file.FileWriter, "finish", finish)
    with pytest.raises(Exception, match=r"is damaged|cannot be read back"):
        await rig.archive()
    assert (rig.workspace.is_active, rig.on_disk, snapshot(rig.home, rig.tree)) == (True, ([ID], []), before)


async def test_one_that_is_not_cloned_yet_has_nothing_to_archive(rig: ArchiveRig):
    rig.rows._change(ID, is_cloned=False)
    with pytest.raises(CommandRefused, match="not cloned yet"):
        await rig.archive()
    assert (rig.workspace.is_active, rig.on_disk) == (True, ([ID], []))


@pytest.mark.parametrize("is_purged", [False, True])
async def test_cancelled_while_logins_are_closed_they_are_opened_again(
    rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch, is_purged: bool
):
    """Whoever is cancelled while the database writes does not undo the write."""
    real, closed = rig.rows.close_workspace, asyncio.Event()

    async def close(workspace_id: str) -> None:
        await real(workspace_id)
        closed.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(rig.rows, "close_workspace", close)
    purging = rig.archives.purge(rig.workspace, refuse=nothing)
    running = asyncio.create_task(purging if is_purged else rig.archive())
    if not is_purged:
        purging.close()
    await closed.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (rig.workspace.is_active, rig.on_disk) == (True, ([ID], []))


async def test_what_was_changed_since_it_was_named_is_seen(rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch):
    """Whoever types a name, or has programs ended first, was told of the workspace some time ago."""
    real = rig.keepers.keeper_for

    async def keeper_for(workspace: Workspace) -> Keeper:
        for folder in (workspace.home, workspace.tree):  # as launchers do: nothing unsaved is in there
            folder.mkdir(parents=True, exist_ok=True)
        return await real(workspace)

    monkeypatch.setattr(rig.keepers, "keeper_for", keeper_for)
    (rig.tree / "new").write_text("work")
    before, active = snapshot(rig.home, rig.tree), rig.workspace
    await rig.archive()
    archived = rig.workspace
    for command in (rig.archives.archive(active, say=rig.say), rig.archives.purge(active, refuse=refuse_unsaved)):
        with pytest.raises(CommandRefused):
            await command
    assert (rig.workspace.is_active, rig.on_disk) == (False, ([], [ARCHIVE_NAME]))
    await rig.unarchive()
    with pytest.raises(CommandRefused, match="is not archived"):
        await rig.archives.unarchive(archived, is_archive_kept=False, say=rig.say)
    with pytest.raises(CommandRefused):
        await rig.archives.purge(archived, refuse=refuse_unsaved)
    assert (rig.workspace.is_active, snapshot(rig.home, rig.tree)) == (True, before)


async def test_one_that_was_deleted_meanwhile_is_missing(rig: ArchiveRig):
    workspace = rig.workspace
    await rig.archives.purge(workspace, refuse=nothing)
    for command in (
        rig.archives.archive(workspace, say=rig.say),
        rig.archives.unarchive(workspace, is_archive_kept=False, say=rig.say),
        rig.archives.purge(workspace, refuse=nothing),
    ):
        with pytest.raises(WorkspaceMissing):
            await command
    assert rig.on_disk == ([], [])


async def test_one_whose_keeper_does_not_end_is_not_deleted(rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch):
    async def hangs(workspace_id: str) -> None:
        raise KeeperRefused("the keeper of a workspace did not end within 10 s")

    monkeypatch.setattr(rig.archives, "_end_keeper", hangs)
    with pytest.raises(KeeperRefused):
        await rig.archives.purge(rig.workspace, refuse=nothing)
    assert (rig.workspace.is_active, rig.on_disk) == (True, ([ID], []))


async def test_what_may_not_be_archived_is_asked_once_nobody_can_change_it(rig: ArchiveRig):
    before = snapshot(rig.home, rig.tree)
    with pytest.raises(CommandRefused, match="no"):
        await rig.archives.archive(rig.workspace, say=rig.say, refuse=refuse_unsaved)
    assert (rig.workspace.is_active, rig.on_disk, snapshot(rig.home, rig.tree)) == (True, ([ID], []), before)


async def test_the_archive_goes_only_when_the_name_of_the_files_is_on_the_disk(
    rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch
):
    """They may be on two disks."""
    await rig.archive()
    synced: list[tuple[Path, tuple[list[str], list[str]]]] = []
    monkeypatch.setattr(archives, "sync_directory", lambda folder: synced.append((folder, rig.on_disk)))
    await rig.unarchive()
    assert synced == [(rig.workspaces_dir, ([ID], [ARCHIVE_NAME]))]


async def test_two_commands_at_once_are_one_too_many(rig: ArchiveRig):
    with rig.archives._alone(rig.workspace), pytest.raises(CommandRefused, match="just now"):
        await rig.archive()


# ------------------------------------------------------------------------------------------------- deleted


def nothing(unsaved: Unsaved) -> None:
    return None


def refuse_unsaved(unsaved: Unsaved) -> None:
    if not unsaved.is_clean:
        raise CommandRefused("no")


@pytest.mark.parametrize("is_archived", [False, True])
async def test_deleting_takes_everything(rig: ArchiveRig, is_archived: bool):
    await copied_archive(rig)
    await rig.recover()  # a kept archive beside it
    if is_archived:
        await rig.archive()
    rig.rows.session_ids = ["s1", "s2"]
    assert await rig.archives.purge(rig.workspace, refuse=nothing) == 2
    assert (rig.rows.rows, rig.on_disk, rig.recordings.deleted) == ({}, ([], []), ["s1", "s2"])


@pytest.mark.parametrize("is_archived", [False, True])
async def test_deleting_is_refused_once_nobody_can_change_anything(rig: ArchiveRig, is_archived: bool):
    """What is asked then is what will be deleted. Nothing has changed after the refusal."""
    before = snapshot(rig.home, rig.tree)
    if is_archived:
        await rig.archive()
    seen: list[tuple[bool, Unsaved]] = []

    def refuse(unsaved: Unsaved) -> None:
        seen.append((rig.workspace.is_active, unsaved))
        raise CommandRefused("no")

    with pytest.raises(CommandRefused):
        await rig.archives.purge(rig.workspace, refuse=refuse)
    assert [(is_active, unsaved.is_clean) for is_active, unsaved in seen] == [(False, False)]
    assert rig.workspace.is_active is not is_archived
    if is_archived:
        await rig.unarchive()
    assert snapshot(rig.home, rig.tree) == before


async def test_a_program_keeps_a_workspace_from_being_deleted(rig: ArchiveRig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "PROGRAMS_GONE_SECONDS", 0.1)
    keeper = await rig.keepers.keeper_for(rig.workspace)

    async def one() -> int:
        return 1

    monkeypatch.setattr(keeper, "process_count", one)
    with pytest.raises(CommandRefused, match="a program runs"):
        await rig.archives.purge(rig.workspace, refuse=nothing)
    assert (rig.workspace.is_active, rig.on_disk) == (True, ([ID], []))


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "manifest.json").write_text("{"),
        lambda place: (place / "manifest.json").write_text('{"format": 2}'),
        lambda place: (place / "manifest.json").write_text("[" * 100_000),
        lambda place: (place / "archive.tar.zst").unlink(),
    ],
    ids=["cut", "newer", "deep", "missing"],
)
async def test_an_archive_that_makes_no_sense_is_listed_and_refused(rig: ArchiveRig, damage: Damage):
    place = await rig.archive()
    damage(place)
    assert [archived.place for archived in await rig.archives.list_archived()] == [place]
    with pytest.raises(Exception, match=r"archive|disk refused"):
        await rig.unarchive()
    assert (rig.workspace.is_active, rig.on_disk) == (False, ([], [ARCHIVE_NAME]))
