"""What the launchers have in common: each makes one command line, and one place starts it (see keepers.py)."""

from __future__ import annotations

from typing import Protocol

from gateway.interfaces import Inside, Workspace
from gateway.launchers.place import KeeperPlace


class KeeperLauncher(Protocol):
    """One kind of wall. Implements interfaces.Launcher."""

    @property
    def name(self) -> str: ...

    def inside(self, workspace: Workspace) -> Inside: ...

    def probe(self) -> str:
        """Could a keeper be started now? Empty if so, else what is wrong. Blocking."""
        ...

    def command(
        self, workspace: Workspace, place: KeeperPlace, keeper_arguments: list[str], *, status_fd: int
    ) -> list[str]:
        """Prepare what the wall needs and return the command that runs the keeper with `keeper_arguments`.

        Called under the workspace's lock, in a thread: it may write files. The command inherits `status_fd` and may
        write JSON with the keeper's "child-pid" to it. Raises LauncherUnavailable.
        """
        ...
