"""How often a source may ask (S193): a minute's worth at once, then at that pace; bounded in memory."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin_http.rate_limit import PERIOD_SECONDS, RateLimit


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_may_come_at_once_and_then_one_at_a_time() -> None:
    clock = Clock()
    limit = RateLimit(6, now=clock)
    assert [limit.wait_seconds("a") for _ in range(6)] == [0.0] * 6
    assert limit.wait_seconds("a") == pytest.approx(10)
    clock.now += 4
    assert limit.wait_seconds("a") == pytest.approx(6)
    clock.now += 6
    assert limit.wait_seconds("a") == 0
    assert limit.wait_seconds("a") == pytest.approx(10)
    clock.now += 1000  # rest is not saved up beyond a minute's worth
    assert [limit.wait_seconds("a") for _ in range(7)][5:] == [0.0, pytest.approx(10)]


def test_sources_have_shares_of_their_own() -> None:
    limit = RateLimit(1, now=Clock())
    assert limit.wait_seconds("a") == 0
    assert limit.wait_seconds("a") > 0
    assert limit.wait_seconds("b") == 0


def test_beyond_the_bound_new_sources_share_one_and_rested_ones_make_room() -> None:
    """A botnet, or whoever has many addresses, fills no memory and takes no known source's share."""
    clock = Clock()
    limit = RateLimit(2, sources_max=10, now=clock)
    for number in range(10):
        assert limit.wait_seconds(str(number)) == 0
    assert [limit.wait_seconds(f"more-{number}") > 0 for number in range(4)] == [False, False, True, True]
    assert limit.wait_seconds("3") == 0
    assert limit.source_count <= 11
    clock.now += 2 * PERIOD_SECONDS
    assert limit.wait_seconds("new") == 0
    assert limit.source_count == 1


@given(st.integers(1, 200), st.lists(st.floats(0, 30), max_size=300))
def test_no_pattern_of_asking_gets_more_than_the_pace_and_one_burst(per_minute: int, pauses: list[float]) -> None:
    clock = Clock(0.0)
    limit = RateLimit(per_minute, now=clock)
    admitted = 0
    for pause in pauses:
        clock.now += pause
        admitted += limit.wait_seconds("a") == 0
    assert admitted <= per_minute + clock.now * per_minute / PERIOD_SECONDS + 1e-6


@given(st.integers(1, 200), st.integers(0, 50))
def test_whoever_waits_as_long_as_told_is_let_in(per_minute: int, before: int) -> None:
    clock = Clock()
    limit = RateLimit(per_minute, now=clock)
    for _ in range(before + per_minute):
        limit.wait_seconds("a")
    clock.now += limit.wait_seconds("a") + 1e-6
    assert limit.wait_seconds("a") == 0
