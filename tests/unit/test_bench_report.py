"""The comparison's arithmetic: what its ratios mean, and when a floor is missed."""

from __future__ import annotations

import pytest

from bench.measures import MEASURES, Row
from bench.report import OURS, REFERENCE, RowResult, as_table

LATENCY = Row("connect", "connect", "ms", floor=2.0)
RATE = Row("rate", "rate", "/s", is_higher_better=True, floor=2.0)


def result_of(row: Row, *, sshd: list[list[float]], homeport: list[list[float]]) -> RowResult:
    return RowResult(row, {REFERENCE: sshd, OURS: homeport})


def test_a_ratio_above_one_means_the_gateway_is_better_whichever_way_the_unit_counts() -> None:
    assert result_of(LATENCY, sshd=[[90.0]], homeport=[[30.0]]).ratio == pytest.approx(3)
    assert result_of(RATE, sshd=[[50.0]], homeport=[[150.0]]).ratio == pytest.approx(3)


def test_the_median_is_taken_over_the_samples_of_all_rounds() -> None:
    result = result_of(LATENCY, sshd=[[10.0, 20.0], [90.0]], homeport=[[10.0]])
    assert result.median(REFERENCE) == 20


def test_a_ratio_per_round_compares_only_what_was_measured_in_that_round() -> None:
    result = result_of(LATENCY, sshd=[[40.0], [90.0]], homeport=[[20.0], [30.0]])
    assert result.ratios_by_round == pytest.approx([2, 3])


def test_a_floor_is_met_at_exactly_its_value_and_missed_below() -> None:
    assert result_of(LATENCY, sshd=[[60.0]], homeport=[[30.0]]).is_met is True
    assert result_of(LATENCY, sshd=[[59.0]], homeport=[[30.0]]).is_met is False


def test_what_could_not_be_measured_does_not_meet_its_floor() -> None:
    result = result_of(LATENCY, sshd=[[60.0]], homeport=[])
    result.failures[OURS] = "refused"
    assert result.is_met is False
    table = as_table([result])
    assert "MISSED" in table
    assert "refused" in table


def test_memory_too_small_to_see_makes_no_ratio_rather_than_a_negative_one() -> None:
    assert result_of(LATENCY, sshd=[[40.0]], homeport=[[-3.0]]).ratio is None


def test_every_row_has_a_name_of_its_own() -> None:
    keys = [row.key for measure in MEASURES for row in measure.rows]
    assert len(keys) == len(set(keys))
