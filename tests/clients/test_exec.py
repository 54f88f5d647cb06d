"""Commands by stock ssh, as scripts, editors and build tools send them: status, signals, streams, odd bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import asyncssh
import pytest

from tests.clients.conftest import PIPE_LINGER_SECONDS
from tests.clients.differences import is_different
from tests.support.installed import DEADLINE_SECONDS, until
from tests.support.server import Server

MIB = 1024 * 1024


# ------------------------------------------------------------------------------------------------- how it ended


@pytest.mark.parametrize("code", [0, 1, 2, 42, 126, 127, 128, 129, 130, 137, 143, 254, 255])
def test_exit_code_passes_through(server: Server, code: int) -> None:
    """Above 128 too: a number that looks like a signal is still a number."""
    assert server.ssh(f"exit {code}").returncode == code


@pytest.mark.slow
def test_every_exit_code_passes_through_one_connection(server: Server) -> None:
    with server.master() as master:
        assert [server.ssh(*master, "--", f"exit {code}").returncode for code in range(256)] == list(range(256))


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "ABRT", "KILL", "PIPE", "ALRM", "TERM", "USR1", "SEGV"])
async def test_death_by_signal_is_told_by_its_name(server: Server, name: str) -> None:
    """Not as 128 + its number, which would be somebody's invention (RFC 4254 §6.10). No core file: ulimit -c 0."""
    async with connected(server) as connection:
        done = await connection.run(f"ulimit -c 0; exec sh -c 'kill -{name} $$'", check=False)  # bash ignores QUIT
    assert done.exit_signal is not None
    assert done.exit_signal[:2] == (name, False)


async def test_death_by_a_signal_without_a_name_in_ssh_is_told_all_the_same(server: Server) -> None:
    async with connected(server) as connection:
        done = await connection.run("ulimit -c 0; kill -BUS $$", check=False)
    assert done.exit_signal is not None
    assert done.exit_signal[0] == ("BUS" if is_different(server, "nameless-signals") else "SIG@openssh.com")


async def test_core_dump_is_told_with_the_signal(server: Server) -> None:
    script = "ulimit -c unlimited && kill -SEGV $$"
    if not os.WCOREDUMP(wait_status(script, str(server.scratch))):
        pytest.skip("this machine dumps no core")
    async with connected(server) as connection:
        done = await connection.run(script, check=False)
        await connection.run("rm -f core core.*")
    assert done.exit_signal is not None
    assert done.exit_signal[:2] == ("SEGV", True)


def wait_status(script: str, directory: str) -> int:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"cd {directory}; {script}"], {})
    return os.waitpid(pid, 0)[1]


def test_stock_client_ends_with_255_after_a_signal(server: Server) -> None:
    assert server.ssh("kill -TERM $$").returncode == 255


@pytest.mark.parametrize("name", ["TERM", "INT", "KILL", "USR1"])
async def test_signal_request_reaches_the_program_s_group(server: Server, name: str) -> None:
    async with connected(server) as connection:
        process = await connection.create_process("echo ready; sleep 300; true")
        assert await process.stdout.readline() == "ready\n"
        process.send_signal(name)
        done = await process.wait(check=False, timeout=DEADLINE_SECONDS)
    assert done.exit_signal is not None
    assert done.exit_signal[0] == name


# ------------------------------------------------------------------------------------------------------ streams


def test_streams_stay_apart_and_each_in_order(server: Server) -> None:
    done = server.ssh("i=0; while [ $i -lt 2000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done")
    for stream, name in ((done.stdout, b"out"), (done.stderr, b"err")):
        assert stream == b"".join(b"%s %d\n" % (name, number) for number in range(2000))


def test_output_that_is_not_text_arrives_as_it_is(server: Server) -> None:
    every_byte = bytes(range(256)) * 16
    done = server.ssh("tee /dev/stderr", input=every_byte)
    assert (done.stdout, done.stderr) == (every_byte, every_byte)


def test_half_close_lets_the_program_answer_after_its_input_ended(server: Server) -> None:
    done = server.ssh("cat; echo still here; exit 4", input=b"a\n")
    assert (done.returncode, done.stdout) == (4, b"a\nstill here\n")


def test_program_that_closes_its_output_goes_on(server: Server) -> None:
    done = server.ssh('echo first; exec >&- 2>&-; read line; [ "$line" = word ] && exit 9', input=b"word\n")
    assert (done.returncode, done.stdout) == (9, b"first\n")


def test_reader_that_leaves_early_ends_the_program(server: Server) -> None:
    """`ssh host yes | head -c1` at a terminal: the client's input stays open, so it waits for the program's end.

    It says "end of write" instead (OpenSSH's PROTOCOL §2.1), and the program must hear of it as a broken pipe.
    """
    marker = f"y{server.port}"
    with server.start(server.ssh_command(f"exec yes {marker}")) as client:
        assert client.stdout is not None
        assert client.stdout.read(1) == b"y"
        client.stdout.close()
        assert client.wait(DEADLINE_SECONDS) != 0
    until(lambda: server.ssh(f"pgrep -f [y]es.{marker}").returncode == 1, "yes has ended")


def test_writer_s_input_is_dropped_once_the_program_is_done_with_it(server: Server) -> None:
    """Endless input into a program that ends: neither side may wait for the other."""
    with open("/dev/zero", "rb") as zeros:
        done = server.ssh("head -c 5 | wc -c; exit 3", stdin=zeros)
    assert (done.returncode, done.stdout) == (3, b"5\n")


def test_input_after_the_program_closed_it_is_dropped_while_it_runs(server: Server) -> None:
    done = server.ssh("head -c 3; exec <&-; echo; echo done; exit 5", input=b"abc" + b"x" * 4 * MIB)
    assert (done.returncode, done.stdout) == (5, b"abc\ndone\n")


def test_64_mebibytes_arrive_whole_both_ways(server: Server) -> None:
    noise = os.urandom(64 * MIB)
    digest = hashlib.sha256(noise).hexdigest()
    assert server.ssh("sha256sum", input=noise, timeout=60).stdout.split()[0].decode() == digest
    back = server.ssh("cat", input=noise, timeout=60)
    assert (back.returncode, hashlib.sha256(back.stdout).hexdigest()) == (0, digest)


def test_last_output_is_never_lost_to_the_exit(server: Server) -> None:
    """The status may not overtake the tail (RFC 4254 §6.10); with a pipe that is slow to read as well."""
    with server.master() as master:
        for number in range(50):
            done = server.ssh(*master, "--", f"head -c 200000 /dev/zero; echo err >&2; echo last {number}; exit 3")
            assert (done.returncode, len(done.stdout), done.stderr) == (3, 200006 + len(str(number)), b"err\n")


# ------------------------------------------------------------------------------------------- background programs


def test_background_child_with_streams_of_its_own_does_not_hold_the_client(server: Server) -> None:
    with lasting(server, "nohup sleep 300 >/dev/null 2>&1 </dev/null & echo $!") as (client, pid):
        assert client.wait(DEADLINE_SECONDS) == 0
        assert server.ssh(f"kill -0 {pid}").returncode == 0, "it outlived its connection"


@pytest.mark.slow
def test_background_child_on_the_command_s_pipes_holds_the_client_no_longer_than_the_linger(server: Server) -> None:
    with lasting(server, "sleep 300 & echo $!; exit 6") as (client, pid):
        if is_different(server, "linger"):
            assert client.wait(PIPE_LINGER_SECONDS + DEADLINE_SECONDS / 4) == 6
            assert server.ssh(f"kill -0 {pid}").returncode == 0, "it lives on"
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                client.wait(PIPE_LINGER_SECONDS)
            server.ssh(f"kill {pid}")
            assert client.wait(DEADLINE_SECONDS) == 6


@pytest.mark.slow
def test_background_child_that_goes_on_printing_is_listened_to(server: Server) -> None:
    """Silence is what counts, not time: a build in the background is still the command's output."""
    done = server.ssh("(i=0; while [ $i -lt 12 ]; do sleep 0.3; echo $i; i=$((i+1)); done) & exit 2")
    assert (done.returncode, done.stdout) == (2, b"".join(b"%d\n" % number for number in range(12)))


@contextmanager
def lasting(server: Server, command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A client whose command prints the number of a process, which is ended afterwards."""
    with server.start(server.ssh_command("-n", "--", command)) as client:
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        try:
            yield client, pid
        finally:
            server.ssh(f"kill {pid}")
            client.kill()


# --------------------------------------------------------------------------------------------- the command's text


def test_command_of_100_kilobytes_runs(server: Server) -> None:
    assert server.ssh(f"printf %s {'x' * 100_000} | wc -c").stdout.strip() == b"100000"


def test_command_longer_than_an_argument_may_be_is_refused_with_words(server: Server) -> None:
    """The kernel's limit is 128 KiB for one argument (execve(2)); ssh itself would send more."""
    status = 126 if is_different(server, "too-long") else 1
    assert run_raw(server, b": " + b"x" * 200_000) == f"status {status}"


def test_command_that_is_not_utf8_runs_as_it_is(server: Server) -> None:
    """Latin-1 file names, as scp -O and git send them."""
    done = server.ssh(b"printf '%s' '\xe9\xff' | od -An -tx1; echo > caf\xe9; ls caf* | od -An -c; rm caf*")
    words = done.stdout.split()
    assert (done.returncode, words[:2], words[5:6]) == (0, [b"e9", b"ff"], [b"351"])


def test_command_with_every_ascii_character_runs_as_it_is(server: Server) -> None:
    text = "".join(chr(code) for code in range(1, 127) if chr(code) != "'")
    assert server.ssh(f"printf %s '{text}'").stdout.decode() == text


def test_empty_command_is_a_shell_that_does_nothing(server: Server) -> None:
    assert run_raw(server, b"") == "status 0"


def test_command_with_a_nul_byte_runs_nothing(server: Server) -> None:
    said = run_raw(server, b"echo a\0echo b")
    assert said == "status 255" if is_different(server, "nul-in-command") else said.startswith("failed")


def run_raw(server: Server, command: bytes) -> str:
    """Send a command that no client's command line can carry; how it ended."""
    words = [sys.executable, "-m", "tests.support.raw_command", str(server.port), server.user, str(server.key)]
    done = subprocess.run(words, input=command, capture_output=True, timeout=DEADLINE_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


# ------------------------------------------------------------------------------------------- the client's options


def test_n_gives_the_program_an_empty_input(server: Server) -> None:
    done = server.ssh("-n", "--", "wc -c", input=b"not for it")
    assert done.stdout.strip() == b"0"


def test_f_goes_to_the_background_and_the_command_runs_on(server: Server) -> None:
    path = f"{server.tree}/from-f-{server.port}"
    started = server.run(["ssh", *server.ssh_options, "-f", "server", f"echo went > {path}"], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)  # fmt: skip
    assert started.returncode == 0
    until(lambda: server.ssh(f"cat {path}").stdout == b"went\n", "the command ran")
    server.ssh(f"rm {path}")


def test_t_with_input_from_a_pipe_gives_no_terminal(server: Server) -> None:
    done = server.ssh("-t", "-o", "LogLevel=INFO", "--", "tty", input=b"")
    assert (done.stdout, b"Pseudo-terminal will not be allocated" in done.stderr) == (b"not a tty\n", True)


@pytest.mark.parametrize("code", [0, 7, 255])
def test_tt_with_a_command_gives_a_terminal_and_the_exit_code(server: Server, code: int) -> None:
    """JetBrains' probes: exit codes under a terminal, with input from a pipe."""
    done = server.ssh("-tt", "--", f"test -t 0 && test -t 1 && test -t 2 && echo all; exit {code}", input=b"")
    assert (done.returncode, done.stdout) == (code, b"all\r\n")


def test_upper_n_runs_nothing_and_stays(server: Server) -> None:
    with server.start(server.ssh_command("-v", "-N", "-o", "LogLevel=DEBUG1", "--")) as client:
        assert client.stderr is not None
        assert any(b"Entering interactive session" in line for line in client.stderr), "logged in"
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(0.5)
        client.send_signal(signal.SIGTERM)
        client.wait(DEADLINE_SECONDS)


def test_s_opens_the_sftp_subsystem(server: Server) -> None:
    """The shortest SFTP there is: INIT with version 3, VERSION back (draft-ietf-secsh-filexfer-02 §4)."""
    with server.start(server.ssh_command("-s", "--", "sftp"), bufsize=0) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"\0\0\0\5\1\0\0\0\3")
        assert client.stdout.read(9)[4:] == b"\2\0\0\0\3"
        client.stdin.close()
        assert client.wait(DEADLINE_SECONDS) == 0


def test_unknown_subsystem_is_refused_and_the_connection_lives_on(server: Server) -> None:
    with server.master() as master:
        assert server.ssh(*master, "-s", "--", "no-such-subsystem").returncode == 255
        assert server.ssh(*master, "--", "echo alive").stdout == b"alive\n"


def test_remote_command_of_the_configuration_runs(server: Server) -> None:
    done = server.ssh("-o", "RemoteCommand=echo configured; exit 3", "--")
    assert (done.returncode, done.stdout) == (3, b"configured\n")


def test_upper_e_keeps_the_client_s_words_out_of_the_program_s(server: Server) -> None:
    log = server.scratch / "log"
    done = server.ssh("-v", "-E", str(log), "--", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    assert b"Authenticated to" in log.read_bytes()


def test_nothing_of_the_server_s_own_is_on_the_streams_of_a_command(server: Server) -> None:
    done = server.ssh("-o", "LogLevel=INFO", "--", "true")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def connected(server: Server) -> asyncssh.connection._ACMWrapper[asyncssh.SSHClientConnection]:
    """A client that tells more of what it hears than stock ssh prints."""
    return asyncssh.connect(
        server.host, server.port, username=server.user, client_keys=[str(server.key)], config=[],
        known_hosts=str(server.known_hosts), agent_path=None,
    )  # fmt: skip
