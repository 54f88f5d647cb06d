"""Which wall is chosen, and what it looks like as a command line; nothing is started."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gateway.config import SessionSettings
from gateway.errors import LauncherUnavailable, StartRefused
from gateway.interfaces import Workspace
from gateway.launchers import WorkspaceKeepers, bubblewrap, choose_launcher, inside
from gateway.launchers.bubblewrap import BubblewrapLauncher
from gateway.launchers.inside import Interpreter
from gateway.launchers.none import NoneLauncher
from gateway.launchers.place import KeeperPlace

SYSTEM = Interpreter("/usr/bin/python3", None)


@pytest.fixture(autouse=True)
def _no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.launchers.choose.find_interpreter", lambda: SYSTEM)
    monkeypatch.setattr(bubblewrap, "_version_of", lambda path: (0, 8))


def working(monkeypatch: pytest.MonkeyPatch, *, reason: str) -> None:
    monkeypatch.setattr(BubblewrapLauncher, "probe", lambda self: reason)


async def test_auto_takes_bubblewrap_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    working(monkeypatch, reason="")
    for is_loopback in (True, False):
        launcher, warnings = await choose_launcher("auto", listeners_are_loopback=is_loopback)
        assert (launcher.name, warnings) == ("bubblewrap", [])


async def test_auto_goes_without_a_wall_on_loopback_alone_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    working(monkeypatch, reason="the command bwrap is not installed")
    launcher, warnings = await choose_launcher("auto", listeners_are_loopback=True)
    assert launcher.name == "none"
    assert "without any wall" in warnings[0] and "apt install bubblewrap" in warnings[0]
    with pytest.raises(StartRefused, match="apt install bubblewrap"):
        await choose_launcher("auto", listeners_are_loopback=False)


async def test_bubblewrap_asked_for_by_name_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    working(monkeypatch, reason="bwrap: setting up uid map: Permission denied")
    with pytest.raises(StartRefused, match=r"uid map.*user namespaces"):
        await choose_launcher("bubblewrap", listeners_are_loopback=True)


async def test_a_probe_that_hangs_names_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says is shown at /healthz, and a TimeoutExpired prints its whole command."""

    def hang(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 15)

    monkeypatch.setattr(subprocess, "run", hang)
    assert BubblewrapLauncher(SYSTEM).probe() == "bwrap did not end within 15 s"


async def test_none_asked_for_by_name_is_taken_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    working(monkeypatch, reason="")
    launcher, warnings = await choose_launcher("none", listeners_are_loopback=False)
    assert isinstance(launcher, NoneLauncher)
    assert "without any wall" in warnings[0]


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "a:b", "a\nb", "-x", "x" * 65, "ä"])
def test_a_name_that_would_break_a_path_or_passwd_is_refused(name: str, tmp_path: Path) -> None:
    launcher = BubblewrapLauncher(SYSTEM)
    with pytest.raises(LauncherUnavailable):
        launcher.inside(Workspace("w1", name, tmp_path / "home", tmp_path / "tree"))


def command(launcher: BubblewrapLauncher, tmp_path: Path, name: str = "demo") -> list[str]:
    workspace = Workspace("w1", name, tmp_path / "w1" / "home", tmp_path / "w1" / "tree")
    place = KeeperPlace(tmp_path / "run", "w1")
    place.make()
    return launcher.command(workspace, place, ["7", "8", "60", "500"], status_fd=9)


def test_the_keeper_is_not_tied_to_the_life_of_the_gateway(tmp_path: Path) -> None:
    words = command(BubblewrapLauncher(SYSTEM), tmp_path)
    assert "--die-with-parent" not in words
    assert {"--as-pid-1", "--new-session", "--unshare-user", "--unshare-pid", "--unshare-ipc"} <= set(words)
    assert words[-8:] == ["/usr/bin/python3", "-I", "-S", "/.homeport/keeper", "7", "8", "60", "500"]


def test_private_paths_below_something_shown_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation in /opt keeps its state and its settings file there; the sandbox shows /opt."""
    secret_file = tmp_path / "opt" / "homeport.toml"
    state = tmp_path / "opt" / "state"
    state.mkdir(parents=True)
    secret_file.touch()
    monkeypatch.setattr(bubblewrap, "SHOWN_IF_THERE", (str(tmp_path / "opt"),))
    words = command(BubblewrapLauncher(SYSTEM, private_paths=[state, secret_file, Path("/nowhere")]), tmp_path)
    shown = words.index(str(tmp_path / "opt"))
    assert shown < words.index(str(state))
    assert words[words.index(str(state)) - 1] == "--tmpfs"
    assert words[words.index(str(secret_file)) - 2 :][:2] == ["--ro-bind", "/dev/null"]
    assert "/nowhere" not in words


def test_a_python_of_our_own_is_bound_at_its_own_path_but_never_over_a_home(tmp_path: Path) -> None:
    launcher = BubblewrapLauncher(Interpreter("/home/demo/.pyenv/3/bin/python3", Path("/home/demo/.pyenv/3")))
    words = command(launcher, tmp_path, name="other")
    assert words[words.index("/home/demo/.pyenv/3") - 1] == "--ro-bind"
    with pytest.raises(LauncherUnavailable, match="apt install python3"):
        command(launcher, tmp_path, name="demo")


def test_an_older_bubblewrap_is_used_without_sizes_and_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bubblewrap, "_version_of", lambda path: (0, 6))
    launcher = BubblewrapLauncher(SYSTEM)
    assert "--size" not in command(launcher, tmp_path)
    assert len(launcher.warnings()) == 1


def test_the_workspaces_own_entry_comes_first_in_passwd() -> None:
    lines = inside.passwd_lines(name="root", uid=1000, gid=1000, home="/home/root", shell="/bin/bash").splitlines()
    assert lines[0] == "root:x:1000:1000:workspace root:/home/root:/bin/bash"
    assert [line.split(":")[0] for line in lines] == ["root", "nobody"]


def test_without_an_sftp_server_ours_is_run_by_the_same_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inside, "SFTP_SERVERS", ())
    launcher = BubblewrapLauncher(SYSTEM)
    workspace = Workspace("w1", "demo", tmp_path / "home", tmp_path / "tree")
    assert launcher.inside(workspace).sftp_server == (
        "/usr/bin/python3", "-I", "-S", "/.homeport/keeper/sftp_fallback.py",
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be refused as root")
async def test_root_starts_no_programs(tmp_path: Path) -> None:
    keepers = WorkspaceKeepers(NoneLauncher(SYSTEM), runtime_dir=tmp_path, gateway_id="g", settings=SessionSettings())
    workspace = Workspace("w1", "demo", tmp_path / "home", tmp_path / "tree")
    with pytest.raises(LauncherUnavailable, match="never run as root"):
        await keepers.keeper_for(workspace)
    await keepers.close()
