"""Archives workspaces that nobody uses, if the settings say so. Only what is clean: all in it committed and pushed.

Rows of sessions are deleted after some days (retention), so their absence alone says little: nothing may have been
changed in the files for as long either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from gateway.errors import CommandRefused, GatewayError
from gateway.events import Event
from gateway.interfaces import SessionRow, SessionStatus, Workspace
from gateway.journal import JournalAction
from gateway.log import log_warning
from gateway.workspaces.archive_places import Archived
from gateway.workspaces.archives import Refuse, Say
from gateway.workspaces.unsaved import Unsaved

BY = "schedule"


class InactiveRows(Protocol):
    """What this module asks of the database (gateway/store)."""

    async def list_workspaces(self, *, include_inactive: bool = False) -> list[Workspace]: ...

    async def workspace(self, workspace_id: str) -> Workspace | None: ...

    async def list_sessions(
        self, *, include_ended: bool = False, limit: int = 200, workspaces: Sequence[str] | None = None
    ) -> list[SessionRow]:
        """The most recently used first."""
        ...

    async def record(
        self, action: JournalAction, *, success: bool, details: Mapping[str, object] | None = None
    ) -> None: ...


class Programs(Protocol):
    async def programs_in(self, workspace_id: str) -> int: ...


class Archives(Protocol):
    """archives.py"""

    async def unsaved(self, workspace: Workspace) -> Unsaved: ...

    async def archive(self, workspace: Workspace, *, say: Say, refuse: Refuse | None = None) -> Archived: ...


@dataclass(frozen=True, slots=True)
class InactiveDone:
    """What one run did."""

    archived_count: int
    unsaved_count: int  # unused for as long, but with work that is nowhere else
    failed_count: int


class InactiveWorkspaces:
    def __init__(
        self,
        *,
        rows: InactiveRows,
        programs: Programs,
        archives: Archives,
        days: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._rows = rows
        self._programs = programs
        self._archives = archives
        self._days = days
        self._now = now

    async def run(self) -> InactiveDone:
        """One workspace after the other; one that cannot be archived does not keep the others from it."""
        cutoff = self._now() - timedelta(days=self._days)
        outcomes = [await self._look_at(workspace.id, cutoff) for workspace in await self._rows.list_workspaces()]
        return InactiveDone(
            archived_count=outcomes.count("archived"),
            unsaved_count=outcomes.count("unsaved"),
            failed_count=outcomes.count("failed"),
        )

    async def _look_at(self, workspace_id: str, cutoff: datetime) -> str:
        workspace = await self._rows.workspace(workspace_id)  # the others before it may have taken hours
        if workspace is None or not workspace.is_active:
            return "used"

        def refuse(unsaved: Unsaved) -> None:
            """Once more, when nobody can come in any more."""
            if unsaved.changed_at is None or unsaved.changed_at >= cutoff or not unsaved.is_clean:
                raise _UsedMeanwhile("somebody used it meanwhile")

        try:
            if not workspace.is_cloned or await self._is_in_use(workspace, cutoff):
                return "used"
            unsaved = await self._archives.unsaved(workspace)
            if unsaved.changed_at is None or unsaved.changed_at >= cutoff:
                return "used"
            if not unsaved.is_clean:
                return "unsaved"
            made = await self._archives.archive(workspace, say=_to_nobody, refuse=refuse)
        except _UsedMeanwhile:
            return "used"
        except GatewayError as error:
            log_warning(Event.GATEWAY_WARNED, reason="not_archived", workspace=workspace.name, detail=str(error))
            return "failed"
        details = {"by": BY, "workspace": workspace.name, "unused_days": self._days, "size_bytes": made.size_bytes}
        await self._rows.record(JournalAction.WORKSPACE_ARCHIVED, success=True, details=details)
        return "archived"

    async def _is_in_use(self, workspace: Workspace, cutoff: datetime) -> bool:
        moments = [workspace.created_at, workspace.last_sync_at]
        for row in await self._rows.list_sessions(include_ended=True, limit=1, workspaces=[workspace.name]):
            moments += [row.last_activity_at, row.ended_at]
            if row.status is not SessionStatus.TERMINATED:
                return True
        if any(moment is not None and moment >= cutoff for moment in moments):
            return True
        return await self._programs.programs_in(workspace.id) > 0


class _UsedMeanwhile(CommandRefused):
    """Between the first look at a workspace and its archiving."""


async def _to_nobody(text: str) -> None:
    return None
