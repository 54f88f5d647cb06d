"""A place to run real keepers in: workspaces, gateways that come and go, and readers of what programs print."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

from gateway.config import SessionSettings
from gateway.interfaces import Program, ProgramSpec, Terminal, WindowSize, Workspace
from gateway.launchers import KeeperLauncher, WorkspaceKeepers
from gateway.launchers.link import KeeperLink
from gateway.launchers.place import KeeperPlace

DEADLINE_SECONDS = 15
SIZE = WindowSize(80, 24)


class Reading:
    """Collects what a non-blocking descriptor has, and closes it. A terminal's EIO is its end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.data = b""
        self._changed = asyncio.Event()
        self._ended = False
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self.fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self.data += chunk
        if not chunk:
            self.close()
        self._changed.set()

    async def until(self, needle: bytes, *, times: int = 1) -> bytes:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.data.count(needle) < times:
                assert not self._ended, f"ended without {needle!r}: {self.data[-500:]!r}"
                await self._next(f"{needle!r} in {self.data[-500:]!r}")
        return self.data

    async def until_size(self, size: int) -> bytes:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.data) < size:
                await self._next()
        return self.data

    async def to_end(self) -> bytes:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not self._ended:
                await self._next()
        return self.data

    def stop(self) -> None:
        """Stop reading without closing, as a gateway does before it releases a terminal."""
        if not self._ended:
            self._ended = True
            asyncio.get_running_loop().remove_reader(self.fd)

    def close(self) -> None:
        if not self._ended:
            self.stop()
            os.close(self.fd)

    async def _next(self, wanted: str = "more") -> None:
        self._changed.clear()
        try:
            await self._changed.wait()
        except asyncio.CancelledError:
            raise AssertionError(f"waited for {wanted}") from None


class Site:
    """Workspaces under one directory, and every gateway a test starts on them."""

    def __init__(self, launcher: KeeperLauncher, directory: Path) -> None:
        self.launcher = launcher
        self.directory = directory
        self.runtime_dir = directory / "run"
        self.runtime_dir.mkdir(mode=0o700)
        self.workspace = self.make_workspace("demo")
        self._gateways: list[WorkspaceKeepers] = []
        self._program_count = 0

    def make_workspace(self, name: str) -> Workspace:
        root = self.directory / "state" / "workspaces" / f"id-{name}"
        return Workspace(id=f"id-{name}", name=name, home=root / "home", tree=root / "tree")

    def gateway(self, *, launcher: KeeperLauncher | None = None, **settings: float) -> WorkspaceKeepers:
        keepers = WorkspaceKeepers(
            launcher or self.launcher,
            runtime_dir=self.runtime_dir,
            gateway_id=f"gateway-{len(self._gateways)}",
            settings=SessionSettings(**settings),  # type: ignore[arg-type]
        )
        self._gateways.append(keepers)
        return keepers

    async def keeper(self, gateway: WorkspaceKeepers | None = None, **settings: float) -> KeeperLink:
        keeper = await (gateway or self.gateway(**settings)).keeper_for(self.workspace)
        assert isinstance(keeper, KeeperLink)
        return keeper

    def spec(self, *command: str | bytes, terminal: Terminal | bool = False, **changes: object) -> ProgramSpec:
        """What shall run: the arguments, or with one alone, a line for sh."""
        self._program_count += 1
        argv = tuple(os.fsencode(word) for word in (command if len(command) > 1 else ("/bin/sh", "-c", *command)))
        inside = self.launcher.inside(self.workspace)
        spec = ProgramSpec(
            session_id=f"session-{self._program_count}",
            argv=argv,
            executable=os.fsencode(shutil.which(argv[0]) or argv[0]),
            environment={b"PATH": b"/usr/bin:/bin", b"HOME": inside.home.encode(), b"TERM": b"xterm"},
            directory=inside.tree.encode(),
            terminal=terminal if isinstance(terminal, Terminal) else Terminal("xterm", SIZE, {}) if terminal else None,
        )
        return replace(spec, **changes)  # type: ignore[arg-type]

    async def output(self, keeper: KeeperLink, *command: str | bytes, status: int = 0) -> str:
        """Run a command on pipes to its end; its output. The exit status must be as said."""
        spec = self.spec(*command)
        program = await keeper.start(spec)
        os.close(program.stdin_fd or 0)
        errors = Reading(program.stderr_fd or 0)
        text = (await Reading(program.stdout_fd or 0).to_end()).decode()
        end = await ended(program)
        await keeper.forget(spec.session_id)
        said = (await errors.to_end()).decode()
        assert end.exit_code == status, f"{end}, {said}"
        return text.strip()

    def place(self) -> KeeperPlace:
        return KeeperPlace(self.runtime_dir, self.workspace.id)

    async def raw_client(self) -> socket.socket:
        """A connection to the keeper without any manners."""
        return self.place().connect()

    async def close(self) -> None:
        """End every keeper, and let every gateway go."""
        last = self.gateway()
        for keeper in await last.find():
            await keeper.terminate()
        for gateway in self._gateways:
            await gateway.close()
        await no_children()


async def ended(program: Program):  # type: ignore[no-untyped-def]
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await asyncio.shield(program.exited)


async def eventually(condition, what: str) -> None:  # type: ignore[no-untyped-def]
    """Ask again until it holds: for what nobody tells us about."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.01)
    assert what


async def no_children() -> None:
    """Reap what a test's gateways started; nothing may be left."""

    async def all_gone() -> bool:
        try:
            return os.waitpid(-1, os.WNOHANG) is None
        except ChildProcessError:
            return True

    await eventually(all_gone, "no child is left")


def close_streams(program: Program) -> None:
    for fd in (program.terminal_fd, program.stdin_fd, program.stdout_fd, program.stderr_fd):
        if fd is not None:
            os.close(fd)


def open_descriptors() -> set[str]:
    gc.collect()
    return set(os.listdir("/proc/self/fd"))
