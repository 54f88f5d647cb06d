"""Every live session of this gateway, and the life of each: from request to exit status to row.

This is where a row of `sessions` is written, and where the parts meet that `session.py` keeps apart: policy, keepers,
recordings and the journal. One coroutine, `serve`, tells the story. Taking sessions over from an earlier gateway, and
giving them back at the stop, is in handover.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Protocol

from gateway import access
from gateway.config import Config
from gateway.errors import GatewayError, KeeperGone, KeeperRefused, LoginRefused, ProgramFailed, WorkspaceMissing
from gateway.events import Event
from gateway.interfaces import (
    AccessKey,
    EndReason,
    Inside,
    Keeper,
    Keepers,
    Launcher,
    Principal,
    Program,
    ProgramExit,
    ProgramSpec,
    Recordings,
    Screens,
    SessionActivity,
    SessionKind,
    SessionRequest,
    Workspace,
)
from gateway.log import log_event, log_failure, log_warning
from gateway.login_name import parse_login_name
from gateway.sessions.attaching import Attaching, Found, Wish, attach_notice
from gateway.sessions.first_clone import FirstClones, wait_for_tree
from gateway.sessions.jobs import JobWatch
from gateway.sessions.live import Live
from gateway.sessions.pipe_session import PipeSession
from gateway.sessions.program import program_spec
from gateway.sessions.rows import RowStore, SessionRows
from gateway.sessions.session import Channel, SessionState
from gateway.sessions.sftp_audit import Note, SftpAudit, audit_of, is_auditable
from gateway.sessions.terminal import set_window_size, window_size
from gateway.sessions.terminal_session import TerminalSession

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]

# Said to a client whose session ended because its keeper did: the honest signal is the one that killed the program.
KEEPER_GONE_SIGNAL = "KILL"
# Each of them is sent every byte, and painted whenever the window changes.
VIEWERS_MAX = 32
# After a hang-up: what a program still prints is recorded, until its terminal goes for good.
LAST_WORDS_SECONDS = 0.5


class SessionStore(RowStore, Protocol):
    """What this module asks of the database (gateway/store)."""

    async def find_key(self, fingerprint: str) -> AccessKey | None:
        """None: removed, or expired."""
        ...

    async def find_workspace(self, login_name: str) -> Workspace | None: ...

    async def list_workspaces(self, *, include_inactive: bool = False) -> list[Workspace]: ...

    async def flush_activity(self, activity: list[SessionActivity]) -> None: ...

    @property
    def note(self) -> Note: ...


class DisplaysThatFollow(Protocol):
    """Where X11 programs of a session find a client's display (forwarding/displays.py)."""

    async def follow(self, workspace: Workspace, name: str, pid: int) -> None:
        """A client with the display `name` came to the program `pid`. Never fails."""
        ...


class Sessions:
    """Opens and ends sessions. `spawn` makes tasks that the app waits for."""

    def __init__(
        self,
        *,
        store: SessionStore,
        keepers: Keepers,
        launcher: Launcher,
        recordings: Recordings,
        screens: Screens,
        displays: DisplaysThatFollow,
        config: Config,
        spawn: Spawn,
        login_notice: str = "",
    ) -> None:
        self._store = store
        self._rows = SessionRows(store)
        self._keepers = keepers
        self._launcher = launcher
        self._recordings = recordings
        self._screens = screens
        self._displays = displays
        self._config = config
        self._spawn = spawn
        self._login_notice = login_notice
        self._live: dict[str, Live] = {}
        self._attaching = Attaching(self.live)
        self.jobs = JobWatch(self._rows.job, spawn)
        # Before a client is given a session: take over what nobody owns (handover.py).
        self.adopt_unowned: Callable[[Workspace], Awaitable[None]] | None = None
        # Where none was found: ask another gateway, which was replaced, for one. True: look again.
        self.fetch: Callable[[Workspace, str | None, str], Awaitable[bool]] | None = None
        # A workspace may be declared, and cloned when somebody comes.
        self.clones: FirstClones | None = None
        self.is_draining = False
        self.changed = asyncio.Event()  # set whenever a session is gone from `live`, or nobody looks at it any more

    # ------------------------------------------------------------------------------------------ one session

    async def serve(self, request: SessionRequest, channel: Channel) -> None:
        """Own one session from its request to its exit status, or join its client to one that others own. No failure
        in here may reach another session."""
        started = time.monotonic()
        try:
            live = await self._open(request, channel)
        except asyncio.CancelledError:
            channel.refuse("the gateway is restarting; connect again in a moment")
            raise
        except GatewayError as error:
            log_warning(Event.SESSION_REFUSED, session_id=request.session_id, kind=request.kind, error_code=error.code,
                        reason=str(error))  # fmt: skip
            channel.refuse(error.user_message, error.exit_status if isinstance(error, ProgramFailed) else 255)
            return
        except Exception:
            log_failure(Event.SESSION_FAILED, session_id=request.session_id)
            channel.refuse(f"internal error; the operator can find it under session {request.session_id}")
            return
        if live is None:
            return
        log_event(Event.SESSION_OPENED, session_id=request.session_id, connection_id=request.connection_id,
                  workspace=live.workspace.name, principal=request.principal.name, kind=request.kind,
                  pty=request.terminal is not None, open_ms=_milliseconds_since(started))  # fmt: skip
        await self.run(live)

    async def _open(self, request: SessionRequest, channel: Channel) -> Live | None:
        """Attach the client to the session it means (then None), or begin one."""
        if self.is_draining:
            raise LoginRefused("the gateway is restarting; connect again in a moment")
        workspace = await self.workspace_for(request.principal, request.login_name)
        if not workspace.is_cloned and self.clones is not None:
            workspace, request = await wait_for_tree(self.clones, workspace, request, channel)
        wish = Wish.of(request, parse_login_name(request.login_name))
        if not wish.is_kept:
            return await self._begin(request, channel, workspace, wish)
        async with self._attaching.turn(workspace.id, wish, request.principal.fingerprint):
            if self.adopt_unowned is not None:
                await self.adopt_unowned(workspace)
            found = await self._attaching.find(workspace.id, wish, request)
            fetch = self.fetch
            if found is None and fetch and await fetch(workspace, wish.name, request.principal.fingerprint):
                found = await self._attaching.find(workspace.id, wish, request)
            if found is None and wish.name is not None:  # within the turn: the next to come shall find it
                return await self._begin(request, channel, workspace, wish)
        if found is None:
            return await self._begin(request, channel, workspace, wish)
        await self._reattach(found, request, channel)
        return None

    async def _begin(self, request: SessionRequest, channel: Channel, workspace: Workspace, wish: Wish) -> Live:
        """Have a keeper up, start the program, write the row, join the client."""
        self._refuse_too_many_terminals(workspace, request)
        inside = self._launcher.inside(workspace)
        is_audited = self._config.sftp.audit and is_auditable(request)
        spec = program_spec(request, workspace, inside, is_audited=is_audited)
        keeper, program = await self._start(workspace, spec)
        try:
            audit = audit_of(request, workspace, program, note=self._store.note) if is_audited else None
            live = self.track(
                workspace, keeper, program, kind=request.kind, owner=request.principal.fingerprint, name=wish.name,
                is_kept=wish.is_kept, term=request.terminal.term if request.terminal is not None else "", audit=audit,
            )  # fmt: skip
        except Exception:
            program.close()
            await tell_keeper(keeper.hang_up(program.session_id))
            await tell_keeper(keeper.forget(program.session_id))
            raise
        # Written beside the first output, not before it. The store keeps the order: this row, then what changes it.
        live.row = self._spawn(self._write_row(live, request, inside), f"row:{request.session_id}")
        if isinstance(live.session, PipeSession):
            live.session.attach(channel)
            return live
        assert live.recorder is not None
        assert request.terminal is not None
        live.recorder.mark_attach(request.principal.name, request.terminal.size)
        if request.kind is SessionKind.SHELL and self._login_notice:
            channel.write_stderr(f"homeport: {self._login_notice}\r\n".encode())
        live.session.attach(channel, size=request.terminal.size, term=request.terminal.term,
                            connection_id=request.connection_id)  # fmt: skip
        return live

    async def _reattach(self, found: Found, request: SessionRequest, channel: Channel) -> None:
        """Join a client to a program that runs, and show it the screen."""
        live, terminal = found.live, request.terminal
        session = live.terminal
        assert session is not None
        assert terminal is not None
        if len(session.viewers) >= VIEWERS_MAX:
            raise LoginRefused(f"{VIEWERS_MAX} clients look at this session already")
        started = time.monotonic()
        notice = attach_notice(live, was_taken=found.was_taken)
        live.detached_at = live.job = live.job_ended_at = None
        session.last_activity_at = datetime.now(UTC)
        if live.recorder is not None:
            live.recorder.mark_attach(request.principal.name, terminal.size)
        self._spawn(self._rows.active(live.session_id, request.connection_id), f"attach:{live.session_id}")
        if request.display is not None:
            following = self._displays.follow(live.workspace, request.display, session.program.pid)
            self._spawn(following, f"display:{live.session_id}")
        await session.reattach(
            channel, size=terminal.size, term=terminal.term, connection_id=request.connection_id, notice=notice
        )
        log_event(Event.SESSION_ATTACHED, session_id=live.session_id, connection_id=request.connection_id,
                  workspace=live.workspace.name, principal=request.principal.name, name=live.name,
                  attach_ms=_milliseconds_since(started))  # fmt: skip

    async def _write_row(self, live: Live, request: SessionRequest, inside: Inside) -> None:
        if not await self._rows.opened(live, request, inside):
            live.end_reason = EndReason.FAILED
            await tell_keeper(live.keeper.hang_up(live.session_id))

    async def _start(self, workspace: Workspace, spec: ProgramSpec) -> tuple[Keeper, Program]:
        """Start the program; a keeper that ended just before (idle, killed) is replaced once."""
        for is_last_try in (False, True):
            keeper = await self._keepers.keeper_for(workspace)
            try:
                return keeper, await keeper.start(spec)
            except KeeperGone:
                if is_last_try:
                    raise
        raise AssertionError("unreachable")

    async def run(self, live: Live) -> None:
        """Pump until the program has ended, tell the client, then write it down and let the keeper forget."""
        session = live.session
        try:
            end = await session.run()
        except asyncio.CancelledError:
            session.close()
            raise
        except Exception:
            log_failure(Event.SESSION_FAILED, session_id=session.session_id)
            live.end_reason = EndReason.FAILED
            end = ProgramExit()
            await self._hang_up(live)
        if self._live.get(session.session_id) is not live:
            return  # released: its row, its recording and its keeper's copy belong to the next gateway
        was_asked_for = live.end_reason in (EndReason.KILLED, EndReason.SHUTDOWN, EndReason.IDLE)
        if live.keeper.closed.is_set() and end == ProgramExit() and not was_asked_for:
            live.end_reason = EndReason.LOST
            session.say("the workspace's keeper ended, and this session with it")
        if live.recorder is not None:
            live.recorder.mark_exit(end)
        # Commands are spared our tidying: nothing of ours on their streams.
        is_abrupt = live.is_kept and (live.end_reason is not EndReason.EXIT or end.exit_code is None)
        session.finish(ProgramExit(signal=KEEPER_GONE_SIGNAL) if end == ProgramExit() else end, is_abrupt=is_abrupt)
        await self._write_end(live, end)

    async def _write_end(self, live: Live, end: ProgramExit) -> None:
        """The row first, then the keeper's copy: a crash in between leaves the exit where the next gateway finds it."""
        session = live.session
        try:
            await self._rows.ended(live, end)
            with contextlib.suppress(KeeperGone, KeeperRefused):  # gone: nothing left to forget
                await live.keeper.forget(session.session_id)
        except Exception:
            log_failure(Event.STORE_FAILED, session_id=session.session_id)
        if live.recorder is not None:
            await live.recorder.close(is_final=True)
            self._screens.forget(session.session_id)
        self.forget(session.session_id)
        log_ended(live, end)

    def track(
        self,
        workspace: Workspace,
        keeper: Keeper,
        program: Program,
        *,
        kind: SessionKind,
        owner: str,
        name: str | None,
        is_kept: bool,
        term: str = "",
        audit: SftpAudit | None = None,
    ) -> Live:
        """Make the session's object and remember it. A terminal has its size from the kernel."""
        session_id = program.session_id
        recorder = None
        session: TerminalSession | PipeSession
        if program.terminal_fd is None:
            session = PipeSession(
                program,
                on_signal=lambda name: self._pass_signal(session_id, name),
                on_detached=lambda: self._client_lost(session_id),
                pipe_linger_seconds=self._config.session.pipe_linger_seconds,
                take_log=audit.feed if audit is not None else None,
            )
        else:
            size = window_size(program.terminal_fd)
            recorder = self._recordings.recorder_for(session_id, workspace=workspace, size=size, term=term)
            session = TerminalSession(
                program,
                recorder=recorder,
                screens=self._screens,
                size=size,
                set_window_size=set_window_size,
                on_signal=lambda name: self._pass_signal(session_id, name),
                on_detached=lambda: self._client_lost(session_id),
                spawn=self._spawn,
                pipe_linger_seconds=self._config.session.pipe_linger_seconds,
            )
        live = Live(session, keeper, workspace, kind, recorder, started=time.monotonic(), owner=owner, name=name,
                    is_kept=is_kept, audit=audit)  # fmt: skip
        self._live[session_id] = live
        return live

    def forget(self, session_id: str) -> None:
        """It is written down, or somebody else's now."""
        self._live.pop(session_id, None)
        self.changed.set()

    def give_up(self, live: Live, text: str) -> None:
        """Another gateway goes on with this session: its clients are told, and we no longer read it. Ready for the
        keeper's `release`."""
        self.forget(live.session_id)
        if isinstance(live.session, TerminalSession):
            if live.is_attached and live.recorder is not None:
                live.recorder.mark_detach(text)
            live.session.stop_reading()
            live.session.dismiss_all(text)
        else:
            live.session.stop_reading()

    def _refuse_too_many_terminals(self, workspace: Workspace, request: SessionRequest) -> None:
        # Terminals are a pool of the whole host; one workspace must not empty it for the others.
        if request.terminal is None:
            return
        most = self._config.session.terminals_per_workspace_max
        if sum(live.terminal is not None for live in self._live.values() if live.workspace.id == workspace.id) >= most:
            raise LoginRefused(
                f"{most} terminals are open in this workspace; see: ssh lobby@host sessions, and end some with: "
                "ssh lobby@host kill ID"
            )

    async def workspace_for(self, principal: Principal, login_name: str) -> Workspace:
        """The workspace a principal asked for by login name. Raises WorkspaceMissing or LoginRefused, with words."""
        login = parse_login_name(login_name)
        await self._refuse_old_scope(principal)
        workspace = await self._store.find_workspace(login.workspace)
        if workspace is not None and workspace.is_active and principal.may_enter(workspace.name):
            return workspace
        if workspace is not None and principal.may_enter(workspace.name):
            raise WorkspaceMissing(
                f'"{workspace.name}" is archived; '
                + ("bring it back with:" if principal.is_owner else "its owner can bring it back with:")
                + f" ssh lobby@host unarchive {workspace.name}"
            )
        names = [known.name for known in await self._store.list_workspaces()]
        raise WorkspaceMissing(access.no_such_workspace(principal, login.workspace, names=names))

    async def _refuse_old_scope(self, principal: Principal) -> None:
        """A connection has the scope of its login, and is closed when that changes; until it is, the name of a
        workspace that was renamed or purged may be another one's."""
        if principal.workspaces is not None:
            key = await self._store.find_key(principal.fingerprint)
            if key is not None and key.workspaces != principal.workspaces:
                raise LoginRefused("what this key may enter has changed; connect again")

    async def with_tree(self, workspace: Workspace) -> Workspace:
        """Wait for the clone of one that is declared only. Raises GatewayError, and then it stays so."""
        return workspace if workspace.is_cloned or self.clones is None else await self.clones.ready(workspace)

    # ------------------------------------------------------------------------------- what clients do meanwhile

    def _pass_signal(self, session_id: str, name: str) -> None:
        live = self._live.get(session_id)
        if live is not None:
            self._spawn(tell_keeper(live.keeper.signal(session_id, name)), f"signal:{session_id}")

    def _client_lost(self, session_id: str) -> None:
        live = self._live.get(session_id)
        if live is None or self.is_draining or live.session.program.exited.done():
            return  # released, or the program went first: then its exit is the story
        log_event(Event.SESSION_DETACHED, session_id=session_id, workspace=live.workspace.name)
        if live.recorder is not None:
            live.recorder.mark_detach("connection lost")
        if live.is_kept:
            live.detached_at = datetime.now(UTC)
            self.keep_in_mind(live)
            self.jobs.detached(live)
            self.changed.set()
            self._spawn(self._rows.paused(live), f"detach:{session_id}")
            return
        if live.end_reason is EndReason.EXIT:  # not when it is being killed
            live.end_reason = EndReason.HANGUP
        if isinstance(live.session, TerminalSession):
            self._spawn(self._drop_line(live, live.session), f"hang-up:{session_id}")
        else:
            # Its pipes are closed; most programs end of that. A background job that does not is left alone.
            self._spawn(self._rows.paused(live), f"pause:{session_id}")

    def keep_in_mind(self, live: Live) -> None:
        """Nobody is attached: have its screen at hand for when somebody comes back."""
        if live.recorder is not None:
            self._screens.follow(live.session_id, live.recorder.position)

    async def _drop_line(self, live: Live, session: TerminalSession) -> None:
        """The terminal goes, as under sshd: a program that does not mind (nohup) runs on without one."""
        await tell_keeper(live.keeper.hang_up(session.session_id, then_kill=False))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await asyncio.shield(session.program.exited)
        if not session.program.exited.done() and session.state is SessionState.DETACHED:
            session.drop_terminal()
            await self._rows.paused(live)

    async def _hang_up(self, live: Live) -> None:
        await tell_keeper(live.keeper.hang_up(live.session.session_id))

    # ------------------------------------------------------------------------------------ of all the sessions

    def get(self, session_id: str) -> Live | None:
        return self._live.get(session_id)

    def live(self) -> list[Live]:
        return list(self._live.values())

    async def kill(self, session_id: str, reason: EndReason = EndReason.KILLED) -> bool:
        """End a session's program (HUP, then KILL by its keeper). False: no such live session."""
        live = self._live.get(session_id)
        if live is None:
            return False
        live.end_reason = reason
        await live.keeper.hang_up(session_id)
        return True

    def all_end_now(self) -> None:
        """Everything is about to be ended on purpose: that is the reason to write down, not what it died of."""
        for live in self._live.values():
            if not live.session.program.exited.done():
                live.end_reason = EndReason.SHUTDOWN

    async def flush_activity(self) -> None:
        """Write what live sessions did since the last time, in one batch, never per keystroke; files likewise.

        Also without any live session: the store has its own things to flush with it.
        """
        for live in self._live.values():
            if live.audit is not None:
                live.audit.settle()
        activity = [
            SessionActivity(session_id, live.session.last_activity_at, live.session.bytes_in, live.session.bytes_out)
            for session_id, live in self._live.items()
        ]
        await self._store.flush_activity(activity)


def log_ended(live: Live, end: ProgramExit) -> None:
    """One for each session that was opened, however it ended."""
    session = live.session
    log_event(Event.SESSION_ENDED, session_id=session.session_id, workspace=live.workspace.name, kind=live.kind,
              reason=live.end_reason, exit_status=end.exit_code, exit_signal=end.signal, bytes_in=session.bytes_in,
              bytes_out=session.bytes_out, duration_ms=_milliseconds_since(live.started))  # fmt: skip


async def tell_keeper(call: Coroutine[Any, Any, None]) -> None:
    """Ask for something that is pointless once the keeper, or the program, is gone."""
    try:
        await call
    except (KeeperGone, KeeperRefused) as error:
        log_event(Event.KEEPER_MISBEHAVED, level=logging.DEBUG, reason=str(error))


def _milliseconds_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
