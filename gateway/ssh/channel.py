"""One session channel: asyncssh's callbacks on one side, `gateway.sessions.session.Channel` on the other.

`SessionWire` is the channel on the wire (what asyncssh gets wrong about requests), `SessionChannel` the object that
sessions know. asyncssh calls are synchronous and only note what happened; the story is told in `sessions.serve`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import asyncssh
from asyncssh.constants import EXTENDED_DATA_STDERR, MSG_CHANNEL_CLOSE
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from gateway.config import SshSettings
from gateway.environment import VALUE_MAX_BYTES, VARIABLE_COUNT_MAX, is_allowed_variable
from gateway.forwarding.displays import Display, DisplayRequest, display_request
from gateway.ids import new_id
from gateway.interfaces import ProgramExit, SessionKind, SessionRequest, Terminal, WindowSize
from gateway.sessions.session import ChannelSink
from gateway.ssh.requests import ChannelRequests
from gateway.ssh.window import EARLY_WINDOW_BYTES, BoundedInput

if TYPE_CHECKING:
    from gateway.ssh.connection import Connection

TERM_MAX_CHARACTERS = 64
# RFC 4254 §6.10, without the private ones (name@domain) that no program of ours knows.
SIGNALS = frozenset(
    ("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2")
)
# A closed channel may still hold input that the program has not read. As long as it reads on, it gets it (sshd does the
# same); one that does not read for this long, or has a terminal, learns that its client is gone.
UNREAD_SECONDS = 5.0


class SessionWire(BoundedInput, ChannelRequests):
    """asyncssh's server channel for raw bytes: any command, only allowed variables, no line editor."""

    _conn: Any

    def __init__(self, conn: Any, loop: asyncio.AbstractEventLoop, settings: SshSettings, max_pktsize: int) -> None:
        super().__init__(
            conn, loop, allow_pty=True, line_editor=False, line_echo=False, line_history=0, max_line_length=0,
            encoding=None, errors="strict", window=EARLY_WINDOW_BYTES, max_pktsize=max_pktsize,
        )  # fmt: skip
        self._settings = settings
        self.raw_command: bytes | None = None
        self.display: Display | None = None
        self.set_write_buffer_limits(high=settings.output_buffer_max_bytes)

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        """asyncssh closes a channel only once its input was read, which a stopped program never does."""
        result = super().process_packet(pkttype, pktid, packet)
        if pkttype == MSG_CHANNEL_CLOSE and self._recv_state == "close_pending":
            if self._term_type is not None:
                self._discard_recv()
            else:
                self._loop.call_later(UNREAD_SECONDS, self._close_unread, len(self._recv_buf))
        return result

    def _close_unread(self, count_before: int) -> None:
        if self._recv_state != "close_pending":
            return
        if len(self._recv_buf) < count_before:
            self._loop.call_later(UNREAD_SECONDS, self._close_unread, len(self._recv_buf))
        else:
            self._discard_recv()

    def _process_env_request(self, packet: SSHPacket) -> bool:
        """Keep an allowed variable, drop any other quietly: a refusal makes some clients complain to their user."""
        name, value = packet.get_string(), packet.get_string()
        packet.check_end()
        text = name.decode("ascii") if name.isascii() else ""  # LC_* would let any other bytes through
        has_room = len(value) <= VALUE_MAX_BYTES and (name in self._env or len(self._env) < VARIABLE_COUNT_MAX)
        if has_room and is_allowed_variable(text, self._settings.environment_allowed):
            self._env[name] = value
        return True

    def _process_exec_request(self, packet: SSHPacket) -> bool:
        """Commands are bytes (Latin-1 file names in scp -O and git), though asyncssh insists on UTF-8."""
        self.raw_command = packet.get_string()
        packet.check_end()
        return self._start_session(command=self.raw_command.decode(errors="replace"))

    def _process_auth_agent_req_at_openssh_dot_com_request(self, packet: SSHPacket) -> None:
        packet.check_end()
        self._answer_later(self._conn.agent.begin())

    def _process_x11_req_request(self, packet: SSHPacket) -> bool | None:
        """asyncssh would write the cookie itself, and into a file of the gateway's account."""
        is_single, protocol, cookie = packet.get_boolean(), packet.get_string(), packet.get_string()
        screen = packet.get_uint32()
        packet.check_end()
        request = display_request(protocol, cookie, screen, is_single=is_single)
        is_early = not self._session_started and self.display is None
        if request is None or not is_early:
            return False
        self._answer_later(self._open_display(request))
        return None

    async def _open_display(self, request: DisplayRequest) -> bool:
        x11 = self._conn.x11
        display = await x11.open(request)
        if display is not None and self._is_over:
            x11.close(display)
            return False
        self.display = display
        return display is not None

    def _answer_later(self, question: Coroutine[Any, Any, bool]) -> None:
        """The requests behind this one wait, so that a program starts with what was asked for before it."""
        self._conn.create_task(self._answer(question))

    async def _answer(self, question: Coroutine[Any, Any, bool]) -> None:
        result = await question
        if not self._is_over:
            self._report_response(result)

    @property
    def _is_over(self) -> bool:
        return self._conn is None or self._send_state in {"close_pending", "closed"}

    def _cleanup(self, exc: Exception | None = None) -> None:
        if self.display is not None:
            self._conn.x11.close(self.display)
            self.display = None
        super()._cleanup(exc)

    def _process_eow_at_openssh_dot_com_request(self, packet: SSHPacket) -> bool:
        """ "End of write" (OpenSSH's PROTOCOL §2.1): without it `ssh host yes | head` goes on for ever."""
        packet.check_end()
        if isinstance(self._session, SessionChannel):
            self._session.output_unwanted()
        return True

    def allowed_environment(self) -> dict[str, str]:
        return {name.decode(): value.decode(errors="surrogateescape") for name, value in self._env.items()}

    def finish(self, end: ProgramExit) -> None:
        """Exit status or signal, EOF, close, in this order: a client stops reading at close."""
        if self._send_state in {"close_pending", "closed"}:
            return
        if end.signal is not None:
            message = String(end.signal), Boolean(end.core_dumped), String(""), String("")
            self._send_request(b"exit-signal", *message)
        else:
            self._send_request(b"exit-status", UInt32((end.exit_code or 0) & 0xFF))
        self.write_eof()
        self.close()


class SessionChannel(asyncssh.SSHServerSession[bytes]):
    """What a session sees of its client (implements gateway.sessions.session.Channel)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._wire: SessionWire | None = None
        self._terminal: Terminal | None = None
        self._kind: SessionKind | None = None
        self._subsystem: str | None = None
        self._sink: ChannelSink | None = None
        self._early: list[bytes] = []  # arrived before the program was there; at most one window
        self._early_size: WindowSize | None = None
        self._has_eof = False
        self._is_output_unwanted = False
        self._is_channel_full = False
        self._is_lost = False
        self._progress = asyncio.Event()

    # ----------------------------------------------------------------------------- asyncssh's callbacks

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        assert isinstance(chan, SessionWire)
        self._wire = chan

    def pty_requested(self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Any) -> bool:
        self._terminal = Terminal(
            term=term_type[:TERM_MAX_CHARACTERS] if term_type.isprintable() else "dumb",
            size=WindowSize(*term_size),
            modes=dict(term_modes),
        )
        return True

    def shell_requested(self) -> bool:
        self._kind = SessionKind.SHELL
        return True

    def exec_requested(self, command: str) -> bool:
        self._kind = SessionKind.EXEC
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        # Others are refused, and the connection lives on.
        self._kind, self._subsystem = SessionKind.SUBSYSTEM, subsystem
        return subsystem == "sftp"

    def session_started(self) -> None:
        assert self._wire is not None
        self._connection.serve_session(self._request(), self)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._sink is not None:
            self._sink.data_received(data)
        else:
            self._early.append(data)
            self.pause_reading()

    def eof_received(self) -> bool:
        self._has_eof = True
        if self._sink is not None:
            self._sink.eof_received()
        return True  # keep our side open: the program is not done because its input is

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        size = WindowSize(width, height, pixwidth, pixheight)
        if self._sink is not None:
            self._sink.window_changed(size)
        else:
            self._early_size = size

    def signal_received(self, signal: str) -> None:
        if self._sink is not None and signal in SIGNALS:
            self._sink.signal_requested(signal)

    def output_unwanted(self) -> None:
        self._is_output_unwanted = True
        if self._sink is not None:
            self._sink.output_unwanted()

    def break_received(self, msec: int) -> bool:
        return False

    def pause_writing(self) -> None:
        self._is_channel_full = True

    def resume_writing(self) -> None:
        self._is_channel_full = False
        self._progress.set()
        if self._sink is not None and not self.is_writing_paused:
            self._sink.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._progress.set()
        self._connection.session_count -= 1
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.channel_lost()

    # ----------------------------------------------------------------------- gateway.sessions.session.Channel

    @property
    def is_writing_paused(self) -> bool:
        return (self._is_channel_full or self._connection.is_transport_full) and not self._is_lost

    def attach(self, sink: ChannelSink) -> None:
        if self._is_lost:
            sink.channel_lost()
            return
        self._sink = sink
        if self._wire is not None:
            self._wire.open_window()
        if self._early_size is not None:
            sink.window_changed(self._early_size)
        early, self._early = self._early, []
        for data in early:
            sink.data_received(data)
        self.resume_reading()
        if self._has_eof:
            sink.eof_received()
        if self._is_output_unwanted:
            sink.output_unwanted()

    def detach(self, unread: bytes = b"") -> None:
        self._sink = self._early_size = None
        if unread:
            self._early.append(unread)
        self.pause_reading()

    def write(self, data: bytes) -> None:
        if self._wire is not None and not self._is_lost and not self._wire.is_closing():
            self._wire.write(data)

    def write_stderr(self, data: bytes) -> None:
        if self._wire is not None and not self._is_lost and not self._wire.is_closing():
            self._wire.write(data, EXTENDED_DATA_STDERR)

    def pause_reading(self) -> None:
        if self._wire is not None and not self._is_lost:
            self._wire.pause_reading()

    def resume_reading(self) -> None:
        if self._wire is not None and not self._is_lost:
            self._wire.resume_reading()

    async def drained(self) -> None:
        if self._wire is None or self._is_lost:
            return
        self._wire.set_write_buffer_limits(high=0, low=0)  # "full" now means: anything is left
        while self._is_channel_full and not self._is_lost:
            self._progress.clear()
            await self._progress.wait()

    async def is_answering(self, within_seconds: float) -> bool:
        return not self._is_lost and await self._connection.is_answering(within_seconds) and not self._is_lost

    def finish(self, end: ProgramExit) -> None:
        self._sink = None
        if self._wire is not None and not self._is_lost:
            self._wire.finish(end)

    def refuse(self, message: str, exit_status: int = 255) -> None:
        self.write_stderr(f"homeport: {message}\r\n".encode())
        self.finish(ProgramExit(exit_code=exit_status))

    # ------------------------------------------------------------------------------------------ the request

    def _request(self) -> SessionRequest:
        assert self._wire is not None
        assert self._kind is not None
        principal = self._connection.login.principal
        assert principal is not None, "a session before its login"
        return SessionRequest(
            session_id=new_id(),
            connection_id=self._connection.connection_id,
            principal=principal,
            login_name=str(self._connection.get_extra_info("username") or ""),
            kind=self._kind,
            client_address=self._connection.client_address,
            server_address=self._connection.server_address,
            terminal=self._terminal,
            command=self._wire.raw_command,
            subsystem=self._subsystem,
            environment=self._wire.allowed_environment(),
            forwards_agent=self._connection.agent.is_on,
            display=None if self._wire.display is None else self._wire.display.name,
        )
