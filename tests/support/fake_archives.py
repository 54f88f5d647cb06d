"""Archives that only remember what they were asked, and who answers questions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gateway.errors import CommandRefused
from gateway.interfaces import Workspace
from gateway.lobby.services import Archived, Unsaved

CLEAN_AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass(frozen=True)
class FakeUnsaved:
    """Implements Unsaved."""

    reasons: tuple[str, ...] = ()
    ignored_count: int = 0
    home_file_count: int = 0

    @property
    def is_clean(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class FakeArchived:
    """Implements Archived."""

    workspace: Workspace
    place: Path | None = Path("/state/archive/old-id")
    archived_at: datetime | None = CLEAN_AT
    size_bytes: int | None = 4200
    content_bytes: int | None = 9000
    has_bundle: bool = True
    skipped_count: int = 0
    unsaved: FakeUnsaved = FakeUnsaved()


@dataclass
class FakeArchives:
    """Implements WorkspaceArchives."""

    found: FakeUnsaved = FakeUnsaved()
    listed: list[FakeArchived] = field(default_factory=list)
    done: list[tuple[str, str]] = field(default_factory=list)
    skipped_count: int = 0

    async def archive(self, workspace: Workspace, *, say: Callable[[str], Awaitable[None]]) -> Archived:
        self.done.append(("archive", workspace.name))
        return FakeArchived(workspace, skipped_count=self.skipped_count, unsaved=self.found)

    async def unarchive(
        self, workspace: Workspace, *, is_archive_kept: bool, say: Callable[[str], Awaitable[None]]
    ) -> Path | None:
        self.done.append(("unarchive", workspace.name))
        return Path("/state/archive/old-id.restored-x") if is_archive_kept else None

    async def unsaved(self, workspace: Workspace) -> Unsaved:
        return self.found

    async def purge(self, workspace: Workspace, *, refuse: Callable[[Unsaved], None]) -> int:
        refuse(self.found)
        self.done.append(("purge", workspace.name))
        return 3

    async def list_archived(self) -> Sequence[Archived]:
        return self.listed


@dataclass
class Answering:
    """Implements Person. No answers: nobody is there."""

    answers: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def ask(self, question: str, *, is_secret: bool = False) -> str:
        self.asked.append(question)
        if not self.answers:
            raise CommandRefused("there is no terminal to ask on")
        return self.answers.pop(0)
