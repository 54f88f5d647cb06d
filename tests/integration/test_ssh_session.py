"""Sessions by an asyncssh client against the installed command: what stock ssh cannot be made to do or show."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.support.installed import InstalledGateway, until
from tests.system.conftest import running

MIB = 1024 * 1024
# What a slow client may cost us: its channel's buffer, the transport's and the spool's eight segments, doubled.
MEMORY_GROWTH_MAX_BYTES = 16 * MIB
# An answer beside a flood; alone it takes some milliseconds.
RESPONSIVE_SECONDS = 2.0


@pytest.fixture(scope="module")
def gateway() -> Iterator[InstalledGateway]:
    yield from running(InstalledGateway("none", session_pipe_linger_seconds=2))


def connect(gateway: InstalledGateway, **options: object) -> asyncssh.misc._ACMWrapper[asyncssh.SSHClientConnection]:
    return asyncssh.connect(
        "127.0.0.1", gateway.ssh_port, username="demo", client_keys=[str(gateway.key)], known_hosts=None, config=[],
        agent_path=None, **options,
    )  # fmt: skip


@pytest.fixture
async def connection(gateway: InstalledGateway) -> AsyncIterator[asyncssh.SSHClientConnection]:
    async with connect(gateway) as connection:
        yield connection


async def read_until(reader: asyncssh.SSHReader[bytes], text: bytes) -> bytes:
    """All that came, up to and with the text."""
    got = b""
    async with asyncio.timeout(20):
        while text not in got:
            data = await reader.read(65536)
            assert data, f"ended after {got[-500:]!r}"
            got += data
    return got


def memory_bytes(gateway: InstalledGateway) -> int:
    assert gateway.process is not None
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


async def assert_responsive(gateway: InstalledGateway) -> None:
    """Another client gets an answer in good time, a hundred times in a row."""
    async with connect(gateway) as other:
        for _ in range(100):
            started = time.monotonic()
            done = await other.run("echo quick", encoding=None)
            assert (done.stdout, time.monotonic() - started < RESPONSIVE_SECONDS) == (b"quick\n", True)


async def test_death_by_signal_carries_the_signal_s_name(connection: asyncssh.SSHClientConnection) -> None:
    for name in ("TERM", "KILL", "HUP", "USR1"):
        done = await connection.run(f"kill -{name} $$")
        assert (done.exit_signal[0] if done.exit_signal else None, done.exit_status) == (name, -1)


async def test_signal_requests_reach_the_program_s_group(connection: asyncssh.SSHClientConnection) -> None:
    command = "trap 'echo got INT; exit 8' INT; echo ready; while :; do sleep 0.05; done"
    async with connection.create_process(command, encoding=None) as process:
        await read_until(process.stdout, b"ready\n")
        process.send_signal("INT")
        await read_until(process.stdout, b"got INT\n")
        await process.wait()
        assert process.exit_status == 8


async def test_window_of_zero_by_zero_is_accepted(connection: asyncssh.SSHClientConnection) -> None:
    done = await connection.run("stty size", term_type="xterm", term_size=(0, 0, 0, 0))
    assert done.stdout == "0 0\r\n"


async def test_huge_window_is_clamped_and_kills_nothing(connection: asyncssh.SSHClientConnection) -> None:
    done = await connection.run("stty size", term_type="xterm", term_size=(4_000_000_000, 70_000, 0, 0))
    assert done.stdout == "65535 65535\r\n"


async def test_last_of_many_window_changes_wins(connection: asyncssh.SSHClientConnection) -> None:
    # Not by a trap: bash forgets a signal that comes while it runs the trap of the one before.
    command = "stty -echo; echo ready; while :; do stty size; sleep 0.02; done"
    async with connection.create_process(command, term_type="xterm", encoding=None) as process:
        await read_until(process.stdout, b"ready")
        for columns in range(20, 220):
            process.change_terminal_size(columns, 50)
        await read_until(process.stdout, b"50 219\r\n")
        process.terminate()


async def test_terminal_modes_of_the_request_are_set(connection: asyncssh.SSHClientConnection) -> None:
    modes = {asyncssh.PTY_VERASE: 8, asyncssh.PTY_ECHO: 0, asyncssh.PTY_OP_OSPEED: 9600, asyncssh.PTY_OP_ISPEED: 9600}
    done = await connection.run("stty -a", term_type="xterm", term_modes=modes)
    assert isinstance(done.stdout, str)
    assert all(mode in done.stdout for mode in ("erase = ^H", "-echo ", "speed 9600"))


async def test_end_of_input_on_a_terminal_types_nothing_and_ends_nothing(
    connection: asyncssh.SSHClientConnection,
) -> None:
    """OpenSSH sends no Ctrl-D when its own input ends, so neither do we; the program simply gets no more."""
    async with connection.create_process("stty -echo; read line; echo got $line; exit 6", term_type="xterm") as process:
        process.stdin.write("hello\n")
        process.stdin.write_eof()
        done = await process.wait()
    assert isinstance(done.stdout, str)
    assert (done.exit_status, done.stdout.splitlines()[-1]) == (6, "got hello")


async def test_every_byte_value_passes_a_raw_terminal_both_ways(connection: asyncssh.SSHClientConnection) -> None:
    """One byte that is not UTF-8 once ended the whole connection (asyncssh's default encoding)."""
    data = bytes(range(256)) * 64
    command = f"stty raw -echo; echo ready; head -c {len(data)}"
    async with connection.create_process(command, term_type="xterm", encoding=None) as process:
        await read_until(process.stdout, b"ready\n")
        process.stdin.write(data)
        async with asyncio.timeout(20):
            assert await process.stdout.readexactly(len(data)) == data


async def test_hostile_variables_are_dropped_without_a_refusal(connection: asyncssh.SSHClientConnection) -> None:
    hostile = {"LD_PRELOAD": "/x.so", "PATH": "/evil", "BASH_ENV": "/evil", "IFS": "x", "LC_ALL": "C", "HOME": "/evil"}
    done = await connection.run("env", env=hostile)
    assert isinstance(done.stdout, str)
    arrived = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert ("LD_PRELOAD" in arrived, "BASH_ENV" in arrived, arrived["LC_ALL"]) == (False, False, "C")
    assert "evil" not in arrived["PATH"] + arrived["HOME"]


async def test_100_sessions_at_once_on_one_connection(connection: asyncssh.SSHClientConnection) -> None:
    async with asyncio.timeout(40):
        done = await asyncio.gather(*(connection.run(f"echo {n}; exit {n}") for n in range(100)))
    assert [(one.stdout, one.exit_status) for one in done] == [(f"{n}\n", n) for n in range(100)]


async def test_break_is_declined_and_the_session_lives_on(connection: asyncssh.SSHClientConnection) -> None:
    async with connection.create_process("cat", encoding=None) as process:
        process.channel.send_break(500)
        process.stdin.write(b"still here\n")
        await read_until(process.stdout, b"still here\n")


async def test_closed_channel_ends_its_program_and_not_the_connection(
    gateway: InstalledGateway, connection: asyncssh.SSHClientConnection
) -> None:
    process = await connection.create_process("echo channel-closed-test; exec cat", encoding=None)
    await read_until(process.stdout, b"test\n")
    process.close()
    row = await asyncio.to_thread(
        gateway.until_row, "SELECT * FROM sessions WHERE command LIKE '%channel-closed-test%' AND status = 'terminated'"
    )
    assert row["end_reason"] == "hangup"
    assert (await connection.run("echo alive")).stdout == "alive\n"


async def test_terminal_s_program_is_hung_up_with_its_channel(
    gateway: InstalledGateway, connection: asyncssh.SSHClientConnection
) -> None:
    process = await connection.create_process("echo ready; exec sleep 306", term_type="xterm", encoding=None)
    await read_until(process.stdout, b"ready")
    process.close()
    await asyncio.to_thread(until, lambda: not gateway.programs("sleep 306"), "the program ended")


@pytest.mark.parametrize("terminal", [None, "xterm"], ids=["pipes", "terminal"])
async def test_client_with_a_huge_window_that_stops_reading_costs_bounded_memory(
    gateway: InstalledGateway, terminal: str | None
) -> None:
    """A gigabyte of credit is no reason to keep a gigabyte: the program has to wait."""
    before = memory_bytes(gateway)
    async with connect(gateway) as deaf:
        process = await deaf.create_process(
            "echo ready; exec cat /dev/zero", term_type=terminal, encoding=None, window=1 << 30
        )
        await read_until(process.stdout, b"ready")
        transport = deaf._transport
        assert transport is not None
        transport.pause_reading()
        await assert_responsive(gateway)
        assert memory_bytes(gateway) - before < MEMORY_GROWTH_MAX_BYTES
        deaf.abort()
    await asyncio.to_thread(gateway.until_no_live_row)


async def test_program_that_never_reads_costs_bounded_memory(gateway: InstalledGateway) -> None:
    before = memory_bytes(gateway)
    async with connect(gateway) as eager:
        process = await eager.create_process("exec sleep 307", encoding=None)
        process.stdin.write(bytes(64 * MIB))
        await assert_responsive(gateway)
        assert memory_bytes(gateway) - before < MEMORY_GROWTH_MAX_BYTES
        process.send_signal("KILL")
        await process.wait()
        eager.abort()


async def test_flood_of_one_terminal_leaves_others_responsive(
    gateway: InstalledGateway, connection: asyncssh.SSHClientConnection
) -> None:
    async def swallow(process: asyncssh.SSHClientProcess[bytes]) -> None:
        while await process.stdout.read(65536):
            pass

    process = await connection.create_process("exec yes", term_type="xterm", encoding=None)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(swallow(process), name="swallow")
        await assert_responsive(gateway)
        process.close()


async def test_connection_cut_in_the_middle_of_a_transfer_leaves_a_true_row(gateway: InstalledGateway) -> None:
    async with connect(gateway) as cut:
        process = await cut.create_process("echo cut-test; exec cat > /dev/null", encoding=None)
        await read_until(process.stdout, b"cut-test\n")
        process.stdin.write(os.urandom(MIB))
        cut.abort()
    row = await asyncio.to_thread(
        gateway.until_row, "SELECT * FROM sessions WHERE command LIKE '%cut-test%' AND status = 'terminated'"
    )
    assert (row["end_reason"], row["socket_id"]) == ("hangup", None)


async def test_refused_forwards_carry_the_right_code(
    gateway: InstalledGateway, connection: asyncssh.SSHClientConnection
) -> None:
    """RFC 4254 §5.1: what is not allowed and what did not answer are told apart."""
    cases = {
        ("127.0.0.1", gateway.http_port): asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
        ("192.0.2.1", 80): asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
        ("127.0.0.1", 1): asyncssh.OPEN_CONNECT_FAILED,
        ("no-such-name.invalid", 80): asyncssh.OPEN_CONNECT_FAILED,
        ("bad\0name", 80): asyncssh.OPEN_CONNECT_FAILED,
        ("127.0.0.1", 0): asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
        ("127.0.0.1", 70_000): asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
    }
    for (host, port), code in cases.items():
        with pytest.raises(asyncssh.ChannelOpenError) as refused:
            async with asyncio.timeout(10):
                await connection.open_connection(host, port)
        assert refused.value.code == code, (host, port, refused.value)
    assert (await connection.run("echo alive")).stdout == "alive\n"


async def test_forward_with_nobody_reading_costs_bounded_memory(gateway: InstalledGateway) -> None:
    """The other side of a tunnel may be as deaf as a client."""
    before = memory_bytes(gateway)
    # Never accepted: the kernel takes what fits its buffers, and nobody reads it.
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        async with connect(gateway) as eager:
            _, writer = await eager.open_connection("127.0.0.1", deaf.getsockname()[1], encoding=None)
            writer.write(bytes(64 * MIB))
            await assert_responsive(gateway)
            assert memory_bytes(gateway) - before < MEMORY_GROWTH_MAX_BYTES
            eager.abort()
