"""All keepers of this gateway: finds the running ones, starts missing ones, one per workspace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Coroutine, Set
from pathlib import Path
from typing import Any, Protocol

from gateway.config import SessionSettings
from gateway.errors import GatewayError, KeeperGone, LauncherUnavailable
from gateway.events import Event
from gateway.interfaces import Keeper, KeeperListener, Workspace
from gateway.launchers.git_directory import GitDirectory
from gateway.launchers.launcher import KeeperLauncher
from gateway.launchers.link import KeeperLink
from gateway.launchers.place import KeeperNote, KeeperPlace
from gateway.launchers.published_socket import PublishedSocket
from gateway.log import log_event, log_warning

RETRY_SECONDS = 0.01  # while another gateway starts the same keeper, or an old one is about to end
# Everybody waits at a start; a keeper that is silent is asked again later (elsewhere.py).
FIND_SECONDS = 3.0
REAP_SECONDS = 5.0
REAP_INTERVAL_SECONDS = 0.02


class KeeperWatch(Protocol):
    """Does something for each workspace whose keeper runs (credentials/broker.py). Neither call fails."""

    async def keeper_up(self, workspace_id: str, workspace: Workspace | None) -> None:
        """Before the first program of ours starts there. `workspace`: what its keeper was started for, perhaps before
        it has a row; None: the keeper was found. May be called again."""
        ...

    def keeper_gone(self, workspace_id: str) -> None: ...


class WorkspaceKeepers:
    """Implements interfaces.Keepers. Owns the connections to keepers, never the keepers: they outlive it."""

    def __init__(
        self, launcher: KeeperLauncher, *, runtime_dir: Path, gateway_id: str, settings: SessionSettings
    ) -> None:
        self._launcher = launcher
        self._runtime_dir = runtime_dir
        self._gateway_id = gateway_id
        self._settings = settings
        self._links: dict[str, KeeperLink] = {}
        self._starts: dict[str, asyncio.Task[KeeperLink]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._listener: KeeperListener | None = None
        self.watch: KeeperWatch | None = None
        self._silent: set[str] = set()
        self._children: set[int] = set()  # what we started and have not reaped: sandboxes, or keepers without one

    async def find(self) -> list[Keeper]:
        """Connect to every keeper an earlier gateway left running; remove the remains of dead ones."""
        root = self._runtime_dir / "keepers"
        ids = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
        async with asyncio.TaskGroup() as group:
            for workspace_id in sorted(ids - self._links.keys() - self._starts.keys()):
                group.create_task(self._find_one(workspace_id), name=f"find-keeper:{workspace_id}")
        return self.running()

    def silent(self) -> Set[str]:
        return frozenset(self._silent)

    async def keeper_for(self, workspace: Workspace) -> Keeper:
        link = self._links.get(workspace.id)
        if link is not None and link.launcher_name == self._launcher.name and await self._is_alive(link):
            return link
        task = self._starts.get(workspace.id)
        if task is None:
            task = asyncio.create_task(self._start(workspace), name=f"start-keeper:{workspace.id}")
            self._starts[workspace.id] = task
            task.add_done_callback(lambda done: self._starts.pop(workspace.id, None))
            task.add_done_callback(_look_at)
        # Several logins may wait for it: one that gives up does not stop it. A keeper nobody uses ends by itself.
        return await asyncio.shield(task)

    def running(self) -> list[Keeper]:
        return list(self._links.values())

    def listen_to(self, listener: KeeperListener | None) -> None:
        self._listener = listener

    def agent_path(self, workspace_id: str) -> PublishedSocket:
        """Where a forwarded agent answers; needs no keeper. Raises OSError."""
        place = KeeperPlace(self._runtime_dir, workspace_id)
        place.make()  # the next keeper shall find the directory that this one has
        return PublishedSocket(place.agent_directory)

    def git_place(self, workspace_id: str) -> GitDirectory:
        """What git in the workspace is told; needs no keeper. Raises OSError."""
        place = KeeperPlace(self._runtime_dir, workspace_id)
        place.make()
        return GitDirectory(place.git_directory)

    async def close(self) -> None:
        """Close our ends; the keepers and their programs live on."""
        self._is_closing = True
        pending: list[asyncio.Task[Any]] = [*self._starts.values(), *self._tasks]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for link in list(self._links.values()):
            link.close()
        self._reap()

    # ------------------------------------------------------------------------------------------------- finding

    async def _find_one(self, workspace_id: str) -> None:
        try:
            place = KeeperPlace(self._runtime_dir, workspace_id)
            place.remove_agent_remains()
            lock = place.try_lock()
            if lock is not None:
                try:
                    place.remove_remains()
                finally:
                    os.close(lock)
                self._silent.discard(workspace_id)
                return
            async with asyncio.timeout(min(FIND_SECONDS, self._settings.keeper_answer_seconds)):
                link = await self._connect(place)
            log_event(Event.KEEPER_FOUND, workspace_id=workspace_id)
            await self._tell_up(link, None)
        except (GatewayError, TimeoutError, OSError, ValueError) as error:
            # One that does not answer must not stop the gateway; its workspace cannot be entered until it does.
            if workspace_id not in self._silent:
                reason = f"not adopted: {str(error) or 'no answer'}"
                log_warning(Event.KEEPER_MISBEHAVED, workspace_id=workspace_id, reason=reason)
            self._silent.add(workspace_id)

    async def _is_alive(self, link: KeeperLink) -> bool:
        """A keeper about to end of idleness must not be handed out: a word from us makes it stay."""
        if link.idle_seconds > self._settings.keeper_idle_seconds / 2:
            with contextlib.suppress(KeeperGone):
                await link.stats()
        return not link.closed.is_set()

    async def _connect(self, place: KeeperPlace) -> KeeperLink:
        link = KeeperLink(
            place.workspace_id,
            place.connect(),
            answer_seconds=self._settings.keeper_answer_seconds,
            launcher_name=place.read_note().launcher,
            on_closed=self._forget,
            kill=place.kill,
            listener=lambda: self._listener,
        )
        try:
            await link.hello(self._gateway_id)
        except BaseException:
            link.close()
            raise
        known = self._links.setdefault(place.workspace_id, link)
        if known is not link:  # another came first; its programs are its own, and a keeper takes few connections
            link.close()
        self._silent.discard(place.workspace_id)
        return known

    async def _tell_up(self, link: KeeperLink, workspace: Workspace | None) -> None:
        if self.watch is not None:
            await self.watch.keeper_up(link.workspace_id, workspace)
            if link.closed.is_set() and link.workspace_id not in self._links:  # it went meanwhile
                self.watch.keeper_gone(link.workspace_id)

    def _forget(self, link: KeeperLink) -> None:
        if self._links.get(link.workspace_id) is link:
            del self._links[link.workspace_id]
            if self.watch is not None:
                self.watch.keeper_gone(link.workspace_id)
            if not self._is_closing:
                log_event(Event.KEEPER_ENDED, workspace_id=link.workspace_id)
        if self._children and not self._tasks and not self._is_closing:
            task = asyncio.create_task(self._reap_soon(), name="reap-keepers")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------------------------------------ starting

    async def _start(self, workspace: Workspace) -> KeeperLink:
        place = KeeperPlace(self._runtime_dir, workspace.id)
        try:
            async with asyncio.timeout(self._settings.keeper_start_seconds):
                while True:
                    link = await self._start_or_find(workspace, place)
                    if link is not None:
                        await self._tell_up(link, workspace)
                        return link
                    await asyncio.sleep(RETRY_SECONDS)
        except TimeoutError:
            raise LauncherUnavailable(
                "the workspace could not be started in time; try again in a moment",
                detail=f"no keeper after {self._settings.keeper_start_seconds:g} s; {place.last_words()}",
            ) from None
        except OSError as error:
            raise LauncherUnavailable("the workspace could not be started", detail=str(error)) from error

    async def _start_or_find(self, workspace: Workspace, place: KeeperPlace) -> KeeperLink | None:
        """None: somebody else holds the lock, and nobody listens: their keeper is about to come, or to go."""
        place.make()
        lock = place.try_lock()
        if lock is None:
            return await self._find_for(workspace, place)
        started_at = time.monotonic()
        try:
            # Not cancellable half-way: either there is no keeper, or a whole one, which ends by itself if unused.
            await _finished(asyncio.to_thread(self._launch, workspace, place, lock))
        finally:
            os.close(lock)  # from now on only the keeper holds it
        try:
            link = await self._connect(place)
        except KeeperGone as error:
            self._reap()
            raise LauncherUnavailable(
                "the workspace could not be started", detail=place.last_words() or str(error)
            ) from error
        log_event(
            Event.KEEPER_STARTED,
            workspace_id=workspace.id,
            kind=self._launcher.name,
            duration_ms=round((time.monotonic() - started_at) * 1000),
        )
        return link

    async def _find_for(self, workspace: Workspace, place: KeeperPlace) -> KeeperLink | None:
        link = self._links.get(workspace.id)
        try:
            link = link or await self._connect(place)
        except KeeperGone:
            return None
        if link.launcher_name != self._launcher.name:
            # Another wall than the settings ask for now: no new program may start behind it.
            if await link.list():
                raise LauncherUnavailable(
                    f'programs of this workspace still run with isolation = "{link.launcher_name}"; '
                    "end them first with: homeport stop --all",
                )
            await link.terminate()
            return None
        log_event(Event.KEEPER_FOUND, workspace_id=workspace.id)
        return link

    def _launch(self, workspace: Workspace, place: KeeperPlace, lock: int) -> None:
        """Start the sandbox with the keeper in it. Blocking, in a thread."""
        if os.geteuid() == 0:
            raise LauncherUnavailable(
                "programs never run as root: start homeport from an ordinary account, or as root with the setting "
                "`account`, so that it becomes that account first"
            )
        settings = self._settings
        with place.listen() as listener, place.status.open("wb") as status, place.log.open("wb") as log:
            keeper_arguments = [
                str(listener.fileno()), str(lock), f"{settings.keeper_idle_seconds:g}",
                str(settings.terminals_per_workspace_max),
            ]  # fmt: skip
            command = self._launcher.command(workspace, place, keeper_arguments, status_fd=status.fileno())
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd="/", env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},  # nothing of ours reaches a workspace
                close_fds=True, pass_fds=(listener.fileno(), lock, status.fileno()),
                start_new_session=True,  # Ctrl-C where the gateway runs in front must not reach it
            )  # fmt: skip
        process.returncode = 0  # it shall outlive this object, which would complain; we reap it ourselves
        self._children.add(process.pid)
        place.write_note(KeeperNote(self._launcher.name, process.pid))

    # ------------------------------------------------------------------------------------------------- reaping

    async def _reap_soon(self) -> None:
        """A keeper's connection closes a moment before its process has ended."""
        deadline = time.monotonic() + REAP_SECONDS
        while not self._reap() and time.monotonic() < deadline:  # noqa: ASYNC110  (no signal handled, so no event)
            await asyncio.sleep(REAP_INTERVAL_SECONDS)

    def _reap(self) -> bool:
        """Collect children that have ended; True if at least one was."""
        ended = set()
        for pid in self._children:
            try:
                ended.add(os.waitpid(pid, os.WNOHANG)[0])
            except ChildProcessError:
                ended.add(pid)
        self._children -= ended
        return bool(ended - {0})


async def _finished(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work that cannot be stopped; cancelling waits for its end first."""
    task = asyncio.create_task(work, name="launch-keeper")
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _look_at(task: asyncio.Task[KeeperLink]) -> None:
    """Its failure was told to those who waited, if any still did."""
    if not task.cancelled():
        task.exception()
