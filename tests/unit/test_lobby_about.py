"""`whoami`, `stats`, `theme`, and tables in colour."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from gateway.lobby.painting import painted_table
from gateway.lobby.text import table
from gateway.lobby.themes import THEMES
from tests.support.channel import OWNER, SCOPED
from tests.support.lobby import FakeLobby, FakeStore, workspace

HEADERS = ("NAME", "STATE", "NOTE")
ROWS = [("my-app", "-", "a note that is long enough to be cut somewhere"), ("木の家", "never", "x")]


def plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n"))


async def test_whoami_tells_a_key_its_scope_and_the_operator_that_there_is_none():
    lobby = FakeLobby()
    await lobby("whoami", principal=SCOPED)
    assert all(said in lobby.stdout.text for said in ("ci", "SHA256:ci", "my-app", "homeport"))
    await lobby("whoami", "--json")
    assert json.loads(lobby.stdout.text) == {
        "principal": None, "fingerprint": None, "is_owner": True, "workspaces": None, "forwarding": None,
        "version": json.loads(lobby.stdout.text)["version"],
    }  # fmt: skip
    await lobby("whoami", "--json", principal=SCOPED)
    assert json.loads(lobby.stdout.text)["workspaces"] == ["my-app"]
    await lobby("whoami", "--json", principal=OWNER)
    assert (json.loads(lobby.stdout.text)["is_owner"], json.loads(lobby.stdout.text)["principal"]) == (True, "ana")


async def test_stats_have_the_documented_fields():
    lobby = FakeLobby()
    await lobby("stats", "--json")
    assert json.loads(lobby.stdout.text) == {
        "active": 1, "paused": 2, "total": 9, "ended_last_24h": 4, "life_seconds_mean": 90.5
    }  # fmt: skip
    await lobby("stats")
    assert "90 s" in lobby.stdout.text


async def test_a_theme_is_chosen_for_all_and_is_in_the_journal():
    lobby = FakeLobby()
    assert await lobby("theme", "set", "mono") == 0
    assert lobby.store.journal == [
        ("settings_changed", {"by": "operator", "setting": "theme", "value": "mono", "before": "default"})
    ]
    await lobby("theme", "--json")
    assert json.loads(lobby.stdout.text) == {"theme": "mono", "themes": list(THEMES)}
    assert await lobby("theme", "set", "dark", principal=SCOPED) == 1


async def test_a_theme_that_is_not_there_is_refused_with_the_nearest():
    lobby = FakeLobby()
    assert await lobby("theme", "set", "drak") == 2
    assert "did you mean dark?" in lobby.stderr.text
    assert lobby.store.theme_name is None


async def test_a_theme_of_a_later_version_counts_as_the_default():
    lobby = FakeLobby(store=FakeStore(workspaces=[workspace("my-app")], theme_name="of-2031"))
    assert await lobby("ls", is_terminal=True, has_colour=True) == 0
    assert "\x1b[1;36mmy-app" in lobby.stdout.text
    await lobby("theme", "--json")
    assert json.loads(lobby.stdout.text)["theme"] == "default"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("columns", [200, 40, 8])
def test_a_theme_changes_colours_and_nothing_else(theme: str, columns: int):
    painted = painted_table(HEADERS, ROWS, columns=columns, theme=THEMES[theme])
    assert plain(painted) == plain(table(HEADERS, ROWS, columns_max=columns))
    assert "\x1b[" in painted
    assert "\t" not in painted


def test_mono_and_high_contrast_have_no_colour():
    for name in ("mono", "high-contrast"):
        painted = painted_table(HEADERS, ROWS, columns=80, theme=THEMES[name])
        assert set(re.findall(r"\x1b\[([0-9;]*)m", painted)) <= {"", "0", "1", "2", "1;4"}


def test_the_environment_of_the_gateway_does_not_colour_the_lobby(monkeypatch: pytest.MonkeyPatch):
    before = painted_table(HEADERS, ROWS, columns=80, theme=THEMES["default"])
    for name, value in {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "20", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    assert painted_table(HEADERS, ROWS, columns=80, theme=THEMES["default"]) == before


def test_what_colours_is_loaded_by_nobody_who_does_not_ask():
    code = (
        "import sys, gateway.cli, gateway.lobby.door, gateway.lobby.control, gateway.lobby.client;"
        "assert not {'rich', 'prompt_toolkit'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
