"""Forwarded X11 displays (RFC 4254 §6.3): a port inside the workspace that leads to the client's X server.

Everything about a display is done as sshd(8) does it: numbers from 10 up, on loopback, and the cookie is put where X
programs look for it by xauth(1), run as a program of the workspace, since the gateway writes nothing into a home.
Cookie and protocol name come from the client, and are text on xauth's standard input: `display_request` lets only
what cannot be a command pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from gateway.environment import DEFAULT_LANG, DEFAULT_PATH
from gateway.errors import DisplayRefused, KeeperGone, KeeperRefused
from gateway.forwarding.acceptor import Acceptor
from gateway.forwarding.forwards import TcpTarget, listen_on_loopback
from gateway.ids import new_id
from gateway.interfaces import Inside, Keeper, Keepers, Launcher, Program, ProgramSpec, Workspace

# The session's start waits for it. Far above the tens of milliseconds it takes: xauth waits for its lock file for 20 s.
OPEN_SECONDS = 5.0
DISPLAY_FIRST = 10  # X11DisplayOffset of sshd_config(5): clear of the machine's own displays
DISPLAYS_MAX = 1000
PORT_OF_DISPLAY_0 = 6000
# Programs connected at once; each also counts as a forward of the connection.
STREAMS_MAX = 100

_PROTOCOL = re.compile(rb"[A-Za-z0-9-]{1,64}")
_COOKIE = re.compile(rb"(?:[0-9A-Fa-f]{2}){1,128}")
_SCREEN_MAX = 255

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
    """A display that is being forwarded. Whoever opened it closes it with the session; what is connected stays so."""

    def __init__(
        self, name: str, listeners: list[socket.socket], carry: Carry, *, is_single: bool, spawn: Spawn
    ) -> None:
        self.name = name  # for the environment
        self.on_closed: Callable[[], None] = lambda: None
        self._carry = carry
        self._is_single = is_single
        self._spawn = spawn
        self._stream_count = 0
        self._acceptors = [Acceptor(listener, self._take) for listener in listeners]

    def close(self) -> None:
        self._stop_listening()
        self.on_closed()

    def _stop_listening(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()

    def _take(self, program: socket.socket, address: tuple[Any, ...]) -> None:
        if self._stream_count >= STREAMS_MAX:
            program.close()
            return
        if self._is_single:
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

    async def open(self, workspace: Workspace, request: DisplayRequest, carry: Carry) -> Display:
        """A display whose cookie the workspace's programs know. Raises GatewayError or OSError, within OPEN_SECONDS."""
        inside = self._launcher.inside(workspace)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                keeper = await self._keepers.keeper_for(workspace)
                number, listeners = await _listen(keeper)
                try:
                    await self._add_cookie(keeper, inside, f"unix:{number}.{request.screen}", request)
                except BaseException:
                    _close_all(listeners)
                    raise
        except TimeoutError:
            raise DisplayRefused(f"X11 forwarding was not ready after {OPEN_SECONDS:g} s") from None
        name = f"localhost:{number}.{request.screen}"
        return Display(name, listeners, carry, is_single=request.is_single, spawn=self._spawn)

    async def _add_cookie(self, keeper: Keeper, inside: Inside, display: str, request: DisplayRequest) -> None:
        spec = ProgramSpec(
            session_id=new_id(),
            argv=(b"sh", b"-c", b"exec xauth -q -"),  # found on PATH; its commands come on standard input, unseen by ps
            executable=b"/bin/sh",
            environment=_environment(inside),
            directory=inside.home.encode(),
        )
        program = await keeper.start(spec)
        try:
            commands = f"remove {display}\nadd {display} {request.protocol} {request.cookie}\n"
            _write_and_close(program, commands.encode())
            end = await asyncio.shield(program.exited)  # the future is the keeper's; cancelling us must not cancel it
        finally:
            # Its output was not read, and is closed only now: what it complains of fits into the pipe.
            program.close()
            self._spawn(_let_go(keeper, program), f"xauth:{spec.session_id}")  # may wait, and nobody for it
        if end.exit_code == 127:
            raise DisplayRefused("X11 forwarding needs xauth inside the workspace; install it with: apt install xauth")
        if end.exit_code != 0:
            raise DisplayRefused("xauth could not add the cookie; is ~/.Xauthority locked, or not writable?")


async def _listen(keeper: Keeper) -> tuple[int, list[socket.socket]]:
    """The first display whose port nobody has at either loopback address: whoever waited at the other one, another
    workspace perhaps, would get what is meant for us."""
    for number in range(DISPLAY_FIRST, DISPLAY_FIRST + DISPLAYS_MAX):
        try:
            return number, await listen_on_loopback(keeper, TcpTarget("localhost", PORT_OF_DISPLAY_0 + number))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise DisplayRefused(f"all {DISPLAYS_MAX} displays are taken")


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


async def _let_go(keeper: Keeper, program: Program) -> None:
    with contextlib.suppress(KeeperGone, KeeperRefused):
        if not program.exited.done():
            await keeper.hang_up(program.session_id)
        await keeper.forget(program.session_id)


def _close_all(listeners: list[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
