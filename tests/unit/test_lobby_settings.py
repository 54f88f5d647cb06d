"""`set`: what it shows, changes, refuses and writes down."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gateway.interfaces import Forwarding
from gateway.lobby import settings
from tests.support.lobby import FakeLobby, FakeStore, workspace


@pytest.fixture
def lobby() -> FakeLobby:
    return FakeLobby(store=FakeStore(workspaces=[workspace("my-app"), workspace("old", is_active=False)]))


def now(lobby: FakeLobby) -> tuple[Forwarding | None, str | None]:
    return lobby.store.workspaces[0].forwarding, lobby.store.workspaces[0].shell


def test_the_values_of_forwarding_are_those_of_the_core():
    """Spelled twice, because the core's own module is too heavy for the command line."""
    assert tuple(Forwarding) == settings.FORWARDING


async def test_without_a_change_the_settings_are_shown_and_the_defaults_explained(lobby: FakeLobby):
    assert await lobby("set", "My-App") == 0
    assert lobby.stdout.text.split("\n")[1:3] == ["forwarding  default (loopback)", "shell       default (/bin/bash)"]
    assert lobby.store.journal == []


async def test_several_settings_change_at_once_each_with_a_row_in_the_journal(lobby: FakeLobby):
    assert await lobby("set", "my-app", "forwarding=anywhere", "shell=zsh") == 0
    assert now(lobby) == (Forwarding.ANYWHERE, "/usr/bin/zsh")
    assert "my-app: forwarding is anywhere, was default\n" in lobby.stdout.text
    assert lobby.store.journal == [
        (
            "workspace_changed",
            {"by": "operator", "workspace": "my-app", "setting": name, "value": value, "before": "default"},
        )
        for name, value in (("forwarding", "anywhere"), ("shell", "/usr/bin/zsh"))
    ]


async def test_default_takes_a_setting_back(lobby: FakeLobby):
    await lobby("set", "my-app", "forwarding=off", "shell=/usr/bin/zsh")
    assert await lobby("set", "my-app", "forwarding=default", "shell=default") == 0
    assert now(lobby) == (None, None)
    assert "forwarding is default (loopback), was off" in lobby.stdout.text


async def test_what_is_as_wanted_already_is_said_and_not_written_down(lobby: FakeLobby):
    await lobby("set", "my-app", "forwarding=off")
    lobby.store.journal.clear()
    assert await lobby("set", "my-app", "forwarding=off") == 0
    assert "my-app: forwarding is off, as it was" in lobby.stdout.text
    assert lobby.store.journal == []


async def test_json_has_the_documented_fields_before_and_after_a_change(lobby: FakeLobby):
    await lobby("set", "my-app", "--json")
    assert json.loads(lobby.stdout.text) == {"workspace": "my-app", "forwarding": None, "shell": None}
    await lobby("set", "my-app", "shell=bash", "--json")
    assert json.loads(lobby.stdout.text) == {"workspace": "my-app", "forwarding": None, "shell": "/bin/bash"}


async def test_without_a_workspace_only_that_is_asked_for(lobby: FakeLobby):
    assert await lobby("set") == 2
    assert "arguments are required: WORKSPACE\n" in lobby.stderr.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fowarding=off"], "no setting 'fowarding'; did you mean forwarding?"),
        (["color=red"], "no setting 'color'; there are: forwarding, shell"),
        (["forwarding"], "'forwarding' is not NAME=VALUE"),
        (["forwarding=everywhere"], "write default or one of: off, loopback, anywhere"),
        (["forwarding="], "write default or one of: off"),
        (["shell=fish"], "write default or one of: bash, zsh (those installed here"),
        (["shell=/tmp/evil"], "write default or one of: bash, zsh"),
        (["shell=\x1b[2J"], "shell=\N{REPLACEMENT CHARACTER}[2J"),
        (["shell=bash", "shell=zsh"], "shell is given twice"),
    ],
)
async def test_what_is_not_understood_names_the_nearest_or_the_allowed(lobby: FakeLobby, words: list[str], said: str):
    assert await lobby("set", "my-app", *words) == 2
    assert said in lobby.stderr.text
    assert lobby.stdout.text == ""


async def test_one_wrong_word_keeps_every_setting_as_it_was(lobby: FakeLobby):
    assert await lobby("set", "my-app", "forwarding=off", "shell=fish") == 2
    assert now(lobby) == (None, None)


@pytest.mark.parametrize(("name", "said"), [("my-ap", 'did you mean "my-app"?'), ("old", "is archived")])
async def test_a_workspace_that_is_not_there_has_no_settings(lobby: FakeLobby, name: str, said: str):
    assert await lobby("set", name, "forwarding=off") == 1
    assert said in lobby.stderr.text


async def test_a_shell_that_was_removed_is_shown_with_what_is_used_instead(lobby: FakeLobby):
    lobby.store.workspaces[0] = replace(lobby.store.workspaces[0], shell="/usr/bin/fish")
    await lobby("set", "my-app")
    assert "/usr/bin/fish (not installed any more: /bin/bash is used)" in lobby.stdout.text
