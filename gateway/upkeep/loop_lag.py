"""How late the event loop is: the one figure that shows a blocking call, whoever made it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PROBE_SECONDS = 0.5


class LoopLag:
    """Sleeps and sees how much too long it slept. `run` ends by cancellation."""

    def __init__(self, observe: Callable[[float], None], *, probe_seconds: float = PROBE_SECONDS) -> None:
        self._observe = observe
        self._probe_seconds = probe_seconds
        self._worst_seconds = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._probe_seconds
            await asyncio.sleep(self._probe_seconds)
            lag_seconds = max(0.0, loop.time() - due)
            self._worst_seconds = max(self._worst_seconds, lag_seconds)
            self._observe(lag_seconds)

    def take_worst_seconds(self) -> float:
        """The worst since the last call."""
        worst, self._worst_seconds = self._worst_seconds, 0.0
        return worst
