"""A workspace that is declared only gets its tree when somebody comes: what a session asks for, and who waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

from gateway.errors import ProgramFailed
from gateway.interfaces import CloneWatcher, SessionKind, SessionRequest, WindowSize, Workspace
from gateway.sessions.session import Channel

# Typed ahead, for the shell that is to come. More than a person types, and no more than a channel would keep.
TYPED_MAX_BYTES = 16 * 1024
_INTERRUPT = b"\x03"
_INTERRUPTED_STATUS = 130  # as a shell says it


class FirstClones(Protocol):
    """Clones what was declared only (gateway/workspaces)."""

    async def ready(self, workspace: Workspace, watcher: CloneWatcher | None = None) -> Workspace:
        """The workspace once it has its tree, at once if it has one. Cancelling ends the waiting, not the clone."""
        ...


async def wait_for_tree(
    clones: FirstClones, workspace: Workspace, request: SessionRequest, channel: Channel
) -> tuple[Workspace, SessionRequest]:
    """Wait for a session's tree. A person at a terminal is shown the clone, and may leave it with Ctrl-C; nothing of
    ours goes onto the streams of commands and transfers. Returns the request with the window as it is by then.

    Raises GatewayError with the reason if there is no tree, ProgramFailed if the person left.
    """
    if request.kind is not SessionKind.SHELL or request.terminal is None:
        return await clones.ready(workspace), request
    waiting = _Waiting(channel, request.terminal.size)
    channel.attach(waiting)
    cloned = asyncio.ensure_future(clones.ready(workspace, waiting.watcher))
    left = asyncio.ensure_future(waiting.left.wait())
    try:
        await asyncio.wait({cloned, left}, return_when=asyncio.FIRST_COMPLETED)
        if not cloned.done():
            raise ProgramFailed("the clone goes on without you; come back to it with the same command",
                                exit_status=_INTERRUPTED_STATUS)  # fmt: skip
        workspace = cloned.result()
    finally:
        cloned.cancel()
        left.cancel()
        await asyncio.wait({cloned, left})
        channel.detach(bytes(waiting.typed))
    return workspace, replace(request, terminal=replace(request.terminal, size=waiting.size))


class _Waiting:
    """The channel's sink meanwhile (implements ChannelSink)."""

    def __init__(self, channel: Channel, size: WindowSize) -> None:
        self.size = size
        self.typed = bytearray()
        self.left = asyncio.Event()
        self.watcher = CloneWatcher(self._show, size.columns or 80)
        self._channel = channel

    def _show(self, data: bytes) -> None:
        if not self._channel.is_writing_paused:
            self._channel.write_stderr(data)

    def data_received(self, data: bytes) -> None:
        if _INTERRUPT in data:
            self.left.set()
            return
        self.typed += data
        if len(self.typed) > TYPED_MAX_BYTES:
            self._channel.pause_reading()

    def eof_received(self) -> None:
        """The shell will hear of it."""

    def window_changed(self, size: WindowSize) -> None:
        self.size = size

    def signal_requested(self, name: str) -> None:
        if name == "INT":
            self.left.set()

    def output_unwanted(self) -> None:
        """Nobody minds: it is said to whoever looks."""

    def resume_writing(self) -> None:
        """What could not be shown is out of date by now."""

    def channel_lost(self) -> None:
        """Cancelled by whoever owns the session; the clone goes on."""
        self.left.set()
