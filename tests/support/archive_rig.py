"""Workspaces to be archived: real files and a real git, keepers without walls, rows in memory."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from gateway.errors import CommandRefused
from gateway.interfaces import Workspace
from gateway.workspaces.archive_places import ArchivePlaces
from gateway.workspaces.archives import ArchiveLimits, WorkspaceArchives
from tests.support.local_keepers import LocalKeepers, LocalLauncher

ID = "01932b7e-8f3c-7c4e-9d31-5a1f0c8e2b77"
NAME = "my-app"
GIT_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",  # `git status` would write the index
    **{f"GIT_{role}_{what}": f"{what}@x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


@dataclass
class Rows:
    """Implements ArchiveRows."""

    rows: dict[str, Workspace] = field(default_factory=dict)
    session_ids: list[str] = field(default_factory=list)
    is_full: bool = False

    async def list_workspaces(self, *, include_inactive: bool = False) -> list[Workspace]:
        return [row for row in self.rows.values() if include_inactive or row.is_active]

    async def workspace(self, workspace_id: str) -> Workspace | None:
        return self.rows.get(workspace_id)

    async def close_workspace(self, workspace_id: str) -> None:
        self._change(workspace_id, is_active=False, archived_at=None)

    async def mark_workspace_archived(self, workspace_id: str, archived_at: datetime) -> None:
        self._change(workspace_id, is_active=False, archived_at=archived_at)

    async def open_workspace(self, workspace_id: str, *, is_counted: bool) -> None:
        if is_counted and self.is_full:
            raise CommandRefused("there are 1 workspaces already")
        self._change(workspace_id, is_active=True, archived_at=None)

    async def delete_workspace(self, workspace_id: str) -> list[str]:
        return self.session_ids if self.rows.pop(workspace_id, None) else []

    def _change(self, workspace_id: str, **values: object) -> None:
        self.rows[workspace_id] = replace(self.rows[workspace_id], **values)  # type: ignore[arg-type]


@dataclass
class Recordings:
    """Implements RecordingRemoval."""

    deleted: list[str] = field(default_factory=list)

    async def delete(self, session_ids: Sequence[str]) -> object:
        self.deleted += session_ids
        return None


class ArchiveRig:
    """One workspace `my-app` in `directory`, and what archives it."""

    def __init__(self, directory: Path, *, free_bytes_min: int = 0, seconds_max: float = 60) -> None:
        self.directory = directory
        self.workspaces_dir, self.archive_dir = directory / "workspaces", directory / "archive"
        for folder in (self.workspaces_dir, self.archive_dir):
            folder.mkdir()
        place = self.workspaces_dir / ID
        self.home, self.tree = place / "home", place / "tree"
        for folder in (place, self.home, self.tree):
            folder.mkdir(mode=0o700)
        self.rows = Rows({ID: Workspace(ID, NAME, self.home, self.tree)})
        self.recordings = Recordings()
        self.keepers = LocalKeepers()
        self.said: list[str] = []
        self.archives = WorkspaceArchives(
            ArchivePlaces(workspaces_dir=self.workspaces_dir, archive_dir=self.archive_dir),
            ArchiveLimits(seconds_max=seconds_max, free_bytes_min=free_bytes_min),
            keepers=self.keepers,
            launcher=LocalLauncher(),
            rows=self.rows,
            recordings=self.recordings,
        )

    @property
    def workspace(self) -> Workspace:
        return self.rows.rows[ID]

    @property
    def on_disk(self) -> tuple[list[str], list[str]]:
        """What lies in workspaces/ and in archive/."""
        return sorted(os.listdir(self.workspaces_dir)), sorted(os.listdir(self.archive_dir))

    async def say(self, text: str) -> None:
        self.said.append(text)

    async def archive(self) -> Path:
        place = (await self.archives.archive(self.workspace, say=self.say)).place
        assert place is not None
        return place

    async def unarchive(self, *, is_archive_kept: bool = False) -> Path | None:
        return await self.archives.unarchive(self.workspace, is_archive_kept=is_archive_kept, say=self.say)

    async def recover(self) -> None:
        await self.archives.sweep(await self.archives.recover())

    def git(self, *words: str, check: bool = True, where: Path | None = None) -> str:
        done = subprocess.run(
            ["git", "-C", where or self.tree, *words], env=GIT_ENVIRONMENT, check=False, capture_output=True
        )
        assert not check or done.returncode == 0, (words, done.stderr)
        return done.stdout.decode(errors="surrogateescape")

    def make_repository(self, where: Path | None = None) -> None:
        self.git("init", "-q", "-b", "main", where=where)
        ((where or self.tree) / "README").write_text("hello\n")
        self.git("add", "README", where=where)
        self.git("commit", "-q", "-m", "one", where=where)


def snapshot(*roots: Path) -> dict[str, object]:
    """Everything that an archive promises to bring back: names, kinds, modes, times, contents, targets, hard links,
    extended attributes. Not owners, of which there is only one."""
    found: dict[str, object] = {}
    names_of: dict[tuple[int, int], str] = {}
    for root in roots:
        for folder, folders, files in os.walk(os.fsencode(root)):
            for name in sorted([b".", *folders, *files]):
                path = os.path.join(folder, name)
                if name == b"." and folder != os.fsencode(root):
                    continue
                status = os.lstat(path)
                key = f"{root.name}/{os.fsdecode(os.path.relpath(path, os.fsencode(root)))}"
                first = names_of.setdefault((status.st_dev, status.st_ino), key)
                found[key] = (
                    stat.S_IFMT(status.st_mode),
                    stat.S_IMODE(status.st_mode),
                    status.st_mtime_ns,
                    None if stat.S_ISDIR(status.st_mode) else first,
                    _content(path, status),
                    _attributes(path, status),
                )
    return found


def _content(path: bytes, status: os.stat_result) -> object:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(status.st_mode):
        return None
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        at = 0
        while at < status.st_size:  # by its pieces of data: one of the files is a terabyte of nothing
            try:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            digest.update(b"%d\n" % begin + os.pread(file.fileno(), at - begin, begin))
    return status.st_size, digest.hexdigest()


def _attributes(path: bytes, status: os.stat_result) -> dict[str, bytes]:
    if stat.S_ISLNK(status.st_mode):
        return {}
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}
