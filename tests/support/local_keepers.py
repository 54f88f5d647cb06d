"""Keepers without walls or processes of their own: programs are children of the test. For what only needs programs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gateway.keeper
from gateway.errors import KeeperRefused
from gateway.interfaces import Inside, Keeper, KeptProgram, Program, ProgramExit, ProgramSpec, Workspace


class LocalKeeper:
    """Implements interfaces.Keeper for programs on pipes."""

    def __init__(self, workspace_id: str, environment: Mapping[bytes, bytes]) -> None:
        self.workspace_id = workspace_id
        self.closed = asyncio.Event()
        self.started: list[ProgramSpec] = []
        self.forgotten: list[str] = []
        self._environment = environment
        self._pids: dict[str, int] = {}
        self._waiting: set[asyncio.Task[None]] = set()

    async def start(self, spec: ProgramSpec) -> Program:
        self.started.append(spec)
        pairs = [os.pipe() for _ in range(3)]
        theirs = (pairs[0][0], pairs[1][1], pairs[2][1])
        environment = {**spec.environment, **self._environment}
        actions = [(os.POSIX_SPAWN_DUP2, theirs[target], target) for target in range(3)]
        directory = os.getcwd()
        os.chdir(spec.directory)
        try:
            pid = os.posix_spawn(spec.executable, spec.argv, environment, file_actions=actions, setpgroup=0)
        finally:
            os.chdir(directory)
            for fd in theirs:
                os.close(fd)
        for fd in (pairs[0][1], pairs[1][0], pairs[2][0]):
            os.set_blocking(fd, False)
        exited = asyncio.get_running_loop().create_future()
        self._pids[spec.session_id] = pid
        task = asyncio.create_task(self._wait(pid, exited), name="local-keeper:wait")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return Program(spec.session_id, pid, exited, stdin_fd=pairs[0][1], stdout_fd=pairs[1][0], stderr_fd=pairs[2][0])

    async def _wait(self, pid: int, exited: asyncio.Future[ProgramExit]) -> None:
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if not exited.done():
            exited.set_result(ProgramExit(code) if code >= 0 else ProgramExit(signal=signal.Signals(-code).name[3:]))

    async def list(self) -> list[KeptProgram]:
        return []

    async def adopt(self, session_id: str) -> Program:
        raise KeeperRefused("not here")

    async def release(self, session_id: str) -> None:
        raise KeeperRefused("not here")

    async def signal(self, session_id: str, name: str) -> None:
        raise KeeperRefused("not here")

    async def hang_up(self, session_id: str, *, then_kill: bool = True) -> None:
        self._kill(self._pids[session_id])

    async def forget(self, session_id: str) -> None:
        self.forgotten.append(session_id)

    async def tcp_socket(self, family: socket.AddressFamily) -> socket.socket:
        raise KeeperRefused("not here")

    async def process_count(self) -> int:
        return len(self._waiting)

    async def terminate(self) -> None:
        for pid in self._pids.values():
            self._kill(pid)
        if self._waiting:
            await asyncio.wait(self._waiting)
        self.closed.set()

    def _kill(self, pid: int) -> None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it has ended already


@dataclass
class LocalKeepers:
    """Implements interfaces.Keepers. `environment` is laid over every program's own."""

    environment: dict[bytes, bytes] = field(default_factory=dict)
    made: list[LocalKeeper] = field(default_factory=list)

    async def find(self) -> list[Keeper]:
        return self.running()

    async def keeper_for(self, workspace: Workspace) -> Keeper:
        for keeper in self.running():
            if keeper.workspace_id == workspace.id:
                return keeper
        self.made.append(LocalKeeper(workspace.id, self.environment))
        return self.made[-1]

    def running(self) -> list[Keeper]:
        return [keeper for keeper in self.made if not keeper.closed.is_set()]

    async def close(self) -> None:
        for keeper in self.running():
            await keeper.terminate()


class LocalLauncher:
    """Implements interfaces.Launcher: inside is outside."""

    name = "local"

    def inside(self, workspace: Workspace) -> Inside:
        home, tree = os.fspath(workspace.home), os.fspath(workspace.tree)
        return Inside(
            home,
            tree,
            workspace.name,
            None,
            "/bin/sh",
            ("/usr/lib/openssh/sftp-server",),
            python=(sys.executable, "-I", "-S"),
            programs=str(Path(gateway.keeper.__file__).parent),
        )
