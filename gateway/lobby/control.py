"""The control socket: the same commands as the lobby's, for whoever owns the state, and for root.

One task per caller. A caller that stalls, floods or vanishes touches nobody else: what it may send is bounded, its
output waits for it alone and not for ever, and its leaving cancels its command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import CommandRefused
from gateway.events import Event
from gateway.forwarding.acceptor import Acceptor
from gateway.lobby.command import EXIT_REFUSED
from gateway.lobby.context import Input, Nobody, Output, Person
from gateway.lobby.received import ReceivedInput
from gateway.lobby.text import QUESTION_MAX_CHARACTERS
from gateway.lobby.wire import (
    DATA_FRAME_BYTES,
    HEADER,
    FrameInvalid,
    Kind,
    Question,
    Request,
    decode_answer,
    encode_status,
    frame,
    parse_header,
)
from gateway.log import log_event, log_failure, log_warning

CALLERS_MAX = 32
REQUEST_SECONDS = 10  # a caller sends its request at once; one that does not is not ours
STALL_SECONDS = 600  # `homeport rec export ID | less` waits for a reader's eyes, but not over lunch
CLOSE_SECONDS = 5
_BACKLOG = 64
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller's command and streams."""

    argv: list[str]
    columns: int
    is_terminal: bool
    has_colour: bool
    person: Person
    stdin: Input
    stdout: Output
    stderr: Output


RunForCaller = Callable[[Caller], Awaitable[int]]


class ControlServer:
    """Listens on the control socket. `open` binds it, `serve` runs until cancelled and leaves no task behind."""

    def __init__(self, path: Path, run: RunForCaller, *, callers_max: int = CALLERS_MAX) -> None:
        self._path = path
        self._run = run
        self._callers_max = callers_max
        self._caller_count = 0
        self._listener: socket.socket | None = None
        self._acceptor: Acceptor | None = None
        self._inode = 0

    @property
    def caller_count(self) -> int:
        """Whose commands run."""
        return self._caller_count

    @property
    def listening_socket(self) -> socket.socket:
        """What it listens on, as a copy that the caller closes."""
        assert self._listener is not None
        return self._listener.dup()

    def open(self) -> None:
        """Bind. The caller holds the state's lock, so what lies at the path is left over from a gateway that died."""
        fresh = self._path.with_name(".ctl.new")  # no longer than the real name: socket paths end at 107 bytes
        fresh.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            listener.bind(os.fspath(fresh))
            fresh.chmod(0o600)
            listener.listen(_BACKLOG)
            self._inode = fresh.stat().st_ino
            # Renamed only now: at the known path there is never a socket that is deaf, or open to others.
            fresh.replace(self._path)
        except BaseException:
            listener.close()
            raise
        self._listener = listener

    def inherit(self, listener: socket.socket) -> None:
        """Go on with the socket of the gateway that this one replaces. Callers that wait at it are answered."""
        # Again, though it listens: whoever connects is shown the process that did it last (unix(7), SO_PEERCRED).
        listener.listen(_BACKLOG)
        self._listener = listener

    async def serve(self) -> None:
        """Answer callers until cancelled; their commands are cancelled too, and heard out."""
        assert self._listener is not None, "open() comes first"
        # Only now: a gateway that inherited it and came to nothing must not take it from the one that goes on.
        self._inode = self._path.stat().st_ino
        try:
            async with asyncio.TaskGroup() as callers:

                def admit(connection: socket.socket, _address: object) -> None:
                    callers.create_task(self._admit(connection), name="control:caller")

                self._acceptor = Acceptor(self._listener, admit)
                await asyncio.Event().wait()
        finally:
            self.close()

    def pause(self) -> None:
        """Leave callers in the kernel's queue; the commands that run go on."""
        if self._acceptor is not None:
            self._acceptor.pause()

    def resume(self) -> None:
        if self._acceptor is not None:
            self._acceptor.resume()

    def leave(self) -> None:
        """The socket is another gateway's now. Commands that run here go on until `serve` is cancelled."""
        self._inode = 0
        self.close()

    def close(self) -> None:
        """Stop listening, and take the socket away if it is still ours (a successor may have put its own there)."""
        if self._listener is None:
            return
        if self._acceptor is not None:
            self._acceptor.close()
        self._listener.close()
        self._listener = None
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    async def _admit(self, connection: socket.socket) -> None:
        """Decide by the peer's credentials, then serve. No failure in here may reach another caller."""
        uid = _peer_uid(connection)
        if uid not in (0, os.geteuid()):
            connection.close()
            log_warning(Event.COMMAND_REFUSED, reason="foreign_account", uid=uid)
            return
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        self._caller_count += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError) as error:
            log_event(Event.COMMAND_REFUSED, level=logging.DEBUG, reason="caller_gone", detail=type(error).__name__)
        except Exception:
            log_failure(Event.COMMAND_FAILED, reason="control")
        finally:
            self._caller_count -= 1
            await _close(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sending = _Sending(writer)
        try:
            request = await self._read_request(reader)
        except FrameInvalid as error:
            await sending.send(Kind.STDERR, f"homeport: {error.user_message}\n".encode())
            await sending.send(Kind.STATUS, encode_status(EXIT_REFUSED))
            return
        await self._run_until_gone(request, reader, sending)

    async def _read_request(self, reader: asyncio.StreamReader) -> Request:
        if self._caller_count > self._callers_max:
            raise FrameInvalid(f"{self._callers_max} commands run already; try again in a moment")
        async with asyncio.timeout(REQUEST_SECONDS):
            kind, data = await _read_frame(reader)
        if kind is not Kind.REQUEST:
            raise FrameInvalid("the first frame is no request")
        return Request.decode(data)

    async def _run_until_gone(self, request: Request, reader: asyncio.StreamReader, sending: _Sending) -> None:
        stdin = ReceivedInput()
        person = _DistantPerson(sending) if request.can_answer else None
        caller = Caller(
            argv=request.argv,
            columns=request.columns,
            is_terminal=request.is_terminal,
            has_colour=request.has_colour,
            person=person or Nobody(),
            stdin=stdin,
            stdout=_FrameOutput(sending, Kind.STDOUT),
            stderr=_FrameOutput(sending, Kind.STDERR),
        )
        async with asyncio.TaskGroup() as group:  # neither task lets an expected failure out
            command = group.create_task(self._run_and_report(caller, sending), name="control:command")
            listening = group.create_task(_receive(reader, stdin, person), name="control:input")
            await asyncio.wait((command, listening), return_when=asyncio.FIRST_COMPLETED)
            # Whichever ended first, the other has lost its purpose. A cancelled command still tidies up, and its last
            # words are still heard, because only the caller's sending side is known to be closed.
            command.cancel()
            listening.cancel()

    async def _run_and_report(self, caller: Caller, sending: _Sending) -> None:
        try:
            status = await self._run(caller)
            await sending.send(Kind.STATUS, encode_status(status))
        except ConnectionError as error:
            log_event(Event.COMMAND_REFUSED, level=logging.DEBUG, reason="caller_gone", detail=str(error))


class _Sending:
    """One connection's way out. Two streams share it, so a frame is written whole before the next."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._lock = asyncio.Lock()

    async def send(self, kind: Kind, data: bytes) -> None:
        """Raises ConnectionError once the caller is gone, or has taken nothing in for STALL_SECONDS."""
        async with self._lock:
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    self._writer.write(frame(kind, data))
                    await self._writer.drain()
            except TimeoutError:
                self._writer.transport.abort()
                raise ConnectionAbortedError(f"the caller took nothing in for {STALL_SECONDS} s") from None


class _FrameOutput:
    def __init__(self, sending: _Sending, kind: Kind) -> None:
        self._sending = sending
        self._kind = kind

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), DATA_FRAME_BYTES):
            await self._sending.send(self._kind, data[start : start + DATA_FRAME_BYTES])


class _DistantPerson:
    """Whoever sits at the caller's terminal. Asked by a frame, and the caller's command has the terminal's manners."""

    def __init__(self, sending: _Sending) -> None:
        self._sending = sending
        self._answer: asyncio.Future[str | None] | None = None

    async def ask(self, question: str, *, is_secret: bool = False) -> str:
        self._answer = asyncio.get_running_loop().create_future()
        try:
            await self._sending.send(Kind.ASK, Question(question[:QUESTION_MAX_CHARACTERS], is_secret).encode())
            line = await self._answer  # its leaving cancels the command
        finally:
            self._answer = None
        if line is None:
            raise CommandRefused("nobody answered")
        return line

    def answered(self, line: str | None) -> None:
        """Raises FrameInvalid if nothing was asked."""
        if self._answer is None or self._answer.done():
            raise FrameInvalid("an answer to no question")
        self._answer.set_result(line)


async def _receive(reader: asyncio.StreamReader, stdin: ReceivedInput, person: _DistantPerson | None) -> None:
    """Take in frames until the caller closes its sending side, or sends what makes no sense."""
    try:
        while True:
            kind, data = await _read_frame(reader)
            if kind is Kind.STDIN:
                stdin.feed(data)
            elif kind is Kind.STDIN_END:
                stdin.end()
            elif kind is Kind.ANSWER and person is not None:
                person.answered(decode_answer(data))
            else:
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        return  # the caller has closed its sending side: this is how it says cancel
    except FrameInvalid as error:
        log_warning(Event.COMMAND_REFUSED, reason="frame_invalid", detail=error.user_message)


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return int(uid)


async def _read_frame(reader: asyncio.StreamReader) -> tuple[Kind, bytes]:
    kind, length = parse_header(await reader.readexactly(HEADER.size))
    return kind, await reader.readexactly(length)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Let what is written leave, but not for ever: then the rest is dropped."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            writer.close()
            await writer.wait_closed()
    except (TimeoutError, ConnectionError):
        writer.transport.abort()
