"""The gateway: builds every part, and brings them up and down in order. Knows all, known by none.

start   lock the state → database → keepers and launcher → adopt what runs → listen
serve   until SIGTERM, SIGINT or `homeport stop`, or until another process replaces this one (`homeport reload`)
retire  replaced: serve on what there is, until it ends
drain   readiness off → no new connections → programs without a terminal get some time → terminals to their keepers
stop    connections → jobs → recordings → journal and database → lock
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from gateway import __version__, notify
from gateway.access import OwnPorts
from gateway.api import GatewayApi
from gateway.config import Config, config_file
from gateway.doors import Doors
from gateway.errors import GatewayError, LauncherUnavailable
from gateway.events import Event
from gateway.forwarding.agents import Agents
from gateway.forwarding.displays import Displays
from gateway.forwarding.forwards import Forwards
from gateway.gatehouse import Gatehouse
from gateway.gateway_state import GatewayState
from gateway.ids import new_id
from gateway.interfaces import SessionRow, SessionStatus, Workspace
from gateway.launchers.choose import choose_launcher
from gateway.launchers.inside import installed_shells
from gateway.launchers.keepers import WorkspaceKeepers
from gateway.launchers.launcher import KeeperLauncher
from gateway.lobby.control import ControlServer
from gateway.lobby.door import LobbyDoor
from gateway.lobby.run import runner
from gateway.lobby.services import Services, StopBegun
from gateway.log import log_event, log_failure, log_warning
from gateway.processes import GatewayProcesses, others_gone
from gateway.recording.recordings import FileRecordings
from gateway.recording.screen.screens import ScreenService
from gateway.reload import Predecessor
from gateway.replacement import Replacement
from gateway.services import (
    ArchiveShelf,
    Programs,
    credential_broker,
    database_file,
    git_hosts,
    github_account,
    own_name,
    way_into,
    workspace_archives,
)
from gateway.sessions.elsewhere import WATCH_SECONDS, Elsewhere
from gateway.sessions.handover import Handover
from gateway.sessions.idle import IdleLimits, IdleWatch
from gateway.sessions.sessions import Sessions
from gateway.ssh.host_keys import load_host_keys, public_lines
from gateway.ssh.server import SshServer
from gateway.state import Places, StateLock
from gateway.store.store import Store
from gateway.upkeep.schedule import Job
from gateway.upkeep.upkeep import Sources, Upkeep
from gateway.way_in import WayIn
from gateway.workspaces.create import WorkspaceYard, remove_half_made
from gateway.workspaces.inactive import InactiveWorkspaces

# After the drain, everything left is milliseconds of work; a disk that hangs must not hang the stop.
STOP_SECONDS = 10.0
# Whether the GitHub token is due for renewal; whoever needs it asks for that as well (github/tokens.py).
GITHUB_CRON = "*/5 * * * *"
GITHUB_SECONDS_MAX = 120.0


class Gateway:
    """One gateway process. `async with Gateway.running(config, places) as gateway` serves inside the block."""

    def __init__(
        self, config: Config, places: Places, tasks: asyncio.TaskGroup, predecessor: Predecessor | None = None
    ) -> None:
        self.config = config
        self.places = places
        self._predecessor = predecessor
        self.state = GatewayState.STARTING
        self.warnings: tuple[str, ...] = ()
        self.host_key_lines: list[str] = []
        self.client_identity: str | None = None  # the private key to name to clients, which a trial knows
        self.why_no_reload = ""
        self.lock = StateLock(places.state_lock, inherited_fd=predecessor.lock_fd if predecessor else -1)
        self.processes = GatewayProcesses(places.gateways_dir)
        self.replacement = Replacement(self)
        self._tasks = tasks
        self._spawned: set[asyncio.Task[None]] = set()
        self.long_lived: list[asyncio.Task[None]] = []
        self.stop_asked = asyncio.Event()
        self._is_ending_all = False
        self.was_replaced = False
        self._resources = contextlib.AsyncExitStack()

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, config: Config, places: Places, predecessor: Predecessor | None = None
    ) -> AsyncIterator[Gateway]:
        """Start, then drain and stop at the end of the block, however it ends. Raises StartRefused and others."""
        try:
            async with asyncio.TaskGroup() as tasks:
                gateway = cls(config, places, tasks, predecessor)
                try:
                    await gateway._start()
                    yield gateway
                finally:
                    await gateway._stop()
        except BaseExceptionGroup as group:
            # A refused start is one sentence for whoever typed the command, not a group of one.
            if len(group.exceptions) == 1 and isinstance(group.exceptions[0], GatewayError):
                raise group.exceptions[0] from None
            raise

    # ------------------------------------------------------------------------------------------------- start

    async def _start(self) -> None:
        """Up to `ready` nothing is touched that a gateway which is to be replaced would miss."""
        started = time.monotonic()
        self._resources.enter_context(self.lock)
        self.processes.enter()
        self._resources.callback(self.processes.leave)
        _take_all_descriptors()
        log_event(Event.GATEWAY_STARTED, version=__version__, pid=os.getpid())
        host_keys = await asyncio.to_thread(load_host_keys, self.places.keys_dir)
        self.host_key_lines = public_lines(host_keys)
        await self._build()
        await self._build_doors(host_keys)
        if self._predecessor is not None:
            await self._predecessor.ready(__version__)
        self.lock.sign()
        self.upkeep.start()  # before the adoption, which it counts
        await self.handover.adopt_all()
        self.elsewhere.begin()
        if not self.processes.others():  # one that was replaced may be making a workspace
            await remove_half_made(self.places.workspaces_dir, self.keepers.running())
            self.spawn(self.archives.sweep(await self.archives.recover()), "sweep-archives")
        await self.doors.open()
        self.screens.start()
        self.long_lived += [
            self.spawn(self.doors.control.serve(), "control"),
            self.spawn(self._flush_activity(), "flush-activity"),
            self.spawn(self.idle.run(self.config.session.idle_check_seconds), "idle"),
            self.spawn(self._watch_others(), "others"),
        ]
        # What is there now stays. Without this, each full collection looks at 80,000 objects of modules and classes,
        # and every session stands still for 20 ms.
        gc.freeze()
        self.state = GatewayState.SERVING
        if self._predecessor is not None:
            self._predecessor.serving()
        else:
            notify.ready()
        log_event(Event.GATEWAY_SERVING, ssh=str(self.ssh_address), http=str(self.http_address),
                  isolation=self.launcher.name, start_ms=round((time.monotonic() - started) * 1000),
                  )  # fmt: skip

    async def _build(self) -> None:
        config, places = self.config, self.places
        self.store = await Store.open(database_file(config, places), backups_dir=places.backups_dir,
                                      workspaces_dir=places.workspaces_dir, workspaces_max=config.workspaces_max,
                                      is_in_use=self._predecessor is not None)  # fmt: skip
        self._resources.push_async_callback(self.store.close)
        self.github = github_account(config, places, self.store)
        self._resources.push_async_callback(self.github.close)
        self.launcher = await self._choose_launcher()
        self.keepers = WorkspaceKeepers(self.launcher, runtime_dir=places.runtime_dir, gateway_id=new_id(),
                                        settings=config.session)  # fmt: skip
        self._resources.push_async_callback(self.keepers.close)
        self.broker = credential_broker(config, account=self.github, store=self.store, launcher=self.launcher,
                                        keepers=self.keepers, spawn=self.spawn)  # fmt: skip
        self._resources.callback(self.broker.close)
        self.recordings = FileRecordings(recordings_dir=places.recordings_dir, spools_dir=places.spools_dir,
                                         settings=config.recording)  # fmt: skip
        self._resources.push_async_callback(self.recordings.close)
        self.screens = ScreenService(self.recordings, history_lines=config.session.history_lines, spawn=self.spawn)
        self._resources.push_async_callback(self.screens.close)
        self.displays = Displays(keepers=self.keepers, launcher=self.launcher, spawn=self.spawn)
        self.sessions = Sessions(store=self.store, keepers=self.keepers, launcher=self.launcher,
                                 recordings=self.recordings, screens=self.screens, displays=self.displays,
                                 config=config, spawn=self.spawn, login_notice="; ".join(self.warnings))  # fmt: skip
        self.handover = Handover(sessions=self.sessions, store=self.store, keepers=self.keepers,
                                 recordings=self.recordings, drain_seconds=config.session.drain_seconds,
                                 spawn=self.spawn)  # fmt: skip
        self.idle = IdleWatch(self.sessions.live, IdleLimits.of(config.session), end=self.sessions.kill)
        self.yard = WorkspaceYard(workspaces_dir=places.workspaces_dir,
                                  keepers=self.keepers, launcher=self.launcher, rows=self.store,
                                  clone_seconds_max=config.clone_seconds_max, hosts=git_hosts(config),
                                  github=self.github)  # fmt: skip
        self.sessions.clones = self.yard.declared
        self._resources.push_async_callback(self.yard.declared.close)
        self.archives = workspace_archives(config, places, keepers=self.keepers, launcher=self.launcher,
                                           rows=self.store, recordings=self.recordings)  # fmt: skip
        self.elsewhere = Elsewhere(sessions=self.sessions, handover=self.handover, rows=self.store,
                                   keepers=self.keepers, others=self.processes.others, spawn=self.spawn)  # fmt: skip
        self.programs = Programs(rows=self.store, keepers=self.keepers, live=self.sessions, elsewhere=self.elsewhere)
        self.upkeep = self._build_upkeep()
        self._resources.push_async_callback(self.upkeep.stop, STOP_SECONDS)

    async def _choose_launcher(self) -> KeeperLauncher:
        config, places = self.config, self.places
        launcher, warnings = await choose_launcher(
            config.isolation,
            listeners_are_loopback=config.ssh.listen.is_loopback and config.http.listen.is_loopback,
            private_paths=(places.state_dir, places.runtime_dir, config_file()),
            runtime_dir=places.runtime_dir,
        )
        for warning in warnings:
            log_warning(Event.GATEWAY_WARNED, reason=warning)
        self.warnings = tuple(warnings)
        return launcher

    def _build_upkeep(self) -> Upkeep:
        return Upkeep(
            self.config,
            version=__version__,
            database_file=database_file(self.config, self.places),
            backups_dir=self.places.backups_dir,
            store=self.store,
            recordings=self.recordings,
            sources=Sources(
                is_serving=lambda: self.state is GatewayState.SERVING,
                probe_keeper=self._probe_keeper,
                session_counts=self._session_counts,
                live_session_ids=lambda: [live.session.session_id for live in self.sessions.live()],
                connection_count=lambda: self.ssh.connection_count,
                warnings=self._public_warnings,
                github_expires_seconds=self.github.tokens.expires_seconds,
            ),
            archive_inactive=self._archive_inactive(),
            more_jobs=[Job("github", GITHUB_CRON, self.github.tokens.refresh_if_due, GITHUB_SECONDS_MAX)],
        )

    def _archive_inactive(self) -> Callable[[], Awaitable[object]] | None:
        days = self.config.archive.inactive_days
        if not days:
            return None
        return InactiveWorkspaces(rows=self.store, programs=self.programs, archives=self.archives, days=days).run

    async def _build_doors(self, host_keys: list[Any]) -> None:
        """By the time a forward is accepted, the ports that forwards must never reach are known."""
        forwards = Forwards(keepers=self.keepers, launcher=self.launcher,
                            keeper_idle_seconds=self.config.session.keeper_idle_seconds)  # fmt: skip
        forwards.gateway_pids = lambda: (os.getpid(), *self.processes.others())
        self.agents = Agents(path_for=self.keepers.agent_path, spawn=self.spawn)
        self._resources.callback(self.agents.close)
        services = self._services()
        self.lobby = LobbyDoor(services, serve_session=self.sessions.serve,
                               drain_seconds=self.config.session.drain_seconds)  # fmt: skip
        gatehouse = Gatehouse(store=self.store, sessions=self.sessions, lobby=self.lobby, forwards=forwards,
                              agents=self.agents, displays=self.displays, spawn=self.spawn)  # fmt: skip
        self.ssh = SshServer(self.config.ssh, host_keys=host_keys, gatehouse=gatehouse, spawn=self.spawn)
        control = ControlServer(self.places.control_socket, runner(services))
        api = GatewayApi(self.store, self.yard, ends_at=self.idle.ends_at, upkeep=self.upkeep)
        self.doors = Doors(self.config, ssh=self.ssh, control=control, status=self.upkeep, api=api)
        self._resources.push_async_callback(self.doors.close)
        await self.doors.bind(self._predecessor)
        self.http_address, self.ssh_address = self.doors.http_addresses[0], self.doors.ssh_address
        http_ports = frozenset(address.port for address in self.doors.http_addresses)
        forwards.own_ports = OwnPorts(closed=http_ports, ssh=frozenset({self.ssh_address.port}))

    # ------------------------------------------------------------------------------------------------- serve

    async def serve_until_stopped(self) -> None:
        """Wait for SIGTERM, SIGINT or `homeport stop`. A second signal ends without waiting for anybody."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask_to_stop)
        await self.stop_asked.wait()

    def ask_to_stop(self, *, end_all: bool = False) -> None:
        self._is_ending_all = self._is_ending_all or end_all
        if self.stop_asked.is_set():
            self.handover.hurry()
            self.lobby.hurry()
            if self.state is GatewayState.DRAINING and not self.was_replaced:
                self.processes.ask_others_to_stop()
        self.stop_asked.set()

    async def begin_stop(self, end_all: bool) -> StopBegun:
        """For `homeport stop`: what will be kept, and the stop set in motion once the answer is on its way."""
        kept = [] if end_all else await self.sessions_to_keep()
        ended_count = len(self.keepers.running()) if end_all else 0
        asyncio.get_running_loop().call_soon(lambda: self.ask_to_stop(end_all=end_all))
        return StopBegun(was_running=True, kept=kept, ended_count=ended_count)

    async def sessions_to_keep(self) -> list[SessionRow]:
        """The terminals that go on without a gateway; pipes break with theirs."""
        return [row for row in await self.store.sessions_left_open() if row.columns is not None]

    def _services(self) -> Services:
        """What the lobby's commands act on."""
        return Services(store=self.store, sessions=self.programs, workspaces=self.yard, archives=self.archives,
                        recordings=ArchiveShelf(self.recordings.archive), backup=self.upkeep.backup_now,
                        stop=self.begin_stop, reload=self.replacement.reload, disconnect=self._disconnect_key,
                        ends_at=self.idle.ends_at, shells=installed_shells, way_in=self._way_into,
                        own_name=own_name, github=lambda: self.github)  # fmt: skip

    def _disconnect_key(self, fingerprint: str) -> int:
        return self.ssh.disconnect_key(fingerprint)  # which is built after the commands that it serves

    async def _way_into(self, workspace: Workspace) -> WayIn:
        return way_into(workspace, self.ssh_address, tree=self.launcher.inside(workspace).tree, places=self.places,
                        identity=self.client_identity)  # fmt: skip

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that the gateway waits for when it stops."""
        task = self._tasks.create_task(_contained(coroutine, name), name=name)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)
        # Cancelled before its first step, the task never came to await it.
        task.add_done_callback(lambda _: coroutine.close())
        return task

    def _public_warnings(self) -> list[str]:
        """For health, which strangers read: the reason itself may name paths, and is in the log and said at login."""
        if self.launcher.name == "none":
            return ["isolation: none; workspaces have no walls, the gateway's log says why"]
        return ["isolation: the gateway's log has a warning"] if self.warnings else []

    async def _probe_keeper(self) -> None:
        """For readiness: could a keeper be started now? Raises LauncherUnavailable."""
        reason = await asyncio.to_thread(self.launcher.probe)
        if reason:
            raise LauncherUnavailable(reason)

    async def _flush_activity(self) -> None:
        while True:
            await asyncio.sleep(self.config.session.activity_flush_seconds)
            try:
                await self.sessions.flush_activity()
            except Exception:
                log_failure(Event.STORE_FAILED, reason="activity")

    def _session_counts(self) -> Counter[tuple[str, str]]:
        """Live sessions by kind and status, from memory."""
        return Counter(
            (live.kind, SessionStatus.ACTIVE if live.is_attached else SessionStatus.PAUSED)
            for live in self.sessions.live()
        )

    async def _watch_others(self) -> None:
        """What those do that were replaced, as far as nobody tells us."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                # A command that was under way there may still write. Of one that was replaced, retirement.py asks.
                if self.state is GatewayState.SERVING and self.processes.others():
                    await self.store.changed_elsewhere()
                await self.elsewhere.look()
            except Exception:
                log_failure(Event.SESSION_FAILED, reason="adoption")
            self.agents.reclaim()
            self.broker.reclaim()

    # ------------------------------------------------------------------------------------------ drain, stop

    async def _stop(self) -> None:
        """In the order of the module's docstring. Also undoes a start that failed half-way."""
        await self.replacement.give_up()
        self.was_replaced = self.state is GatewayState.RETIRED
        was_serving = self.state in (GatewayState.SERVING, GatewayState.RETIRED)
        self.state = GatewayState.DRAINING
        try:
            if was_serving:
                log_event(Event.GATEWAY_DRAINING, session_count=len(self.sessions.live()))
                if not self.was_replaced:
                    notify.stopping()
                    self.processes.ask_others_to_stop()
                await self._drain_in_time()
        finally:
            for task in self.long_lived:
                task.cancel()
            try:
                async with asyncio.timeout(2 * STOP_SECONDS):
                    await self._resources.aclose()
            finally:
                # What still waits now (for a keeper that does not answer) would wait for ever, and we for it.
                for task in self._spawned:
                    task.cancel()
                self.state = GatewayState.STOPPED
                if was_serving:
                    log_event(Event.GATEWAY_STOPPED)

    async def _drain_in_time(self) -> None:
        """systemd and `homeport stop` give up after a minute; a keeper that hangs must not cost the rest its order."""
        try:
            async with asyncio.timeout(self.config.session.drain_seconds + 2 * STOP_SECONDS):
                await self._drain()
        except TimeoutError:
            log_warning(Event.GATEWAY_WARNED, reason="draining took too long; what is left goes on without us")

    async def _drain(self) -> None:
        self.elsewhere.pause()
        self.ssh.stop_listening()
        if self._is_ending_all:
            await others_gone(self.processes)  # their terminals are their keepers' by then, and end with those
            self.sessions.all_end_now()
            await self.programs.end_everything()
        reason = "this gateway was replaced, and ends now" if self.was_replaced else "the gateway is stopping"
        await asyncio.gather(self.lobby.drain(), self.handover.drain(f"{reason}; this shell goes on running"))
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.ssh.close_connections(reason)
                await self.handover.wait_ended()
        except TimeoutError:
            log_warning(Event.GATEWAY_WARNED, reason="some connections did not end in time")
        if not self.was_replaced:
            await others_gone(self.processes)


def _take_all_descriptors() -> None:
    """A shell starts programs with a soft limit of 1024 (systemd.exec(5) has the reasons), which two connections full
    of forwards would exhaust. Nothing here uses select(2); programs inside get their own limit from their keeper."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _contained(coroutine: Coroutine[Any, Any, None], name: str) -> None:
    """A task group ends all its tasks when one fails; here that would be every session of everybody."""
    try:
        await coroutine
    except Exception:
        log_failure(Event.TASK_FAILED, task=name)


async def serve(config: Config, places: Places, predecessor: Predecessor | None = None) -> bool:
    """`homeport serve`, until it is stopped. True: another process has replaced this one, and may serve on."""
    async with Gateway.running(config, places, predecessor) as gateway:
        await gateway.serve_until_stopped()
    return gateway.was_replaced
