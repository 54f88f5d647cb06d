"""A blocked event loop shows."""

from __future__ import annotations

import asyncio
import time

from gateway.upkeep.loop_lag import LoopLag


async def test_a_blocking_call_is_seen_and_the_worst_is_told_once() -> None:
    seen: asyncio.Queue[float] = asyncio.Queue(maxsize=100)
    lag = LoopLag(seen.put_nowait, probe_seconds=0.001)
    probe = asyncio.create_task(lag.run())
    async with asyncio.timeout(5):
        await seen.get()
        time.sleep(0.05)  # the offence
        while await seen.get() < 0.03:
            pass
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert lag.take_worst_seconds() >= 0.03
    assert lag.take_worst_seconds() == 0
