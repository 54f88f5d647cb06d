"""Shells that outlive their clients, by stock ssh: whose they are, how one leaves and comes back, what never lasts."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.installed import InstalledGateway, free_port, until
from tests.support.relay import Relay
from tests.support.shell import Shell, end_sessions, until_detached
from tests.support.terminal import Terminal

BACK_SECONDS_MAX = 6.0  # also from a connection that was lost without a word


@pytest.fixture(autouse=True)
def _no_session_left(gateway: InstalledGateway) -> Iterator[None]:
    yield
    end_sessions(gateway)


def live_rows(gateway: InstalledGateway) -> list[dict[str, object]]:
    return gateway.rows("SELECT * FROM sessions WHERE status <> 'terminated' ORDER BY id")


# ------------------------------------------------------------------------------------------------- leaving, coming


@pytest.mark.parametrize("leave", [Shell.leave_by_tilde, Shell.leave_by_window, Shell.leave_by_kill])
def test_next_login_is_where_the_last_client_was(gateway: InstalledGateway, leave: Callable[[Shell], None]) -> None:
    with Shell(gateway) as first:
        pid = first.pid
        first.do("kept=word; cd /usr")
        leave(first)
    until_detached(gateway)
    with Shell(gateway) as second:
        assert second.ask("echo $$ $kept $PWD") == f"{pid} word /usr"
        assert b"homeport: back in main, detached" in second.printed
        assert second.exit(3) == 3
    gateway.until_no_live_row()


def test_connection_that_was_cut_without_a_word_loses_its_shell_to_the_next_login(gateway: InstalledGateway) -> None:
    """A laptop that slept, or changed networks. Its old client, should it come back, gets no say and does no harm."""
    with Relay(gateway.ssh_port) as relay:
        old = Shell(gateway, "-o", f"Port={relay.port}", "-o", "HostKeyAlias=gateway", "--")
        with old:
            pid = old.pid
            relay.cut()
            old.enter("echo lost''-words >lost")
            started = time.monotonic()
            with Shell(gateway) as new:
                assert new.pid == pid
                assert time.monotonic() - started < BACK_SECONDS_MAX
                relay.mend()
                assert old.wait_ended() != 0
                assert b"stopped answering" in old.printed
                assert new.ask("echo $$; ls lost 2>&1 | grep -c 'No such'") == f"{pid}\n1"
                assert new.exit() == 0


@pytest.mark.slow
def test_suspended_client_loses_its_shell_only_if_it_is_asked_for(gateway: InstalledGateway) -> None:
    command = " ".join(map(str, gateway.ssh_command()))
    with Terminal(["bash", "--norc", "--noprofile"]) as person:
        person.enter(command)
        person.enter("echo pid''=$$=")
        screen = person.wait("pid=")
        pid = next(line.split("=")[1] for line in screen if line.startswith("pid="))
        person.press("Enter", "~", "C-z")
        person.wait("Stopped")
        person.enter("fg")
        person.enter("echo still''-$$")
        person.wait(f"still-{pid}")
        person.press("Enter", "~", "C-z")
        until(lambda: "\n".join(person.screen()).count("Stopped") == 2, "stopped again")
        with Shell(gateway) as other:
            assert other.pid == pid
            person.enter("fg")
            person.wait("stopped answering")
            person.enter("echo back''-at-home $?")
            person.wait("back-at-home 255")
            assert other.exit() == 0


def test_two_left_shells_are_met_again_the_last_one_first(gateway: InstalledGateway) -> None:
    with Shell(gateway) as one, Shell(gateway) as two:
        pids = one.pid, two.pid
        assert pids[0] != pids[1], "an attached shell that answers is nobody else's"
        one.leave_by_kill()
        until_detached(gateway)
        two.leave_by_kill()
        until_detached(gateway, 2)
    with Shell(gateway) as three:
        assert three.pid == pids[1]
        with Shell(gateway) as four:
            assert four.pid == pids[0]
            assert (three.exit(), four.exit()) == (0, 0)


def test_clients_that_come_at_once_do_not_take_one_shell(gateway: InstalledGateway) -> None:
    with Shell(gateway) as shell:
        pid = shell.pid
        shell.leave_by_kill()
        until_detached(gateway)
    with ExitStack() as stack:
        shells = [stack.enter_context(Shell(gateway)) for _ in range(4)]
        pids = [shell.pid for shell in shells]
        assert (len(set(pids)), pid in pids) == (4, True)


# ------------------------------------------------------------------------------------------------------ names


def test_named_shell_is_found_again_and_is_not_the_nameless_one(gateway: InstalledGateway) -> None:
    with Shell(gateway, login="demo+logs") as named:
        pid = named.pid
        named.leave_by_kill()
        until_detached(gateway)
    with Shell(gateway) as nameless, Shell(gateway, login="demo+LOGS") as again:
        assert nameless.pid != pid
        assert again.pid == pid
        assert b"back in logs" in again.printed
        again.exit()
        nameless.exit()
    with Shell(gateway, login="demo+logs") as anew:
        assert anew.pid != pid, "the name is free once its shell has ended"
        anew.exit()


def test_fresh_shell_ends_with_its_connection(gateway: InstalledGateway) -> None:
    with Shell(gateway) as kept, Shell(gateway, login="demo+new") as fresh, Shell(gateway, login="demo+new") as other:
        pids = {kept.pid, fresh.pid, other.pid}
        assert len(pids) == 3
        fresh.leave_by_kill()
        row = gateway.until_row("SELECT * FROM sessions WHERE end_reason = 'hangup' AND kind = 'shell'")
        assert row["name"] is None
        other.exit()
        kept.exit()


def test_command_with_a_name_lasts_and_the_next_client_attaches(gateway: InstalledGateway) -> None:
    with Shell(gateway, "-t", "--", "echo be''gan; read line; echo got $line; exit 7", login="demo+agent") as first:
        first.wait(b"began")
        first.leave_by_kill()
        until_detached(gateway)
    with Shell(gateway, "-t", "--", "echo another", login="demo+agent") as second:
        second.enter("words")
        assert second.wait_ended() == 7
        assert (b"got words" in second.printed, b"another" in second.printed) == (True, False)
    with Shell(gateway, "-t", "--", "echo another", login="demo+agent") as third:
        assert third.wait_ended() == 0
        assert b"another" in third.printed


def test_first_logins_at_once_with_one_name_make_one_session(gateway: InstalledGateway) -> None:
    with ExitStack() as stack:
        shells = [stack.enter_context(Shell(gateway, login="demo+race")) for _ in range(4)]
        assert len({shell.pid for shell in shells}) == 1
        assert [row["name"] for row in live_rows(gateway)] == ["race"]
        shells[0].exit()
        assert [shell.wait_ended() for shell in shells] == [0] * 4


@pytest.mark.parametrize(
    "name",
    ["", "..", "../../etc", ".", "a b", "a+b", "new+b", "-x", "é", "a" * 51, "$(touch${IFS}x)", "a/b", "a:b", "%n",
     "\x1b[31m", "a'b", "_"],
)  # fmt: skip
def test_hostile_session_name_is_refused_with_words_and_makes_nothing(gateway: InstalledGateway, name: str) -> None:
    before = len(gateway.rows("SELECT id FROM sessions"))
    done = gateway.ssh("-tt", workspace=f"demo+{name}", env={"TERM": "xterm", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 255, done
    said = done.stdout + done.stderr
    assert b"this is not a session name" in said or b"hostname contains invalid" in said or b"invalid" in said, said
    assert b"\x1b" not in said
    assert len(gateway.rows("SELECT id FROM sessions")) == before


# --------------------------------------------------------------------------------------------------- principals


@pytest.fixture
def other_key(gateway: InstalledGateway) -> Iterator[Path]:
    key = gateway.new_key(f"key-{free_port()}")
    gateway.homeport("keys", "add", str(key.with_suffix(".pub")), "--name", key.name)
    yield key
    gateway.homeport("keys", "rm", key.name)


def test_nameless_shells_belong_to_their_key_and_named_ones_to_all_who_may_enter(
    gateway: InstalledGateway, other_key: Path
) -> None:
    def as_other(login: str) -> Shell:
        return Shell(gateway, command=gateway.plain_ssh_command(other_key, workspace=login))

    with Shell(gateway) as mine, Shell(gateway, login="demo+ours") as ours:
        pids = mine.pid, ours.pid
        ours.do("shared=yes")
        mine.leave_by_kill()
        ours.leave_by_kill()
        until_detached(gateway, 2)
    with as_other("demo") as theirs, as_other("demo+ours") as shared:
        assert theirs.pid not in pids, "a shell of somebody else's"
        assert shared.ask("echo $$ $shared") == f"{pids[1]} yes"
        theirs.leave_by_kill()
        until_detached(gateway, 2)
    until_detached(gateway, 3)
    with Shell(gateway) as again:
        assert again.pid == pids[0]


def test_key_that_may_not_enter_the_workspace_meets_none_of_its_sessions(gateway: InstalledGateway) -> None:
    key = gateway.new_key(f"limited-{free_port()}")
    gateway.homeport("new", "elsewhere", check=False)
    gateway.homeport("keys", "add", str(key.with_suffix(".pub")), "--name", key.name, "--workspaces", "elsewhere")
    try:
        with Shell(gateway, login="demo+ours") as ours:
            pid = ours.pid
            with Shell(gateway, command=gateway.plain_ssh_command(key, "-tt", workspace="demo+ours")) as stranger:
                assert stranger.wait_ended() == 255
                assert b"no workspace named" in stranger.printed
            with Shell(gateway, command=gateway.plain_ssh_command(key, "-tt", workspace="elsewhere+ours")) as own:
                assert b"together with" not in own.printed
                assert own.ask("echo $WORKSPACE_NAME") == "elsewhere"
                own.exit()
            assert ours.pid == pid
            ours.exit()
    finally:
        gateway.homeport("keys", "rm", key.name)


# ---------------------------------------------------------------------------------- what never meets any of this


def test_terminal_that_can_show_no_screen_is_plain(gateway: InstalledGateway) -> None:
    """Editors (TRAMP) look for their own prompt on it and nothing else."""
    with Shell(gateway) as kept:
        pid = kept.pid
        kept.leave_by_kill()
        until_detached(gateway)
    with Shell(gateway, "-tt", "--", environment={"TERM": "dumb"}) as dumb:
        assert dumb.pid != pid
        assert (b"homeport: back" in dumb.printed, b"\x1b[2J" in dumb.printed) == (False, False)
        dumb.leave_by_kill()
    until(lambda: [row["status"] for row in live_rows(gateway)] == ["paused"], "it ended, and the other did not")


def test_commands_and_files_with_a_name_are_plain_whether_or_not_the_session_lives(
    gateway: InstalledGateway, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"some file\n")

    def try_all() -> None:
        done = gateway.ssh("echo out; echo err >&2; exit 4", workspace="demo+logs")
        assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 4)
        for options in ((), ("-O",)):
            (tmp_path / "back").unlink(missing_ok=True)
            assert gateway.client("scp", *options, there, "demo+logs@gateway:copy").returncode == 0
            assert gateway.client("scp", *options, "demo+logs@gateway:copy", tmp_path / "back").returncode == 0
            assert (tmp_path / "back").read_bytes() == b"some file\n"

    try_all()
    gateway.until_no_live_row()
    with Shell(gateway, login="demo+logs") as shell:
        pid = shell.pid
        try_all()
        assert shell.pid == pid
        until(lambda: [row["name"] for row in live_rows(gateway)] == ["logs"], "nothing else is left")
        shell.exit()


def test_command_on_a_terminal_without_a_name_ends_with_its_client(gateway: InstalledGateway) -> None:
    with Shell(gateway, "-t", "--", "echo up''here; exec sleep 307") as client:
        client.wait(b"uphere")
        client.leave_by_kill()
    until(lambda: not gateway.programs("sleep 307"), "it ended")
    assert b"homeport" not in client.printed


def test_shell_without_a_terminal_is_plain(gateway: InstalledGateway) -> None:
    with Shell(gateway) as kept:
        pid = kept.pid
        kept.leave_by_kill()
        until_detached(gateway)
    done = gateway.ssh("-T", "--", input=b"echo $$\n")
    assert (done.returncode, done.stdout.strip() not in (b"", pid.encode())) == (0, True)


@pytest.mark.slow
def test_mosh_starts_its_server_beside_a_session_of_any_name(gateway: InstalledGateway) -> None:
    """mosh asks for a terminal, and its command would otherwise be a session that lasts."""
    ssh = " ".join(["ssh", *gateway.ssh_options])
    for login in ("demo", "demo+tools", "demo+new"):
        command = ["env", "LANG=C.UTF-8", "mosh", "--predict=never", f"--ssh={ssh}", f"{login}@gateway"]
        with Terminal(command) as terminal:
            until(lambda terminal=terminal: any(line.endswith(("$", "#")) for line in terminal.screen()), "a prompt")
            terminal.enter("exit")
            terminal.wait("[mosh is exiting.]")
        with contextlib.suppress(subprocess.TimeoutExpired):
            gateway.until_no_live_row()
