"""The table of commands: help that teaches, usage errors in words, nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.errors import CommandRefused, UsageWrong
from gateway.lobby.command import Command, HelpAsked
from gateway.lobby.table import COMMANDS, Offer, find_command
from tests.support.lobby import FakeLobby

EVERY_COMMAND = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)


@EVERY_COMMAND
def test_help_of_every_command_teaches_with_an_example(command: Command):
    with pytest.raises(HelpAsked) as asked:
        command.parse(["--help"])
    assert "examples:\n  " in asked.value.text
    assert f"homeport {command.name.split()[0]}" in asked.value.text


@EVERY_COMMAND
def test_a_command_that_prints_json_documents_its_shape(command: Command):
    with pytest.raises(HelpAsked) as asked:
        command.parse(["-h"])
    assert ("--json " in asked.value.text) == ("--json: " in asked.value.text)


@EVERY_COMMAND
def test_lines_of_help_fit_a_usual_terminal(command: Command):
    assert all(len(line) <= 90 for line in command.teaching.splitlines())
    assert len(command.summary) <= 60


@EVERY_COMMAND
def test_an_unknown_option_is_refused_with_the_usage(command: Command):
    with pytest.raises(UsageWrong) as wrong:
        command.parse(["--no-such-option"])
    assert "usage: homeport" in wrong.value.user_message
    assert wrong.value.exit_status == 2


def test_abbreviated_options_are_refused():
    """What is unique today may be ambiguous, or another option, after an upgrade."""
    with pytest.raises(UsageWrong):
        find_command(["sessions"])[0].parse(["--al"])


def test_what_was_typed_reaches_no_terminal_as_it_is():
    with pytest.raises(UsageWrong) as wrong:
        find_command(["ls"])[0].parse(["\x1b]0;title\x07", "\u202e"])
    assert wrong.value.user_message.startswith("unrecognized arguments: \N{REPLACEMENT CHARACTER}]0;title")
    assert "\u202e" not in wrong.value.user_message


@pytest.mark.parametrize("words", [["status", "\udcff"], ["log", "--workspace=\udcff"], ["keys", "rm", "\udcff"]])
async def test_a_word_that_is_no_text_is_not_understood(words: list[str]):
    """As a command line in Latin-1 has it."""
    lobby = FakeLobby()
    assert await lobby(*words) == 2
    assert "is not UTF-8" in lobby.stderr.text


async def test_a_file_may_have_a_name_that_is_no_text():
    lobby = FakeLobby()
    assert await lobby("keys", "add", "\udcff.pub", stdin=b"") != 2


def test_help_of_help_however_often_is_the_overview():
    with pytest.raises(HelpAsked) as asked:
        find_command(["help"] * 3000)
    assert "commands:" in asked.value.text


def test_two_words_name_a_command_and_the_rest_are_its_arguments():
    command, words = find_command(["keys", "add", "a.pub", "--name", "ana"])
    assert (command.name, words) == ("keys add", ["a.pub", "--name", "ana"])


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_without_a_command_lists_every_command_and_the_exit_statuses(argv: list[str]):
    with pytest.raises(HelpAsked) as asked:
        find_command(argv)
    assert all(command.name in asked.value.text for command in COMMANDS)
    assert "exit status:" in asked.value.text


@pytest.mark.parametrize("argv", [["keys"], ["keys", "--help"]])
def test_a_group_alone_lists_its_commands(argv: list[str]):
    with pytest.raises(HelpAsked) as asked:
        find_command(argv)
    assert "keys rm" in asked.value.text
    assert "rec ls" not in asked.value.text


def test_help_and_a_command_is_that_commands_help():
    command, words = find_command(["help", "rec", "play"])
    assert (command.name, words) == ("rec play", ["--help"])


@pytest.mark.parametrize(("typed", "meant"), [("session", "sessions"), ("keys ad", "keys add"), ("lss", "ls")])
def test_a_mistyped_command_gets_the_nearest_one(typed: str, meant: str):
    with pytest.raises(UsageWrong, match=f"did you mean: homeport {meant}"):
        find_command(typed.split())


def test_over_ssh_the_commands_of_the_host_are_refused_and_not_listed():
    with pytest.raises(CommandRefused, match="works on the host alone: homeport stop"):
        find_command(["stop"], prog="ssh lobby@host", who=Offer.OWNER)
    with pytest.raises(HelpAsked) as asked:
        find_command([], prog="ssh lobby@host", who=Offer.OWNER)
    assert "serve" not in asked.value.text
    assert "usage: ssh lobby@host COMMAND" in asked.value.text


def test_a_key_for_some_workspaces_is_offered_what_is_for_it_alone():
    with pytest.raises(HelpAsked) as asked:
        find_command([], who=Offer.SCOPED)
    offered = {command.name for command in COMMANDS if command.for_scoped_keys}
    assert {line.split("  ")[1] for line in asked.value.text.splitlines() if line.startswith("  ")} >= offered
    assert "keys add" not in asked.value.text
    with pytest.raises(CommandRefused, match="for keys that may enter every workspace"):
        find_command(["keys", "ls"], who=Offer.SCOPED)
    with pytest.raises(CommandRefused, match="for keys that may enter every workspace"):
        find_command(["keys"], who=Offer.SCOPED)


def test_help_over_ssh_has_the_examples_as_they_are_typed_there():
    with pytest.raises(HelpAsked) as asked:
        find_command(["stop"])[0].parse(["--help"], prog="ssh lobby@host")
    assert "homeport stop --all" in asked.value.text  # never works there
    with pytest.raises(HelpAsked) as asked:
        find_command(["ls"])[0].parse(["--help"], prog="ssh lobby@host")
    assert "ssh lobby@host ls --json | jq" in asked.value.text
    assert "homeport" not in asked.value.text


async def test_a_usage_error_goes_to_stderr_with_status_2():
    lobby = FakeLobby()
    assert await lobby("kill") == 2
    assert lobby.stdout.data == b""
    assert lobby.stderr.text.startswith("homeport: say what to end")


async def test_help_goes_to_stdout_with_status_0():
    lobby = FakeLobby()
    assert await lobby("ls", "--help") == 0
    assert lobby.stdout.text.startswith("usage: homeport ls")


async def test_what_only_the_callers_process_can_do_is_refused_here():
    lobby = FakeLobby()
    assert await lobby("serve") == 1
    assert "host alone" in lobby.stderr.text


async def test_an_unexpected_failure_shows_no_traceback(caplog: pytest.LogCaptureFixture):
    lobby = FakeLobby()
    lobby.store.list_workspaces = None  # type: ignore[assignment, method-assign]
    assert await lobby("ls") == 1
    assert lobby.stderr.text == "homeport: internal error; the gateway's log has the whole story\n"
    assert "command.failed" in caplog.text


def test_the_command_line_needs_nothing_heavy_to_reach_a_gateway():
    """`homeport ls` should feel instant; each of these costs 30 to 300 ms."""
    heavy = ("asyncio", "asyncssh", "tortoise", "pydantic", "aiohttp", "importlib.metadata", "subprocess", "logging")
    code = f"import sys, gateway.cli, gateway.state; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
