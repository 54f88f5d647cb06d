"""The control socket end to end: a real server and real callers, on a socket in a temporary directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.lobby import control
from gateway.lobby.client import connect, run_remote
from gateway.lobby.context import INPUT_MAX_BYTES
from gateway.lobby.control import Caller, ControlServer
from gateway.lobby.run import runner
from gateway.lobby.wire import FRAME_MAX_BYTES, HEADER, Kind, Request, decode_status, frame, parse_header
from tests.support.lobby import FakeLobby, workspace

Run = Callable[[Caller], Awaitable[int]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@contextlib.asynccontextmanager
async def serving(path: Path, run: Run, *, callers_max: int = 8) -> AsyncIterator[ControlServer]:
    """A server for the block; afterwards no task of it is left."""
    server = ControlServer(path, run, callers_max=callers_max)
    server.open()
    task = asyncio.create_task(server.serve(), name="serve")
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        server.close()
        left = {each.get_name() for each in asyncio.all_tasks() if each.get_name().startswith("control:")}
        assert (task.cancelled(), left, path.exists()) == (True, set(), False)


class Reply:
    """What a caller got, by way of pipes as its standard streams."""

    def __init__(self, status: int, stdout: bytes, stderr: bytes) -> None:
        self.status, self.stdout, self.stderr = status, stdout, stderr


async def call(path: Path, *argv: str, stdin: bytes = b"") -> Reply:
    """One command through the real client, in a thread because it blocks."""
    (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe()

    def run() -> int:
        connection = connect(path)
        assert connection is not None
        try:
            return run_remote(
                connection, Request(list(argv), 80, False), stdin=stdin, stdout_fd=out_write, stderr_fd=err_write
            )
        finally:
            os.close(out_write)
            os.close(err_write)

    def read(fd: int) -> bytes:
        with open(fd, "rb") as file:
            return file.read()

    status, stdout, stderr = await asyncio.gather(
        asyncio.to_thread(run), asyncio.to_thread(read, out_read), asyncio.to_thread(read, err_read)
    )
    return Reply(status, stdout, stderr)


async def read_frames(reader: asyncio.StreamReader) -> list[tuple[Kind, bytes]]:
    frames = []
    while header := await reader.read(HEADER.size):
        kind, length = parse_header(header + await reader.readexactly(HEADER.size - len(header)))
        frames.append((kind, await reader.readexactly(length)))
    return frames


async def echo(caller: Caller) -> int:
    """Says what it was given, on both streams."""
    await caller.stdout.write(" ".join(caller.argv).encode(errors="surrogateescape"))
    await caller.stderr.write(await caller.stdin.read_all())
    return 37


# -------------------------------------------------------------------------------------------------- the way there


async def test_arguments_streams_and_status_cross_the_socket(path: Path):
    async with serving(path, echo):
        reply = await call(path, "one", "zwöi\udcff", stdin=b"\0\xff line\n")
    assert (reply.status, reply.stdout, reply.stderr) == (37, "one zwöi".encode() + b"\xff", b"\0\xff line\n")


async def test_megabytes_arrive_whole(path: Path):
    async def flood(caller: Caller) -> int:
        for _ in range(64):
            await caller.stdout.write(bytes(100_000))
        return 0

    async with serving(path, flood):
        reply = await call(path, "flood")
    assert len(reply.stdout) == 6_400_000


async def test_a_command_of_the_table_runs_through_the_socket(path: Path):
    lobby = FakeLobby()
    lobby.store.workspaces.append(workspace("my-app"))
    async with serving(path, runner(lobby.services())):
        reply = await call(path, "ls", "--json")
    assert reply.status == 0
    assert b'"my-app"' in reply.stdout


async def test_input_beyond_the_bound_is_refused_and_costs_no_memory(path: Path):
    async with serving(path, runner(FakeLobby().services())):
        reply = await call(path, "keys", "add", "-", stdin=bytes(INPUT_MAX_BYTES + 1))
    assert reply.status == 1
    assert b"longer than" in reply.stderr


# ------------------------------------------------------------------------------------------------------ who may


async def test_the_socket_is_its_owners_alone(path: Path):
    async with serving(path, echo):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to call as somebody else")
async def test_another_account_is_turned_away_even_if_it_gets_to_the_socket(tmp_path: Path):
    code = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX); "
        "s.connect(sys.argv[1]); s.settimeout(10); print(s.recv(1))"
    )
    open_dir = Path("/tmp") / f"homeport-test-{os.getpid()}"
    open_dir.mkdir(mode=0o755)
    path = open_dir / "control.sock"
    try:
        async with serving(path, echo):
            path.chmod(0o666)
            stranger = await asyncio.create_subprocess_exec(
                "/usr/bin/python3", "-c", code, os.fspath(path), stdout=subprocess.PIPE
            )
            said, _ = await stranger.communicate()
            assert (await call(path, "still", "serving")).status == 37
    finally:
        open_dir.rmdir()
    assert said == b"b''\n"


async def test_a_left_over_socket_is_replaced_and_a_successors_is_left_alone(path: Path):
    path.write_bytes(b"left over")
    async with serving(path, echo) as first:
        second = ControlServer(path, echo)
        second.open()
        first.close()
        assert path.exists()
        second.close()
    assert not path.exists()


# ---------------------------------------------------------------------------------------- callers that misbehave


@pytest.mark.parametrize(
    "sent",
    [
        frame(Kind.STDIN, b"first"),
        frame(Kind.REQUEST, b"no json"),
        frame(Kind.REQUEST, b"[]"),
        frame(Kind.REQUEST, b'{"version": 1, "argv": [1], "columns": 80}'),
        frame(Kind.REQUEST, b'{"version": 99, "argv": [], "columns": 80}'),
        frame(Kind.REQUEST, b"[" * 100_000),
        HEADER.pack(Kind.REQUEST, FRAME_MAX_BYTES + 1),
        HEADER.pack(99, 0),
    ],
)
async def test_what_is_no_request_gets_one_line_and_a_status(path: Path, sent: bytes):
    async with serving(path, echo):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        frames = await asyncio.wait_for(read_frames(reader), 10)
        writer.close()
        assert (await call(path, "still", "serving")).status == 37
    assert [kind for kind, _ in frames] == [Kind.STDERR, Kind.STATUS]
    assert decode_status(frames[-1][1]) == 1


async def test_a_caller_that_says_nothing_is_let_go(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(control, "REQUEST_SECONDS", 0.01)
    async with serving(path, echo):
        reader, writer = await asyncio.open_unix_connection(path)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_stalled_caller_holds_nobody_up_and_its_command_has_an_end(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(control, "STALL_SECONDS", 0.2)
    ended = asyncio.Event()

    async def flood_or_answer(caller: Caller) -> int:
        if caller.argv == ["answer"]:
            return 0
        try:
            while True:
                await caller.stdout.write(bytes(100_000))
        finally:
            ended.set()

    async with serving(path, flood_or_answer):
        stalled = socket.socket(socket.AF_UNIX)
        stalled.connect(os.fspath(path))
        stalled.sendall(frame(Kind.REQUEST, Request(["flood"], 80, False).encode()))
        assert (await call(path, "answer")).status == 0
        await asyncio.wait_for(ended.wait(), 10)
        stalled.close()


@pytest.mark.parametrize("how", [socket.SHUT_WR, None], ids=["half-closed", "closed"])
async def test_a_caller_that_leaves_cancels_its_command(path: Path, how: int | None):
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def wait_for_ever(caller: Caller) -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return 0

    async with serving(path, wait_for_ever):
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(os.fspath(path))
        caller.sendall(frame(Kind.REQUEST, Request(["wait"], 80, False).encode()))
        await asyncio.wait_for(started.wait(), 10)
        if how is None:
            caller.close()
        else:
            caller.shutdown(how)
        await asyncio.wait_for(cancelled.wait(), 10)
        caller.close()


async def test_a_caller_that_resets_mid_flood_touches_nobody_else(path: Path):
    async def flood(caller: Caller) -> int:
        while caller.argv != ["answer"]:
            await caller.stdout.write(bytes(100_000))
        return 0

    async with serving(path, flood, callers_max=32):
        for _ in range(20):
            caller = socket.socket(socket.AF_UNIX)
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.connect(os.fspath(path))
            caller.sendall(frame(Kind.REQUEST, Request(["flood"], 80, False).encode()))
            caller.close()
        assert (await call(path, "answer")).status == 0


async def test_one_caller_too_many_is_told_so(path: Path):
    async def wait_for_ever(caller: Caller) -> int:
        await asyncio.Event().wait()
        return 0

    async with serving(path, wait_for_ever, callers_max=1):
        first = socket.socket(socket.AF_UNIX)
        first.connect(os.fspath(path))
        reply = await call(path, "ls")
        first.close()
    assert reply.status == 1
    assert b"try again" in reply.stderr


async def test_a_gateway_that_stops_in_the_middle_gives_status_255(path: Path):
    started = asyncio.Event()

    async def wait_for_ever(caller: Caller) -> int:
        started.set()
        await asyncio.Event().wait()
        return 0

    async with serving(path, wait_for_ever):
        calling = asyncio.create_task(call(path, "wait"), name="calling")
        await asyncio.wait_for(started.wait(), 10)
    reply = await calling
    assert reply.status == 255
    assert b"went away" in reply.stderr


# ---------------------------------------------------------------------------------- the command, as a process


def environment(runtime_dir: Path) -> dict[str, str]:
    """Where the command finds the socket: an existing state and a named runtime directory."""
    return {
        "PATH": os.environ["PATH"],
        "HOMEPORT_STATE_DIR": os.fspath(runtime_dir),
        "HOMEPORT_RUNTIME_DIR": os.fspath(runtime_dir),
    }


async def homeport(runtime_dir: Path, *argv: str, **options: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *argv,
        env=environment(runtime_dir),
        stderr=subprocess.PIPE,
        **({"stdout": subprocess.PIPE} | options),
    )


async def test_ctrl_c_cancels_waits_for_the_last_words_and_gives_130(path: Path):
    started = asyncio.Event()

    async def wait_and_tidy(caller: Caller) -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await caller.stderr.write(b"tidied up\n")
        return 0

    async with serving(path, wait_and_tidy):
        command = await homeport(path.parent, "new", "notes")
        await asyncio.wait_for(started.wait(), 20)
        command.send_signal(signal.SIGINT)
        stdout, stderr = await asyncio.wait_for(command.communicate(), 20)
    assert (command.returncode, stdout, stderr) == (130, b"", b"tidied up\n")


async def test_a_reader_that_goes_away_ends_the_command_quietly(path: Path):
    """As in `homeport ls | head -1`."""

    async def flood(caller: Caller) -> int:
        while True:
            await caller.stdout.write(bytes(100_000))

    async with serving(path, flood):
        reading, writing = os.pipe()
        command = await homeport(path.parent, "ls", stdout=writing)
        os.close(writing)
        await asyncio.to_thread(os.read, reading, 1)
        os.close(reading)
        _, stderr = await asyncio.wait_for(command.communicate(), 20)
    assert (command.returncode, stderr) == (141, b"")


async def test_files_are_read_and_written_by_the_callers_process(path: Path, tmp_path: Path):
    async with serving(path, echo):
        (tmp_path / "key.pub").write_bytes(b"the file's bytes")
        command = await homeport(path.parent, "keys", "add", os.fspath(tmp_path / "key.pub"))
        _, stderr = await command.communicate()
        assert (command.returncode, stderr) == (37, b"the file's bytes")


async def test_an_exported_file_gets_its_name_only_when_it_is_whole(path: Path, tmp_path: Path):
    async def export(caller: Caller) -> int:
        await caller.stdout.write(b"cast")
        return 1 if "broken" in caller.argv else 0

    async with serving(path, export):
        for identifier in ("whole", "broken"):
            target = os.fspath(tmp_path / f"{identifier}.cast")
            command = await homeport(path.parent, "rec", "export", identifier, "-o", target)
            await command.communicate()
    assert (tmp_path / "whole.cast").read_bytes() == b"cast"
    assert not (tmp_path / "broken.cast").exists()
    assert not list(tmp_path.glob(".*partial*"))


async def test_a_command_through_the_socket_feels_instant(path: Path, capsys: pytest.CaptureFixture[str]):
    """150 ms is the aim; the bound here is only what a busy machine cannot blur."""
    lobby = FakeLobby()
    lobby.store.workspaces.append(workspace("my-app"))
    seconds = []
    async with serving(path, runner(lobby.services())):
        for _ in range(5):
            began = time.perf_counter()
            command = await homeport(path.parent, "ls")
            await command.communicate()
            seconds.append(time.perf_counter() - began)
            assert command.returncode == 0
    with capsys.disabled():
        print(f"\nhomeport ls: {sorted(seconds)[2] * 1000:.0f} ms median", end=" ")
    assert min(seconds) < 0.5
