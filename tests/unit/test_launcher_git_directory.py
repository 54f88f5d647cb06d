"""What git in a workspace is told: files that are replaced whole, beside the socket."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gateway.launchers.git_directory import GitDirectory


def test_file_is_replaced_whole_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    place = GitDirectory(tmp_path / "git")
    place.write("credentials", "one")
    place.write("credentials", "two")
    path = tmp_path / "git" / "credentials"
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("two", 0o600)
    assert os.listdir(tmp_path / "git") == ["credentials"]
    place.write("credentials", None)
    place.write("credentials", None)  # twice is harmless
    assert os.listdir(tmp_path / "git") == []


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    place = GitDirectory(tmp_path)
    place.write("system", "old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        place.write("system", "new")
    assert os.listdir(tmp_path) == ["system"]
    assert (tmp_path / "system").read_text() == "old"


def test_remains_go_whole(tmp_path: Path) -> None:
    place = GitDirectory(tmp_path / "git")
    place.remove_remains()  # there is none
    place.write("system", "x")
    place.publish().close()
    place.remove_remains()
    assert os.listdir(tmp_path / "git") == []
