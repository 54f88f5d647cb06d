"""A session without a terminal: a command, a transfer, a subsystem. It has one client, and breaks with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from gateway.interfaces import Program, ProgramExit, WindowSize
from gateway.sessions.pumps import LogPump, PipePump
from gateway.sessions.session import Channel, Session, SessionState


class PipeSession(Session):
    """Joins a program's pipes and one channel (it is the channel's `ChannelSink`)."""

    is_terminal = False

    def __init__(
        self,
        program: Program,
        *,
        on_signal: Callable[[str], None],
        on_detached: Callable[[], None],
        pipe_linger_seconds: float,
        take_log: Callable[[bytes], None] | None = None,
    ) -> None:
        """`take_log`: the program's standard error is a log for the gateway (pumps.LogPump), not for the client."""
        super().__init__(program, pipe_linger_seconds=pipe_linger_seconds)
        self._on_signal = on_signal
        self._on_detached = on_detached
        self._channel: Channel | None = None
        if program.stdout_fd is not None:
            self._outputs.append(PipePump(program.stdout_fd, self, is_stderr=False))
        if program.stderr_fd is not None and take_log is not None:
            self._outputs.append(LogPump(program.stderr_fd, self, take_log))
        elif program.stderr_fd is not None:
            self._outputs.append(PipePump(program.stderr_fd, self, is_stderr=True))

    def attach(self, channel: Channel) -> None:
        """Join the client. What it sent before is delivered now."""
        assert self.state is SessionState.DETACHED
        self.state = SessionState.ATTACHED
        self._channel = channel
        channel.attach(self)

    async def _clients_have_it(self) -> None:
        if self._channel is not None:
            await self._channel.drained()

    def say(self, text: str) -> None:
        if self._channel is not None:
            self._channel.write_stderr(f"homeport: {text}\r\n".encode())

    def finish(self, end: ProgramExit, *, is_abrupt: bool = False) -> None:
        channel, self._channel = self._channel, None
        self.state = SessionState.ENDED
        self.close()
        if channel is not None:
            channel.finish(end)

    def stop_reading(self) -> None:
        self._channel = None
        super().stop_reading()

    # ---------------------------------------------------------------- what the channel tells us (ChannelSink)

    def data_received(self, data: bytes) -> None:
        self._count_input(data)
        self._input.write(data)

    def eof_received(self) -> None:
        self._input.end()

    def window_changed(self, size: WindowSize) -> None:
        """There is no window."""

    def signal_requested(self, name: str) -> None:
        self._on_signal(name)

    def output_unwanted(self) -> None:
        """Whoever read the client's output has left (`ssh host yes | head`): the program learns it by a broken pipe.
        Its other streams go on."""
        for output in self._outputs:
            if isinstance(output, PipePump) and not output.is_stderr:
                output.close()

    def resume_writing(self) -> None:
        self.resume_outputs()

    def channel_lost(self) -> None:
        if self.state is not SessionState.ATTACHED:
            return
        self.state = SessionState.DETACHED
        self._channel = None
        # The program sees EOF and broken pipes, as under sshd; a lock it holds through them is free at once. A log is
        # read to its end, which tells what was interrupted.
        self._input.close()
        for output in self._outputs:
            if not isinstance(output, LogPump):
                output.close()
        self._on_detached()

    # ---------------------------------------------------------------------- what the pumps tell us

    def output(self, data: bytes, *, is_stderr: bool) -> bool:
        self.bytes_out += len(data)
        self.last_activity_at = datetime.now(UTC)
        channel = self._channel
        if channel is None:
            return True
        if is_stderr:
            channel.write_stderr(data)
        else:
            channel.write(data)
        return not channel.is_writing_paused

    @property
    def is_output_paused(self) -> bool:
        return self._channel is not None and self._channel.is_writing_paused

    def input_is_full(self) -> None:
        if self._channel is not None:
            self._channel.pause_reading()

    def input_is_free(self) -> None:
        if self._channel is not None:
            self._channel.resume_reading()
