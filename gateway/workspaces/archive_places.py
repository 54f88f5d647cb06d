"""Where archives lie, and what the names of folders tell of a workspace that is archived, brought back or deleted.

    row                        workspaces/          archive/
    active                     ID                   -               as usual
    closed (not active)        ID                   .making-ID      being archived: opened again at the next start
    closed                     ID                   NAME-ID         archived: the start goes on with removing files
    archived (archived_at)     -                    NAME-ID         as usual
    archived                   .new-ID              NAME-ID         being brought back: .new-ID is removed at the start
    archived                   ID                   NAME-ID         the same, or archived: the files are removed again
    active                     ID                   NAME-ID         brought back: the archive is kept by another name
    any                        .purged-ID           any             being deleted: the start goes on with it

`.gone-…` is to be removed, wherever it is. An archive appears under its name in one step, whole and read back, and
files are removed only after that. Everything here blocks for moments; what takes longer says so.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.errors import ArchiveDamaged
from gateway.ids import new_id
from gateway.interfaces import Workspace
from gateway.workspaces.making import HALF_MADE_PREFIX
from gateway.workspaces.manifest import MANIFEST, Manifest, sync_directory
from gateway.workspaces.removal import remove_for_good
from gateway.workspaces.unsaved import UNKNOWN, Unsaved, unsaved_in

MAKING_PREFIX = ".making-"
GONE_PREFIX = ".gone-"
PURGED_PREFIX = ".purged-"
KEPT_MARK = ".restored-"


@dataclass(frozen=True, slots=True)
class Archived:
    """A workspace's archive, as it lies there."""

    workspace: Workspace
    place: Path | None  # None: its files are missing
    archived_at: datetime | None = None  # None: an earlier version did not write it down
    size_bytes: int | None = None  # None: made by an earlier version, plain files
    content_bytes: int | None = None
    has_bundle: bool = False
    skipped_count: int = 0  # sockets, which mean nothing without their programs
    unsaved: Unsaved = UNKNOWN  # when it was archived


class ArchivePlaces:
    def __init__(self, *, workspaces_dir: Path, archive_dir: Path) -> None:
        self.workspaces_dir = workspaces_dir
        self.archive_dir = archive_dir

    def files(self, workspace_id: str) -> Path:
        return self.workspaces_dir / workspace_id

    def half_made(self, workspace_id: str) -> Path:
        return self.workspaces_dir / f"{HALF_MADE_PREFIX}{workspace_id}"

    def making(self, workspace_id: str) -> Path:
        return self.archive_dir / f"{MAKING_PREFIX}{workspace_id}"

    def target(self, workspace: Workspace) -> Path:
        return self.archive_dir / f"{workspace.name}-{workspace.id}"

    def found(self, workspace_id: str) -> Path | None:
        """The archive, by its id: the workspace may have had another name then."""
        return next(iter(sorted(self.archive_dir.glob(f"[!.]*-{workspace_id}"))), None)

    def read(self, workspace: Workspace) -> Archived:
        place = self.found(workspace.id)
        if place is None or not is_packed(place):
            return Archived(workspace, place, workspace.archived_at)
        try:
            return archived(workspace, place, Manifest.read(place))
        except (ArchiveDamaged, OSError):
            return Archived(workspace, place, workspace.archived_at)

    def remove_files(self, workspace_id: str) -> None:
        """May take long."""
        if self.files(workspace_id).exists():
            remove_for_good(put_out(self.files(workspace_id)))

    def mark_purged(self, workspace_id: str) -> None:
        """From here on it is deleted, whatever happens: the next start goes on with it."""
        (self.workspaces_dir / f"{PURGED_PREFIX}{workspace_id}").mkdir(mode=0o700, exist_ok=True)
        sync_directory(self.workspaces_dir)

    def remove_all(self, workspace_id: str) -> None:
        """May take long. Files, archive and kept archives of one that is marked as purged, and last the mark."""
        self.remove_files(workspace_id)
        for place in sorted(self.archive_dir.glob(f"*-{workspace_id}*")):
            remove_for_good(place)
        remove_for_good(self.workspaces_dir / f"{PURGED_PREFIX}{workspace_id}")

    def purged_ids(self) -> list[str]:
        return [path.name.removeprefix(PURGED_PREFIX) for path in sorted(self.workspaces_dir.glob(f"{PURGED_PREFIX}*"))]

    def remains(self) -> list[Path]:
        """What a crash left that belongs to nobody, out of the way of what is begun from now on."""
        left = [*self.archive_dir.glob(f"{MAKING_PREFIX}*"), *self.archive_dir.glob(f"{GONE_PREFIX}*"),
                *self.workspaces_dir.glob(f"{GONE_PREFIX}*")]  # fmt: skip
        return [put_out(place) for place in left]


def archived(workspace: Workspace, place: Path, manifest: Manifest) -> Archived:
    bundle_bytes = 0 if manifest.bundle is None else manifest.bundle.size_bytes
    return Archived(
        workspace,
        place,
        manifest.archived_at,
        size_bytes=manifest.archive.size_bytes + bundle_bytes,
        content_bytes=packed_number(manifest.packed, "content_bytes"),
        has_bundle=manifest.bundle is not None,
        skipped_count=packed_number(manifest.packed, "skipped_count"),
        unsaved=unsaved_in(manifest.git if isinstance(manifest.git, dict) else None),
    )


def is_packed(place: Path) -> bool:
    """Or plain files, as earlier versions put them away."""
    return (place / MANIFEST).exists()


def archived_since(place: Path) -> datetime:
    """When a folder got its name (rename(2) changes the time of its last status change)."""
    return datetime.fromtimestamp(place.stat().st_ctime, UTC)


def put_out(place: Path) -> Path:
    """Give a folder the name of what is to be removed: half of it under its own would pass for the whole."""
    gone = place.with_name(f"{GONE_PREFIX}{new_id()}")
    place.rename(gone)
    return gone


def set_aside(place: Path) -> Path:
    """Keep an archive although its workspace is back, where the next one will not be in its way."""
    kept = place.with_name(f"{place.name}{KEPT_MARK}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    place.rename(kept)
    return kept


def packed_number(packed: Mapping[str, object], name: str) -> int:
    value = packed.get(name)
    return value if isinstance(value, int) and 0 <= value < 1 << 60 else 0


def sync_file_system(place: Path) -> None:
    """May take long. All of the file system that `place` is on (syncfs(2)): one call instead of one for each file."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)
