"""What the stock OpenSSH clients see: `ssh` and `sftp`, run against either server with the same options."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.load import FLOOD_COMMAND, FLOOD_WARM_BYTES, PROMPT
from bench.processes import POLL_SECONDS, BenchError, Deadline, Processes
from bench.servers import Server

CIPHER = "aes128-gcm@openssh.com"
KEY_EXCHANGE = "curve25519-sha256"
TRANSFER_DEADLINE_SECONDS = 60
FLOOD_DEADLINE_SECONDS = 20
PIPE_BYTES = 1024 * 1024
MEGABYTE = 1_000_000
TEXT_LINE = b"a line of output that says nothing, eighty columns wide like most of them are.." + b"\n"


class StockClients:
    """Runs `ssh` and `sftp` for the measurements."""

    def __init__(self, processes: Processes, directory: Path) -> None:
        self._processes = processes
        self._directory = directory
        self._environment = {**os.environ, "TERM": "xterm-256color"}

    # ---------------------------------------------------------------------------------------------- times

    def connect_and_true_ms(self, server: Server, *, with_default_kex: bool) -> float:
        argv = ["ssh", *_options(server, with_default_kex=with_default_kex), server.login.host, "true"]
        started = time.perf_counter()
        self._processes.run(argv, environment=self._environment)
        return (time.perf_counter() - started) * 1000

    def prompt_ms(self, server: Server) -> float:
        """From the start of `ssh` until the shell's prompt is on the screen."""
        started = time.perf_counter()
        with self._session(server, None, has_terminal=True) as reader:
            reader.read_until(PROMPT)
            passed = time.perf_counter() - started
            reader.write(b"exit\n")
            reader.read_to_end()
        return passed * 1000

    # -------------------------------------------------------------------------------------------- streams

    def terminal_output_mbps(self, server: Server, *, text_bytes: int, is_raw: bool) -> float:
        """A file of text to a terminal, from its first byte to its last; raw leaves out the kernel's line endings."""
        mode = "stty raw -echo" if is_raw else "stty -echo"
        expected = text_bytes if is_raw else text_bytes + text_bytes // len(TEXT_LINE)
        with self._session(server, f"{mode}; printf G; cat bench.txt", has_terminal=True) as reader:
            reader.read_until(re.compile(b"G"))
            return reader.rate_until(expected)

    def exec_stdout_mbps(self, server: Server, *, size_bytes: int) -> float:
        with self._session(server, f"printf G; exec head -c {size_bytes} /dev/zero") as reader:
            reader.read_until(re.compile(b"G"))
            return reader.rate_until(size_bytes)

    def exec_stdin_mbps(self, server: Server, *, size_bytes: int) -> float:
        """From the program's being ready until it has counted the last byte."""
        with self._session(server, "printf G; exec wc -c") as reader:
            reader.read_until(re.compile(b"G"))
            started = time.perf_counter()
            block = bytes(PIPE_BYTES)
            for offset in range(0, size_bytes, PIPE_BYTES):
                reader.write(block[: size_bytes - offset])
            reader.end_input()
            counted = int(reader.read_to_end())
            passed = time.perf_counter() - started
        if counted != size_bytes:
            raise BenchError(f"{server.name}: {size_bytes} bytes sent to stdin, {counted} arrived")
        return size_bytes / MEGABYTE / passed

    def put_text(self, server: Server, text_bytes: int) -> None:
        """The file that terminals print."""
        argv = ["ssh", *_options(server), server.login.host, "cat > bench.txt"]
        text = TEXT_LINE * (text_bytes // len(TEXT_LINE))
        self._processes.run(argv, environment=self._environment, input_bytes=text)

    def sftp_mbps(self, server: Server, *, size_bytes: int) -> tuple[float, float]:
        """put and get of one file over an open connection; the start of `sftp` and its subsystem is counted."""
        local, back = self._directory / "upload", self._directory / "download"
        if not local.exists() or local.stat().st_size != size_bytes:
            local.write_bytes(os.urandom(PIPE_BYTES) * (size_bytes // PIPE_BYTES))
        with self._master(server) as control:
            put = self._sftp_seconds(server, control, f"put {local} bench.sftp")
            get = self._sftp_seconds(server, control, f"get bench.sftp {back}")
        if back.stat().st_size != size_bytes:
            raise BenchError(f"{server.name}: sftp get brought {back.stat().st_size} of {size_bytes} bytes")
        return size_bytes / MEGABYTE / put, size_bytes / MEGABYTE / get

    def _sftp_seconds(self, server: Server, control: Path, line: str) -> float:
        argv = ["sftp", "-q", *_options(server), "-o", f"ControlPath={control}", "-b", "-", server.login.host]
        started = time.perf_counter()
        self._processes.run(argv, environment=self._environment, input_bytes=line.encode() + b"\n")
        return time.perf_counter() - started

    @contextmanager
    def local_forward(self, server: Server, target_port: int) -> Iterator[int]:
        """The port of an open `ssh -L` that leads to the target."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        with self._master(server, "-L", f"127.0.0.1:{port}:127.0.0.1:{target_port}"):
            yield port

    @contextmanager
    def _master(self, server: Server, *more: str) -> Iterator[Path]:
        """An open connection that other clients use."""
        control = self._directory / f"control-{server.name}"
        argv = ["ssh", *_options(server), "-MN", "-o", f"ControlPath={control}", *more, server.login.host]
        child = self._processes.start(argv, environment=self._environment)
        try:
            deadline = time.monotonic() + FLOOD_DEADLINE_SECONDS
            while not control.exists():
                if child.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f"{server.name}: ssh -M made no connection (exit status {child.poll()})")
                time.sleep(POLL_SECONDS)
            yield control
        finally:
            self._processes.stop(child)
            control.unlink(missing_ok=True)

    @contextmanager
    def flood(self, server: Server) -> Iterator[None]:
        """A terminal on a connection of its own that prints as fast as it may, until the block is left."""
        argv = ["ssh", *_options(server), "-tt", server.login.host, FLOOD_COMMAND]
        child = self._processes.start(argv, environment=self._environment)
        try:
            deadline = time.monotonic() + FLOOD_DEADLINE_SECONDS
            while psutil.Process(child.pid).io_counters().write_chars < FLOOD_WARM_BYTES:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f"{server.name}: the flood does not flow (exit status {child.poll()})")
                time.sleep(POLL_SECONDS)
            yield
        finally:
            self._processes.stop(child)

    @contextmanager
    def _session(self, server: Server, command: str | None, *, has_terminal: bool = False) -> Iterator[_Reader]:
        argv = ["ssh", *_options(server), "-tt" if has_terminal else "-T", server.login.host]
        argv += [command] if command else []
        child = self._processes.start(
            argv, environment=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        timer = Deadline(TRANSFER_DEADLINE_SECONDS, child.kill)
        try:
            with timer:
                yield _Reader(child, server.name)
        except BenchError:
            if timer.has_passed:
                raise BenchError(f"{server.name}: not done after {TRANSFER_DEADLINE_SECONDS} s") from None
            raise
        finally:
            self._processes.stop(child, signal.SIGTERM)


class _Reader:
    """Our ends of one `ssh` process's pipes."""

    def __init__(self, child: subprocess.Popen[bytes], name: str) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._input, self._output, self._name = child.stdin, child.stdout, name
        self._kept = b""  # read, but not taken by anyone
        for pipe in (self._input, self._output):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._input.fileno(), view) :]
        except BrokenPipeError:
            raise BenchError(f"{self._name}: ssh ended while it was written to") from None

    def end_input(self) -> None:
        self._input.close()

    def read_until(self, pattern: re.Pattern[bytes]) -> None:
        while not (found := pattern.search(self._kept)):
            data = os.read(self._output.fileno(), PIPE_BYTES)
            if not data:
                raise BenchError(f"{self._name}: ended before {pattern.pattern!r} came: {self._kept[-300:]!r}")
            self._kept += data
        self._kept = self._kept[found.end() :]

    def read_to_end(self) -> bytes:
        pieces = [self._kept]
        while data := os.read(self._output.fileno(), PIPE_BYTES):
            pieces.append(data)
        return b"".join(pieces)

    def rate_until(self, expected_bytes: int) -> float:
        """MB/s from now until exactly that much has come."""
        started = time.perf_counter()
        total = len(self._kept)
        buffer = bytearray(PIPE_BYTES)
        while total < expected_bytes:
            count = os.readv(self._output.fileno(), [buffer])
            if count == 0:
                raise BenchError(f"{self._name}: {expected_bytes} bytes were printed, {total} arrived")
            total += count
        return total / MEGABYTE / (time.perf_counter() - started)


def _options(server: Server, *, with_default_kex: bool = False) -> list[str]:
    """Nothing of the caller's configuration, agent or known hosts; the same cipher and exchange for both servers."""
    login = server.login
    words = [
        f"Port={login.port}", f"User={login.login_name}", f"IdentityFile={login.key_file}", "IdentitiesOnly=yes",
        "IdentityAgent=none", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes", f"Ciphers={CIPHER}", "ConnectTimeout=20",
        # Newer clients hide the rhythm of typing in a 20 ms raster, which would be all we measure.
        "IgnoreUnknown=ObscureKeystrokeTiming", "ObscureKeystrokeTiming=no",
    ]  # fmt: skip
    if not with_default_kex:
        words.append(f"KexAlgorithms={KEY_EXCHANGE}")
    return ["-F", "none", *(part for word in words for part in ("-o", word))]
