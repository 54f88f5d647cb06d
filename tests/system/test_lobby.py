"""`ssh lobby@host COMMAND` and `homeport COMMAND`: every command of the table both ways, and the picker on a screen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.lobby.table import COMMANDS
from tests.support.fake_github import FakeGithub
from tests.support.git_server import GitServer
from tests.support.installed import WORKSPACE, InstalledGateway, Result, until
from tests.support.pty_client import PtyClient
from tests.support.terminal import Terminal
from tests.system.conftest import PERSONAL_TOKEN, running

SSH, HOST = "ssh", "host"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB%s guest"
WORKSPACE_FIELDS = {"id", "name", "branch", "github_repo", "url", "is_active", "created_at"}
ARCHIVE_FIELDS = {"id", "name", "archived_at", "place", "size_bytes", "content_bytes", "has_bundle", "unsaved"}
SESSION_FIELDS = {"id", "workspace", "kind", "status", "name", "command", "principal", "created_at", "ends_at"}
TOKEN_FIELDS = {"id", "name", "scope", "created_by", "expires_at", "last_used_at", "created_at"}


@dataclass(frozen=True)
class Case:
    """How a command is run: once each way, `{way}` standing for `ssh` or `host`. `fields`: it is asked for --json, and
    prints an object, or a list of some, with at least these. `stops`: it acts on the gateway itself; on the host its
    help must do here, since its own tests run it."""

    argv: Sequence[str]
    fields: frozenset[str] | set[str] | None = None
    stops: bool = False
    stdin: bytes = b""


CASES: dict[str, Case] = {
    "new": Case(["new", "made-by-{way}"], WORKSPACE_FIELDS),
    "ls": Case(["ls"], WORKSPACE_FIELDS),
    "status": Case(["status", "cloned"], {"workspace", "branch", "ahead", "behind", "modified", "last_commit"}),
    "sync": Case(["sync", "cloned"], {"workspace", "branch", "before", "after", "commit_count"}),
    "rename": Case(["rename", "named-{way}", "renamed-{way}"]),
    "archive": Case(["archive", "old-{way}", "--end"], ARCHIVE_FIELDS),
    "archives": Case(["archives"], ARCHIVE_FIELDS),
    "unarchive": Case(["unarchive", "away-{way}"], {"id", "name", "kept_as"}),
    "rm": Case(["rm", "for-{way}"], ARCHIVE_FIELDS),
    "set": Case(["set", WORKSPACE, "forwarding=default"], {"workspace", "forwarding", "shell"}),
    "connect": Case(["connect", WORKSPACE], {"workspace", "alias", "host", "port", "config", "ssh"}),
    "keys add": Case(["keys", "add", "-", "--name", "by-{way}"], {"name", "fingerprint", "workspaces"}, stdin=b"{key}"),
    "keys ls": Case(["keys", "ls"], {"id", "name", "fingerprint", "workspaces", "expires_at"}),
    "keys rm": Case(["keys", "rm", "spare-{way}"]),
    "token mint": Case(["token", "mint", "by-{way}"], TOKEN_FIELDS | {"token"}),
    "token ls": Case(["token", "ls"], TOKEN_FIELDS),
    "token revoke": Case(["token", "revoke", "spare-{way}"]),
    "keys import-github": Case(["keys", "import-github", "octo-{way}", "--yes"], {"name", "fingerprint", "workspaces"}),
    "github login": Case(["github", "login", "--with-token"], stdin=PERSONAL_TOKEN.encode()),
    "github status": Case(
        ["github", "status"], {"logged_in", "login", "scopes", "expires_at", "refreshed_at", "check"}
    ),
    "repos": Case(["repos", "hello"], {"page", "has_more", "repositories"}),
    "vault rotate": Case(["vault", "rotate"]),
    "github logout": Case(["github", "logout"]),
    "sessions": Case(["sessions"], SESSION_FIELDS),
    "kill": Case(["kill", WORKSPACE + "+{way}"]),
    "rec ls": Case(["rec", "ls"], {"session_id", "workspace", "started_at", "size_bytes", "is_live"}),
    "rec play": Case(["rec", "play", WORKSPACE + "+kept", "--speed", "100"]),
    "rec export": Case(["rec", "export", WORKSPACE + "+kept"]),
    "rec on": Case(["rec", "on", WORKSPACE]),
    "rec off": Case(["rec", "off", "off-{way}"]),
    "log": Case(["log", "--limit", "5"], {"id", "action", "success", "details", "created_at"}),
    "backup now": Case(["backup", "now"], {"path", "size_bytes", "duration_ms", "pruned_count"}),
    "whoami": Case(["whoami"], {"principal", "fingerprint", "is_owner", "workspaces", "version"}),
    "stats": Case(["stats"], {"active", "paused", "total", "ended_last_24h", "life_seconds_mean"}),
    "theme": Case(["theme"], {"theme", "themes"}),
    "theme set": Case(["theme", "set", "mono"]),
    "serve": Case(["serve"], stops=True),
    "run": Case(["run"], stops=True),
    "stop": Case(["stop"], stops=True),
    "reload": Case(["reload"], stops=True),
    "check": Case(["check"], {"settings", "checks"}),
    "db status": Case(["db", "status"], {"applied", "pending", "unknown"}),
    "db upgrade": Case(["db", "upgrade"], stops=True),
}
ON_HOST_ONLY = {command.name for command in COMMANDS if command.on_host_only}


@pytest.fixture(scope="module")
def house(fake_github: FakeGithub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstalledGateway]:
    """A gateway of its own, with what the commands need: workspaces, spare keys, sessions that run."""
    fake_github.git_root = tmp_path_factory.mktemp("far")
    GitServer(fake_github.git_root, token=None).make("octocat/Hello-World")
    with ExitStack() as stack:
        new = InstalledGateway("none", **fake_github.settings)
        gateway = stack.enter_context(contextmanager(running)(new))
        gateway.homeport("new", "octocat/Hello-World", "cloned")
        kept = stack.enter_context(shell(gateway, f"{WORKSPACE}+kept"))
        for way in (SSH, HOST):
            gateway.homeport("new", f"for-{way}")
            for use in ("off", "named", "old", "away"):
                gateway.homeport("new", f"{use}-{way}")
            gateway.homeport("archive", f"away-{way}")
            public = gateway.new_key(f"spare-{way}").with_suffix(".pub")
            gateway.homeport("keys", "add", str(public), "--name", f"spare-{way}")
            gateway.homeport("token", "mint", f"spare-{way}")
            theirs = gateway.new_key(f"octo-{way}").with_suffix(".pub").read_text().split()[:2]
            fake_github.keys[f"octo-{way}"] = [" ".join(theirs)]
            stack.enter_context(shell(gateway, f"{WORKSPACE}+{way}"))
        gateway.homeport("github", "login", "--with-token", input=PERSONAL_TOKEN.encode())
        kept.enter("echo la''ter")  # so that a player at a hundredth of the speed has a long pause before it
        kept.wait("later")
        yield gateway
        gateway.homeport("kill", "--workspace", WORKSPACE)


@pytest.fixture(scope="module")
def scoped(house: InstalledGateway) -> Callable[..., Result]:
    """ssh with a key that may enter `demo` alone."""
    key = house.new_key("scoped")
    public = str(key.with_suffix(".pub"))
    house.homeport("keys", "add", public, "--name", "guest", "--workspaces", WORKSPACE)
    return lambda *words, **options: house.ssh("-o", f"IdentityFile={key}", "--", *words, **options)


def shell(gateway: InstalledGateway, login_name: str) -> Terminal:
    terminal = Terminal(gateway.ssh_command(workspace=login_name))
    terminal.enter("echo rea''dy")
    terminal.wait("ready")
    return terminal


def call(gateway: InstalledGateway, way: str, argv: Sequence[str], stdin: bytes = b"") -> Result:
    if way == SSH:
        return gateway.ssh(*argv, workspace="lobby", input=stdin)
    return gateway.homeport(*argv, check=False, input=stdin)


# ------------------------------------------------------------------------------------------- the whole table


def test_every_command_has_a_case_here() -> None:
    """A new command is run both ways, or this fails: add a line to CASES."""
    assert set(CASES) == {command.name for command in COMMANDS}
    has_json = {command.name for command in COMMANDS if "--json: " in command.teaching}
    assert has_json == {name for name, case in CASES.items() if case.fields}, "say the fields of those that print JSON"


@pytest.mark.parametrize("way", [SSH, HOST])
@pytest.mark.parametrize("name", CASES)
def test_a_command_does_the_same_by_ssh_and_on_the_host(house: InstalledGateway, name: str, way: str) -> None:
    case = CASES[name]
    argv = [word.format(way=way) for word in case.argv]
    if way == SSH and name in ON_HOST_ONLY:
        done = call(house, way, argv)
        assert (done.returncode, done.stdout) == (1, b"")
        assert f"`{name}` works on the host alone: homeport {name}".encode() in done.stderr
        return
    if case.stops:
        argv.append("--help")
    stdin = case.stdin
    if b"{key}" in stdin:
        stdin = house.new_key(f"by-{way}").with_suffix(".pub").read_bytes()
    done = call(house, way, [*argv, *(["--json"] if case.fields else [])], stdin)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    assert b"\t" not in done.stdout
    if case.fields:
        assert_shape(json.loads(done.stdout), case.fields)
    else:
        assert done.stdout


def assert_shape(printed: Any, fields: frozenset[str] | set[str]) -> None:
    objects = printed if isinstance(printed, list) else [printed]
    assert objects, "an empty list tells nothing of its shape"
    for each in objects:
        assert fields <= set(each), fields - set(each)


def test_help_is_the_overview_by_both_ways(house: InstalledGateway) -> None:
    by_ssh, on_host = call(house, SSH, ["help"]), call(house, HOST, ["help"])
    assert by_ssh.stdout.startswith(b"usage: ssh lobby@host COMMAND")
    assert on_host.stdout.startswith(b"usage: homeport COMMAND")
    assert (by_ssh.returncode, on_host.returncode) == (0, 0)
    assert house.ssh(workspace="lobby").stdout == by_ssh.stdout, "without a command and a terminal it is the same"


# -------------------------------------------------------------------------------------------- hostile and odd


@pytest.mark.parametrize(
    "command",
    [b"ls 'x", b"ls \xff\xfe", b"x" * 20_000, b"nosuch", b"ls --nosuch", b"kill", b"git-upload-pack '/etc'", b"\\"],
    ids=["quotes", "not-utf8", "huge", "unknown", "option", "usage", "git", "backslash"],
)
def test_what_is_not_understood_has_status_2_and_one_clear_reason(house: InstalledGateway, command: bytes) -> None:
    done = house.ssh(command, workspace="lobby")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"homeport: ")
    assert len(done.stderr) < 1000


def test_the_lobby_has_no_files_forwards_agent_or_display(house: InstalledGateway) -> None:
    done = house.client("sftp", "-b", "/dev/null", "lobby@gateway")
    assert (done.returncode != 0, b"the lobby has no files" in done.stderr) == (True, True)
    done = house.ssh("-W", "127.0.0.1:22", "--", workspace="lobby")
    assert (done.returncode != 0, done.stdout) == (True, b"")
    options = ("-v", "-o", "LogLevel=DEBUG1", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:9")
    done = house.ssh(*options, "--", "whoami", workspace="lobby")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"the lobby forwards nothing" in done.stderr


def test_an_unknown_workspace_gets_the_nearest_name_and_how_to_make_one(
    house: InstalledGateway, scoped: Callable[..., Result]
) -> None:
    done = house.ssh("true", workspace="demmo")
    assert (done.returncode, done.stdout) == (255, b"")
    expected = b'no workspace named "demmo"; did you mean "demo"? Make one with: ssh lobby@host new demmo\r\n'
    assert done.stderr == b"homeport: " + expected
    missing, outside = (scoped("true", workspace=name) for name in ("ssh-for", "for-ssh"))
    assert missing.stderr.replace(b"ssh-for", b"X") == outside.stderr.replace(b"for-ssh", b"X")
    assert b"new" not in outside.stderr


def test_a_key_for_one_workspace_sees_that_one_alone(house: InstalledGateway, scoped: Callable[..., Result]) -> None:
    names = [each["name"] for each in json.loads(scoped("ls", "--json", workspace="lobby").stdout)]
    assert names == [WORKSPACE]
    assert json.loads(scoped("whoami", "--json", workspace="lobby").stdout)["workspaces"] == [WORKSPACE]
    for words in (
        ["keys", "ls"],
        ["log"],
        ["new", "x"],
        ["rm", WORKSPACE],
        ["theme", "set", "dark"],
        ["backup", "now"],
    ):
        done = scoped(*words, workspace="lobby")
        assert (done.returncode, done.stdout) == (1, b""), words
        assert b"for keys that may enter every workspace" in done.stderr
    said = scoped("help", workspace="lobby").stdout + scoped("kill", "for-ssh", workspace="lobby").stderr
    assert b"keys add" not in said


def test_a_closed_pipe_and_a_lost_client_end_a_command(house: InstalledGateway) -> None:
    """`ssh lobby@host rec play ID | head`, and a laptop that is closed."""
    command = house.ssh_command("rec", "play", f"{WORKSPACE}+kept", "--speed", "0.01", "--idle-limit", "1000",
                                workspace="lobby")  # fmt: skip
    player = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert player.stdout is not None
    player.stdout.read(1)
    player.send_signal(signal.SIGKILL)
    player.communicate()
    until(lambda: house.gateway_pids(), "the gateway goes on")
    assert call(house, SSH, ["whoami"]).returncode == 0


# ------------------------------------------------------------------------------------------------- on a screen


def lobby(gateway: InstalledGateway, *words: str, **size: int) -> Terminal:
    return Terminal(gateway.ssh_command(*words, workspace="lobby"), **size)


def count(gateway: InstalledGateway, what: str) -> int:
    return sum(event["event"] == f"connection.{what}" for event in gateway.log.events)


def until_screen(terminal: Terminal, question: Callable[[list[str]], bool], what: str) -> list[str]:
    until(lambda: question(terminal.screen()), f"{what}; the screen: {terminal.screen()}")
    return terminal.screen()


def test_control_c_ends_a_command_on_a_terminal(house: InstalledGateway) -> None:
    command = ("-t", "--", "rec", "play", f"{WORKSPACE}+kept", "--speed", "0.01", "--idle-limit", "1000")
    with lobby(house, *command) as terminal:
        terminal.wait("ready")
        terminal.press("C-c")
        assert terminal.wait_ended() == 130


def test_keys_are_pasted_on_a_terminal_and_end_with_control_d(house: InstalledGateway) -> None:
    """The echo is the lobby's: the client's own terminal has none, raw or not."""
    command = house.ssh_command("-t", "--", "keys", "add", "-", workspace="lobby")
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm"}
    with PtyClient(command, environment=environment, stty=("-echo",)) as client:
        client.type(b"no key at alk")
        client.wait(b"no key at alk")  # from here on the client's terminal is raw
        client.type(b"\x7fl\r")
        client.wait(b"no key at alk\b \bl\r\n")
        client.type(b"\x04")
        assert client.wait_ended() == 1
        client.wait(b"nothing was added")


def test_the_picker_lists_finds_and_enters(house: InstalledGateway) -> None:
    """What it shows, line by line; then the session that was chosen, on the screen that was there before."""
    with lobby(house) as terminal:
        screen = terminal.wait("q leave")
        assert screen[0] == "homeport  ada"
        assert screen[1] == "find:"
        assert any(line.split()[:1] == [WORKSPACE] for line in screen)
        kept = next(line for line in screen if line.startswith(f"{WORKSPACE}+kept"))
        assert kept.split() == [f"{WORKSPACE}+kept", "attached", "shell"]
        assert screen[23].startswith("Up/Down choose")
        terminal.type("+kept")
        screen = until_screen(terminal, lambda rows: rows[1] == "find: +kept" and not rows[3], "one is left")
        assert screen[2].startswith(f"{WORKSPACE}+kept")
        terminal.press("Enter")
        terminal.wait("together with 1 other")
        assert "find:" not in "".join(terminal.screen())
        terminal.enter("echo the same'' shell; stty size")
        terminal.wait("the same shell")
        terminal.wait("24 80")


def test_arrows_choose_and_leaving_gives_the_screen_back(house: InstalledGateway) -> None:
    with Terminal(["sh", "-c", 'echo before; "$@"; echo "left with $?"; read line', "sh",
                   *map(os.fsdecode, house.ssh_command(workspace="lobby"))]) as terminal:  # fmt: skip
        terminal.wait("q leave")
        terminal.press("Down", "Down", "Up")
        terminal.press("q")
        terminal.wait("left with 0")
        assert terminal.screen()[:2] == ["before", "left with 0"]


def test_the_picker_fits_a_window_that_changes(house: InstalledGateway) -> None:
    with lobby(house) as terminal:
        terminal.wait("q leave")
        terminal.resize(columns=30, rows=6)
        screen = until_screen(terminal, lambda rows: rows[0] == "find:" and rows[5].startswith("Up/Down"), "it fits")
        assert all(line.strip() for line in screen[1:5]), "the list has all the lines between"
        terminal.resize(columns=12, rows=2)
        until_screen(terminal, lambda rows: len(rows) == 2 and rows[1].strip() != "", "a tiny one has the list")
        terminal.resize(columns=100, rows=30)
        until_screen(terminal, lambda rows: rows[0] == "homeport  ada" and rows[29].startswith("Up/Down"), "it grows")
        terminal.press("Escape")
        assert terminal.wait_ended() == 0


def test_the_picker_makes_a_workspace_and_enters_it(house: InstalledGateway) -> None:
    with lobby(house) as terminal:
        terminal.wait("n new")
        terminal.press("n")
        terminal.wait("new workspace:")
        terminal.enter("made-in-picker")
        terminal.wait("$")
        terminal.enter("basename $WORKSPACE_NAME; exit 3")
        assert terminal.wait_ended() == 3
        terminal.wait("made-in-picker")
    names = [each["name"] for each in json.loads(house.homeport("ls", "--json").stdout)]
    assert "made-in-picker" in names


def test_a_client_that_goes_takes_its_picker_with_it(house: InstalledGateway) -> None:
    left_open = count(house, "opened") - count(house, "ended")
    with lobby(house) as terminal:
        terminal.wait("q leave")
        terminal.close_window()
    until(lambda: count(house, "opened") - count(house, "ended") == left_open, "its connection ended")
    assert call(house, SSH, ["whoami"]).returncode == 0


def test_without_a_screen_the_picker_is_the_overview(house: InstalledGateway) -> None:
    command = ["env", "TERM=dumb", *map(os.fsdecode, house.ssh_command(workspace="lobby"))]
    with Terminal(command) as terminal:
        assert terminal.wait_ended() == 0
        terminal.wait("usage: ssh lobby@host COMMAND")


@pytest.mark.slow
def test_an_idle_picker_does_not_hold_up_a_stop() -> None:
    """Nobody works there; a command would have the drain's time."""
    with (
        contextmanager(running)(InstalledGateway("none", session_drain_seconds=60)) as gateway,
        lobby(gateway) as terminal,
    ):
        terminal.wait("q leave")
        gateway.terminate(seconds=20)
        assert terminal.wait_ended() == 255
        terminal.wait("the gateway is restarting; connect again in a moment")
        assert "q leave" not in "".join(terminal.screen())
