"""How often one source may ask: a bucket that holds a minute's worth, and is filled at that pace."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.client_source import ELSEWHERE

PERIOD_SECONDS = 60.0
SOURCES_MAX = 10_000  # a hundred bytes each


class RateLimit:
    """By any name: an address, a token's id. Of each source only the time is kept at which its bucket is full again
    (the generic cell rate algorithm, ITU-T I.371), and nothing of those whose bucket is."""

    def __init__(
        self, per_minute: int, *, sources_max: int = SOURCES_MAX, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds_each = PERIOD_SECONDS / per_minute
        self._sources_max = sources_max
        self._now = now
        self._full_at: dict[str, float] = {}
        self._swept_at = float("-inf")

    def wait_seconds(self, source: str) -> float:
        """0: it may ask, and that is counted. Else how long until it may; nothing is counted then."""
        now = self._now()
        source = self._kept_name(source, now)
        full_at = max(self._full_at.get(source, now), now)
        wait = full_at + self._seconds_each - now - PERIOD_SECONDS
        if wait > 1e-9:  # the arithmetic of floats, not of clocks
            return wait
        self._full_at[source] = full_at + self._seconds_each
        return 0.0

    @property
    def source_count(self) -> int:
        return len(self._full_at)

    def _kept_name(self, source: str, now: float) -> str:
        """Beyond the bound all new sources share one bucket."""
        if source in self._full_at or len(self._full_at) < self._sources_max:
            return source
        if now - self._swept_at >= 1:  # looks at all of them, so not for each request of a flood
            self._swept_at = now
            self._full_at = {name: full_at for name, full_at in self._full_at.items() if full_at > now}
        return source if len(self._full_at) < self._sources_max else ELSEWHERE
