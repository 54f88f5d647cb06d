"""Commands by stock ssh: exit codes, signals, streams, and output to the last byte."""

from __future__ import annotations

import hashlib
import os
import subprocess

import pytest

from tests.support.installed import WORKSPACE, InstalledGateway, until
from tests.system.conftest import PIPE_LINGER_SECONDS

MIB = 1024 * 1024


def test_exit_code_passes_through(gateway: InstalledGateway) -> None:
    assert [gateway.ssh(f"exit {code}").returncode for code in (0, 1, 37, 255)] == [0, 1, 37, 255]


def test_missing_command_ends_with_127_as_in_any_shell(gateway: InstalledGateway) -> None:
    done = gateway.ssh("no-such-command-here")
    assert (done.returncode, b"not found" in done.stderr) == (127, True)


def test_death_by_signal_is_told_as_a_signal(gateway: InstalledGateway) -> None:
    """ssh(1) returns 255 for exit-signal; 128+15 would mean that somebody made up an exit code."""
    assert gateway.ssh("kill -TERM $$").returncode == 255
    row = gateway.until_row("SELECT * FROM sessions WHERE command = 'kill -TERM $$' AND status = 'terminated'")
    assert (row["exit_signal"], row["exit_code"], row["end_reason"]) == ("TERM", None, "exit")


def test_stdout_and_stderr_stay_apart(gateway: InstalledGateway) -> None:
    done = gateway.ssh("echo out; echo err >&2; echo out2")
    assert (done.stdout, done.stderr) == (b"out\nout2\n", b"err\n")


def test_command_starts_in_the_workspace_with_its_environment(gateway: InstalledGateway) -> None:
    done = gateway.ssh('echo "$PWD $HOME $USER $LOGNAME $WORKSPACE_NAME"; pwd -P; id -u; tty; echo ~')
    variables, directory, uid, terminal, home = done.stdout.decode().splitlines()
    tree, home_variable, *names = variables.split()
    assert (tree, home_variable) == (directory, home)
    # Without a wall the programs are the gateway's account; the name is that of the account then.
    assert names == [WORKSPACE] * 3 if gateway.isolation == "bubblewrap" else names[2] == WORKSPACE
    assert (uid != "0", terminal) == (True, "not a tty")


def test_64_mebibytes_of_noise_arrive_whole_both_ways(gateway: InstalledGateway) -> None:
    """Every byte value, in and out; a resume inside a callback once cut stdin in the middle."""
    noise = os.urandom(64 * MIB)
    digest = hashlib.sha256(noise).hexdigest()
    there = gateway.ssh("sha256sum", input=noise, timeout=60)
    assert there.stdout.split()[0].decode() == digest
    back = gateway.ssh("cat", input=noise, timeout=60)
    assert (back.returncode, hashlib.sha256(back.stdout).hexdigest()) == (0, digest)


@pytest.mark.parametrize("terminal", ["-T", "-tt"])
def test_last_line_of_100_quick_commands_is_never_lost(gateway: InstalledGateway, terminal: str) -> None:
    """The exit status may not overtake the last output (RFC 4254 §6.10).

    Line endings are left out: without a terminal of its own, ssh on a master asks for a terminal with every mode off.
    """
    with gateway.master() as master:
        for number in range(100):
            done = gateway.ssh(*master, terminal, "--", f"echo line; echo last {number}; exit 3")
            assert (done.returncode, done.stdout.replace(b"\r", b"")) == (3, b"line\nlast %d\n" % number)


def test_300_kilobytes_before_an_exit_arrive_through_a_terminal(gateway: InstalledGateway) -> None:
    done = gateway.ssh("-tt", "--", "head -c 300000 /dev/zero | tr '\\0' x; exit 7")
    assert (done.returncode, done.stdout) == (7, b"x" * 300_000)


def test_half_close_lets_the_program_answer_after_its_input_ended(gateway: InstalledGateway) -> None:
    done = gateway.ssh("sort; echo still here; exit 4", input=b"b\na\n")
    assert (done.returncode, done.stdout) == (4, b"a\nb\nstill here\n")


def test_closed_standard_input_of_the_program_is_no_error(gateway: InstalledGateway) -> None:
    """Many programs stop reading (`head`); the client must not hear of it (EPIPE)."""
    done = gateway.ssh("head -c 3; exec <&-; echo; echo done; exit 5", input=b"abc" + b"x" * 4 * MIB)
    assert (done.returncode, done.stdout) == (5, b"abc\ndone\n")


def test_background_child_with_its_own_output_does_not_hold_the_client(gateway: InstalledGateway) -> None:
    done = gateway.ssh("sleep 300 >/dev/null 2>&1 </dev/null & echo $!", timeout=5)
    assert done.returncode == 0
    assert gateway.ssh(f"kill {int(done.stdout)}").returncode == 0, "it was still running"


def test_background_child_on_our_pipes_holds_the_client_only_for_the_linger_time(gateway: InstalledGateway) -> None:
    """sshd would wait for ever. One silence for both pipes: it was once waited for twice, one after the other."""
    done = gateway.ssh("sleep 300 & echo $!; exit 6", timeout=1.8 * PIPE_LINGER_SECONDS)
    assert done.returncode == 6
    gateway.ssh(f"kill {int(done.stdout)}")


def test_background_child_on_the_terminal_does_not_hold_the_client(gateway: InstalledGateway) -> None:
    done = gateway.ssh("-tt", "--", "trap '' HUP; sleep 300 & echo $!; exit 6", timeout=8)
    assert done.returncode == 6
    gateway.ssh(f"kill -KILL {int(done.stdout)}")


def test_command_of_100_kilobytes_runs(gateway: InstalledGateway) -> None:
    text = "x" * 100_000
    assert gateway.ssh(f"printf %s {text} | wc -c").stdout.strip() == b"100000"


def test_command_with_bytes_that_are_not_utf8_runs_as_it_is(gateway: InstalledGateway) -> None:
    """Latin-1 file names, as scp -O and git send them; asyncssh alone refuses them."""
    done = gateway.ssh(b"printf '%s' '\xe9\xff' | od -An -tx1; echo > caf\xe9; ls caf*; rm caf*")
    assert done.stdout.replace(b"'", b"").replace(b"$", b"").split()[:2] == [b"e9", b"ff"]
    assert done.returncode == 0


def test_output_of_all_byte_values_passes_a_raw_terminal_unchanged(gateway: InstalledGateway) -> None:
    done = gateway.ssh("-tt", "--", "stty raw -echo; printf '\\351\\377\\200\\001\\302'; exit 0")
    assert (done.returncode, done.stdout) == (0, b"\xe9\xff\x80\x01\xc2")


def test_unknown_subsystem_is_refused_and_the_connection_lives_on(gateway: InstalledGateway) -> None:
    with gateway.master() as master:
        refused = gateway.ssh(*master, "-s", "--", "no-such-subsystem")
        assert refused.returncode == 255
        assert gateway.ssh(*master, "--", "echo alive").stdout == b"alive\n"


def test_only_harmless_variables_of_the_client_arrive(gateway: InstalledGateway) -> None:
    """asyncssh accepts every variable; LD_PRELOAD would run the client's code in place of ours."""
    names = ("LD_PRELOAD", "PATH", "BASH_ENV", "LANG", "LC_TIME", "COLORTERM", "SECRET")
    hostile = {"LD_PRELOAD": "", "BASH_ENV": "/tmp/evil", "SECRET": "s", "LANG": "C", "LC_TIME": "C", "COLORTERM": "x"}
    options = [word for name in names for word in ("-o", f"SendEnv={name}")]
    done = gateway.ssh(
        *options, "--", "env", env={"PATH": os.environ["PATH"], "HOME": "/", **hostile, "LD_PRELOAD": "/nonexistent.so"}
    )
    arrived = dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
    assert {"LD_PRELOAD", "BASH_ENV", "SECRET"}.isdisjoint(arrived)
    assert (arrived["LANG"], arrived["LC_TIME"], arrived["COLORTERM"]) == ("C", "C", "x")
    assert arrived["PATH"].endswith(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    assert not any("HOMEPORT" in name or "NOTIFY" in name for name in arrived)


def test_client_that_vanishes_takes_its_pipe_program_along(gateway: InstalledGateway) -> None:
    """A `cat` whose stdin stayed open would keep locks that the next connection waits for (Remote-SSH's flock)."""
    client = subprocess.Popen(
        gateway.ssh_command("echo ready; exec cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    )
    with client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.kill()
    row = gateway.until_row("SELECT * FROM sessions WHERE command LIKE '%exec cat' AND status = 'terminated'")
    assert row["end_reason"] == "hangup"


def test_rows_tell_the_truth_of_a_command(gateway: InstalledGateway) -> None:
    gateway.ssh("cat; echo five; exit 9", input=b"abc")
    row = gateway.until_row("SELECT * FROM sessions WHERE command = 'cat; echo five; exit 9' AND status = 'terminated'")
    shown = {name: row[name] for name in ("kind", "exit_code", "exit_signal", "end_reason", "bytes_in", "bytes_out")}
    assert shown == {
        "kind": "exec", "exit_code": 9, "exit_signal": None, "end_reason": "exit", "bytes_in": 3, "bytes_out": 8,
    }  # fmt: skip
    assert (row["principal"], row["client_ip"], row["columns"], row["recording"]) == ("ada", "127.0.0.1", None, None)
    assert until(lambda: row["ended_at"], "an end") >= row["created_at"]
