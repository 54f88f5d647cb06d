"""Everything the comparison starts, and its end: nothing survives a run, not even programs that left their parents.

The process makes itself the reaper of orphans (prctl(2), PR_SET_CHILD_SUBREAPER), so a keeper, which leaves the gateway
on purpose, becomes our child and can be found, measured and ended by its pid.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
LOAD_DEADLINE_SECONDS = 60
STOP_DEADLINE_SECONDS = 10
POLL_SECONDS = 0.01


class BenchError(Exception):
    """A measurement or a server failed; the message says which and how."""


class Processes:
    """Starts children, remembers them, and ends them all."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.DEVNULL,
        stderr: int | None = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """A child in a session of its own: no Ctrl-C of the terminal and no /dev/tty reaches it."""
        child = subprocess.Popen(
            argv,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            cwd=ROOT,
            bufsize=0,
        )
        self._children[child.pid] = child
        return child

    def run(self, argv: Sequence[str], *, environment: Mapping[str, str], input_bytes: bytes = b"") -> str:
        """Run a short command to its end; its output. Raises BenchError with what it said."""
        shown = f"{argv[0]} … {argv[-1]}" if len(argv) > 3 else " ".join(argv)
        child = self.start(argv, environment=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE)  # fmt: skip
        try:
            out, err = child.communicate(input_bytes, timeout=LOAD_DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{shown} did not end in {LOAD_DEADLINE_SECONDS} s") from None
        finally:
            self.stop(child)
        if child.returncode != 0:
            said = err.decode(errors="replace").strip() or out.decode(errors="replace").strip()
            raise BenchError(f"{shown} ended with {child.returncode}: {said[-600:]}")
        return out.decode(errors="replace")

    def stop(self, child: subprocess.Popen[bytes], how: int = signal.SIGTERM) -> None:
        """Ask, then insist. Harmless when it is gone already."""
        for number in (how, signal.SIGKILL):
            if child.poll() is None:
                child.send_signal(number)
            try:
                child.wait(STOP_DEADLINE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                continue
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        self._children.pop(child.pid, None)

    def orphans(self) -> list[psutil.Process]:
        """Processes that something we started has left behind, with all below them."""
        left = [child for child in psutil.Process().children() if child.pid not in self._children]
        return [*left, *(below for orphan in left for below in descendants(orphan))]

    def end_orphans(self) -> None:
        """KILL, again and again: each death may bring up grandchildren. A killed bubblewrap takes its sandbox along."""
        deadline = time.monotonic() + STOP_DEADLINE_SECONDS
        while (orphans := self.orphans()) and time.monotonic() < deadline:
            for orphan in orphans:
                _kill(orphan)
            for orphan in orphans:
                _reap(orphan.pid)
            time.sleep(POLL_SECONDS)

    def end_all(self) -> None:
        for child in list(self._children.values()):
            self.stop(child)
        self.end_orphans()


class LoadProcess:
    """One `bench.load` process: a client of a server, outside this process."""

    def __init__(self, processes: Processes, operation: str, given: Mapping[str, Any]) -> None:
        self._processes = processes
        self._operation = operation
        argv = [sys.executable, "-m", "bench.load", operation, json.dumps(dict(given))]
        self._child = processes.start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)

    def __enter__(self) -> LoadProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop(self._child)

    def say(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(line.encode() + b"\n")

    def expect(self, word: str) -> None:
        line = self._line()
        if line != word:
            raise BenchError(f"load {self._operation}: {self._error_in(line)}")

    def answer(self) -> Any:
        """The result. Raises BenchError where the client failed."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        line = self._line()
        answer = json.loads(line) if line.startswith(("[", "{")) else {"error": line or "ended without an answer"}
        if isinstance(answer, dict) and "error" in answer:
            raise BenchError(f"load {self._operation}: {answer['error']}")
        return answer

    def _error_in(self, line: str) -> str:
        return str(json.loads(line).get("error", line)) if line.startswith("{") else line or "ended early"

    def _line(self) -> str:
        assert self._child.stdout is not None
        timer = Deadline(LOAD_DEADLINE_SECONDS, self._child.kill)
        with timer:
            line = self._child.stdout.readline().decode().strip()
        if timer.has_passed:
            raise BenchError(f"load {self._operation}: no answer in {LOAD_DEADLINE_SECONDS} s")
        return line


class Deadline:
    """Calls `expire` if the block is not left in time; what the block waits for then ends by itself."""

    def __init__(self, seconds: float, expire: Callable[[], None]) -> None:
        self.has_passed = False
        self._expire = expire
        self._timer = threading.Timer(seconds, self._pass)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _pass(self) -> None:
        self.has_passed = True
        self._expire()


def descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """The PSS of all that serve; what has a controlling terminal is a user's program and does not count."""
    return sum(_memory_of(process) for process in processes if _serves(process))


def _serves(process: psutil.Process) -> bool:
    # psutil knows a terminal by its name in our /dev/pts; those inside a sandbox are not there.
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    state, _parent, _group, _session, terminal = stat.rpartition(")")[2].split()[:5]
    return terminal == "0" and state != "Z"


def _memory_of(process: psutil.Process) -> int:
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:
        # A keeper hides its memory from its own account (not dumpable); what it does not share is near its PSS.
        memory = process.memory_info()
        return int(memory.rss - memory.shared)
    return 0


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        return


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
