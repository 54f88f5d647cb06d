"""Which login shell a workspace gets: its own while that is there, never one that nobody could log in with; and where
its sockets lie."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.errors import LauncherUnavailable
from gateway.interfaces import Workspace
from gateway.launchers import inside
from gateway.launchers.bubblewrap import BubblewrapLauncher
from gateway.launchers.inside import Interpreter, installed_shells, login_shell
from gateway.launchers.none import NoneLauncher

SYSTEM = Interpreter("/usr/bin/python3", None)


class Machine:
    """What is installed, what /etc/shells says, and the account's own shell."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.installed = {"/bin/bash", "/bin/sh", "/usr/bin/zsh"}
        self.own = "/usr/sbin/nologin"
        self._listed = tmp_path / "shells"
        monkeypatch.setattr(inside, "LISTED_SHELLS", self._listed)
        monkeypatch.setattr(os, "access", lambda path, mode: path in self.installed)
        monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="ana", pw_shell=self.own))

    def lists(self, *lines: str) -> None:
        self._listed.write_text("\n".join(lines))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    remembering = (inside._usual_shell, inside.account_name)
    for question in remembering:
        question.cache_clear()
    yield Machine(tmp_path, monkeypatch)
    for question in remembering:
        question.cache_clear()


def test_a_workspaces_own_shell_wins_while_it_is_installed(machine: Machine) -> None:
    assert login_shell("/usr/bin/zsh") == "/usr/bin/zsh"
    machine.installed.remove("/usr/bin/zsh")
    assert login_shell("/usr/bin/zsh") == "/bin/bash"


@pytest.mark.parametrize("own", ["/usr/sbin/nologin", "/bin/false", "", "/nix/store/x/bin/zsh", "/bin/missing"])
def test_an_account_that_nobody_logs_in_with_has_the_first_shell_there_is(machine: Machine, own: str) -> None:
    machine.own = own
    machine.installed |= {"/usr/sbin/nologin", "/bin/false", "/nix/store/x/bin/zsh"}
    assert login_shell() == "/bin/bash"


def test_an_accounts_own_shell_comes_before_the_usual_ones(machine: Machine) -> None:
    machine.own = "/usr/bin/zsh"
    assert login_shell() == "/usr/bin/zsh"


def test_a_machine_without_any_shell_is_refused_with_what_to_install(machine: Machine) -> None:
    machine.installed.clear()
    with pytest.raises(LauncherUnavailable, match="apt install bash"):
        login_shell()


def test_the_choice_has_every_shell_once_the_usual_one_first(machine: Machine) -> None:
    machine.own = "/usr/bin/zsh"
    machine.installed |= {"/usr/bin/bash", "/opt/nu/bin/nu", "/home/ana/bin/elvish"}
    machine.lists("# valid login shells", "/bin/bash", "/usr/bin/bash", "/opt/nu/bin/nu", "/home/ana/bin/elvish", "")
    assert installed_shells() == ["/usr/bin/zsh", "/bin/bash", "/bin/sh", "/opt/nu/bin/nu"]


@pytest.mark.parametrize("path", ["/usr/bin/tmux", "/usr/bin/git-shell", "/bin/missing", "zsh", "# /bin/zsh"])
def test_what_takes_no_commands_or_is_not_there_is_no_choice(machine: Machine, path: str) -> None:
    machine.installed |= {"/usr/bin/tmux", "/usr/bin/git-shell"}
    machine.lists(path)
    assert installed_shells() == ["/bin/bash", "/usr/bin/zsh", "/bin/sh"]
    assert login_shell(path) == "/bin/bash"


def test_without_a_list_of_the_system_the_known_ones_are_the_choice(machine: Machine) -> None:
    assert installed_shells() == ["/bin/bash", "/usr/bin/zsh", "/bin/sh"]


@pytest.mark.parametrize("launcher", [NoneLauncher(SYSTEM), BubblewrapLauncher(SYSTEM)], ids=lambda one: one.name)
def test_every_launcher_asks_the_workspace(
    machine: Machine, launcher: NoneLauncher | BubblewrapLauncher, tmp_path: Path
) -> None:
    workspace = Workspace("w1", "demo", tmp_path / "home", tmp_path / "tree", shell="/usr/bin/zsh")
    assert launcher.inside(workspace).shell == "/usr/bin/zsh"


@pytest.mark.parametrize(("mode", "is_used"), [(0o700, True), (0o755, False), (None, False)])
def test_without_walls_the_account_s_runtime_directory_is_used_if_it_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None, is_used: bool
) -> None:
    monkeypatch.setattr(inside, "RUNTIME_DIRECTORIES", tmp_path)
    directory = tmp_path / str(os.getuid())
    if mode is not None:
        directory.mkdir()
        directory.chmod(mode)
    assert inside.account_runtime_dir() == (str(directory) if is_used else None)
