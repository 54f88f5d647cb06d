"""Keeps a flood of refusals from filling the disk: few rows per source and minute, the rest is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.client_source import ELSEWHERE, source_of

PERIOD_SECONDS = 60
ROWS_PER_SOURCE_MAX = 10
# For all sources together: a botnet is many sources. The rest is counted under no source.
ROWS_MAX = 300


@dataclass(slots=True)
class RefusalLimit:
    """Says which refusals of one kind get a row of their own. Bounded by ROWS_MAX sources."""

    _period: int = -1
    _rows: int = 0
    _seen: dict[str, int] = field(default_factory=dict)
    _unwritten: dict[str, int] = field(default_factory=dict)

    def admits(self, client_ip: str | None, now: float) -> bool:
        """Whether this one gets a row. Otherwise it is counted."""
        period = int(now // PERIOD_SECONDS)
        if period != self._period:
            self._period, self._rows = period, 0
            self._seen.clear()
        source = source_of(client_ip)
        if self._rows >= ROWS_MAX:
            source = source if source in self._seen else ELSEWHERE
        elif self._seen.get(source, 0) < ROWS_PER_SOURCE_MAX:
            self._rows += 1
            self._seen[source] = self._seen.get(source, 0) + 1
            return True
        self._unwritten[source] = self._unwritten.get(source, 0) + 1
        return False

    def take_counts(self, now: float, *, is_final: bool = False) -> dict[str | None, int]:
        """How many more each source had, once their minute is over. Each is handed out once."""
        if not self._unwritten or (not is_final and int(now // PERIOD_SECONDS) == self._period):
            return {}
        counts, self._unwritten = self._unwritten, {}
        return {source or None: count for source, count in counts.items()}
