"""Between a descriptor and a session: bytes in, bytes out, one bounded turn per round of the event loop."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

from gateway.interfaces import Program, Recorder

# Joining a few reads of a terminal into one packet doubles throughput, joining many costs echo latency elsewhere.
GATHER_BYTES = 16 * 1024
READ_BYTES = 16 * 1024
# The kernel hands out 4095 bytes at once when it has more; a shorter read emptied the terminal.
FULL_READ_BYTES = 4095
# How long a full read waits for the next one before it is sent alone.
HOLD_SECONDS = 0.0005
PIPE_READ_BYTES = 64 * 1024
# A log whose messages are kept apart gives one a read; a full pipe of them (keeper/spawn.py) is 0.5 ms of work.
LOG_READS_MAX_AT_ONCE = 64
# Between two turns of reading a log. What waits meanwhile has room: 64 messages, more than come in this time.
LOG_REST_SECONDS = 0.005
# What the kernel can hold of a terminal's output (64 KiB of flip buffers and a 4 KiB line buffer), doubled. More than
# this after the program's end comes from a background child that keeps the terminal, and the client is not kept.
TERMINAL_TAIL_MAX_BYTES = 128 * 1024


class PumpedSession(Protocol):
    """What the pumps know of their session (session.py)."""

    program: Program

    def output(self, data: bytes, *, is_stderr: bool) -> bool:
        """Pass output on; False: the client is slow, stop reading the program."""
        ...

    @property
    def is_output_paused(self) -> bool: ...

    def input_is_full(self) -> None:
        """Stop the client: the program does not take more now."""
        ...

    def input_is_free(self) -> None: ...


class InputPump:
    """The client's bytes into a descriptor; what the program does not take yet waits here while the channel is paused.

    The queue is bounded by the channel: it is paused at the first byte that had to wait, and what it delivers after
    that is at most one more piece (asyncssh hands over its own buffer piece by piece).
    """

    def __init__(self, fd: int | None, session: PumpedSession) -> None:
        self._fd = fd
        self._session = session
        self._queue: deque[bytes] = deque()
        self._is_watched = False  # the loop calls _on_writable
        self._is_ending = False
        self._is_broken = False  # the program closed its stdin; keep taking input, as sshd does, and drop it

    def write(self, data: bytes) -> None:
        if self._fd is None or self._is_broken or self._is_ending:
            return
        if not self._queue:
            data = self._write_now(data)
        if data:
            self._queue.append(data)
            if not self._is_watched:
                self._is_watched = True
                asyncio.get_running_loop().add_writer(self._fd, self._on_writable)
            self._session.input_is_full()

    def end(self) -> None:
        """Close the program's stdin once everything before it is written."""
        self._is_ending = True
        if not self._queue:
            self.close()

    @property
    def is_idle(self) -> bool:
        """Nothing waits for the program to read it."""
        return not self._queue

    def discard(self) -> None:
        """Forget what was not written: nobody is there any more."""
        if self._is_watched and self._fd is not None:
            self._is_watched = False
            asyncio.get_running_loop().remove_writer(self._fd)
        self._queue.clear()

    def close(self) -> None:
        self.discard()
        fd, self._fd = self._fd, None
        # A terminal's descriptor is closed by its output.
        if fd is not None and fd != self._session.program.terminal_fd:
            os.close(fd)

    def _write_now(self, data: bytes) -> bytes:
        """Write what fits; returns the rest."""
        assert self._fd is not None
        try:
            return data[os.write(self._fd, data) :]
        except (BlockingIOError, InterruptedError):
            return data
        except OSError as error:
            # EPIPE: stdin was closed by the program. EIO: the terminal was hung up. Neither ends the session.
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            self._is_broken = True
            return b""

    def _on_writable(self) -> None:
        while self._queue:
            rest = self._write_now(self._queue[0])
            if self._is_broken:
                break
            if rest:
                self._queue[0] = rest
                return
            self._queue.popleft()
        self.discard()
        if self._is_ending:
            self.close()
        # Last, because it re-enters write(): asyncssh delivers what it buffered within this call.
        self._session.input_is_free()


class OutputPump:
    """A descriptor's bytes to the client, one bounded turn per event-loop round."""

    def __init__(self, fd: int, session: PumpedSession) -> None:
        self.ended = asyncio.Event()
        self._fd: int | None = fd
        self._session = session
        self._is_reading = False

    @property
    def is_closed(self) -> bool:
        return self._fd is None

    def resume(self) -> None:
        """Go on reading, unless the client is slow."""
        if self._fd is not None and not self._is_reading and not self._session.is_output_paused:
            self._is_reading = True
            asyncio.get_running_loop().add_reader(self._fd, self._on_readable)

    def pause(self) -> None:
        if self._fd is not None and self._is_reading:
            self._is_reading = False
            asyncio.get_running_loop().remove_reader(self._fd)

    def program_ended(self) -> None:
        """The program is gone; what it wrote is still in the descriptor."""

    def close(self) -> None:
        # Leave the loop first: a number closed while watched is soon somebody else's descriptor.
        self.pause()
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        self.ended.set()

    def _on_readable(self) -> None:
        raise NotImplementedError


class PipePump(OutputPump):
    def __init__(self, fd: int, session: PumpedSession, *, is_stderr: bool) -> None:
        super().__init__(fd, session)
        self.is_stderr = is_stderr

    def _on_readable(self) -> None:
        assert self._fd is not None
        try:
            data = os.read(self._fd, PIPE_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self.close()
        elif not self._session.output(data, is_stderr=self.is_stderr):
            self.pause()


class LogPump(OutputPump):
    """What a program logs for the gateway, read whether the client is quick, slow or gone: a full pipe would stop the
    program. `take` gets what each read gave, and nothing at the end, however it comes."""

    def __init__(self, fd: int, session: PumpedSession, take: Callable[[bytes], None]) -> None:
        super().__init__(fd, session)
        self._take = take
        self._rest_timer: asyncio.TimerHandle | None = None

    def resume(self) -> None:
        if self._fd is not None and not self._is_reading and self._rest_timer is None:
            self._is_reading = True
            asyncio.get_running_loop().add_reader(self._fd, self._on_readable)

    def program_ended(self) -> None:
        self._end_rest()

    def close(self) -> None:
        was_open = self._fd is not None
        self._end_rest()
        super().close()
        if was_open:
            self._take(b"")

    def _on_readable(self) -> None:
        for _ in range(LOG_READS_MAX_AT_ONCE):
            assert self._fd is not None
            try:
                data = os.read(self._fd, PIPE_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            if not data:
                self.close()
                return
            self._take(data)
        self._rest()

    def _rest(self) -> None:
        """Let some more messages come: nobody waits for a log, and each one alone would cost a turn of the loop."""
        self.pause()
        self._rest_timer = asyncio.get_running_loop().call_later(LOG_REST_SECONDS, self._end_rest)

    def _end_rest(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None
            self.resume()


class TerminalPump(OutputPump):
    """Reads straight into the recorder's mapped memory (recording/), so that a crash loses no byte.

    One read a turn. Full reads are held back and sent together: half the packets, double the throughput. Reading again
    at once instead would wait inside the kernel until its worker has refilled the terminal's 4 KiB (n_tty_read flushes
    that work), and all other sessions with us.
    """

    def __init__(self, fd: int, session: PumpedSession, recorder: Recorder) -> None:
        super().__init__(fd, session)
        self._recorder = recorder
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._send_timer: asyncio.TimerHandle | None = None
        self._tail_bytes: int | None = None  # counts down after the program's end

    def program_ended(self) -> None:
        # A read that would block has first flushed what the kernel still held (n_tty_read in Linux), so reading
        # until then is the whole output: no delay, and nothing lost.
        self._tail_bytes = TERMINAL_TAIL_MAX_BYTES
        if self._fd is not None and not self._session.is_output_paused:
            self.resume()
            self._on_readable()

    def _on_readable(self) -> None:
        if self._fd is None or self.ended.is_set():
            return
        size, is_closed = self._read(self._fd)
        if self._tail_bytes is not None:
            self._tail_bytes -= size
            is_closed = is_closed or size == 0 or self._tail_bytes <= 0
        if is_closed:
            self._finish()
        elif size < FULL_READ_BYTES or self._held_bytes >= GATHER_BYTES:
            self._send()
        elif self._send_timer is None:
            self._send_timer = asyncio.get_running_loop().call_later(HOLD_SECONDS, self._send)
        if self._tail_bytes is not None and not self.ended.is_set() and not self._session.is_output_paused:
            asyncio.get_running_loop().call_soon(self._on_readable)

    def _read(self, fd: int) -> tuple[int, bool]:
        """Read once; how many bytes there were, and whether the terminal is closed for good."""
        try:
            view = self._recorder.read_from(fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return 0, False
        except OSError as error:
            # EIO: every program that had this terminal is gone (pty(7)).
            if error.errno != errno.EIO:
                raise
            return 0, True
        self._held.append(bytes(view))
        self._held_bytes += len(view)
        return len(view), not view

    def flush(self) -> None:
        """Pass on what is held back, so that whoever comes now gets only what is read from here on."""
        if self._held:
            self._send()

    def _send(self) -> None:
        """What was held back, to the client, if there is one."""
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        held, self._held, self._held_bytes = self._held, [], 0
        if held and not self._session.output(b"".join(held), is_stderr=False):
            self.pause()

    def _finish(self) -> None:
        """No more output. The descriptor stays open until the session closes it: closing it hangs up the terminal."""
        self._send()
        self.pause()
        self.ended.set()

    def resume(self) -> None:
        if not self.ended.is_set():
            super().resume()

    def close(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        super().close()
