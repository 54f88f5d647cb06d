"""Which workspaces are archived by themselves: only those that nobody uses and that hold nothing of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from gateway.errors import CommandRefused
from gateway.interfaces import SessionRow, SessionStatus, Workspace
from gateway.journal import JournalAction
from gateway.workspaces.archive_places import Archived
from gateway.workspaces.archives import Refuse, Say
from gateway.workspaces.inactive import InactiveDone, InactiveWorkspaces
from gateway.workspaces.unsaved import UNKNOWN, Unsaved
from tests.support.lobby import NOW, session, workspace

LONG_AGO, LATELY = NOW - timedelta(days=31), NOW - timedelta(days=29)
CLEAN = Unsaved((), changed_at=LONG_AGO)


@dataclass
class World:
    """Rows, programs and archives at once."""

    workspaces: list[Workspace]
    sessions: list[SessionRow] = field(default_factory=list)
    found: Unsaved = CLEAN
    found_then: Unsaved | None = None  # once logins are refused
    program_count: int = 0
    refused: str = ""
    archived: list[str] = field(default_factory=list)
    journal: list[Mapping[str, object]] = field(default_factory=list)

    async def list_workspaces(self, *, include_inactive: bool = False) -> list[Workspace]:
        return self.workspaces

    async def workspace(self, workspace_id: str) -> Workspace | None:
        return next((row for row in self.workspaces if row.id == workspace_id), None)

    async def list_sessions(
        self, *, include_ended: bool = False, limit: int = 200, workspaces: Sequence[str] | None = None
    ) -> list[SessionRow]:
        assert include_ended
        return [row for row in self.sessions if row.workspace_name in (workspaces or ())][:limit]

    async def record(
        self, action: JournalAction, *, success: bool, details: Mapping[str, object] | None = None
    ) -> None:
        self.journal.append({"action": action, **(details or {})})

    async def programs_in(self, workspace_id: str) -> int:
        return self.program_count

    async def unsaved(self, workspace: Workspace) -> Unsaved:
        return self.found

    async def archive(self, workspace: Workspace, *, say: Say, refuse: Refuse | None = None) -> Archived:
        assert refuse is not None
        refuse(self.found_then or self.found)
        if workspace.name == self.refused:
            raise CommandRefused("there is not enough room on the disk")
        self.archived.append(workspace.name)
        return Archived(workspace, Path("/archive"), NOW, size_bytes=7)

    async def run(self) -> InactiveDone:
        return await InactiveWorkspaces(rows=self, programs=self, archives=self, days=30, now=lambda: NOW).run()


def old(name: str = "my-app", **changes: object) -> Workspace:
    return replace(workspace(name), created_at=LONG_AGO, **changes)  # type: ignore[arg-type]


async def test_an_unused_clean_workspace_is_archived_and_that_is_written_down():
    world = World([old()], [session("0193", ended=True, last_activity_at=LONG_AGO, ended_at=LONG_AGO)])
    assert await world.run() == InactiveDone(archived_count=1, unsaved_count=0, failed_count=0)
    assert world.archived == ["my-app"]
    assert world.journal == [
        {"action": "workspace_archived", "by": "schedule", "workspace": "my-app", "unused_days": 30, "size_bytes": 7}
    ]


@pytest.mark.parametrize(
    "world",
    [
        World([replace(old(), created_at=LATELY)]),
        World([old(last_sync_at=LATELY)]),
        World([old(is_cloned=False)]),
        World([old()], [session("0193", ended=True, last_activity_at=LATELY, ended_at=LATELY)]),
        World([old()], [session("0193", last_activity_at=LONG_AGO)]),
        World([old()], [session("0193", last_activity_at=LONG_AGO, status=SessionStatus.PAUSED)]),
        World([old()], program_count=1),
        World([old()], found=replace(CLEAN, changed_at=LATELY)),
        World([old()], found=replace(CLEAN, changed_at=None)),
    ],
    ids=["new", "synced", "declared", "used", "running", "detached", "background", "changed", "unknown-change"],
)
async def test_one_that_is_used_stays(world: World):
    assert await world.run() == InactiveDone(archived_count=0, unsaved_count=0, failed_count=0)
    assert world.archived == []


@pytest.mark.parametrize("found", [UNKNOWN, Unsaved(("1 stash",))])
async def test_one_with_work_of_its_own_stays(found: Unsaved):
    world = World([old()], found=replace(found, changed_at=LONG_AGO))
    assert (await world.run()).unsaved_count == 1
    assert world.archived == []


@pytest.mark.parametrize("found", [Unsaved((), changed_at=LATELY), Unsaved(("1 stash",), changed_at=LONG_AGO), UNKNOWN])
async def test_one_that_was_used_after_it_was_looked_at_stays(found: Unsaved):
    world = World([old()], found_then=found)
    assert (await world.run(), world.archived) == (InactiveDone(0, 0, 0), [])


async def test_one_that_somebody_archived_meanwhile_is_not_looked_at():
    world = World([old()])
    world.list_workspaces = lambda: _answer([old()])  # type: ignore[method-assign]
    world.workspaces = [old(is_active=False)]
    world.found = UNKNOWN
    assert await world.run() == InactiveDone(0, 0, 0)


async def _answer(rows: list[Workspace]) -> list[Workspace]:
    return rows


async def test_one_that_fails_does_not_keep_the_others_from_it():
    world = World([old("full"), old("my-app")], refused="full")
    done = cast("InactiveDone", await world.run())
    assert (done.failed_count, world.archived) == (1, ["my-app"])
