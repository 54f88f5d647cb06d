"""What has to be covered and bound so that an account reaches its code and state."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.reach import Need, plan
from gateway.state import Owner

NOBODY = Owner(65534, 65534)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """tmp_path itself lies below closed directories, so the account is one that owns everything up to `tree`."""
    tree = tmp_path / "tree"
    (tree / "home" / "clone" / "gateway").mkdir(parents=True)
    (tree / "home" / "clone" / ".venv").mkdir()
    (tree / "home" / "python-3.11").mkdir()
    return tree


def stranger_below(tree: Path) -> Owner:
    """An account that may search everything above `tree`, because this process may, and nothing closed below it."""
    for folder in (tree, *tree.parents):
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)
    return NOBODY


def test_nothing_is_covered_where_everything_is_open(tree: Path) -> None:
    assert plan([Need(tree / "home" / "clone" / "gateway")], stranger_below(tree)) == []


def test_the_topmost_closed_directory_is_covered_once(tree: Path) -> None:
    account = stranger_below(tree)
    (tree / "home").chmod(0o700)
    (tree / "home" / "clone").chmod(0o700)
    code, state = Need(tree / "home" / "clone" / "gateway"), Need(tree / "home" / "python-3.11", is_writable=True)
    (cover,) = plan([code, state], account)
    assert (cover.directory, cover.needs) == (tree / "home", (code, state))


def test_a_closed_directory_that_is_needed_itself_has_its_entries_bound(tree: Path) -> None:
    account = stranger_below(tree)
    (tree / "home" / "clone").chmod(0o700)
    (cover,) = plan([Need(tree / "home" / "clone")], account)
    assert cover.directory == tree / "home" / "clone"
    assert {need.path.name for need in cover.needs} == {"gateway", ".venv"}


def test_links_on_the_way_are_needed_too(tree: Path) -> None:
    """uv's interpreters: .venv/bin/python → python-3.11-latest/… → python-3.11/…"""
    account = stranger_below(tree)
    (tree / "home" / "latest").symlink_to("python-3.11")
    (tree / "home").chmod(0o700)
    (cover,) = plan([Need(tree / "home" / "latest")], account)
    assert {need.path.name for need in cover.needs} == {"latest", "python-3.11"}


def test_what_lies_in_another_need_is_not_bound_twice_unless_it_is_written(tree: Path) -> None:
    account = stranger_below(tree)
    (tree / "home").chmod(0o700)
    clone = tree / "home" / "clone"
    (cover,) = plan([Need(clone), Need(clone / "gateway"), Need(clone / ".venv", is_writable=True)], account)
    assert cover.needs == (Need(clone), Need(clone / ".venv", is_writable=True))


def test_missing_paths_are_not_needed(tree: Path) -> None:
    account = stranger_below(tree)
    (tree / "home").chmod(0o700)
    assert plan([Need(tree / "home" / "not-there")], account) == []
