"""Workspaces from a git server, by the installed command and stock ssh: made, interrupted, killed, full, and again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.git_server import GitServer, git_server
from tests.support.installed import HOMEPORT, InstalledGateway, until
from tests.support.terminal import Terminal
from tests.support.walls import walls
from tests.system.conftest import PIPE_LINGER_SECONDS, running, skip_without_walls

HOLD_SECONDS = 20
BIG = 1_000_000


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with git_server(tmp_path_factory.mktemp("far"), token=None) as server:
        server.make("octo/big", random_bytes=BIG)
        yield server


@pytest.fixture(autouse=True)
def _no_faults(far: GitServer) -> Iterator[None]:
    yield
    far.failing_count, far.cut_count, far.is_holding = 0, 0, False
    far.go_on.set()


@pytest.fixture(scope="module", params=walls())
def cloning(request: pytest.FixtureRequest, far: GitServer) -> Iterator[InstalledGateway]:
    skip_without_walls(request.param)
    gateway = InstalledGateway(
        request.param, session_pipe_linger_seconds=PIPE_LINGER_SECONDS, github_web_url=far.url,
        github_api_url=far.url,
    )  # fmt: skip
    with contextlib.contextmanager(running)(gateway) as gateway:
        yield gateway


def hold(far: GitServer) -> None:
    """From now on, packs stand still in the middle."""
    far.holds.clear()
    far.go_on.clear()
    far.is_holding = True


def half_made(gateway: InstalledGateway) -> list[str]:
    return [path.name for path in (gateway.state_dir / "workspaces").iterdir() if path.name.startswith(".new-")]


def assert_nothing_half_made(gateway: InstalledGateway, name: str) -> None:
    assert half_made(gateway) == []
    assert gateway.rows("SELECT * FROM workspaces WHERE slug = ?", name) == []
    assert gateway.programs("git-remote-http") == []


def start_new(gateway: InstalledGateway, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(HOMEPORT), "new", *words], env=gateway.environment, cwd="/", stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_new_clones_owner_and_repository_and_ssh_lands_in_it(cloning: InstalledGateway, far: GitServer) -> None:
    far.make("octo/hello", branch="trunk")
    made = json.loads(cloning.homeport("new", "octo/hello", "--description", "the first", "--json").stdout)
    assert (made["name"], made["branch"], made["github_repo"]) == ("hello", "trunk", "octo/hello")
    shown = cloning.ssh("cat README; git status --short --branch; pwd", workspace="hello")
    assert shown.stdout.startswith(b"hello\n## trunk...origin/trunk\n"), shown
    assert cloning.homeport("new", "octo/hello", "again", check=False).stderr.startswith(b"homeport: octo/hello is")
    refused = cloning.homeport("new", "https://git.attacker.example/x", check=False)
    assert (refused.returncode, b"add it to the setting hosts in [git]" in refused.stderr) == (1, True)


def test_ctrl_c_in_the_middle_leaves_nothing_and_the_next_try_works(cloning: InstalledGateway, far: GitServer) -> None:
    hold(far)
    interrupted = start_new(cloning, "octo/big", "interrupted")
    assert far.holds.wait(HOLD_SECONDS)
    interrupted.send_signal(signal.SIGINT)
    out, err = interrupted.communicate(timeout=HOLD_SECONDS)
    assert (interrupted.returncode, out) == (130, b""), err
    assert_nothing_half_made(cloning, "interrupted")
    far.is_holding = False
    far.go_on.set()
    cloning.homeport("new", "octo/big", "interrupted")
    assert cloning.ssh("stat -c %s data", workspace="interrupted").stdout == b"1000000\n"


def test_gateway_killed_in_the_middle_leaves_nothing_and_the_next_try_works(
    cloning: InstalledGateway, far: GitServer
) -> None:
    far.make("octo/killed", random_bytes=BIG)
    hold(far)
    killed = start_new(cloning, "octo/killed")
    assert far.holds.wait(HOLD_SECONDS)
    assert len(half_made(cloning)) == 1
    cloning.kill()
    _, err = killed.communicate(timeout=HOLD_SECONDS)
    assert (killed.returncode, b"the gateway went away" in err) == (255, True), err
    assert cloning.programs("git-remote-http") != []  # its keeper lives, and waits for the server
    cloning.start()
    far.is_holding = False
    far.go_on.set()
    assert_nothing_half_made(cloning, "killed")
    cloning.homeport("new", "octo/killed")
    assert cloning.ssh("git status --porcelain", workspace="killed").stdout == b""


def test_server_that_breaks_off_is_asked_again_with_words(cloning: InstalledGateway, far: GitServer) -> None:
    far.make("octo/cut", random_bytes=BIG)
    far.cut_count = 1
    done = cloning.homeport("new", "octo/cut")
    assert done.stderr.count(b"trying again in 1 s") == 1, done.stderr
    assert done.stdout.startswith(b"cut is ready;")


# ------------------------------------------------------------------------------------------- declared first


def test_first_login_clones_with_progress_on_a_terminal_and_the_next_one_does_not(
    cloning: InstalledGateway, far: GitServer
) -> None:
    far.make("octo/later", random_bytes=BIG)
    done = cloning.homeport("new", "octo/later", "--later")
    assert b"declared, and cloned at its first login" in done.stdout
    assert not (cloning.state_dir / "workspaces" / json.loads(listed(cloning, "later"))["id"]).exists()
    status = json.loads(cloning.homeport("status", "later", "--json").stdout)
    assert (status["is_cloned"], status["modified"]) == (False, None)
    with Terminal(cloning.ssh_command(workspace="later+new")) as terminal:
        terminal.wait("this happens once")
        terminal.enter("cat README; echo IN `pwd`")
        terminal.wait("IN /")
        assert any(line == "hello" for line in terminal.screen())
    assert json.loads(listed(cloning, "later"))["is_cloned"]
    assert cloning.until_row("SELECT success FROM auth_logs WHERE action = 'workspace_sync_clone'")["success"]


def test_ctrl_c_leaves_a_first_login_and_the_clone_goes_on(cloning: InstalledGateway, far: GitServer) -> None:
    far.make("octo/patient", random_bytes=BIG)
    cloning.homeport("new", "octo/patient", "--later")
    hold(far)
    with Terminal(cloning.ssh_command(workspace="patient")) as terminal:
        terminal.wait("this happens once")
        assert far.holds.wait(HOLD_SECONDS)
        terminal.press("C-c")
        terminal.wait("goes on without you")
        assert terminal.wait_ended() == 130
    far.is_holding = False
    far.go_on.set()
    until(lambda: json.loads(listed(cloning, "patient"))["is_cloned"], "it was cloned to its end")


def listed(gateway: InstalledGateway, name: str) -> str:
    rows = json.loads(gateway.homeport("ls", "--json").stdout)
    return json.dumps(next(row for row in rows if row["name"] == name))


def test_commands_and_transfers_wait_for_the_clone_with_nothing_of_ours_on_their_streams(
    cloning: InstalledGateway, far: GitServer
) -> None:
    far.make("octo/quiet", random_bytes=BIG)
    far.served.clear()
    cloning.homeport("new", "octo/quiet", "--later")
    commands = [
        subprocess.Popen(cloning.ssh_command("git rev-parse --is-inside-work-tree", workspace="quiet"),
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]  # fmt: skip
    for command in commands:
        out, err = command.communicate(timeout=HOLD_SECONDS)
        assert (command.returncode, out, err) == (0, b"true\n", b"")
    packs = [path for path in far.served if path == "/octo/quiet/git-upload-pack"]
    assert len(packs) == 2  # the list and the pack, once
    copied = cloning.directory / "copied"
    assert cloning.client("scp", "quiet@gateway:README", copied).returncode == 0
    assert copied.read_text() == "hello\n"


def test_forward_waits_for_the_clone_as_well(cloning: InstalledGateway, far: GitServer) -> None:
    far.make("octo/forwarded")
    cloning.homeport("new", "octo/forwarded", "--later")
    words = ("-W", f"127.0.0.1:{far.port}", "--")
    asked = cloning.ssh(*words, workspace="forwarded", input=b"GET /octo/none HTTP/1.0\r\n\r\n")
    assert asked.stdout.startswith(b"HTTP/1.1 404"), asked
    assert json.loads(listed(cloning, "forwarded"))["is_cloned"]


def test_first_login_that_cannot_clone_says_one_line_and_the_next_one_tries_again(
    cloning: InstalledGateway, far: GitServer
) -> None:
    name = f"octo/missing-{cloning.isolation}"
    cloning.homeport("new", name, "missing", "--later")
    failed = cloning.ssh("echo never", workspace="missing")
    assert (failed.returncode, failed.stdout, failed.stderr.count(b"\n")) == (255, b"", 1), failed.stderr
    assert b"not found" in failed.stderr
    far.make(name)
    assert cloning.ssh("cat README", workspace="missing").stdout == b"hello\n"


@pytest.mark.slow
def test_gateway_that_stops_or_dies_during_a_first_login_leaves_it_declared(
    cloning: InstalledGateway, far: GitServer
) -> None:
    far.make("octo/stopped", random_bytes=BIG)
    cloning.homeport("new", "octo/stopped", "--later")
    for end in (cloning.terminate, cloning.kill):
        hold(far)
        client = subprocess.Popen(cloning.ssh_command("true", workspace="stopped"), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        assert far.holds.wait(HOLD_SECONDS)
        end()
        client.communicate(timeout=HOLD_SECONDS)
        assert client.returncode == 255
        far.is_holding = False
        far.go_on.set()
        cloning.start()
        until(lambda: not half_made(cloning), "the half-made workspace was removed")
        assert not json.loads(listed(cloning, "stopped"))["is_cloned"]
    assert cloning.ssh("stat -c %s data", workspace="stopped").stdout == b"1000000\n"


# -------------------------------------------------------------------------------------- status, sync, rename


def test_status_and_sync_follow_the_repository_and_rename_takes_the_paths_along(
    cloning: InstalledGateway, far: GitServer
) -> None:
    far.make("octo/moving")
    cloning.homeport("new", "octo/moving")
    assert cloning.ssh("echo more >README; touch new", workspace="moving").returncode == 0
    far.commit("octo/moving", "theirs", cloning.isolation)
    assert cloning.homeport("sync", "moving").stdout.startswith(b"moving: main is 1 commit further, at ")
    status = json.loads(cloning.homeport("status", "moving", "--json").stdout)
    assert [status[key] for key in ("branch", "ahead", "behind", "modified", "staged", "untracked")] == [
        "main", 0, 0, 1, 0, 1,
    ]  # fmt: skip
    assert (status["last_commit"]["subject"], status["last_activity_at"] is None) == ("theirs", False)
    key = cloning.new_key("scoped")
    cloning.homeport("keys", "add", f"{key}.pub", "--name", "scoped", "--workspaces", "moving")
    until(lambda: cloning.homeport("rename", "moving", "moved", check=False).returncode == 0, "nothing ran any more")
    assert cloning.ssh("pwd; cat theirs", workspace="moving").returncode == 255
    entered = subprocess.run([*cloning.plain_ssh_command(key, workspace="moved"), "pwd; cat README"],
                             capture_output=True, timeout=HOLD_SECONDS, check=False)  # fmt: skip
    assert entered.returncode == 0, entered.stderr
    place, _, text = entered.stdout.partition(b"\n")
    assert (place == b"/workspaces/moved" or cloning.isolation == "none", text) == (True, b"more\n")


def test_rename_is_refused_while_a_shell_runs(cloning: InstalledGateway) -> None:
    cloning.homeport("new", "busy")
    with Terminal(cloning.ssh_command("-t", "--", "echo ready; read line", workspace="busy")) as terminal:
        terminal.wait("ready")
        cloning.until_row("SELECT * FROM sessions WHERE status = 'active'")
        done = cloning.homeport("rename", "busy", "free", check=False)
        assert (done.returncode, b"homeport kill --workspace busy" in done.stderr) == (1, True)
        terminal.enter("")
        terminal.wait_ended()


# --------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root to mount a small disk")
@pytest.mark.parametrize("isolation", walls())
def test_full_disk_is_said_and_leaves_nothing_and_the_next_try_works(isolation: str, far: GitServer) -> None:
    skip_without_walls(isolation)
    far.make("octo/huge", random_bytes=40 * BIG)
    gateway = InstalledGateway(isolation, github_web_url=far.url, github_api_url=far.url)
    gateway.state_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", gateway.state_dir], check=True)
    try:
        gateway.set_up()
        full = gateway.homeport("new", "octo/huge", check=False, timeout=60)
        assert full.returncode == 1, full.stderr
        assert b"the disk of the gateway is full: make room, then try again" in full.stderr
        assert b"trying again in" not in full.stderr
        assert_nothing_half_made(gateway, "huge")
        gateway.homeport("new", "octo/big")
        assert gateway.ssh("stat -c %s data", workspace="big").stdout == b"1000000\n"
    finally:
        gateway.close()
        subprocess.run(["umount", gateway.state_dir], check=True)
        gateway.remove()
