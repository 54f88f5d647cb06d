"""`ssh lobby@host …`: the same commands as `homeport …`, for whoever the key says you are.

One command for each session channel, without a row of its own: what a command does is in the journal. It ends with its
channel, by Ctrl-C, and at a drain's deadline, and whichever it was, what it had half made is undone first.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.errors import GatewayError, UsageWrong
from gateway.events import Event
from gateway.interfaces import SessionKind
from gateway.lobby.channel_end import ChannelEnd
from gateway.lobby.command import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
)
from gateway.lobby.context import LobbyContext
from gateway.lobby.picking import MakeNew, make_new, show_picker
from gateway.lobby.run import run_command
from gateway.lobby.text import has_screen, shows_colour
from gateway.log import log_event, log_failure, log_warning

if TYPE_CHECKING:
    from gateway.interfaces import SessionRequest
    from gateway.lobby.services import Services
    from gateway.sessions.session import Channel

# How the caller reaches us, in hints: the host has many names, and only the client knows which of them it typed.
PROG = "ssh lobby@host"
SESSIONS_MAX = 128
SESSIONS_PER_KEY_MAX = 32
COMMAND_MAX_BYTES = 16 * 1024
# After a drain's deadline: how long commands may take to undo what they had half made.
TIDY_SECONDS = 10.0
# What a client reads at once with the end of its connection, ssh(1) does not show.
LAST_WORDS_SECONDS = 0.1
_RESTARTING = "the gateway is restarting; connect again in a moment"
_STOPPING = "the gateway is stopping; what this command had begun is undone"

ServeSession = Callable[["SessionRequest", "Channel"], Awaitable[None]]


class LobbyDoor:
    """Serves the channels of `ssh lobby@host` (implements gatehouse.Lobby)."""

    def __init__(self, services: Services, *, serve_session: ServeSession, drain_seconds: float) -> None:
        """`serve_session`: opens the session that was picked (sessions.py), on the same channel."""
        self._services = services
        self._serve_session = serve_session
        self._drain_seconds = drain_seconds
        self._running: set[_Running] = set()
        self._counts: Counter[str] = Counter()  # by the fingerprint of the key
        self._is_draining = False
        self._is_in_hurry = False
        self._changed = asyncio.Event()

    async def serve(self, request: SessionRequest, channel: Channel) -> None:
        """From request to exit status. No failure in here may reach another session."""
        reason = self._reason_to_refuse(request)
        if reason is not None:
            log_warning(Event.COMMAND_REFUSED, principal=request.principal.name, reason=reason)
            channel.refuse(reason, EXIT_UNREACHABLE if self._is_draining else EXIT_REFUSED)
            return
        running = _Running(request, ChannelEnd(channel, request.terminal), self._services)
        self._running.add(running)
        self._counts[request.principal.fingerprint] += 1
        picked = None
        try:
            picked = await running.run()
        except asyncio.CancelledError:
            channel.refuse(_RESTARTING)
            raise
        except Exception:
            log_failure(Event.COMMAND_FAILED, principal=request.principal.name, reason="lobby")
            channel.refuse("internal error; the gateway's log has the whole story", EXIT_REFUSED)
        finally:
            self._running.discard(running)
            self._counts[request.principal.fingerprint] -= 1
            self._counts += Counter()  # without those at zero
            self._changed.set()
        if picked is not None:  # no longer the lobby's: it may last for days
            await self._serve_session(picked, channel)

    def _reason_to_refuse(self, request: SessionRequest) -> str | None:
        if self._is_draining:
            return _RESTARTING
        if request.kind is SessionKind.SUBSYSTEM:
            return "the lobby has no files; connect to a workspace: sftp WORKSPACE@host"
        if self._counts[request.principal.fingerprint] >= SESSIONS_PER_KEY_MAX:
            return f"{SESSIONS_PER_KEY_MAX} commands of this key run already; try again in a moment"
        if len(self._running) >= SESSIONS_MAX:
            return f"{SESSIONS_MAX} commands run already; try again in a moment"
        return None

    async def drain(self) -> None:
        """Nothing new; what runs has as long as programs without a terminal, then it is cancelled and undone."""
        self._is_draining = True
        idle = [running for running in self._running if running.is_picking]
        self._stop(idle, _RESTARTING)
        if not self._is_in_hurry:
            await self._wait_ended(self._drain_seconds)
        late = list(self._running)
        self._stop(late, _STOPPING)
        await self._wait_ended(TIDY_SECONDS, is_patient=True)
        if idle or late:
            await asyncio.sleep(LAST_WORDS_SECONDS)

    def _stop(self, them: Iterable[_Running], why: str) -> None:
        for running in them:
            running.stop(why)

    def hurry(self) -> None:
        """Wait for nobody any more."""
        self._is_in_hurry = True
        self._changed.set()

    async def _wait_ended(self, seconds: float, *, is_patient: bool = False) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._running and (is_patient or not self._is_in_hurry):
                    self._changed.clear()
                    await self._changed.wait()


class _Running:
    """One command and its channel."""

    def __init__(self, request: SessionRequest, end: ChannelEnd, services: Services) -> None:
        self._request = request
        self._end = end
        self._services = services
        self.is_picking = False
        self._picked: SessionRequest | None = None
        self._why_stopped: str | None = None
        self._is_interrupted = False
        self._task: asyncio.Task[int] | None = None

    async def run(self) -> SessionRequest | None:
        """To the exit status; or to the session that was picked, whose channel is open and attached to nobody."""
        end = self._end
        end.on_interrupt = self.interrupt
        end.channel.attach(end)
        async with asyncio.TaskGroup() as group:
            self._task = group.create_task(self._command(), name=f"lobby:{self._request.session_id}")
            if self._is_interrupted:
                self._task.cancel()
            await asyncio.wait({self._task})
        if self._picked is not None and not end.is_lost:
            end.channel.detach()
            return self._picked
        if not self._task.cancelled():
            await end.finish(self._task.result())
        elif self._why_stopped is not None:
            end.channel.refuse(self._why_stopped)
        else:
            await end.finish(EXIT_INTERRUPTED)
        return None

    def interrupt(self) -> None:
        """Ctrl-C, or the channel is gone. Once: the command may be busy undoing things."""
        if self._is_interrupted:
            return
        self._is_interrupted = True
        if self._task is not None:
            self._task.cancel()

    def stop(self, why: str) -> None:
        if not self._is_interrupted:
            self._why_stopped = why
            self.interrupt()

    async def _command(self) -> int:
        lobby = self._lobby()
        try:
            if self._request.kind is SessionKind.SHELL and self._has_screen():
                return await self._pick(lobby)
            return await self._run_typed(lobby)
        except GatewayError as error:  # of the picker; a command has said its own
            log_event(Event.COMMAND_REFUSED, principal=lobby.who, error_code=error.code, reason=error.detail)
            await lobby.note(error.user_message)
            return EXIT_REFUSED
        except BrokenPipeError:
            return EXIT_BROKEN_PIPE
        except ConnectionError as error:
            log_event(Event.COMMAND_REFUSED, principal=lobby.who, reason="caller_gone", detail=str(error))
            return EXIT_UNREACHABLE

    async def _run_typed(self, lobby: LobbyContext) -> int:
        try:
            words = [] if self._request.command is None else split(self._request.command)
        except UsageWrong as error:
            log_event(Event.COMMAND_REFUSED, command="unknown", principal=lobby.who, error_code=error.code)
            await lobby.note(error.user_message)
            return EXIT_USAGE
        return await run_command(lobby, words, on_host=False)

    async def _pick(self, lobby: LobbyContext) -> int:
        """The picker, then what was chosen in it."""
        terminal = self._request.terminal
        assert terminal is not None
        self.is_picking = True
        choice = await show_picker(lobby, self._end, term=terminal.term)
        self.is_picking = False
        if choice is None:
            return EXIT_OK
        if isinstance(choice, MakeNew):
            status, login_name = await make_new(lobby, choice.typed)
            if login_name is None:
                return status
        else:
            login_name = choice.login_name
        self._picked = replace(self._request, login_name=login_name, terminal=replace(terminal, size=self._end.size))
        return EXIT_OK

    def _has_screen(self) -> bool:
        terminal = self._request.terminal
        return terminal is not None and has_screen(terminal.term)

    def _lobby(self) -> LobbyContext:
        end = self._end
        return LobbyContext(
            stdin=end.stdin,
            stdout=end.stdout,
            stderr=end.stderr,
            services=self._services,
            columns=end.columns,
            is_terminal=end.has_terminal,
            has_colour=self._has_colour(),
            principal=self._request.principal,
            client_ip=self._request.client_address[0],
            prog=PROG,
            person=end.person,
            screen=end.screen,
        )

    def _has_colour(self) -> bool:
        terminal = self._request.terminal
        no_color = self._request.environment.get("NO_COLOR", "")
        return terminal is not None and shows_colour(terminal.term, no_color=no_color)


def split(command: bytes) -> list[str]:
    """The words of what the client sent, quoted as for a shell; nothing in them is expanded. Raises UsageWrong."""
    if len(command) > COMMAND_MAX_BYTES:
        raise UsageWrong(f"the command is {len(command)} bytes long; the lobby takes {COMMAND_MAX_BYTES}")
    try:
        text = command.decode()
    except UnicodeDecodeError:
        raise UsageWrong("the command is not UTF-8") from None
    if "\0" in text:
        raise UsageWrong("the command has a NUL in it")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageWrong(f"the command's quotes do not match ({str(error).lower()})") from None
    return words[1:] if words[:1] == ["homeport"] else words  # as the examples in the documents are typed
