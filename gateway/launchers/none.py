"""No wall: programs run as the gateway's account and see what it sees. To be asked for by name."""

from __future__ import annotations

from pathlib import Path

from gateway.interfaces import Inside, Workspace
from gateway.launchers.inside import (
    KEEPER_FOLDER,
    Interpreter,
    account_name,
    account_runtime_dir,
    credential_helper,
    login_shell,
    sftp_server,
)
from gateway.launchers.place import KeeperPlace


class NoneLauncher:
    name = "none"

    def __init__(self, interpreter: Interpreter, *, runtime_dir: Path | None = None) -> None:
        self._interpreter = interpreter
        self._runtime_dir = runtime_dir

    def inside(self, workspace: Workspace) -> Inside:
        # The same paths as outside: there is no inside.
        place = None if self._runtime_dir is None else KeeperPlace(self._runtime_dir, workspace.id)
        git = None if place is None else str(place.git_directory)
        return Inside(
            home=str(workspace.home),
            tree=str(workspace.tree),
            user=account_name(),
            runtime_dir=account_runtime_dir(),
            shell=login_shell(workspace.shell),
            sftp_server=sftp_server(self._interpreter, str(KEEPER_FOLDER)),
            agent_socket=None if place is None else str(place.agent_socket),
            git_directory=git,
            credential_helper=credential_helper(self._interpreter, str(KEEPER_FOLDER), git) if git else (),
            python=tuple(self._interpreter.command()),
            programs=str(KEEPER_FOLDER),
        )

    def probe(self) -> str:
        """Nothing to try: the interpreter was found and tried when the launcher was made."""
        return ""

    def command(
        self, workspace: Workspace, place: KeeperPlace, keeper_arguments: list[str], *, status_fd: int
    ) -> list[str]:
        for directory in (workspace.home, workspace.tree):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._interpreter.command(str(KEEPER_FOLDER), *keeper_arguments)
