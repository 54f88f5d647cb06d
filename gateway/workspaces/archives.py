"""Archives workspaces, brings them back, and deletes them for good. Nothing that was not saved is lost on the way.

Which folder means what, at each moment and after a crash, stands in archive_places.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from gateway.errors import CommandRefused, GatewayError, KeeperGone, WorkspaceMissing
from gateway.events import Event
from gateway.interfaces import Keeper, Keepers, Launcher, Workspace
from gateway.log import log_event, log_warning
from gateway.workspaces.archive_file import refuse_full_disk
from gateway.workspaces.archive_places import (
    Archived,
    ArchivePlaces,
    archived,
    archived_since,
    is_packed,
    put_out,
    set_aside,
    sync_file_system,
)
from gateway.workspaces.create import end_keeper
from gateway.workspaces.making import uninterrupted
from gateway.workspaces.manifest import ARCHIVE, BUNDLE, Manifest, sync_directory
from gateway.workspaces.packer import Packer, in_thread
from gateway.workspaces.removal import remove_for_good
from gateway.workspaces.unsaved import UNKNOWN, Unsaved, unsaved_in

# A program that has ended may be seen for a moment longer.
PROGRAMS_GONE_SECONDS = 2.0
PROGRAMS_LOOK_SECONDS = 0.05

Say = Callable[[str], Awaitable[None]]
Refuse = Callable[[Unsaved], None]


class ArchiveRows(Protocol):
    """What this module asks of the database (gateway/store)."""

    async def list_workspaces(self, *, include_inactive: bool = False) -> list[Workspace]: ...

    async def workspace(self, workspace_id: str) -> Workspace | None: ...

    async def close_workspace(self, workspace_id: str) -> None:
        """No more logins."""
        ...

    async def mark_workspace_archived(self, workspace_id: str, archived_at: datetime) -> None:
        """Closed, and its files are in the archive."""
        ...

    async def open_workspace(self, workspace_id: str, *, is_counted: bool) -> None:
        """Logins again. `is_counted`: raises CommandRefused if there are as many as `workspaces_max` allows."""
        ...

    async def delete_workspace(self, workspace_id: str) -> list[str]:
        """Its row, and with it those of its sessions, whose ids are returned. None was there: none."""
        ...


class RecordingRemoval(Protocol):
    async def delete(self, session_ids: Sequence[str]) -> object:
        """Remove the recordings of these sessions; those without one are passed over."""
        ...


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    seconds_max: float  # of each step
    free_bytes_min: int  # that stay free on the disk


class WorkspaceArchives:
    """One command at a time for each workspace. Each can be cancelled until its last step, and undoes itself then."""

    def __init__(
        self,
        places: ArchivePlaces,
        limits: ArchiveLimits,
        *,
        keepers: Keepers,
        launcher: Launcher,
        rows: ArchiveRows,
        recordings: RecordingRemoval,
    ) -> None:
        self._places = places
        self._limits = limits
        self._keepers = keepers
        self._launcher = launcher
        self._rows = rows
        self._recordings = recordings
        self._busy: set[str] = set()

    # --------------------------------------------------------------------------------------------- archive

    async def archive(self, workspace: Workspace, *, say: Say, refuse: Refuse | None = None) -> Archived:
        """Raises CommandRefused: programs run, something cannot be read, no room. Then nothing has changed.

        `refuse` may raise too; it is asked once nobody can change anything any more.
        """
        with self._alone(workspace):
            workspace = await self._current(workspace)
            if not workspace.is_active:
                raise CommandRefused(f'"{workspace.name}" is archived already')
            if not workspace.is_cloned:  # its first login may be cloning it just now
                raise CommandRefused(f'"{workspace.name}" is not cloned yet, so there is nothing to archive')
            making = self._places.making(workspace.id)
            if self._places.found(workspace.id) is not None:
                raise CommandRefused(f'the archive folder has an archive of "{workspace.name}" already; move it away')
            await self._close(workspace)  # so that no login starts a program in what is packed
            try:
                manifest = await self._make(workspace, making, say, refuse)
                target = self._places.target(workspace)
                making.rename(target)  # from here on there is an archive, and nothing waits before what follows
            except BaseException:
                await uninterrupted(self._give_up(workspace, making))
                raise
            await uninterrupted(self._put_away(workspace, manifest.archived_at))
        log_event(Event.WORKSPACE_ARCHIVED, workspace=workspace.name, size_bytes=manifest.archive.size_bytes)
        return archived(workspace, target, manifest)

    async def _make(self, workspace: Workspace, making: Path, say: Say, refuse: Refuse | None) -> Manifest:
        """The whole archive under another name; on the disk, read back and compared when this returns."""
        with _disk_errors():
            await in_thread(remove_for_good, making)
            making.mkdir(mode=0o700)
            refuse_full_disk(making, self._limits.free_bytes_min)
            packer = await self._packer(workspace)
            survey = await packer.survey()
            if refuse is not None:
                refuse(unsaved_in(survey))
            bundle = await packer.bundle(making / BUNDLE)
            await say(f'packing "{workspace.name}"')
            written = await packer.pack(making / ARCHIVE)
            await say("reading the archive back")
            packed = await packer.check(making / ARCHIVE, written)
            await self._refuse_programs(workspace)
            await packer.refuse_changed(packed)  # to read it back took its time; what was written then is not in it
            manifest = Manifest(workspace.id, workspace.name, datetime.now(UTC), written, bundle, packed, survey)
            await in_thread(manifest.write, making)
            return manifest

    async def _put_away(self, workspace: Workspace, archived_at: datetime) -> None:
        await in_thread(sync_directory, self._places.archive_dir)
        await self._rows.mark_workspace_archived(workspace.id, archived_at)
        await self._end_keeper(workspace.id)
        await in_thread(self._places.remove_files, workspace.id)

    async def _give_up(self, workspace: Workspace, making: Path) -> None:
        try:
            await in_thread(remove_for_good, making)
        finally:
            await self._rows.open_workspace(workspace.id, is_counted=False)

    # ------------------------------------------------------------------------------------------- unarchive

    async def unarchive(self, workspace: Workspace, *, is_archive_kept: bool, say: Say) -> Path | None:
        """Bring everything back; returns where the archive is kept, if it is. Raises ArchiveDamaged, CommandRefused;
        then the archive is as it was."""
        with self._alone(workspace):
            workspace = await self._current(workspace)
            if workspace.is_active:
                raise CommandRefused(f'"{workspace.name}" is not archived')
            source = self._places.found(workspace.id)
            if source is None:
                raise CommandRefused(f'the files of "{workspace.name}" are not in the archive folder')
            if self._places.files(workspace.id).exists():
                raise CommandRefused(f'there are files of "{workspace.name}" already, in workspaces/{workspace.id}')
            if not is_packed(source):
                await uninterrupted(self._move_back(workspace, source))
                return None
            half_made = self._places.half_made(workspace.id)
            try:
                await self._fill(workspace, source, half_made, say)
                half_made.rename(self._places.files(workspace.id))
            except BaseException:
                await uninterrupted(self._undo(workspace.id, half_made))
                raise
            kept: list[Path] = []
            await uninterrupted(self._open_again(workspace, source, kept if is_archive_kept else None))
            return kept[0] if kept else None

    async def _fill(self, workspace: Workspace, source: Path, place: Path, say: Say) -> None:
        with _disk_errors():
            manifest = await in_thread(Manifest.read, source)
            # The tar's own length: files with holes take no more than that again.
            free_bytes_min = self._limits.free_bytes_min
            refuse_full_disk(source, free_bytes_min, wanted_bytes=manifest.archive.content_bytes)
            await self._end_keeper(workspace.id)  # one that an interrupted try left sees the place of then
            await in_thread(remove_for_good, place)
            for folder in (place, place / "home", place / "tree"):
                folder.mkdir(mode=0o700)
            packer = await self._packer(replace(workspace, home=place / "home", tree=place / "tree"))
            await say(f'unpacking "{workspace.name}"')
            await packer.unpack(source / ARCHIVE, manifest.archive)
            await self._end_keeper(workspace.id)  # its walls were built around the place's first name
            await in_thread(sync_file_system, place)  # before the archive goes

    async def _open_again(self, workspace: Workspace, source: Path, kept: list[Path] | None) -> None:
        try:
            await in_thread(sync_directory, self._places.workspaces_dir)  # it may be another disk than the archive's
            await self._rows.open_workspace(workspace.id, is_counted=True)
        except BaseException:
            await in_thread(self._places.remove_files, workspace.id)
            raise
        log_event(Event.WORKSPACE_RESTORED, workspace=workspace.name)
        if kept is None:
            await in_thread(remove_for_good, put_out(source))
        else:
            kept.append(set_aside(source))

    async def _move_back(self, workspace: Workspace, source: Path) -> None:
        """An archive of an earlier version: the files as they were."""
        final = self._places.files(workspace.id)
        source.rename(final)
        try:
            await self._rows.open_workspace(workspace.id, is_counted=True)
        except BaseException:
            final.rename(source)
            raise
        log_event(Event.WORKSPACE_RESTORED, workspace=workspace.name)

    async def _undo(self, workspace_id: str, half_made: Path) -> None:
        try:
            await self._end_keeper(workspace_id)
        finally:
            await in_thread(remove_for_good, half_made)

    # ----------------------------------------------------------------------------------------------- purge

    async def unsaved(self, workspace: Workspace) -> Unsaved:
        """What exists nowhere else: looked for now, or as it was when it was archived."""
        if not workspace.is_active:
            return (await self.find(workspace)).unsaved
        try:
            return unsaved_in(await (await self._packer(workspace)).survey())
        except GatewayError as error:
            log_warning(Event.GATEWAY_WARNED, reason="survey_failed", workspace=workspace.name, detail=str(error))
            return UNKNOWN

    async def purge(self, workspace: Workspace, *, refuse: Refuse) -> int:
        """Delete files, archives, row, sessions and their recordings; how many sessions there were.

        `refuse` raises if this must not be lost; it is asked once nobody can change anything any more.
        """
        with self._alone(workspace):
            workspace = await self._current(workspace)
            if workspace.is_active:
                await self._close(workspace)
            try:
                refuse(await self.unsaved(workspace))
                await self._refuse_programs(workspace)
                await self._end_keeper(workspace.id)
            except BaseException:
                if workspace.is_active:
                    await uninterrupted(self._rows.open_workspace(workspace.id, is_counted=False))
                raise
            counts: list[int] = []
            await uninterrupted(self._purge(workspace.id, counts))
        log_event(Event.WORKSPACE_PURGED, workspace=workspace.name, session_count=counts[0])
        return counts[0]

    async def _purge(self, workspace_id: str, counts: list[int]) -> None:
        await self._end_keeper(workspace_id)
        await in_thread(self._places.mark_purged, workspace_id)
        session_ids = await self._rows.delete_workspace(workspace_id)
        await self._recordings.delete(session_ids)
        await in_thread(self._places.remove_all, workspace_id)
        counts.append(len(session_ids))

    # ------------------------------------------------------------------------------- what there is, what was left

    async def find(self, workspace: Workspace) -> Archived:
        return await in_thread(self._places.read, workspace)

    async def list_archived(self) -> list[Archived]:
        rows = await self._rows.list_workspaces(include_inactive=True)
        return [await self.find(row) for row in rows if not row.is_active]

    async def recover(self) -> list[Path]:
        """Finish or undo what a crash interrupted. For the start, when nobody else is at work. Returns folders that
        belong to nobody any more; to remove them may take long."""
        unfinished = [
            workspace_id for workspace_id in self._places.purged_ids() if not await self._purged(workspace_id)
        ]
        remains = self._places.remains()
        for row in await self._rows.list_workspaces(include_inactive=True):
            try:
                if row.id not in unfinished:
                    remains += await self._recover(row)
                elif row.is_active:  # the next start deletes it: nobody may work in it until then
                    await self._rows.close_workspace(row.id)
            except (GatewayError, OSError) as error:
                log_warning(Event.GATEWAY_WARNED, reason="archive_not_recovered", workspace=row.name, detail=str(error))
        return remains

    async def _purged(self, workspace_id: str) -> bool:
        """Go on with what is marked as deleted; False: it cannot be done now, and the gateway starts all the same."""
        try:
            await self._purge(workspace_id, [])
        except (GatewayError, OSError) as error:
            log_warning(Event.GATEWAY_WARNED, reason="purge_not_finished", workspace_id=workspace_id, detail=str(error))
            return False
        return True

    async def sweep(self, remains: Sequence[Path]) -> None:
        for place in remains:
            await in_thread(remove_for_good, place)

    async def _recover(self, row: Workspace) -> list[Path]:
        archive, has_files = self._places.found(row.id), self._places.files(row.id).exists()
        if archive is None:
            if has_files and not row.is_active:
                await self._rows.open_workspace(row.id, is_counted=False)
            return []
        if row.is_active and has_files:
            set_aside(archive)
            return []
        # Also where a power cut took the last change of the row, but not what was done on the disk after it.
        if row.is_active or row.archived_at is None:
            await self._rows.mark_workspace_archived(row.id, archived_since(archive))
        if not has_files:
            return []
        await self._end_keeper(row.id)
        return [put_out(self._places.files(row.id))]

    # --------------------------------------------------------------------------------------------- the rest

    @contextlib.contextmanager
    def _alone(self, workspace: Workspace) -> Iterator[None]:
        if workspace.id in self._busy:
            raise CommandRefused(f'another command archives "{workspace.name}", or brings it back, just now')
        self._busy.add(workspace.id)
        try:
            yield
        finally:
            self._busy.discard(workspace.id)

    async def _current(self, workspace: Workspace) -> Workspace:
        """As it is now that no other command changes it: the caller's may be from before a question that was answered
        late, and the files of one that was archived meanwhile look like those of an empty one."""
        found = await self._rows.workspace(workspace.id)
        if found is None:
            raise WorkspaceMissing(f'"{workspace.name}" was deleted meanwhile')
        return found

    async def _close(self, workspace: Workspace) -> None:
        try:
            await self._rows.close_workspace(workspace.id)
            await self._refuse_programs(workspace)
        except BaseException:  # also cancelled during the first: the database writes all the same
            await uninterrupted(self._rows.open_workspace(workspace.id, is_counted=False))
            raise

    async def _packer(self, workspace: Workspace) -> Packer:
        return Packer(
            await self._keepers.keeper_for(workspace),
            self._launcher.inside(workspace),
            name=workspace.name,
            seconds_max=self._limits.seconds_max,
            free_bytes_min=self._limits.free_bytes_min,
        )

    async def _refuse_programs(self, workspace: Workspace) -> None:
        """A program that writes on would write into what is packed already, or removed next."""
        for keeper in self._keepers_of(workspace.id):
            try:
                async with asyncio.timeout(PROGRAMS_GONE_SECONDS):
                    while await keeper.process_count():  # noqa: ASYNC110  (a keeper tells only when asked)
                        await asyncio.sleep(PROGRAMS_LOOK_SECONDS)
            except KeeperGone:
                continue
            except TimeoutError:
                raise CommandRefused(f'a program runs in "{workspace.name}"; end it, then try again') from None

    def _keepers_of(self, workspace_id: str) -> list[Keeper]:
        return [keeper for keeper in self._keepers.running() if keeper.workspace_id == workspace_id]

    async def _end_keeper(self, workspace_id: str) -> None:
        for keeper in self._keepers_of(workspace_id):
            await end_keeper(keeper)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandRefused(
            f"the disk refused it, and nothing was changed: {error.strerror}; make room or look at the disk, then try"
            " again"
        ) from error
