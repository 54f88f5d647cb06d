"""A person's terminal (a real tmux) on a workspace: editors, resizing, control keys, modes, pastes, the recording."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.installed import InstalledGateway, until
from tests.support.terminal import Terminal

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
PROMPT = "ready$"
NUMBERED = "seq -f 'row %g' 500 > numbered.txt"


@contextmanager
def shell(gateway: InstalledGateway, **size: int) -> Iterator[Terminal]:
    """A login shell with a prompt we know, which ends with its window: each test has its own."""
    with Terminal(gateway.ssh_command(workspace="demo+new"), **size) as terminal:
        terminal.wait("$")
        terminal.enter("PS1='ready''$ '; clear")
        until(lambda: terminal.screen()[0] == PROMPT, "the new prompt")
        yield terminal


def test_login_shell_has_the_client_s_size_and_a_terminal_of_its_own(gateway: InstalledGateway) -> None:
    with shell(gateway, columns=97, rows=31) as terminal:
        terminal.enter("stty size; echo $TERM; shopt -q login_shell && echo is-login; tty")
        terminal.wait("/dev/pts/")
        assert {"31 97", "screen-256color", "is-login"} <= set(terminal.screen())


def test_vim_follows_a_resize(gateway: InstalledGateway) -> None:
    gateway.ssh(NUMBERED)
    with Terminal(gateway.ssh_command("-t", "--", "vim -u NONE -N numbered.txt"), columns=80, rows=24) as terminal:
        terminal.wait("row 23")
        terminal.resize(columns=120, rows=40)
        assert terminal.wait("row 39")[:39] == [f"row {n}" for n in range(1, 40)]
        ask_vim_for_its_size(terminal, "size 120 40")
        terminal.resize(columns=60, rows=12)
        ask_vim_for_its_size(terminal, "size 60 12")
        terminal.press("Escape")
        terminal.enter(":q!")
        assert terminal.wait_ended() == 0


def ask_vim_for_its_size(terminal: Terminal, answer: str) -> None:
    """Again and again: the redraw after a resize wipes an answer that came before it."""

    def is_answered() -> bool:
        terminal.enter(":echo 'size' &columns &lines")
        return any(line.strip() == answer for line in terminal.screen())

    until(is_answered, answer)


def test_less_follows_a_resize(gateway: InstalledGateway) -> None:
    gateway.ssh(NUMBERED)
    with Terminal(gateway.ssh_command("-t", "--", "LESS= less numbered.txt"), columns=80, rows=24) as terminal:
        terminal.wait("row 23")
        terminal.resize(columns=100, rows=45)
        terminal.wait("row 44")
        terminal.resize(columns=100, rows=10)
        terminal.press("g")
        until(lambda: terminal.screen()[:9] == [f"row {n}" for n in range(1, 10)], "nine rows")
        terminal.press("q")
        assert terminal.wait_ended() == 0


def test_control_c_interrupts_the_program_and_not_the_shell(gateway: InstalledGateway) -> None:
    with shell(gateway) as terminal:
        terminal.enter("echo started; sleep 300")
        terminal.wait("started")
        until(lambda: gateway.programs("sleep 300"), "sleep runs")
        terminal.press("C-c")
        terminal.enter("echo status $?")
        terminal.wait("status 130")


def test_control_z_stops_and_fg_continues(gateway: InstalledGateway) -> None:
    with shell(gateway) as terminal:
        terminal.enter("sleep 301")
        until(lambda: gateway.programs("sleep 301"), "sleep runs")
        terminal.press("C-z")
        terminal.wait("Stopped")
        terminal.enter("jobs -r | wc -l; fg")
        until(lambda: [line for line in terminal.screen() if line == "sleep 301"], "in the foreground again")
        terminal.press("C-c")
        terminal.enter("jobs | wc -l")
        until(lambda: not gateway.programs("sleep 301"), "sleep ended")


def test_control_d_ends_the_shell_with_its_last_status(gateway: InstalledGateway) -> None:
    with shell(gateway) as terminal:
        terminal.enter("(exit 41)")
        terminal.wait(PROMPT)
        terminal.press("C-d")
        assert terminal.wait_ended() == 41


def test_exit_status_passes_through_a_terminal(gateway: InstalledGateway) -> None:
    with Terminal(gateway.ssh_command("-t", "--", "exit 37")) as terminal:
        assert terminal.wait_ended() == 37


def test_client_s_terminal_modes_are_set_before_the_program_runs(gateway: InstalledGateway) -> None:
    """A different erase key is the classic: without it Backspace prints ^H (RFC 4254 §8)."""
    command = shlex.join(os.fsdecode(word) for word in gateway.ssh_command("-t", "--", "stty -a"))
    with Terminal(["sh", "-c", f"stty erase '^H' intr '^G' werase '^X' -ixon; {command}"]) as terminal:
        assert terminal.wait_ended() == 0
        shown = " ".join(terminal.screen())
    assert all(mode in shown for mode in ("erase = ^H", "intr = ^G", "werase = ^X", "-ixon", "iutf8", " icanon"))


def test_wide_and_accented_characters_survive_typing_and_the_line_editor(gateway: InstalledGateway) -> None:
    with shell(gateway) as terminal:
        terminal.type("echo 日本é→")
        terminal.wait("日本é→")
        terminal.press("BSpace", "BSpace", "Enter")
        until(lambda: "日本" in terminal.screen(), "one character erased at a time")


def test_paste_of_100_kilobytes_arrives_whole(gateway: InstalledGateway) -> None:
    """More than terminal, pipe and channel window take at once: the input side needs flow control, too."""
    lines = b"".join(b"%05d %s\n" % (number, b"x" * 60) for number in range(1500))
    with shell(gateway) as terminal:
        terminal.enter("stty -echo; cat > pasted.txt; echo pas''ted; stty echo")
        until(lambda: gateway.rows("SELECT 1") and gateway.ssh("ls pasted.txt").returncode == 0, "cat reads")
        terminal.paste(lines)
        terminal.press("C-d")
        terminal.wait("pasted")
    assert gateway.ssh("cat pasted.txt; rm pasted.txt").stdout == lines


def test_flood_can_be_interrupted(gateway: InstalledGateway) -> None:
    """Megabytes on their way to a slow terminal must not make Ctrl-C wait for all of them."""
    with shell(gateway) as terminal:
        terminal.enter("yes 0123456789012345678901234567890123456789")
        terminal.wait("0123456789")
        terminal.press("C-c")
        terminal.enter("echo over $?")
        terminal.wait("over 130", seconds=5)


def test_missing_wall_is_said_at_login(gateway: InstalledGateway) -> None:
    with Terminal(gateway.ssh_command(), columns=160) as terminal:
        screen = " ".join(terminal.wait("$"))
        assert ("homeport: isolation is off" in screen) == (gateway.isolation == "none")
        terminal.enter("exit")
        terminal.wait_ended()


def test_window_that_closes_hangs_a_shell_of_its_own_up(gateway: InstalledGateway) -> None:
    with shell(gateway) as terminal:
        terminal.enter("sleep 302")
        until(lambda: gateway.programs("sleep 302"), "sleep runs")
        row = gateway.until_row("SELECT * FROM sessions WHERE kind = 'shell' AND status = 'active'")
        terminal.close_window()
    ended = gateway.until_row("SELECT * FROM sessions WHERE id = ? AND status = 'terminated'", row["id"])
    assert ended["end_reason"] == "hangup"
    until(lambda: not gateway.programs("sleep 302"), "its job ended with it")


@pytest.mark.slow
def test_program_that_minds_no_hang_up_goes_on_as_paused_until_it_is_killed(gateway: InstalledGateway) -> None:
    with Terminal(gateway.ssh_command("-t", "--", "nohup sleep 303")) as terminal:
        until(lambda: gateway.programs("sleep 303"), "sleep runs")
        row = gateway.until_row("SELECT * FROM sessions WHERE command = 'nohup sleep 303' AND status = 'active'")
        terminal.close_window()
    gateway.until_row("SELECT * FROM sessions WHERE id = ? AND status = 'paused'", row["id"])
    assert gateway.programs("sleep 303")
    gateway.homeport("kill", str(row["id"]))
    ended = gateway.until_row("SELECT * FROM sessions WHERE id = ? AND status = 'terminated'", row["id"])
    assert (ended["end_reason"], ended["exit_signal"]) == ("killed", "KILL")


def test_terminal_is_recorded_and_its_input_is_not(gateway: InstalledGateway) -> None:
    with shell(gateway, columns=90, rows=20) as terminal:
        terminal.enter("stty -echo; echo $((6 * 6))-quiet")
        terminal.wait("36-quiet")
        terminal.enter("read -p 'se''cret: ' secret; clear; echo $((6 * 7))-coloured-é")
        terminal.wait("secret:")
        terminal.enter("hunter2")
        terminal.wait("42-coloured-é")
        terminal.resize(columns=70, rows=22)
        terminal.enter("exit 3")
        assert terminal.wait_ended() == 3
    row = gateway.until_row("SELECT * FROM sessions WHERE exit_code = 3 AND columns = 90 AND status = 'terminated'")
    assert (row["columns"], row["rows"], row["end_reason"]) == (90, 20, "exit")
    export = gateway.homeport("rec", "export", str(row["id"])).stdout.decode()
    header, *events = [json.loads(line) for line in export.splitlines()]
    printed = "".join(event[2] for event in events if event[1] == "o")
    assert (header["version"], header["term"]["cols"], header["term"]["rows"]) == (3, 90, 20)
    assert ("42-coloured-é" in printed, "hunter2" in export) == (True, False)
    assert [event[2] for event in events if event[1] == "r"] == ["70x22"]
    assert [event[2] for event in events if event[1] == "x"] == ["3"]
