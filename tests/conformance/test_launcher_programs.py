"""What a launcher promises about one program: how it starts, what it finds, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from gateway.errors import ProgramFailed
from gateway.interfaces import ProgramExit, Terminal, WindowSize
from tests.support.keeper_site import Reading, Site, close_streams, ended, eventually


async def test_a_program_on_a_terminal_prints_and_exits_with_its_code(site: Site) -> None:
    keeper = await site.keeper()
    program = await keeper.start(site.spec("printf 'hello '; tty; exit 7", terminal=True))
    output = Reading(program.terminal_fd or 0)
    assert await ended(program) == ProgramExit(exit_code=7)
    assert (await output.to_end()).startswith(b"hello /dev/pts/")


async def test_a_program_on_pipes_has_its_streams_apart(site: Site) -> None:
    keeper = await site.keeper()
    program = await keeper.start(site.spec("cat; echo wrong >&2; exit 3"))
    output, errors = Reading(program.stdout_fd or 0), Reading(program.stderr_fd or 0)
    os.write(program.stdin_fd or 0, b"typed")
    os.close(program.stdin_fd or 0)
    assert await ended(program) == ProgramExit(exit_code=3)
    assert (await output.to_end(), await errors.to_end()) == (b"typed", b"wrong\n")


async def test_messages_on_stderr_stay_apart_if_that_was_asked_for(site: Site) -> None:
    """Each read is one write, however many wait and whatever is in them (pipe(7), O_DIRECT)."""
    keeper = await site.keeper()
    spec = replace(site.spec("printf 'one\\r\\n' >&2; printf 'two\\r\\nthree\\r\\n' >&2"), wants_stderr_messages=True)
    program = await keeper.start(spec)
    assert program.has_stderr_messages
    await ended(program)
    assert [os.read(program.stderr_fd or 0, 1000) for _ in range(3)] == [b"one\r\n", b"two\r\nthree\r\n", b""]
    close_streams(program)
    plain = await keeper.start(site.spec("exit 0"))
    await ended(plain)
    close_streams(plain)
    assert not plain.has_stderr_messages


@pytest.mark.parametrize("name", ["TERM", "KILL", "INT", "USR1"])
async def test_death_by_signal_arrives_as_a_signal(site: Site, name: str) -> None:
    keeper = await site.keeper()
    spec = site.spec("sleep", "1000")
    program = await keeper.start(replace(spec, executable=b"/bin/sleep"))
    await keeper.signal(spec.session_id, name)
    assert (await ended(program)).signal == name
    await keeper.signal(spec.session_id, name)  # it has ended: harmless
    close_streams(program)


async def test_size_and_modes_are_set_before_the_program_runs(site: Site) -> None:
    """RFC 4254 §8: echo off, erase is ^H, no quit character, UTF-8 input, 9600 baud."""
    modes = {53: 0, 3: 8, 2: 255, 42: 1, 128: 9600, 129: 9600}
    keeper = await site.keeper()
    program = await keeper.start(
        site.spec("stty -a; stty size", terminal=Terminal("xterm", WindowSize(132, 50, 1, 2), modes))
    )
    said = (await Reading(program.terminal_fd or 0).to_end()).decode()
    for words in ("speed 9600", "rows 50; columns 132", " -echo ", "erase = ^H", "quit = <undef>", " iutf8", "50 132"):
        assert words in said
    await ended(program)


async def test_a_program_has_default_signals_though_the_gateway_ignores_some(site: Site) -> None:
    """A gateway started with `&` inherits SIGINT ignored; Ctrl-C would do nothing in every session."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        keeper = await site.keeper()
    finally:
        signal.signal(signal.SIGINT, before)
    said = (await site.output(keeper, "grep", "-E", "Sig(Ign|Blk)", "/proc/self/status")).split()
    of_the_c_library = 0b11 << 31  # 32 and 33: glibc's posix_spawn ignores them for every program
    assert [int(mask, 16) & ~of_the_c_library for mask in said[1::2]] == [0, 0]


async def test_the_terminal_is_the_controlling_one(site: Site) -> None:
    """Ctrl-C stops what runs in the foreground, Ctrl-Z suspends it, and the shell goes on."""
    keeper = await site.keeper()
    environment = {b"PATH": b"/usr/bin:/bin", b"PS1": b"prompt> ", b"TERM": b"xterm"}
    program = await keeper.start(
        site.spec("/bin/bash", "--norc", "--noediting", "-i", terminal=True, environment=environment)
    )
    output, master = Reading(program.terminal_fd or 0), program.terminal_fd or 0
    await output.until(b"prompt> ")
    os.write(master, b"(echo started; exec sleep 1000)\r")
    await output.until(b"\nstarted")
    os.write(master, b"\x03")
    await output.until(b"prompt> ", times=2)
    os.write(master, b"(echo again; exec sleep 1000)\r")
    await output.until(b"\nagain")
    os.write(master, b"\x1a")
    await output.until(b"Stopped")
    await output.until(b"prompt> ", times=3)
    os.write(master, b"kill %1; tty </dev/tty; echo $SSH_TTY; exit 5\r")
    assert (await ended(program)).exit_code == 5
    assert b"/dev/pts/" in await output.to_end()


async def test_a_program_starts_with_the_usual_descriptor_limit_and_nothing_of_ours_open(site: Site) -> None:
    keeper = await site.keeper()
    assert await site.output(keeper, "ulimit -Sn") == "1024"
    assert await site.output(keeper, "ls", "/proc/self/fd") == "0\n1\n2\n3"  # 3 is the directory it lists


async def test_arguments_and_environment_need_not_be_utf_8(site: Site) -> None:
    keeper = await site.keeper()
    spec = site.spec(
        b"sh", b"-c", b'printf %s "$1$NAME"', b"-", b"\xff\xfe\xc3", executable=b"/bin/sh",
        environment={b"NAME": b"\x80\xed\xa0\x80", b"PATH": b"/bin"},
    )  # fmt: skip
    program = await keeper.start(spec)
    assert await Reading(program.stdout_fd or 0).to_end() == b"\xff\xfe\xc3\x80\xed\xa0\x80"
    await ended(program)
    os.close(program.stdin_fd or 0)
    os.close(program.stderr_fd or 0)


async def test_the_name_in_argv_may_differ_from_the_program(site: Site) -> None:
    """A login shell is told so by a dash before its name."""
    keeper = await site.keeper()
    spec = replace(site.spec("-bash", "-c", "echo $0; shopt -q login_shell && echo login"), executable=b"/bin/bash")
    program = await keeper.start(spec)
    assert await Reading(program.stdout_fd or 0).to_end() == b"-bash\nlogin\n"
    await ended(program)
    os.close(program.stdin_fd or 0)
    os.close(program.stderr_fd or 0)


@pytest.mark.parametrize("terminal", [True, False])
async def test_what_cannot_start_has_the_exit_status_of_a_shell(site: Site, terminal: bool) -> None:
    keeper = await site.keeper()
    cases = [
        (site.spec("/no/such", "x", terminal=terminal), 127),
        (site.spec("/etc/passwd", "x", terminal=terminal), 126),
        (site.spec("/bin/echo", "x" * 140_000, terminal=terminal), 126),  # one argument ends at 128 KiB
        (site.spec("/bin/echo", *["x" * 100_000] * 9, terminal=terminal), 126),  # more than a message may have
    ]
    for spec, status in cases:
        with pytest.raises(ProgramFailed) as caught:
            await keeper.start(spec)
        assert caught.value.exit_status == status
    assert await site.output(keeper, "/bin/echo", "x" * 100_000) == "x" * 100_000


async def test_a_missing_directory_does_not_prevent_a_login(site: Site) -> None:
    keeper = await site.keeper()
    spec = replace(site.spec("pwd"), directory=b"/no/such/directory")
    program = await keeper.start(spec)
    assert (await Reading(program.stdout_fd or 0).to_end()).decode().strip() == site.launcher.inside(
        site.workspace
    ).home
    await ended(program)
    os.close(program.stdin_fd or 0)
    os.close(program.stderr_fd or 0)


async def test_output_just_before_the_exit_is_complete(site: Site) -> None:
    """Read to where it would block once the exit is known, and nothing is missing."""
    keeper = await site.keeper()
    for _ in range(20):
        program = await keeper.start(site.spec("printf '%03000d' 7; exit 1", terminal=True))
        assert (await ended(program)).exit_code == 1
        assert len(os.read(program.terminal_fd or 0, 65536)) == 3000
        os.close(program.terminal_fd or 0)


async def test_a_background_child_outlives_its_session(site: Site) -> None:
    """VS Code's server, mosh-server, tmux: nothing of ours may end them with the session that started them."""
    keeper = await site.keeper()
    pid = await site.output(keeper, "sleep 1000 >/dev/null 2>&1 & echo $!")
    assert await site.output(keeper, f"kill -0 {pid} && echo there") == "there"


async def test_orphans_are_reaped(site: Site) -> None:
    keeper = await site.keeper()
    await site.output(keeper, "for i in 1 2 3 4 5; do (true & ); done; (sleep 0.01 &)")
    count = (
        "n=0; for s in /proc/[0-9]*/stat; do read -r _ _ state ppid _ <$s && [ $state$ppid = Z$PPID ] && n=$((n+1));"
    )

    async def none_left() -> bool:
        return (await site.output(keeper, count + " done 2>/dev/null; echo $n")) == "0"

    await eventually(none_left, "no zombie of the keeper's is left")


async def test_hang_up_ends_a_program_and_those_in_its_foreground(site: Site) -> None:
    keeper = await site.keeper()
    spec = site.spec("echo ready; sleep 1000", terminal=True)
    program = await keeper.start(spec)
    output = Reading(program.terminal_fd or 0)
    await output.until(b"ready")
    output.close()  # the gateway's copy, or the terminal would still be held
    await keeper.hang_up(spec.session_id)
    assert (await ended(program)).signal == "HUP"
    await keeper.forget(spec.session_id)
    await keeper.forget(spec.session_id)
    await keeper.hang_up(spec.session_id)  # twice is harmless
    assert await keeper.list() == []


@pytest.mark.slow
async def test_hang_up_kills_a_program_that_does_not_listen(site: Site) -> None:
    """After five seconds, stopped or not."""
    keeper = await site.keeper()
    spec = site.spec("trap '' HUP; echo ready; kill -STOP $$; while :; do sleep 1; done")
    program = await keeper.start(spec)
    output = Reading(program.stdout_fd or 0)
    await output.until(b"ready")
    await keeper.hang_up(spec.session_id)
    assert (await ended(program)).signal == "KILL"
    output.close()
    os.close(program.stdin_fd or 0)
    os.close(program.stderr_fd or 0)


async def test_a_start_that_nobody_waits_for_is_hung_up(site: Site) -> None:
    """The client went between request and answer: no program may stay behind, nor a descriptor (see the fixture)."""
    keeper = await site.keeper()
    for terminal in (True, False):
        task = asyncio.create_task(
            keeper.start(site.spec("sleep", "1000", terminal=terminal, executable=b"/bin/sleep"))
        )
        await asyncio.sleep(0)  # far enough for the request to be sent
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def none_left() -> bool:
        return await keeper.list() == []

    await eventually(none_left, "nothing runs")


async def test_a_program_cannot_make_our_descriptors_block(site: Site) -> None:
    """O_NONBLOCK belongs to the open file description; the program's ends must be others than ours."""
    clear = (
        "import fcntl, os\n"
        "for fd in range(3):\n"
        "    fcntl.fcntl(fd, fcntl.F_SETFL, 0)\n"
        "    fcntl.fcntl(os.open(f'/proc/self/fd/{fd}', os.O_RDWR), fcntl.F_SETFL, 0)\n"
        "print('done', flush=True)\n"
        "input()\n"
    )
    keeper = await site.keeper()
    for terminal in (True, False):
        program = await keeper.start(site.spec("/usr/bin/python3", "-c", clear, terminal=terminal))
        output = Reading(program.terminal_fd or program.stdout_fd or 0)
        await output.until(b"done")
        for fd in (program.terminal_fd, program.stdin_fd, program.stdout_fd, program.stderr_fd):
            assert fd is None or not os.get_blocking(fd)
        if not terminal:
            os.close(program.stdin_fd or 0)
            os.close(program.stderr_fd or 0)
        output.close()
        await keeper.hang_up(program.session_id)
        await ended(program)
