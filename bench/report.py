"""From samples to a table: medians, ratios with their spread over the rounds, and floors."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.measures import Row

REFERENCE, OURS = "sshd", "homeport"
MARGIN_COLUMNS = 2


@dataclass(slots=True)
class RowResult:
    """One row's samples, per server and round. A ratio above 1 means that the gateway is better."""

    row: Row
    rounds: dict[str, list[list[float]]] = field(default_factory=lambda: {REFERENCE: [], OURS: []})
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, server: str) -> float | None:
        samples = [sample for samples in self.rounds[server] for sample in samples]
        return statistics.median(samples) if samples else None

    @property
    def ratio(self) -> float | None:
        return _ratio(self.row, self.median(REFERENCE), self.median(OURS))

    @property
    def ratios_by_round(self) -> list[float]:
        """The servers take turns, so each round compares figures taken within seconds of each other."""
        pairs = zip(self.rounds[REFERENCE], self.rounds[OURS], strict=False)
        ratios = [_ratio(self.row, statistics.median(theirs), statistics.median(ours)) for theirs, ours in pairs]
        return [ratio for ratio in ratios if ratio is not None]

    @property
    def is_met(self) -> bool | None:
        """Whether the floor is met; None where there is none. What could not be measured does not meet its floor."""
        if self.row.floor is None:
            return None
        return self.ratio is not None and self.ratio >= self.row.floor

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.row.key,
            "title": self.row.title,
            "unit": self.row.unit,
            **{name: {"median": self.median(name), "rounds": self.rounds[name]} for name in (REFERENCE, OURS)},
            "ratio": self.ratio,
            "ratio_by_round": self.ratios_by_round,
            "floor": self.row.floor,
            "is_met": self.is_met,
            "failures": self.failures,
        }


def _ratio(row: Row, theirs: float | None, ours: float | None) -> float | None:
    if theirs is None or ours is None:
        return None
    above, below = (ours, theirs) if row.is_higher_better else (theirs, ours)
    # Memory per terminal may be too small to see, and noise around nothing may even be negative.
    return above / below if below > 0 else None


def as_table(results: Sequence[RowResult]) -> str:
    lines: list[tuple[str, ...]] = [("", "unit", REFERENCE, OURS, "ratio", "(rounds)", "floor", "")]
    lines += [_line(result) for result in results]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = "\n".join(_aligned(line, widths) for line in lines)
    failures = [f"  {name}: {result.row.title}: {why}" for result in results for name, why in result.failures.items()]
    return "\n".join([text, *(["", "failed:", *dict.fromkeys(failures)] if failures else [])])


def _line(result: RowResult) -> tuple[str, ...]:
    ratios = result.ratios_by_round
    spread = f"({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else ""
    verdict = {None: "", True: "ok", False: "MISSED"}[result.is_met]
    floor = f"{result.row.floor:.2f}" if result.row.floor is not None else ""
    figures = (_figure(result.median(name), name in result.failures) for name in (REFERENCE, OURS))
    return result.row.title, result.row.unit, *figures, _figure(result.ratio, False), spread, floor, verdict


def _figure(value: float | None, has_failed: bool) -> str:
    if value is None:
        return "failed" if has_failed else "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (cell.ljust(width) if column < MARGIN_COLUMNS else cell.rjust(width)
                    for column, (cell, width) in enumerate(zip(line, widths, strict=True)))  # fmt: skip
    return "  ".join([first, *rest]).rstrip()
