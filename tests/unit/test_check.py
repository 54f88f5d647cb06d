"""`homeport check` fails for what a start would refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.check import check
from gateway.lobby.command import EXIT_OK, EXIT_REFUSED


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A state that is not there yet, and any free port."""
    monkeypatch.setenv("HOMEPORT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HOMEPORT_SSH_LISTEN", "127.0.0.1:0")
    monkeypatch.setenv("HOMEPORT_HTTP_LISTEN", "127.0.0.1:0")


def checked(capfd: pytest.CaptureFixture[str]) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit status, and state and message of each check by its name."""
    status = check(as_json=True, columns=80, is_terminal=False)
    answer = json.loads(capfd.readouterr().out)
    return status, {one["name"]: (one["state"], one["message"]) for one in answer["checks"]}


def test_a_state_that_can_be_made_is_only_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    status, checks = checked(capfd)
    assert (status, checks["state"][0], checks["schedule"][0]) == (EXIT_OK, "warning", "ok")


def test_a_state_below_a_file_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOMEPORT_STATE_DIR", str(tmp_path / "file/state"))
    status, checks = checked(capfd)
    assert (status, checks["state"][0]) == (EXIT_REFUSED, "failed")
    assert f"{tmp_path}/file is no directory" in checks["state"][1]


def test_a_schedule_that_is_no_cron_expression_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOMEPORT_SCHEDULE_BACKUP", "at two")
    status, checks = checked(capfd)
    assert (status, checks["schedule"][0]) == (EXIT_REFUSED, "failed")
    assert "backup = 'at two'" in checks["schedule"][1]
