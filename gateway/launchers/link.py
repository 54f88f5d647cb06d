"""The gateway's handle on one keeper: a method per verb. Its answers are treated as hostile (see answers.py)."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable

from gateway.errors import KeeperGone, KeeperRefused, ProgramFailed
from gateway.events import Event
from gateway.interfaces import KeeperListener, KeptProgram, Program, ProgramExit, ProgramSpec, Wanted
from gateway.keeper import protocol
from gateway.launchers.answers import Answer, AnswerWrong, exit_of, kept_programs, program_of
from gateway.launchers.conversation import Conversation, KeeperDeclined
from gateway.launchers.descriptors import DescriptorWrong, close_all, take_socket
from gateway.launchers.wire import MessageTooLong
from gateway.log import log_warning

VERSIONS_SPOKEN = frozenset({1})
LIST_MAX = 20_000
_FAMILIES = {socket.AF_INET: "inet", socket.AF_INET6: "inet6"}
_KeptPrograms = list[KeptProgram]  # inside the class `list` is the verb


class KeeperLink:
    """Implements interfaces.Keeper over one connection, which it owns. `kill` ends the keeper from outside."""

    def __init__(
        self,
        workspace_id: str,
        connection: socket.socket,
        *,
        launcher_name: str,
        answer_seconds: float,
        on_closed: Callable[[KeeperLink], None],
        kill: Callable[[], None],
        listener: Callable[[], KeeperListener | None] = lambda: None,
    ) -> None:
        """`listener`: who hears, at the time, what concerns other gateways at the same keeper."""
        self._workspace_id = workspace_id
        self.launcher_name = launcher_name  # the wall it was started behind
        self._closed = asyncio.Event()
        self._on_closed = on_closed
        self._kill = kill
        self._listener = listener
        self._programs: dict[str, Program] = {}
        self._conversation = Conversation(
            connection, answer_seconds=answer_seconds, on_event=self._take_event, on_end=self._end
        )

    @property
    def workspace_id(self) -> str:
        return self._workspace_id

    @property
    def closed(self) -> asyncio.Event:
        return self._closed

    @property
    def idle_seconds(self) -> float:
        """Since the last request; 0 while it has a program of ours."""
        return 0.0 if self._programs else asyncio.get_running_loop().time() - self._conversation.last_call_at

    async def hello(self, gateway_id: str) -> None:
        """Introduce ourselves. Raises KeeperRefused for a keeper whose version we do not speak."""
        values = await self._ask("hello", version=protocol.VERSION, gateway=gateway_id)
        if values.get("version") not in VERSIONS_SPOKEN:
            raise KeeperRefused(
                "the workspace's keeper was started by another version; end it with: homeport stop --all",
                detail=f"version {values.get('version')!r:.20}",
            )

    async def start(self, spec: ProgramSpec) -> Program:
        session, is_terminal = spec.session_id, spec.terminal is not None
        try:
            return await self._conversation.call(
                "start",
                _start_request(spec),
                take=lambda answer: self._take_program(session, answer, is_terminal=is_terminal),
                undo=lambda program: self._let_go(session, program, "hang-up", "forget"),
            )
        except KeeperDeclined as declined:
            if declined.exit_status is not None:
                raise ProgramFailed(declined.message, exit_status=declined.exit_status) from None
            raise
        except (MessageTooLong, protocol.MessageMalformed):
            raise ProgramFailed("argument list too long", exit_status=126) from None

    async def list(self) -> _KeptPrograms:
        found: _KeptPrograms = []
        after, has_more = 0, True
        while has_more and len(found) < LIST_MAX:
            values = await self._ask("list", after=after)
            try:
                page, after, has_more = kept_programs(values, after=after)
            except AnswerWrong as error:
                self._conversation.end(str(error))
                raise KeeperGone("the workspace's keeper misbehaved", detail=str(error)) from None
            found += page
        return found

    async def adopt(self, session_id: str, *, until_confirmed: bool = False) -> Program:
        program = await self._conversation.call(
            "adopt",
            # The keeper keeps its copy of the backlog until it hears that ours is safe: an adoption that nobody
            # waits for any more, or that a crash cuts short, is undone without loss.
            {"session": session_id, "keep_ring": True},
            take=lambda answer: self._take_program(
                session_id, answer, is_terminal=answer.values.get("terminal") is True
            ),
            undo=lambda program: self._let_go(session_id, program, "release"),
        )
        if not until_confirmed:
            self.confirm_backlog(session_id)
        return program

    def confirm_backlog(self, session_id: str) -> None:
        self._conversation.tell("drop-ring", {"session": session_id})

    async def release(self, session_id: str) -> None:
        await self._ask("release", session=session_id)
        self._stop_waiting(session_id)  # its end is the next owner's to hear

    async def want(self, session_id: str, how: Wanted) -> bool:
        try:
            return (await self._ask("want", session=session_id, how=how)).get("asked") is True
        except KeeperDeclined as declined:
            if declined.refusal == "unknown_session":  # it has ended this moment
                return False
            if declined.refusal == "unknown_verb":
                raise KeeperRefused(
                    "a gateway that was replaced still has this session, and the workspace's keeper is of a version "
                    "that cannot ask for it; close the terminal it is open in"
                ) from None
            raise

    def keep(self, session_id: str) -> None:
        self._conversation.tell("keep", {"session": session_id})

    async def signal(self, session_id: str, name: str) -> None:
        await self._ask("signal", unless="ended", session=session_id, name=name)

    async def hang_up(self, session_id: str, *, then_kill: bool = True) -> None:
        await self._ask("hang-up", unless="unknown_session", session=session_id, then_kill=then_kill)

    async def forget(self, session_id: str) -> None:
        await self._ask("forget", unless="unknown_session", session=session_id)
        self._stop_waiting(session_id)  # the keeper will not tell the end of what it forgot

    async def tcp_socket(self, family: socket.AddressFamily) -> socket.socket:
        return await self._conversation.call(
            "socket",
            {"family": _FAMILIES[family]},
            take=lambda answer: _socket_of(answer, family),
            undo=_close_socket,
        )

    async def unix_connection(self, path: bytes) -> socket.socket:
        """A socket connected to a unix path as seen inside. Raises KeeperRefused with the reason."""
        return await self._conversation.call(
            "connect",
            {"path": protocol.to_text(path)},
            take=lambda answer: _socket_of(answer, socket.AF_UNIX, is_connected=True),
            undo=_close_socket,
        )

    async def unix_listener(self, path: bytes) -> socket.socket:
        """A socket listening on a unix path inside, which `unlisten` or the end of this link removes."""
        text = protocol.to_text(path)

        def undo(listener: socket.socket | None) -> None:
            _close_socket(listener)
            self._conversation.tell("unlisten", {"path": text})

        return await self._conversation.call(
            "listen",
            {"path": text},
            take=lambda answer: _socket_of(answer, socket.AF_UNIX, is_listening=True),
            undo=undo,
        )

    def unlisten(self, path: bytes) -> None:
        self._conversation.tell("unlisten", {"path": protocol.to_text(path)})

    async def process_count(self) -> int:
        return int((await self.stats()).get("processes", 0))  # 0: a keeper of an earlier version, which does not say

    async def stats(self) -> dict[str, float]:
        """The keeper's own figures: uptime_seconds, programs, terminals, clients, rings_bytes, processes."""
        values = await self._ask("stats")
        numbers = {str(name): float(value) for name, value in values.items() if isinstance(value, int | float)}
        return {name: value for name, value in numbers.items() if math.isfinite(value)}  # JSON knows 1e999

    async def terminate(self) -> None:
        """End the keeper and all in the workspace; by force if it does not answer, or refuses."""
        try:
            await self._ask("terminate")
            async with asyncio.timeout(self._conversation.answer_seconds):
                await self._closed.wait()
        except (KeeperGone, KeeperRefused, TimeoutError):
            if not self._closed.is_set():
                self._kill()
                self._conversation.end()

    def close(self) -> None:
        """Close our end: the keeper becomes the reader of our terminals. Who waits for an exit is told nothing."""
        self._programs.clear()
        self._conversation.end()

    async def _ask(self, verb: str, *, unless: str = "", **fields: object) -> protocol.Message:
        """A request without descriptors; the refusal `unless` counts as done already."""
        try:
            return await self._conversation.call(verb, fields, take=_values_of, undo=lambda values: None)
        except KeeperDeclined as declined:
            if declined.refusal != unless:
                raise
            return {}

    def _take_program(self, session_id: str, answer: Answer, *, is_terminal: bool) -> Program:
        # Known before the next message is read: that may already be its exit.
        program = program_of(session_id, answer, is_terminal=is_terminal)
        if not program.exited.done():
            self._programs[session_id] = program
        return program

    def _stop_waiting(self, session_id: str) -> None:
        """No exit will come for this program: who waits for one may go."""
        program = self._programs.pop(session_id, None)
        if program is not None and not program.exited.done():
            program.exited.set_result(ProgramExit())

    def _let_go(self, session_id: str, program: Program | None, *verbs: str) -> None:
        """Started or adopted for nobody."""
        if program is not None:
            self._programs.pop(program.session_id, None)
            fds = (program.terminal_fd, program.stdin_fd, program.stdout_fd, program.stderr_fd)
            close_all([fd for fd in fds if fd is not None])
        for verb in verbs:
            self._conversation.tell(verb, {"session": session_id})

    def _take_event(self, message: protocol.Message) -> None:
        if message["event"] in ("wanted", "kept", "unowned"):
            self._tell_listener(message)
        if message["event"] != "exit":
            return  # from a newer keeper
        try:
            end = exit_of(message.get("exit"))
        except AnswerWrong as error:
            self._conversation.end(str(error))
            return
        # Unknown: a program that was released, or whose start nobody waited for.
        program = self._programs.pop(str(message.get("session")), None)
        if program is not None and not program.exited.done():
            program.exited.set_result(end)

    def _tell_listener(self, message: protocol.Message) -> None:
        listener, session = self._listener(), message.get("session")
        if listener is None or not isinstance(session, str):
            return
        how = message.get("how")
        if message["event"] == "unowned":
            listener.unowned(self, session)
        elif message["event"] == "kept":
            listener.kept(self, session)
        elif session in self._programs and isinstance(how, str) and how in tuple(Wanted):
            listener.wanted(self, session, Wanted(how))

    def _end(self, reason: str) -> None:
        """The keeper is gone for us, and its programs with it: everyone who waits is told, each once."""
        if reason:
            log_warning(Event.KEEPER_MISBEHAVED, workspace_id=self._workspace_id, reason=reason)
        programs, self._programs = self._programs, {}
        for program in programs.values():
            if not program.exited.done():
                program.exited.set_result(ProgramExit())
        self._closed.set()
        self._on_closed(self)


def _start_request(spec: ProgramSpec) -> protocol.Message:
    text = protocol.to_text
    terminal: protocol.Message | None = None
    if spec.terminal is not None:
        size = spec.terminal.size
        terminal = {
            "size": [size.columns, size.rows, size.width_pixels, size.height_pixels],
            "modes": {str(opcode): value for opcode, value in spec.terminal.modes.items()},
        }
    return {
        "session": spec.session_id,
        "argv": [text(argument) for argument in spec.argv],
        "executable": text(spec.executable),
        "environment": {text(name): text(value) for name, value in spec.environment.items()},
        "directory": text(spec.directory),
        "terminal": terminal,
        "stderr_messages": spec.wants_stderr_messages,
    }


def _values_of(answer: Answer) -> protocol.Message:
    if answer.fds:
        raise AnswerWrong("descriptors nobody asked for")
    return answer.values


def _socket_of(
    answer: Answer, family: socket.AddressFamily, *, is_connected: bool = False, is_listening: bool = False
) -> socket.socket:
    if len(answer.fds) != 1:
        raise DescriptorWrong("not one socket")
    return take_socket(answer.fds[0], family, is_connected=is_connected, is_listening=is_listening)


def _close_socket(connection: socket.socket | None) -> None:
    if connection is not None:
        connection.close()
