"""Forwarded X11 displays (RFC 4254 §6.3): a port inside the workspace that leads to the client's X server.

Everything about a display is done as sshd(8) does it: numbers from 10 up, on loopback, and the cookie is put where X
programs look for it by xauth(1), run as a program of the workspace, since the gateway writes nothing into a home.
Cookie and protocol name come from the client, and are text on xauth's standard input: `display_request` lets only
what cannot be a command pass.

A shell outlives the client that began it, and has that client's display in its environment. So the display of a client
that attaches moves to the number which the shell knows. The shell itself is asked for it (proc(5), `environ`), which
holds across restarts and upgrades of the gateway without a note of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import secrets
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from gateway.environment import DEFAULT_LANG, DEFAULT_PATH
from gateway.errors import DisplayRefused, GatewayError, KeeperGone, KeeperRefused
from gateway.events import Event
from gateway.forwarding.acceptor import Acceptor
from gateway.forwarding.forwards import TcpTarget, listen_on_loopback
from gateway.ids import new_id
from gateway.interfaces import Inside, Keeper, Keepers, Launcher, Program, ProgramSpec, Workspace
from gateway.log import log_event

# The session's start waits for it. Far above the tens of milliseconds it takes: xauth waits for its lock file for 20 s.
OPEN_SECONDS = 5.0
DISPLAY_FIRST = 10  # X11DisplayOffset of sshd_config(5): clear of the machine's own displays
DISPLAYS_MAX = 1000
# Of the first that many, one is picked by chance and the next free one taken, where sshd takes the first free one: a
# shell that is detached should find its number free when its client comes back. Ports 6010 to 6309 are nobody's.
DISPLAYS_SPREAD = 300
PORT_OF_DISPLAY_0 = 6000
# Programs connected at once; each also counts as a forward of the connection.
STREAMS_MAX = 100

_PROTOCOL = re.compile(rb"[A-Za-z0-9-]{1,64}")
_COOKIE = re.compile(rb"(?:[0-9A-Fa-f]{2}){1,128}")
_SCREEN_MAX = 255
# What a shell has of ours: a number, and a screen that does not matter here.
_NAME = re.compile(rb"localhost:([0-9]{1,5})(?:\.[0-9]{1,3})?")
_NAME_BYTES_MAX = 64
# Bounded, so that it fits into a pipe that is read once the program has ended.
_TELL_NAME = f"tr '\\0' '\\n' </proc/$1/environ | sed -n 's/^DISPLAY=//p' | head -c {_NAME_BYTES_MAX}"

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
# Joins a program (its socket, its address) with the client's X server until either ends; owns the socket.
Carry = Callable[[socket.socket, str, int], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class DisplayRequest:
    """What a client asked for, every value checked."""

    protocol: str  # MIT-MAGIC-COOKIE-1
    cookie: str  # hexadecimal; made up by the client, which replaces it by the real one
    screen: int
    is_single: bool  # for one connection only


def display_request(protocol: bytes, cookie: bytes, screen: int, *, is_single: bool) -> DisplayRequest | None:
    """The request, or None for one that no X11 client makes."""
    if not _PROTOCOL.fullmatch(protocol) or not _COOKIE.fullmatch(cookie) or screen > _SCREEN_MAX:
        return None
    return DisplayRequest(protocol.decode(), cookie.decode(), screen, is_single)


class Display:
    """A client's display in a workspace. Whoever opened it closes it with the session; what is connected stays so."""

    def __init__(self, workspace_id: str, request: DisplayRequest, carry: Carry, spawn: Spawn) -> None:
        self.workspace_id = workspace_id
        self.request = request
        self.number = 0
        self.on_closed: Callable[[], None] = lambda: None
        self.is_over = False  # closed, or its only connection was made
        self._carry = carry
        self._spawn = spawn
        self._stream_count = 0
        self._acceptors: list[Acceptor] = []

    @property
    def name(self) -> str:
        """For the environment."""
        return f"localhost:{self.number}.{self.request.screen}"

    def listen(self, number: int, listeners: list[socket.socket]) -> None:
        """From now on it is this one, and no longer the one before."""
        self._stop_listening()
        self.number = number
        self._acceptors = [Acceptor(listener, self._take) for listener in listeners]

    def lose_number(self) -> None:
        """Another one has it now."""
        self._stop_listening()
        self.number = 0

    def close(self) -> None:
        self.is_over = True
        self._stop_listening()
        self.on_closed()

    def _stop_listening(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()

    def _take(self, program: socket.socket, address: tuple[Any, ...]) -> None:
        if self._stream_count >= STREAMS_MAX:
            program.close()
            return
        if self.request.is_single:
            self.is_over = True
            self._stop_listening()
        self._stream_count += 1
        task = self._spawn(self._carry(program, address[0], address[1]), f"x11:{self.name}")
        task.add_done_callback(self._ended)

    def _ended(self, _task: asyncio.Task[None]) -> None:
        self._stream_count -= 1


class Displays:
    """Opens displays in workspaces."""

    def __init__(self, *, keepers: Keepers, launcher: Launcher, spawn: Spawn) -> None:
        self._keepers = keepers
        self._launcher = launcher
        self._spawn = spawn
        self._displays: WeakSet[Display] = WeakSet()  # whoever opened one holds it

    async def open(self, workspace: Workspace, request: DisplayRequest, carry: Carry) -> Display:
        """A display whose cookie the workspace's programs know. Raises GatewayError or OSError, within OPEN_SECONDS."""
        inside = self._launcher.inside(workspace)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                keeper = await self._keepers.keeper_for(workspace)
                number, listeners = await _listen(keeper)
                with _closed_on_failure(listeners):
                    await self._add_cookie(keeper, inside, number, request)
        except TimeoutError:
            raise DisplayRefused(f"X11 forwarding was not ready after {OPEN_SECONDS:g} s") from None
        display = Display(workspace.id, request, carry, self._spawn)
        display.listen(number, listeners)
        self._displays.add(display)
        return display

    async def follow(self, workspace: Workspace, name: str, pid: int) -> None:
        """The client with the display `name` has attached to the program `pid`, which may know another number: have
        that one lead to this client, whoever it led to before.

        Never fails, and ends within OPEN_SECONDS: a number that cannot be had is one where nobody answers.
        """
        display = self._find(workspace.id, name)
        if display is None:
            return  # its client has gone again, or lost it to a newer one
        inside = self._launcher.inside(workspace)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                keeper = await self._keepers.keeper_for(workspace)
                number = await self._number_known_to(keeper, inside, pid)
                if number is not None and number != display.number:
                    await self._move(keeper, inside, display, number)
        except (TimeoutError, OSError, GatewayError) as error:
            log_event(Event.FORWARD_REFUSED, level=logging.DEBUG, workspace=workspace.name, kind="x11",
                      reason=f"the display of an earlier client could not be had: {error}")  # fmt: skip

    def _find(self, workspace_id: str, name: str) -> Display | None:
        """Those that lost their numbers share a name, with clients of other workspaces as well."""
        for display in self._displays:
            if display.workspace_id == workspace_id and display.name == name and display.number and not display.is_over:
                return display
        return None

    async def _number_known_to(self, keeper: Keeper, inside: Inside, pid: int) -> int | None:
        """The display of ours that a program was started with. The workspace may lie; it gets a number of its own."""
        end, said = await self._run(keeper, inside, (b"sh", b"-c", _TELL_NAME.encode(), b"sh", str(pid).encode()))
        match = _NAME.fullmatch(said.rstrip(b"\n"))
        if end != 0 or match is None:
            return None
        number = int(match[1])
        return number if DISPLAY_FIRST <= number < DISPLAY_FIRST + DISPLAYS_MAX else None

    async def _move(self, keeper: Keeper, inside: Inside, display: Display, number: int) -> None:
        for other in self._displays:
            if (other.workspace_id, other.number) == (display.workspace_id, number):
                other.lose_number()  # the newest client has it
        listeners = await _listen_at(keeper, number)
        with _closed_on_failure(listeners):
            await self._add_cookie(keeper, inside, number, display.request)
        if display.is_over:
            _close_all(listeners)
        else:
            display.listen(number, listeners)

    async def _add_cookie(self, keeper: Keeper, inside: Inside, number: int, request: DisplayRequest) -> None:
        display = f"unix:{number}.{request.screen}"
        commands = f"remove {display}\nadd {display} {request.protocol} {request.cookie}\n"
        # Found on PATH; its commands come on standard input, unseen by ps.
        end, _ = await self._run(keeper, inside, (b"sh", b"-c", b"exec xauth -q -"), commands.encode())
        if end == 127:
            raise DisplayRefused("X11 forwarding needs xauth inside the workspace; install it with: apt install xauth")
        if end != 0:
            raise DisplayRefused("xauth could not add the cookie; is ~/.Xauthority locked, or not writable?")

    async def _run(
        self, keeper: Keeper, inside: Inside, argv: tuple[bytes, ...], data: bytes = b""
    ) -> tuple[int | None, bytes]:
        """A program of the workspace, to its end: its exit code, and the first of what it printed."""
        spec = ProgramSpec(session_id=new_id(), argv=argv, executable=b"/bin/sh", environment=_environment(inside),
                           directory=inside.home.encode())  # fmt: skip
        program = await keeper.start(spec)
        try:
            _write_and_close(program, data)
            end = await asyncio.shield(program.exited)  # the future is the keeper's; cancelling us must not cancel it
            return end.exit_code, _read(program)
        finally:
            # What it printed is read no earlier than at its end; all that is of use fits into the pipe.
            program.close()
            self._spawn(_let_go(keeper, program), f"display:{spec.session_id}")  # may wait, and nobody for it


async def _listen(keeper: Keeper) -> tuple[int, list[socket.socket]]:
    """A display whose port nobody has at either loopback address: whoever waited at the other one, another workspace
    perhaps, would get what is meant for us."""
    first = secrets.randbelow(DISPLAYS_SPREAD)
    for place in range(DISPLAYS_MAX):
        number = DISPLAY_FIRST + (first + place) % DISPLAYS_MAX
        try:
            return number, await _listen_at(keeper, number)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise DisplayRefused(f"all {DISPLAYS_MAX} displays are taken")


async def _listen_at(keeper: Keeper, number: int) -> list[socket.socket]:
    return await listen_on_loopback(keeper, TcpTarget("localhost", PORT_OF_DISPLAY_0 + number))


def _environment(inside: Inside) -> dict[bytes, bytes]:
    values = {
        "HOME": inside.home,
        "USER": inside.user,
        "LOGNAME": inside.user,
        "PATH": DEFAULT_PATH,
        "LANG": DEFAULT_LANG,
    }
    return {name.encode(): value.encode() for name, value in values.items()}


def _write_and_close(program: Program, data: bytes) -> None:
    """Less than a pipe holds, so it does not wait."""
    assert program.stdin_fd is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended; its exit status says why
        os.write(program.stdin_fd, data)
    os.close(program.stdin_fd)
    program.stdin_fd = None


def _read(program: Program) -> bytes:
    assert program.stdout_fd is not None
    with contextlib.suppress(BlockingIOError):  # it printed nothing, and a child of its own is still there
        return os.read(program.stdout_fd, _NAME_BYTES_MAX)
    return b""


async def _let_go(keeper: Keeper, program: Program) -> None:
    with contextlib.suppress(KeeperGone, KeeperRefused):
        if not program.exited.done():
            await keeper.hang_up(program.session_id)
        await keeper.forget(program.session_id)


@contextlib.contextmanager
def _closed_on_failure(listeners: list[socket.socket]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _close_all(listeners)
        raise


def _close_all(listeners: list[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
