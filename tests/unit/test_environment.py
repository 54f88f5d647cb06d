"""A program's environment: from nothing, plus the allow-list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config import SshSettings
from gateway.environment import is_allowed_variable, program_environment
from gateway.interfaces import Inside, Principal, SessionKind, SessionRequest, Terminal, WindowSize, Workspace

INSIDE = Inside("/home/app", "/workspaces/app", "app", "/run/user", "/bin/bash", ("/usr/lib/sftp-server",))
WORKSPACE = Workspace("id", "app", Path("/s/home"), Path("/s/tree"), github_repo="octocat/hello")
REQUEST = SessionRequest(
    "s", "c", Principal("k", "ada", "SHA256:x"), "app", SessionKind.SHELL, ("192.0.2.7", 5555), ("192.0.2.1", 22)
)


@pytest.mark.parametrize("name", ["LANG", "LC_ALL", "LC_CTYPE", "TERM", "COLORTERM", "TZ", "GIT_PROTOCOL"])
def test_harmless_variables_are_taken_from_the_client(name: str) -> None:
    assert is_allowed_variable(name, SshSettings().environment_allowed)


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "PATH", "BASH_ENV", "ENV", "IFS", "HOME", "LCX", "PYTHONPATH", "", "LC"]
)
def test_variables_that_run_code_are_not(name: str) -> None:
    assert not is_allowed_variable(name, SshSettings().environment_allowed)


def test_nothing_is_inherited_from_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "x")
    environment = program_environment(INSIDE, WORKSPACE, REQUEST)
    assert set(environment) == {
        b"LANG", b"HOME", b"USER", b"LOGNAME", b"SHELL", b"PATH", b"PWD", b"SSH_CLIENT", b"SSH_CONNECTION",
        b"WORKSPACE_NAME", b"WORKSPACE_REPO", b"XDG_RUNTIME_DIR",
    }  # fmt: skip
    assert environment[b"SSH_CONNECTION"] == b"192.0.2.7 5555 192.0.2.1 22"


def test_the_client_may_change_the_language_but_not_the_home() -> None:
    request = replace(REQUEST, environment={"LANG": "de_DE.UTF-8", "HOME": "/evil", "TZ": "a\0b"})
    environment = program_environment(INSIDE, WORKSPACE, request)
    assert (environment[b"LANG"], environment[b"HOME"]) == (b"de_DE.UTF-8", b"/home/app")
    assert b"TZ" not in environment


def test_a_terminal_brings_its_type() -> None:
    request = replace(REQUEST, terminal=Terminal("xterm-256color", WindowSize(80, 24), {}))
    assert program_environment(INSIDE, WORKSPACE, request)[b"TERM"] == b"xterm-256color"


def test_agent_and_display_are_named_only_where_they_are_forwarded() -> None:
    inside = replace(INSIDE, agent_socket="/agent/sock")
    environment = program_environment(inside, WORKSPACE, REQUEST)
    assert not {b"SSH_AUTH_SOCK", b"DISPLAY"} & set(environment)
    request = replace(REQUEST, forwards_agent=True, display="localhost:10.0")
    environment = program_environment(inside, WORKSPACE, request)
    assert (environment[b"SSH_AUTH_SOCK"], environment[b"DISPLAY"]) == (b"/agent/sock", b"localhost:10.0")


def test_git_is_told_where_the_gateway_s_settings_for_it_are() -> None:
    inside = replace(INSIDE, git_directory="/.homeport/git")
    environment = program_environment(inside, WORKSPACE, REQUEST)
    assert environment[b"GIT_CONFIG_SYSTEM"] == b"/.homeport/git/system"
    assert (environment[b"GIT_CONFIG_COUNT"], environment[b"GIT_CONFIG_KEY_0"]) == (b"1", b"include.path")
    request = replace(
        REQUEST, environment={"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "a.b", "GIT_CONFIG_VALUE_0": "c"}
    )
    environment = program_environment(inside, WORKSPACE, request)  # where the operator lets clients set them
    assert (environment[b"GIT_CONFIG_COUNT"], environment[b"GIT_CONFIG_KEY_0"]) == (b"2", b"a.b")
    assert environment[b"GIT_CONFIG_VALUE_1"] == b"/.homeport/git/credentials"
