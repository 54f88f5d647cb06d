"""Waiting for the tree of a workspace that is cloned at its first login."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import CommandRefused, ProgramFailed
from gateway.interfaces import CloneWatcher, SessionKind, SessionRequest, Terminal, WindowSize, Workspace
from gateway.sessions.first_clone import wait_for_tree
from tests.support.channel import RememberingChannel, lobby_request

DECLARED = Workspace("w", "app", Path("/nowhere/home"), Path("/nowhere/tree"), is_cloned=False)
CLONED = replace(DECLARED, is_cloned=True)


class Clones:
    """Clones when it is told to."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Workspace] = asyncio.get_running_loop().create_future()
        self.watchers: list[CloneWatcher | None] = []
        self.asked = asyncio.Event()

    async def ready(self, workspace: Workspace, watcher: CloneWatcher | None = None) -> Workspace:
        self.watchers.append(watcher)
        self.asked.set()
        return await asyncio.shield(self.done)


def request(*, kind: SessionKind = SessionKind.SHELL, terminal: bool = True) -> SessionRequest:
    shown = Terminal("xterm", WindowSize(80, 24), {}) if terminal else None
    return replace(lobby_request(), login_name="app", kind=kind, terminal=shown)


async def test_what_is_typed_ahead_and_the_window_reach_the_shell_that_comes() -> None:
    clones, channel = Clones(), RememberingChannel()
    waiting = asyncio.create_task(wait_for_tree(clones, DECLARED, request(), channel))
    await clones.asked.wait()
    assert channel.sink is not None
    channel.sink.data_received(b"make te")
    channel.sink.data_received(b"st\r")
    channel.sink.window_changed(WindowSize(100, 30))
    clones.done.set_result(CLONED)
    workspace, served = await waiting
    assert (workspace, channel.unread, channel.sink) == (CLONED, b"make test\r", None)
    assert served.terminal is not None
    assert served.terminal.size == WindowSize(100, 30)


@pytest.mark.parametrize(
    "leave",
    [
        lambda channel: channel.sink.data_received(b"q\x03"),
        lambda channel: channel.sink.signal_requested("INT"),
        lambda channel: channel.sink.channel_lost(),
    ],
)
async def test_who_leaves_waits_no_longer_and_the_clone_goes_on(leave: Callable[[RememberingChannel], None]) -> None:
    """Typed into the shell that comes, a Ctrl-C ended that, minutes later."""
    clones, channel = Clones(), RememberingChannel()
    waiting = asyncio.create_task(wait_for_tree(clones, DECLARED, request(), channel))
    await clones.asked.wait()
    leave(channel)
    with pytest.raises(ProgramFailed, match="goes on without you") as refused:
        await waiting
    assert (refused.value.exit_status, channel.sink, clones.done.cancelled()) == (130, None, False)


async def test_a_clone_that_fails_is_told_with_its_reason() -> None:
    clones, channel = Clones(), RememberingChannel()
    clones.done.set_exception(CommandRefused("git failed: no such repository"))
    with pytest.raises(CommandRefused, match="no such repository"):
        await wait_for_tree(clones, DECLARED, request(), channel)
    assert channel.sink is None


@pytest.mark.parametrize("asked", [{"kind": SessionKind.EXEC}, {"terminal": False}, {"kind": SessionKind.SUBSYSTEM}])
async def test_commands_and_transfers_see_nothing_and_keep_their_input(asked: dict[str, object]) -> None:
    clones, channel = Clones(), RememberingChannel()
    clones.done.set_result(CLONED)
    wanted = request(**asked)  # type: ignore[arg-type]
    assert await wait_for_tree(clones, DECLARED, wanted, channel) == (CLONED, wanted)
    assert (clones.watchers, channel.attached_count, channel.errors) == ([None], 0, b"")
