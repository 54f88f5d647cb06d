"""Tables, sizes, ages, and text from strangers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UsageWrong
from gateway.lobby.text import age, clean, cut, parse_moment, parse_past, size, table, unique_prefixes, width

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
HEADERS = ("NAME", "REPOSITORY", "MADE")
ROWS = [("my-app", "octocat/hello-world-with-a-long-name", "3 min ago"), ("x", "-", "12 days ago")]


def test_columns_are_aligned():
    lines = table(HEADERS, ROWS).splitlines()
    assert lines[0].index("MADE") == lines[1].index("3 min ago") == lines[2].index("12 days ago")


def test_a_narrow_terminal_cuts_the_widest_cells():
    lines = table(HEADERS, ROWS, columns_max=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert "my-app" in lines[1]
    assert "…" in lines[1]


def test_a_pipe_gets_everything():
    assert "octocat/hello-world-with-a-long-name" in table(HEADERS, ROWS)


def test_a_very_narrow_terminal_gets_a_line_per_cell():
    assert table(HEADERS, ROWS, columns_max=12).splitlines()[0] == "name: my-app"


@given(
    rows=st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=5),
    columns=st.integers(min_value=20, max_value=80),
)
def test_a_table_never_passes_the_terminals_width(rows: list[tuple[str, str]], columns: int):
    cleaned = [(clean(left), clean(right)) for left, right in rows]
    assert all(width(line) <= columns for line in table(("A", "B"), cleaned, columns_max=columns).split("\n"))


def test_wide_letters_take_two_cells():
    assert width("日本") == 4
    assert cut("日本語", 5) == "日本…"


@given(st.text(max_size=300))
def test_cleaned_text_holds_nothing_that_a_terminal_acts_on(text: str):
    assert clean(text).isprintable()


@pytest.mark.parametrize(
    ("byte_count", "shown"), [(0, "0 B"), (999, "999 B"), (4200, "4.2 kB"), (312_000, "312 kB"), (5 * 10**12, "5.0 TB")]
)
def test_sizes_are_decimal(byte_count: int, shown: str):
    assert size(byte_count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(42, "42 s ago"), (600, "10 min ago"), (7200, "2 h ago"), (864_000, "10 days ago")]
)
def test_ages_use_the_unit_that_says_enough(seconds: int, shown: str):
    assert age(NOW - timedelta(seconds=seconds), NOW) == shown


def test_what_lies_ahead_or_never_happened_reads_so():
    assert age(NOW + timedelta(days=30), NOW) == "in 30 days"
    assert age(None) == "never"


@pytest.mark.parametrize(
    ("ahead", "shown"),
    [
        (timedelta(days=30), "in 30 days"),
        (timedelta(hours=1), "in 60 min"),
        (timedelta(days=2, hours=11), "in 2 days"),
        (timedelta(seconds=2), "in 1 s"),
    ],
)
def test_what_was_made_a_moment_ago_has_its_whole_time_ahead(ahead: timedelta, shown: str):
    assert age(NOW + ahead - timedelta(seconds=0.7), NOW) == shown


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", NOW + timedelta(minutes=90)),
        ("12h", NOW + timedelta(hours=12)),
        ("30d", NOW + timedelta(days=30)),
        ("2w", NOW + timedelta(weeks=2)),
        ("2030-01-31", datetime(2030, 2, 1, tzinfo=UTC)),
        ("2030-01-01", datetime(2030, 1, 2, tzinfo=UTC)),
    ],
)
def test_expiry_is_a_duration_or_the_end_of_a_day(text: str, moment: datetime):
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "soon", "30", "-3d", "0d", "2029-12-31", "2030-13-01", "30d ", "999999d"])
def test_no_time_or_a_past_one_is_refused_with_an_example(text: str):
    with pytest.raises(UsageWrong, match="30d"):
        parse_moment(text, NOW)


@given(st.lists(st.text("0123456789abcdef-", min_size=36, max_size=36), min_size=1, max_size=20, unique=True))
def test_each_shown_beginning_names_one_id(ids: list[str]):
    prefixes = unique_prefixes(ids)
    assert all([each for each in ids if each.startswith(prefixes[one])] == [one] for one in ids)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        ("8w", NOW - timedelta(weeks=8)),
        ("2000-02-29", datetime(2000, 2, 29, tzinfo=UTC)),
    ],
)
def test_a_point_in_the_past_is_a_span_ago_or_the_begin_of_a_day(text: str, moment: datetime):
    assert parse_past(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1.5h", "2999-01-01", "2001-02-29", "123456d", "١h"])
def test_what_is_no_point_in_the_past_is_refused(text: str):
    with pytest.raises(UsageWrong):
        parse_past(text, NOW)
