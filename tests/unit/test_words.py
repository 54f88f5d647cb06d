"""Durations in words."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gateway.words import duration_text


@pytest.mark.parametrize(
    ("span", "shown"),
    [
        (timedelta(), "0 s"),
        (timedelta(seconds=-5), "0 s"),  # a clock that was set back
        (timedelta(seconds=59.9), "59 s"),
        (timedelta(seconds=60), "1 min"),
        (timedelta(minutes=59, seconds=59), "59 min"),
        (timedelta(hours=1), "1 h"),
        (timedelta(hours=7, minutes=12, seconds=40), "7 h 12 min"),
        (timedelta(hours=23, minutes=59), "23 h 59 min"),
        (timedelta(days=1), "1 day"),
        (timedelta(days=1, hours=4, minutes=50), "1 day 4 h"),
        (timedelta(days=2), "2 days"),
        (timedelta(days=6, hours=23), "6 days 23 h"),
        (timedelta(days=12, hours=5), "12 days"),
    ],
)
def test_a_duration_is_said_in_the_two_units_that_matter(span: timedelta, shown: str) -> None:
    assert duration_text(span) == shown
