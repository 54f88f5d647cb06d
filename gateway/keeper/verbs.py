"""What a gateway may ask for: one function per verb, and the table of them."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence

from . import process, protocol, spawn
from .client import Client
from .programs import SIGNALS, Program
from .terminal import SIZE_MAX, open_terminal

TYPE_CHECKING = False  # importing typing would cost 5 ms of every keeper's start
if TYPE_CHECKING:
    from .server import Keeper

LISTENERS_MAX_PER_CLIENT = 256
LISTEN_BACKLOG = 128
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


class Refused(Exception):
    """The request was understood and is declined; `code` is stable."""

    def __init__(self, code: str, message: str, **more: object) -> None:
        super().__init__(message)
        self._description = {"code": code, "message": message, **more}

    def describe(self) -> protocol.Message:
        return self._description


class Reply:
    """The answer to one request: values and descriptors. Those in `owned_fds` are closed once it is sent."""

    def __init__(
        self,
        values: protocol.Message | None = None,
        *,
        fds: Sequence[int] = (),
        owned_fds: Sequence[int] = (),
        undo: Callable[[], object] | None = None,
    ) -> None:
        self.values = values or {}
        self.fds = fds
        self.undo = undo  # for an answer that could not be sent
        self._owned_fds = owned_fds

    def close(self) -> None:
        for fd in self._owned_fds:
            os.close(fd)


def _hello(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    client.gateway = protocol.text_in(request, "gateway", chars_max=128)
    client.has_greeted = True
    return Reply({"version": protocol.VERSION, "pid": os.getpid(), "python": ".".join(map(str, sys.version_info[:3]))})


def _start(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    session = protocol.text_in(request, "session", chars_max=protocol.SESSION_ID_MAX_CHARS)
    if keeper.programs.get(session) is not None:
        raise Refused("session_exists", "a program of this session is still kept")
    executable, argv = protocol.bytes_in(request, "executable"), _arguments(request)
    environment, directory = _environment(request), protocol.bytes_in(request, "directory")
    terminal, has_messages = request.get("terminal"), False
    try:
        if terminal is None:
            wants_messages = request.get("stderr_messages") is True
            pid, fds, has_messages = spawn.spawn_on_pipes(
                executable, argv, environment, directory, wants_messages=wants_messages
            )
            program, owned_fds = keeper.add(session, pid, None, client), fds
        else:
            master, slave = _open_terminal(keeper, terminal)
            try:
                environment[b"SSH_TTY"] = slave.encode()  # only here is its name known
                pid = spawn.spawn_on_terminal(slave, executable, argv, environment, directory)
            except BaseException:
                os.close(master)
                raise
            program, fds, owned_fds = keeper.add(session, pid, master, client), [master], []
    except spawn.SpawnFailed as failure:
        raise Refused("not_started", failure.message, exit_status=failure.exit_status) from None

    def undo() -> None:
        program.is_forgotten_at_exit = True
        keeper.hang_up(program)

    return Reply({"pid": pid, "stderr_messages": has_messages}, fds=fds, owned_fds=owned_fds, undo=undo)


def _open_terminal(keeper: Keeper, wanted: object) -> tuple[int, str]:
    if keeper.programs.terminal_count() >= keeper.terminals_max:
        raise Refused("too_many_terminals", f"this workspace has {keeper.terminals_max} terminals open, its limit")
    if not isinstance(wanted, dict):
        raise protocol.MessageMalformed("terminal must be an object")
    size, modes = wanted.get("size"), wanted.get("modes", {})
    if not isinstance(size, list) or len(size) != 4 or not isinstance(modes, dict) or len(modes) > 256:
        raise protocol.MessageMalformed("terminal needs a size of four numbers, and modes")
    try:
        sizes = [min(SIZE_MAX, max(0, int(value))) for value in size]
        numbers = {int(opcode): int(value) for opcode, value in modes.items()}
    except (TypeError, ValueError, OverflowError):
        raise protocol.MessageMalformed("size and modes must be numbers") from None
    try:
        return open_terminal(sizes, numbers)
    except OSError as error:
        raise Refused("no_terminal", f"no terminal could be opened: {error.strerror}") from None


def _arguments(request: protocol.Message) -> list[bytes]:
    argv = request.get("argv")
    if not isinstance(argv, list) or not argv or not all(isinstance(argument, str) for argument in argv):
        raise protocol.MessageMalformed("argv must be a list of texts")
    arguments = [protocol.to_bytes(argument) for argument in argv]
    if not arguments[0] or any(b"\0" in argument for argument in arguments):
        raise protocol.MessageMalformed("argv holds a NUL byte, or an empty first argument")
    return arguments


def _environment(request: protocol.Message) -> dict[bytes, bytes]:
    environment = request.get("environment")
    if not isinstance(environment, dict):
        raise protocol.MessageMalformed("environment must be an object")
    result = {}
    for name, value in environment.items():
        if not isinstance(value, str) or not name or "=" in name or "\0" in name + value:
            raise protocol.MessageMalformed("environment holds something that is not NAME=value")
        result[protocol.to_bytes(name)] = protocol.to_bytes(value)
    return result


def _signal(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    program = _program_of(keeper, client, request)
    name = protocol.text_in(request, "name", chars_max=16)
    if name not in SIGNALS:
        raise Refused("unknown_signal", f"not a signal of RFC 4254: {name!r}")
    if program.exit is not None:
        raise Refused("ended", "the program has ended")
    program.signal_group(SIGNALS[name])
    return Reply()


def _hang_up(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    keeper.hang_up(_program_of(keeper, client, request), then_kill=request.get("then_kill") is not False)
    return Reply()


def _forget(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    """Nobody will ask for its exit: drop it, or if it still runs, do so once it has ended."""
    program = _program_of(keeper, client, request)
    program.is_forgotten_at_exit = True
    if program.exit is not None:
        keeper.forget(program)
    return Reply()


def _list(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    """At most a page, from the serial number `after` on: an answer must fit into a message."""
    after = protocol.integer_in(request, "after") if "after" in request else 0
    found = [program for program in keeper.programs if program.serial > after]
    page = [program.describe() for program in found[: protocol.LIST_PAGE_MAX]]
    return Reply({"programs": page, "more": len(found) > len(page)})


def _adopt(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    program = _known_program(keeper, request)
    if program.owner is not None:
        raise Refused("owned", "another connection owns this program")
    if program.exit is None and program.master is None:
        raise Refused("not_adoptable", "its streams went with the connection that started it")
    keeper.hand_over(program, client)
    values: protocol.Message = {"pid": program.pid, "terminal": program.is_terminal, "exit": program.exit}
    values["lost_bytes"], values["ring_bytes"] = program.ring.lost_bytes, len(program.ring)
    try:
        ring = [program.ring.to_memfd()] if len(program.ring) else []
    except BaseException:
        keeper.disown(program)
        raise
    master = [] if program.master is None else [program.master]
    if request.get("keep_ring") is not True:
        # The memory file holds it by now; if the answer cannot be sent, the connection is lost and with it the ring.
        program.ring.clear()
    return Reply(values, fds=ring + master, owned_fds=ring, undo=lambda: keeper.disown(program))


def _drop_ring(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    """After an adopt with `keep_ring`: what it handed over is on record by now."""
    program = _program_of(keeper, client, request)
    program.ring.clear()
    return Reply()


def _release(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    program = _program_of(keeper, client, request)
    if program.owner is not client:
        raise Refused("not_owner", "this connection does not own the program")
    keeper.disown(program)
    return Reply()


def _want(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    """Pass on to another connection that we would have its program, or have it ended; `how` is between the two of them.
    Nothing is taken from anybody: two readers would split a terminal's output."""
    program = _known_program(keeper, request)
    how = protocol.text_in(request, "how", chars_max=32)
    owner = program.owner
    if not isinstance(owner, Client) or owner is client:
        return Reply({"asked": False})
    keeper.tell(owner, {"event": "wanted", "session": program.session, "how": how})
    return Reply({"asked": True})


def _keep(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    """The owner's answer to a wish: it keeps the program."""
    keeper.tell_others(client, "kept", _program_of(keeper, client, request))
    return Reply()


def _socket(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    """Unconnected: the gateway resolves, decides and connects, so nothing here waits for a name or a peer."""
    family = _FAMILIES.get(protocol.text_in(request, "family", chars_max=8))
    if family is None:
        raise Refused("unknown_family", "inet or inet6")
    fd = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK).detach()
    return Reply(fds=[fd], owned_fds=[fd])


def _connect(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    """A unix path as seen inside: it exists only here."""
    path = protocol.bytes_in(request, "path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            raise Refused("not_connected", error.strerror or str(error)) from None
        fd = connection.detach()
    return Reply(fds=[fd], owned_fds=[fd])


def _listen(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    """Bind a unix path inside and hand over the listening socket; the path is removed with the connection."""
    path = protocol.bytes_in(request, "path")
    if len(client.listening_paths) >= LISTENERS_MAX_PER_CLIENT:
        raise Refused("too_many_listeners", f"at most {LISTENERS_MAX_PER_CLIENT} per connection")
    before = os.umask(0o177)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
            listener.bind(path)
            listener.listen(LISTEN_BACKLOG)
            found = os.lstat(path)
            client.listening_paths[path] = (found.st_dev, found.st_ino)
            fd = listener.detach()
    except OSError as error:
        raise Refused("not_bound", error.strerror or str(error)) from None
    finally:
        os.umask(before)
    return Reply(fds=[fd], owned_fds=[fd], undo=lambda: client.unlisten(path))


def _unlisten(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    if not client.unlisten(protocol.bytes_in(request, "path")):
        raise Refused("not_listening", "this connection has no listener there")
    return Reply()


def _stats(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    return Reply(
        {
            "uptime_seconds": round(time.monotonic() - keeper.started_at, 3),
            "programs": len(keeper.programs),
            "terminals": keeper.programs.terminal_count(),
            "clients": len(keeper.clients),
            "rings_bytes": keeper.programs.budget.used_bytes,
            # With what programs left in the background: a nohup'ed job belongs to no session any more.
            "processes": len(process.children_of({os.getpid()})),
        }
    )


def _terminate(keeper: Keeper, client: Client, request: protocol.Message) -> Reply:
    keeper.end_everything()
    return Reply()


def _known_program(keeper: Keeper, request: protocol.Message) -> Program:
    program = keeper.programs.get(protocol.text_in(request, "session", chars_max=protocol.SESSION_ID_MAX_CHARS))
    if program is None:
        raise Refused("unknown_session", "no program of this session is kept")
    return program


def _program_of(keeper: Keeper, client: Client, request: protocol.Message) -> Program:
    """The program, if it is the client's own or nobody's."""
    program = _known_program(keeper, request)
    if program.owner not in (None, client):
        raise Refused("owned", "another connection owns this program")
    return program


VERBS: dict[str, Callable[[Keeper, Client, protocol.Message], Reply]] = {
    "hello": _hello,
    "start": _start,
    "signal": _signal,
    "hang-up": _hang_up,
    "forget": _forget,
    "list": _list,
    "adopt": _adopt,
    "drop-ring": _drop_ring,
    "release": _release,
    "want": _want,
    "keep": _keep,
    "socket": _socket,
    "connect": _connect,
    "listen": _listen,
    "unlisten": _unlisten,
    "stats": _stats,
    "terminate": _terminate,
}
