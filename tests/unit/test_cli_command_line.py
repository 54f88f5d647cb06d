"""The `homeport` command: where it looks for a gateway, what it says when there is none, how it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway import cli, privileges
from gateway.config import load_config
from gateway.lobby.command import Command
from gateway.lobby.context import INPUT_MAX_BYTES
from gateway.lobby.table import COMMANDS


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the machine's own, and a state that does not exist."""
    for name in [name for name in os.environ if name.startswith(("HOMEPORT_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOMEPORT_STATE_DIR", str(tmp_path / "state"))


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HOMEPORT_STATE_DIR": "relative/state"},
        {"HOMEPORT_STATE_DIR": "~/state", "HOMEPORT_RUNTIME_DIR": "/run/elsewhere"},
        {"HOMEPORT_RUNTIME_DIR": "/run/elsewhere"},
        {"HOMEPORT_CONFIG": "FILE"},
        {"HOMEPORT_CONFIG": "FILE", "HOMEPORT_STATE_DIR": "/srv/stronger"},
    ],
)
def test_the_gateway_is_looked_for_where_the_settings_put_it(environment: dict[str, str], tmp_path: Path):
    """The command line reads two settings by itself, because reading all of them costs 100 ms."""
    file = tmp_path / "homeport.toml"
    file.write_text('state_dir = "/srv/from-file"\nruntime_dir = "/run/from-file"\n')
    environment = {name: str(file) if value == "FILE" else value for name, value in environment.items()}
    config = load_config(environment)
    assert cli._where(environment) == cli.Where(config.state_dir, config.runtime_dir)


@pytest.mark.parametrize(
    ("argv", "said"), [([], "usage: homeport"), (["--help"], "commands:"), (["ls", "-h"], "usage:")]
)
def test_help_needs_no_gateway_and_no_state(argv: list[str], said: str, capfd: pytest.CaptureFixture[str]):
    assert cli.main(argv) == 0
    assert said in capfd.readouterr().out


def test_the_version_is_the_packages(capfd: pytest.CaptureFixture[str]):
    assert cli.main(["--version"]) == 0
    assert capfd.readouterr().out.startswith("homeport 0.")


@pytest.mark.parametrize("argv", [["lss"], ["ls", "--colour"], ["keys", "add"], ["kil"]])
def test_what_is_not_understood_gives_status_2_and_nothing_on_stdout(
    argv: list[str], capfd: pytest.CaptureFixture[str]
):
    assert cli.main(argv) == 2
    out, err = capfd.readouterr()
    assert (out, err[:10]) == ("", "homeport: ")


def test_reading_a_state_that_does_not_exist_makes_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert cli.main(["ls"]) == 1
    assert "no gateway state in" in capfd.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert cli.main(["keys", "add", str(tmp_path / "missing.pub")]) == 1
    assert capfd.readouterr().err == f"homeport: cannot read {tmp_path}/missing.pub: no such file or directory\n"
    assert not (tmp_path / "state").exists()


def test_a_file_that_is_too_long_is_refused_before_anything_is_sent(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "huge.pub").write_bytes(bytes(INPUT_MAX_BYTES + 1))
    assert cli.main(["keys", "add", str(tmp_path / "huge.pub")]) == 1
    assert "is longer than 1048576 bytes" in capfd.readouterr().err


def test_a_place_that_cannot_be_written_is_named_before_anything_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert cli.main(["rec", "export", "01932b7e", "-o", str(tmp_path / "no" / "x.cast")]) == 1
    assert "cannot write" in capfd.readouterr().err


def test_an_unexpected_failure_is_one_line_and_a_traceback_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def broken(environment: object = None) -> cli.Where:
        raise RuntimeError("broken")

    monkeypatch.setattr(cli, "_where", broken)
    assert cli.main(["ls"]) == 1
    assert capfd.readouterr().err == "homeport: unexpected RuntimeError: broken; see more with: homeport --debug …\n"
    with pytest.raises(RuntimeError):
        cli.main(["--debug", "ls"])


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.run is None], ids=lambda each: each.name
)
def test_every_command_of_the_callers_own_process_is_there(command: Command):
    assert command.name in cli._on_this_host()
    assert command.on_host_only


def test_constants_shared_without_importing_agree():
    assert cli.HANDOVER_VARIABLE == privileges.HANDOVER_VARIABLE
    assert cli.STDIN_MAX_BYTES == INPUT_MAX_BYTES <= privileges.HANDOVER_MAX_BYTES


def test_a_gateway_error_of_the_settings_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HOMEPORT_CONFIG", "/nonexistent/homeport.toml")
    assert cli.main(["ls"]) == 1
    assert capfd.readouterr().err.startswith("homeport: cannot read the file in HOMEPORT_CONFIG")
