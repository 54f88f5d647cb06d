"""The documents tell the truth about what can be checked: settings, commands, links between pages."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gateway.config import Config, settings_in_effect
from gateway.lobby.table import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
)


def test_every_setting_is_in_the_operators_table() -> None:
    page = (ROOT / "docs/operating.md").read_text()
    assert [name for name, _ in settings_in_effect(Config()) if f"`{name}`" not in page] == []


def test_every_command_in_the_readme_exists() -> None:
    known = {command.name for command in COMMANDS} | {command.name.split()[0] for command in COMMANDS}
    said = set(re.findall(r"homeport ([a-z]+)", (ROOT / "README.md").read_text().split("## Keys")[0]))
    assert said - known == set()


def test_every_command_is_in_the_lobby_s_table() -> None:
    rows = [line.split("|") for line in (ROOT / "docs/lobby.md").read_text().splitlines() if line.startswith("| `")]
    told = {name: row[2].strip() for row in rows if len(row) == 5 for name in re.findall(r"`([^`]+)`", row[1])}
    for command in COMMANDS:
        who = "host" if command.on_host_only else "all" if command.for_scoped_keys else "owners"
        assert told.get(command.name) == who, f"say in docs/lobby.md who may run `{command.name}`"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_exist(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_dev_is_understood_by_every_shell(shell: str) -> None:
    try:
        done = subprocess.run([shell, str(ROOT / "dev"), "help"], cwd="/", capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"{shell} is not installed")
    assert (done.returncode, "./dev COMMAND" in done.stdout) == (0, True)


def test_dev_refuses_an_unknown_command_with_its_usage() -> None:
    done = subprocess.run([ROOT / "dev", "rnu"], capture_output=True, text=True)
    assert (done.returncode, "usage:" in done.stderr) == (2, True)


def test_the_locks_pin_by_hash_and_name_no_registry() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        pins = re.findall(r"(?m)^[a-z0-9].*==.*$", text)
        assert pins
        assert all(pin.endswith("\\") for pin in pins), "a pin without a hash"
        assert "://" not in text
