"""The programs of one workspace: who owns each, what it printed meanwhile, how it ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from . import protocol
from .ring import Ring, RingBudget

# RFC 4254 §6.10, all of them and no others.
SIGNALS = {
    name: getattr(signal, f"SIG{name}")
    for name in ("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2")
}  # fmt: skip
_READ_BYTES = 64 * 1024


class Program:
    """One started program. `pid` is also its process group and its session."""

    def __init__(self, session: str, serial: int, pid: int, master: int | None, budget: RingBudget) -> None:
        self.session = session
        self.serial = serial
        self.pid = pid
        self.pidfd: int | None = None
        self.is_terminal = master is not None
        self.master = master  # our own copy; closed by hang-up and forget
        self.ring = Ring(budget)
        self.owner: object | None = None  # the connection that started or adopted it
        self.is_draining = False  # we are the terminal's reader
        self.exit: dict[str, object] | None = None
        self.kill_at: float | None = None
        self.is_forgotten_at_exit = False

    def signal_group(self, number: int) -> None:
        """Signal the whole group. Only while the program is unreaped: its number belongs to it until then."""
        if self.exit is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return  # it ended this moment and waits to be reaped

    def kill(self) -> None:
        """The program alone: what it left in the background was asked to go by HUP and may have its reasons."""
        if self.exit is None:
            os.kill(self.pid, signal.SIGKILL)

    def drain(self) -> bool:
        """Move what the terminal has into the ring; False: there will be no more."""
        assert self.master is not None
        try:
            data = os.read(self.master, _READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:  # EIO: no process holds the terminal any more
            return False
        self.ring.append(data)
        return bool(data)

    def describe(self) -> protocol.Message:
        return {
            "session": self.session,
            "serial": self.serial,
            "pid": self.pid,
            # Without its terminal it can be given to nobody any more, only its exit can.
            "terminal": self.is_terminal and (self.master is not None or self.exit is not None),
            "owned": self.owner is not None,
            "exit": self.exit,
        }


def exit_from_status(status: int) -> dict[str, object]:
    """A wait status in the protocol's words: an exit code, or a signal without SIG (RFC 4254 §6.10)."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return {"signal": _signal_name(number), "core": os.WCOREDUMP(status)}
    return {"code": os.WEXITSTATUS(status)}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        return f"RT{number}"  # a real-time signal without a name of its own


class ProgramTable:
    """All programs by session id, in the order they were started; exits are kept until forgotten, but boundedly."""

    def __init__(self, exits_max: int = protocol.EXITS_MAX) -> None:
        self.budget = RingBudget()
        self._exits_max = exits_max
        self._programs: dict[str, Program] = {}
        self._by_pid: dict[int, Program] = {}
        self._ended: dict[str, Program] = {}  # oldest first
        self._serial = 0

    def __len__(self) -> int:
        return len(self._programs)

    def __iter__(self) -> Iterator[Program]:
        return iter(list(self._programs.values()))

    def get(self, session: str) -> Program | None:
        return self._programs.get(session)

    def terminal_count(self) -> int:
        return sum(program.master is not None for program in self._programs.values())

    def add(self, session: str, pid: int, master: int | None) -> Program:
        self._serial += 1
        program = Program(session, self._serial, pid, master, self.budget)
        self._programs[session] = self._by_pid[pid] = program
        return program

    def running_with_pid(self, pid: int) -> Program | None:
        return self._by_pid.get(pid)

    def note_exit(self, program: Program, status: int) -> list[Program]:
        """Keep how it ended; returns the oldest ended ones that no longer fit, for the caller to drop."""
        program.exit = exit_from_status(status)
        program.kill_at = None
        del self._by_pid[program.pid]
        self._ended[program.session] = program
        surplus = max(0, len(self._ended) - self._exits_max)
        return list(self._ended.values())[:surplus]

    def remove(self, program: Program) -> None:
        self._programs.pop(program.session, None)
        self._ended.pop(program.session, None)
        program.ring.clear()

    def kills_due(self, now: float) -> list[Program]:
        return [p for p in self._programs.values() if p.kill_at is not None and p.kill_at <= now]

    def next_kill_at(self) -> float | None:
        return min((p.kill_at for p in self._programs.values() if p.kill_at is not None), default=None)
