"""A client's channel that only remembers, for what stands behind one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.interfaces import Principal, ProgramExit, SessionKind, SessionRequest, Terminal, WindowSize
from gateway.sessions.session import ChannelSink

OWNER = Principal("k1", "ana", "SHA256:ana")
SCOPED = Principal("k2", "ci", "SHA256:ci", workspaces=frozenset({"my-app"}))


class RememberingChannel:
    """Implements gateway.sessions.session.Channel. A test types by `sink`, and waits by `until`."""

    def __init__(self) -> None:
        self.output = b""
        self.errors = b""
        self.status: int | None = None
        self.is_writing_paused = False
        self.sink: ChannelSink | None = None
        self.attached_count = 0
        self.unread = b""
        self._changed = asyncio.Event()

    def attach(self, sink: ChannelSink) -> None:
        self.sink = sink
        self.attached_count += 1
        self._changed.set()

    def detach(self, unread: bytes = b"") -> None:
        self.sink = None
        self.unread += unread
        self._changed.set()

    def write(self, data: bytes) -> None:
        self.output += data
        self._changed.set()

    def write_stderr(self, data: bytes) -> None:
        self.errors += data
        self._changed.set()

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    async def drained(self) -> None: ...

    async def is_answering(self, within_seconds: float) -> bool:
        return self.sink is not None

    def finish(self, end: ProgramExit) -> None:
        self.status = end.exit_code
        self._changed.set()

    def refuse(self, message: str, exit_status: int = 255) -> None:
        self.write_stderr(f"homeport: {message}\r\n".encode())
        self.finish(ProgramExit(exit_code=exit_status))

    def type(self, data: bytes) -> None:
        assert self.sink is not None
        self.sink.data_received(data)

    async def until(self, question: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not question():
                self._changed.clear()
                await self._changed.wait()


def lobby_request(
    command: bytes | None = None,
    *,
    principal: Principal = OWNER,
    term: str | None = None,
    kind: SessionKind | None = None,
    environment: dict[str, str] | None = None,
) -> SessionRequest:
    """`ssh lobby@host COMMAND`; with `term` on a terminal."""
    return SessionRequest(
        session_id="s1",
        connection_id="c1",
        principal=principal,
        login_name="lobby",
        kind=kind or (SessionKind.SHELL if command is None else SessionKind.EXEC),
        client_address=("192.0.2.7", 50_000),
        server_address=("192.0.2.1", 22),
        terminal=None if term is None else Terminal(term, WindowSize(80, 24), {}),
        command=command,
        environment=environment or {},
    )
