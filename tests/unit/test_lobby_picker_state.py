"""What the picker lists, finds and draws: keys in, lines out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.interfaces import SessionStatus
from gateway.lobby.picker_state import Attach, Entry, Line, MakeNew, PickerState, entries_of
from gateway.lobby.text import width
from tests.support.channel import OWNER
from tests.support.lobby import NOW, session, workspace


def state(*names: str, may_make: bool = True) -> PickerState:
    return PickerState([Entry(name, "-", "") for name in names], who="ana", may_make=may_make)


def text(line: Line) -> str:
    return "".join(part for _, part in line)


def drawn(picker: PickerState, columns: int = 80, rows: int = 24) -> list[str]:
    return [text(line) for line in picker.lines(columns, rows)]


def chosen_line(picker: PickerState, columns: int = 80, rows: int = 24) -> str:
    return next(text(line) for line in picker.lines(columns, rows) if line and line[0][0] == "chosen")


def test_named_sessions_stand_below_their_workspace_and_others_are_counted():
    mine = OWNER.fingerprint
    rows = [
        session("1", name="logs", key_fingerprint="SHA256:other"),
        session("2", status=SessionStatus.PAUSED, detached_at=NOW, job="make", key_fingerprint=mine),
        session("3", workspace_name="notes"),
        session("4", workspace_name="notes", kind="exec", columns=None, command="rsync"),
    ]
    entries = entries_of([workspace("my-app"), workspace("notes")], rows, OWNER, NOW + timedelta(hours=3))
    assert [(entry.login_name, entry.state) for entry in entries] == [
        ("my-app", "detached 3 h, make"),
        ("my-app+logs", "attached"),
        ("notes", "1 attached"),
    ]


def test_a_session_without_a_name_of_another_key_is_no_way_in():
    rows = [session("1", status=SessionStatus.PAUSED, detached_at=NOW, key_fingerprint="SHA256:other")]
    assert entries_of([workspace("my-app")], rows, OWNER, NOW) == [Entry("my-app", "-", "")]


def test_what_a_program_or_a_description_says_cannot_act_on_the_terminal():
    odd = replace(workspace("my-app"), description="x\x1b[2Jy")
    rows = [session("1", name="a", command="\x1b]0;gotcha\x07", kind="exec")]
    picker = PickerState(entries_of([odd], rows, OWNER, NOW), who="a\x1bna", may_make=True)
    assert "\x1b" not in "".join(drawn(picker))
    assert "\x07" not in "".join(drawn(picker))


def test_typing_finds_and_erasing_shows_all_again():
    picker = state("demo", "my-app", "my-lib")
    picker.type("MY")
    assert [entry.login_name for entry in picker.shown] == ["my-app", "my-lib"]
    picker.move(1)
    assert picker.choose() == Attach("my-lib")
    picker.erase()
    picker.erase()
    assert len(picker.shown) == 3


def test_a_list_that_changes_keeps_what_is_chosen_and_what_was_typed():
    picker = state("demo", "my-app", "my-lib")
    picker.type("my")
    picker.move(1)
    picker.refresh([Entry(name, "-", "") for name in ("a-new-one", "my-app", "my-app+logs", "my-lib")])
    assert (picker.choose(), len(picker.shown)) == (Attach("my-lib"), 3)
    picker.refresh([Entry("my-app", "-", "")])
    assert picker.choose() == Attach("my-app")
    picker.refresh([])
    assert picker.choose() is None


def test_nothing_found_is_said_and_enter_waits():
    picker = state("demo")
    picker.type("zzz")
    assert any("nothing has zzz in its name" in line for line in drawn(picker))
    assert picker.choose() is None


def test_the_choice_stays_on_the_list():
    picker = state("a", "b")
    picker.move(-5)
    assert picker.choose() == Attach("a")
    picker.move(99)
    assert picker.choose() == Attach("b")


def test_a_new_one_is_asked_for_by_name_and_escape_leads_back():
    picker = state("demo")
    picker.ask_for_new()
    picker.type("n ew")
    assert picker.choose() == MakeNew("n ew")
    assert picker.give_up_new()
    assert not picker.give_up_new()
    assert picker.choose() == Attach("demo")


def test_what_was_not_found_is_the_name_of_the_new_one():
    picker = state("demo")
    picker.type("fresh")
    picker.ask_for_new()
    assert picker.choose() == MakeNew("fresh")


def test_a_key_for_some_workspaces_makes_none_and_is_not_told_how():
    picker = state("demo", may_make=False)
    picker.ask_for_new()
    assert picker.typed is None
    assert "new" not in "".join(drawn(picker))


def test_an_empty_gateway_says_so():
    assert any("no workspace yet" in line for line in drawn(state()))
    assert any("this key may enter no workspace" in line for line in drawn(state(may_make=False)))


def test_the_list_scrolls_with_the_choice():
    picker = state(*(f"w{number:03}" for number in range(100)))
    drawn(picker)
    for _ in range(60):
        picker.move(1)
        assert chosen_line(picker).startswith(picker.shown[picker.index].login_name)
    picker.move(picker.page)
    assert chosen_line(picker, rows=6).startswith("w0")


@given(
    columns=st.integers(1, 120),
    rows=st.integers(1, 40),
    names=st.lists(st.text(st.sampled_from("abc-木ä"), min_size=1, max_size=60), max_size=30),
    typed=st.text(max_size=300),
    moves=st.lists(st.integers(-30, 30), max_size=4),
    asks=st.booleans(),
)
def test_any_window_is_filled_exactly_and_shows_the_choice(
    columns: int, rows: int, names: list[str], typed: str, moves: list[int], asks: bool
):
    picker = state(*names)
    picker.type(typed[: len(typed) // 100])
    for by in moves:
        picker.move(by)
    if asks:
        picker.ask_for_new()
        picker.type(typed)
    lines = picker.lines(columns, rows)
    assert len(lines) == rows
    assert all(width(text(line)) <= columns for line in lines)
    if picker.shown and (picker.typed is None or rows > 1):
        assert sum(bool(line) and line[0][0] == "chosen" for line in lines) == 1


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
def test_what_there_is_room_for_depends_on_the_rows(rows: int):
    shown = "\n".join(drawn(state("demo"), rows=rows))
    there = [part in shown for part in ("demo", "find:", "Up/Down", "homeport")]
    assert there == [True, rows >= 2, rows >= 5, rows >= 8]
