"""What git says of a tree, parsed. It comes from inside a workspace, so it may be anything."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tree_status import TreeStatus, parse_commit, parse_status

HEAD = "# branch.oid 0123abc\0# branch.head main\0# branch.upstream origin/main\0# branch.ab +2 -3\0"
FILE = "N... 100644 100644 100644 aaa bbb"


def test_counts_and_the_branch_are_told():
    text = HEAD + (
        f"1 M. {FILE} staged\0" f"1 .M {FILE} changed\0" f"1 MM {FILE} both\0" f"1 .D {FILE} gone\0"
        f"2 R. {FILE} R100 new name\0? old name\0"  # where it was renamed from is no entry, whatever it looks like
        "u UU N... 1 2 3 4 a b c conflict\0" "? new\0" "? new folder/\0" "! ignored\0"
    )  # fmt: skip
    assert parse_status(text) == TreeStatus(
        branch="main", commit_id="0123abc", upstream="origin/main", ahead=2, behind=3,
        staged=3, modified=3, untracked=2, conflicted=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("# branch.oid (initial)\0# branch.head main\0", ("main", None, None, None)),
        ("# branch.oid abc\0# branch.head (detached)\0", (None, "abc", None, None)),
        ("# branch.oid abc\0# branch.head x\0# branch.upstream origin/x\0", ("x", "abc", "origin/x", None)),
        ("", (None, None, None, None)),
    ],
    ids=["empty repository", "detached HEAD", "upstream is gone", "nothing"],
)
def test_what_is_not_there_is_none(headers: str, expected: tuple[str | None, ...]):
    status = parse_status(headers)
    assert (status.branch, status.commit_id, status.upstream, status.ahead) == expected
    assert status.is_clean


def test_an_entry_that_was_cut_does_not_count():
    status = parse_status(HEAD + "? a\0? b\0? c", is_complete=False)
    assert (status.untracked, status.is_complete) == (2, False)


def test_a_commit_is_read_with_whatever_its_subject_holds():
    commit = parse_commit("abc\x002030-01-02T03:04:05+02:00\0Ada\0fix: a\0b\n")
    assert commit is not None
    assert (commit.id, commit.author, commit.subject) == ("abc", "Ada", "fix: a\0b")
    assert commit.at == datetime(2030, 1, 2, 1, 4, 5, tzinfo=UTC)
    assert parse_commit("nonsense") is None
    odd = parse_commit("abc\0yesterday\0Ada\0x")
    assert odd is not None
    assert odd.at is None


@given(st.lists(st.sampled_from([*"12u?!# .\0-+a", "\0# branch.ab ", "+9999999999999999999 -1", "branch.oid "])))
def test_nothing_that_a_hostile_git_prints_is_an_error(pieces: list[str]):
    status = parse_status("".join(pieces))
    assert min(status.staged, status.modified, status.untracked, status.conflicted) >= 0
    assert status.ahead is None or 0 <= status.ahead < 10**9
    parse_commit("".join(pieces))
