"""A yard over keepers without walls: workspaces are made for real, by a real git, with rows in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.errors import CommandRefused, NameTaken
from gateway.interfaces import Workspace
from gateway.journal import JournalAction
from gateway.workspace_name import GITHUB_URL, GitHosts
from gateway.workspaces.create import WorkspaceYard
from gateway.workspaces.renamed import GithubRepositories
from tests.support.local_keepers import LocalKeepers, LocalLauncher

# Stands for ssh: whatever the host, runs the far side's command here.
SSH = '#!/bin/sh\nfor command; do :; done\nprintf "%s" "$SSH_SAYS" >&2\neval exec "$command"\n'


@dataclass
class Rows:
    """Implements WorkspaceRows."""

    workspaces_dir: Path
    rows: list[Workspace] = field(default_factory=list)
    refuses_late: bool = False
    rows_max: int = 100
    journal: list[tuple[str, bool, dict[str, object]]] = field(default_factory=list)

    async def find_workspace(self, login_name: str) -> Workspace | None:
        return next((row for row in self.rows if row.name == login_name), None)

    async def find_workspace_by_repo(self, github_repo: str) -> Workspace | None:
        return next((row for row in self.rows if row.github_repo == github_repo), None)

    async def add_workspace(self, name: str, *, id: str | None = None, **values: str | None) -> Workspace:
        if self.refuses_late:
            raise NameTaken("another command was faster")
        assert id is not None
        place = self.workspaces_dir / id
        self.rows.append(Workspace(id, name, place / "home", place / "tree", **values))  # type: ignore[arg-type]
        return self.rows[-1]

    async def workspace(self, workspace_id: str) -> Workspace | None:
        return next((row for row in self.rows if row.id == workspace_id), None)

    async def refuse_one_more_workspace(self) -> None:
        if len(self.rows) >= self.rows_max:
            raise CommandRefused("no more")

    async def mark_workspace_cloned(self, workspace_id: str, *, branch: str) -> None:
        self.change(workspace_id, is_cloned=True, branch=branch)

    async def mark_workspace_synced(self, workspace_id: str) -> None:
        self.change(workspace_id, last_sync_at=datetime.now(UTC))

    async def rename_workspace(self, workspace_id: str, name: str) -> list[str]:
        self.change(workspace_id, name=name)
        return []

    async def set_workspace_repository(self, workspace_id: str, **values: object) -> None:
        self.change(workspace_id, **values)

    async def record(
        self, action: JournalAction, *, success: bool, details: Mapping[str, object] | None = None
    ) -> None:
        self.journal.append((action.value, success, dict(details or {})))

    def change(self, workspace_id: str, **values: Any) -> None:
        self.rows = [replace(row, **values) if row.id == workspace_id else row for row in self.rows]


class Progress:
    def __init__(self) -> None:
        self.text = ""

    async def write(self, data: bytes) -> None:
        self.text += data.decode()


@dataclass
class Rig:
    yard: WorkspaceYard
    rows: Rows
    keepers: LocalKeepers
    directory: Path
    progress: Progress = field(default_factory=Progress)

    async def create(self, name: str | None, source: str | None = None, **options: Any) -> Workspace:
        options = {"is_terminal": False, **options}
        return await self.yard.create(name=name, source=source, progress=self.progress, **options)

    @property
    def left_on_disk(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "workspaces").iterdir())

    def assert_nothing_left(self) -> None:
        assert (self.left_on_disk, self.rows.rows, self.keepers.running()) == ([], [], [])


@contextlib.asynccontextmanager
async def opened_rig(
    tmp_path: Path, web_url: str = GITHUB_URL, github: GithubRepositories | None = None
) -> AsyncIterator[Rig]:
    """`web_url`: of the GitHub that is configured; any other host is allowed as well."""
    for name in ("workspaces", "archive"):
        (tmp_path / name).mkdir()
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    # Without the variant git first runs the command once more, to find out what it is.
    keepers = LocalKeepers({b"GIT_SSH_COMMAND": os.fsencode(ssh), b"GIT_SSH_VARIANT": b"simple"})
    rows = Rows(tmp_path / "workspaces")
    yard = WorkspaceYard(
        workspaces_dir=tmp_path / "workspaces",
        keepers=keepers,
        launcher=LocalLauncher(),
        rows=rows,
        clone_seconds_max=30,
        hosts=GitHosts(web_url, ("*",)),
        github=github,
    )
    yard._maker.retry_waits_seconds = (0.01, 0.01, 0.01)
    yield Rig(yard, rows, keepers, tmp_path)
    await keepers.close()
    assert {task.get_name() for task in asyncio.all_tasks()} == {asyncio.current_task().get_name()}  # type: ignore[union-attr]


def make_far_repository(place: Path) -> None:
    """A repository with one commit on a branch of its own name."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q", "--initial-branch=trunk", place], check=True)
    (place / "README").write_text("hello\n")
    subprocess.run([*git, "-C", place, "add", "."], check=True)
    subprocess.run([*git, "-C", place, "commit", "-q", "-m", "one"], check=True)


def git(tree: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", tree, *words], check=True, capture_output=True, text=True).stdout.strip()
