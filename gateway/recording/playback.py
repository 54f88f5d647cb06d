"""A recording in its own time: what to write to a terminal, and how long to wait before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.recording.layout import Kind, RecordedEvent


def paced(
    events: Iterable[RecordedEvent], *, speed: float, idle_limit_seconds: float | None
) -> Iterator[tuple[float, bytes]]:
    """(seconds to wait, bytes to write then) for each output. Silences are cut to the limit first, then sped up.

    The caller waits, and may stop at any time. Raises ValueError for a speed that is not above zero.
    """
    if not speed > 0:
        raise ValueError(f"speed = {speed:g} would never end; write for example --speed 2")
    last_us, wait_us = 0, 0.0
    limit_us = float("inf") if idle_limit_seconds is None else idle_limit_seconds * 1_000_000
    for event in events:
        wait_us += min(event.time_us - last_us, limit_us)
        last_us = event.time_us
        if event.kind == Kind.OUTPUT:
            yield wait_us / 1_000_000 / speed, event.data
            wait_us = 0.0
