"""The socket of one workspace at which git asks: who is let in, how many at once, and how long that may take.

What is answered is the broker's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from gateway.credentials.decision import ASK_MAX_BYTES
from gateway.forwarding.acceptor import Acceptor
from gateway.interfaces import Workspace

# Asked at once in one workspace; more wait in the kernel's queue, so that one workspace holds up itself alone.
ASKS_AT_ONCE_MAX = 16
# A workspace that asks without end must not be what the gateway is busy with: an answer costs it a millisecond.
ASKS_PER_SECOND_MAX = 100
NOTES_PER_MINUTE_MAX = 300  # rows in the journal, of one workspace; the next row tells how many there would have been
ASK_SECONDS = 5.0  # for the question, a line or ten from a program beside us
ANSWER_SECONDS = 5.0
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
Answer = Callable[["Desk", bytes], Awaitable[str]]


class GitPlace(Protocol):
    """What git in one workspace sees of us (launchers/git_directory.py)."""

    @property
    def is_published(self) -> bool: ...

    @property
    def is_free(self) -> bool:
        """Whether nobody listens there, neither we nor another gateway."""
        ...

    def publish(self) -> socket.socket: ...

    def withdraw(self) -> None: ...

    def write(self, name: str, text: str | None) -> None: ...


class NoteLimit:
    """How many rows a workspace makes in the journal in a minute."""

    def __init__(self) -> None:
        self._begun_at = 0.0
        self._count = 0
        self._left_out = 0

    def admits(self, now: float) -> bool:
        if now - self._begun_at >= 60:
            self._begun_at, self._count = now, 0
        self._count += 1
        self._left_out += self._count > NOTES_PER_MINUTE_MAX
        return self._count <= NOTES_PER_MINUTE_MAX

    def take_left_out(self) -> int:
        left_out, self._left_out = self._left_out, 0
        return left_out


class Desk:
    """The socket of one workspace, and those who ask at it."""

    def __init__(self, workspace_id: str, place: GitPlace, *, answer: Answer, spawn: Spawn) -> None:
        self.workspace_id = workspace_id
        self.place = place
        self.made_for: Workspace | None = None
        self.given: bytes | None = None  # a digest of the newest token it got
        self.notes = NoteLimit()
        self.told_repo: str | None = None  # what git there was told about
        self.telling = asyncio.Lock()  # one at a time, so that the last to write knew the newest
        self._answer = answer
        self._spawn = spawn
        self._acceptor: Acceptor | None = None
        self._ask_count = 0  # at this moment
        self._taken_count = 0  # in this second
        self._rest: asyncio.TimerHandle | None = None  # ends it

    def listen(self) -> None:
        """Have the path lead to us, whatever lies there. Raises OSError."""
        if self._acceptor is not None and self.place.is_published:
            return
        listener = self.place.publish()
        if self._acceptor is not None:
            self._acceptor.close()
        self._acceptor = Acceptor(listener, self._take)

    def listen_if_free(self) -> None:
        if not self.place.is_published and self.place.is_free:
            self.listen()

    def close(self) -> None:
        self.place.withdraw()
        if self._rest is not None:
            self._rest.cancel()
        if self._acceptor is not None:
            self._acceptor.close()

    def _take(self, program: socket.socket, _address: object) -> None:
        uid = _PEER.unpack(program.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1]
        if uid != os.getuid():  # nobody else can reach the path; should that ever change, nothing is given
            program.close()
            return
        self._ask_count += 1
        self._taken_count += 1
        self._pace()
        task = self._spawn(self._serve(program), f"credential:{self.workspace_id}")
        task.add_done_callback(lambda _: self._ended(program))

    def _ended(self, program: socket.socket) -> None:
        program.close()  # also where the task was cancelled before its first step
        self._ask_count -= 1
        self._pace()

    def _pace(self) -> None:
        """Accept, or leave who comes in the kernel's queue."""
        if self._acceptor is None:
            return
        if self._rest is None and self._taken_count:
            self._rest = asyncio.get_running_loop().call_later(1.0, self._rested)
        if self._ask_count < ASKS_AT_ONCE_MAX and self._taken_count < ASKS_PER_SECOND_MAX:
            self._acceptor.resume()
        else:
            self._acceptor.pause()

    def _rested(self) -> None:
        self._rest, self._taken_count = None, 0
        self._pace()

    async def _serve(self, program: socket.socket) -> None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                data = await _question(program)
            if data:  # else another gateway looked whether we are here
                answer = await self._answer(self, data)
                async with asyncio.timeout(ANSWER_SECONDS):
                    await asyncio.get_running_loop().sock_sendall(program, answer.encode())
        except (OSError, TimeoutError):
            return  # it is gone, or does not listen; nobody is left to be told


async def _question(program: socket.socket) -> bytes:
    """All it says until it stops; twice what is allowed, at most, so that a question that is too long is answered: what
    were left unread would reset the connection."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) <= ASK_MAX_BYTES and (piece := await loop.sock_recv(program, ASK_MAX_BYTES)):
        data += piece
    return bytes(data)
