"""Removing what programs left: any depth, closed folders, links, and what an interrupted removal left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.workspaces.removal import remove_for_good


def test_it_removes_more_levels_than_python_can_call(tmp_path: Path):
    place = tmp_path / "place"
    place.mkdir()
    fd = os.open(place, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_for_good(place)
    assert os.listdir(tmp_path) == []


def test_closed_folders_go_and_what_links_lead_to_stays(tmp_path: Path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    closed = tmp_path / "place" / "a" / "closed"
    closed.mkdir(parents=True)
    (closed / "file").hardlink_to(kept / "file")
    (closed / "link").symlink_to(kept)
    (tmp_path / "place" / "link").symlink_to(kept, target_is_directory=True)
    closed.chmod(0)
    closed.parent.chmod(0o500)
    remove_for_good(tmp_path / "place")
    assert os.listdir(tmp_path) == ["kept"]
    assert (kept / "file").read_text() == "x"


def test_a_removal_that_was_interrupted_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = tmp_path / "place"
    for name in "abc":
        (place / name / "x" / "y").mkdir(parents=True)
        (place / name / "x" / "y" / "file").write_text("x")
    real, calls = os.rmdir, 0

    def interrupted(path: str, **options: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        real(path, **options)

    monkeypatch.setattr(os, "rmdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        remove_for_good(place)
    assert place.exists()
    remove_for_good(place)
    assert os.listdir(tmp_path) == []


def test_nothing_there_is_fine(tmp_path: Path):
    remove_for_good(tmp_path / "nothing")
