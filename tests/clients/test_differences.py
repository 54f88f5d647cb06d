"""The list of differences is whole: each is told to users, and each is held by a case."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clients.differences import DIFFERENCES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", DIFFERENCES)
def test_difference_is_told_in_the_same_words(name: str) -> None:
    page = re.sub(r"\s+", " ", (ROOT / "docs/compatibility.md").read_text())
    assert DIFFERENCES[name] in page


def test_every_difference_is_held_by_a_case_and_every_case_names_a_known_one() -> None:
    cases = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert set(re.findall(r'is_different\(server, "([a-z-]+)"\)', cases)) == set(DIFFERENCES)
