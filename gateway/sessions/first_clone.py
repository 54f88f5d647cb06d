"""A workspace that is declared only gets its tree when somebody comes: what a session asks for, and who sees it."""

from __future__ import annotations

from typing import Protocol

from gateway.interfaces import CloneWatcher, SessionKind, SessionRequest, Workspace
from gateway.sessions.session import Channel


class FirstClones(Protocol):
    """Clones what was declared only (gateway/workspaces)."""

    async def ready(self, workspace: Workspace, watcher: CloneWatcher | None = None) -> Workspace:
        """The workspace once it has its tree, at once if it has one. Cancelling ends the waiting, not the clone."""
        ...


def clone_watcher(request: SessionRequest, channel: Channel) -> CloneWatcher | None:
    """Only where a person looks at a terminal: nothing of ours on the streams of commands and transfers."""
    if request.kind is not SessionKind.SHELL or request.terminal is None:
        return None

    def write(data: bytes) -> None:
        if not channel.is_writing_paused:
            channel.write_stderr(data)

    return CloneWatcher(write, request.terminal.size.columns or 80)
