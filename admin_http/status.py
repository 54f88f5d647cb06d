"""What the pages show, as a protocol: whoever has the figures implements it (see gateway/upkeep/upkeep.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class StatusSource(Protocol):
    """Everything it returns is shown to strangers: no names, no paths, no addresses, no text of an exception."""

    @property
    def version(self) -> str: ...

    def uptime_seconds(self) -> float: ...

    def is_degraded(self) -> bool:
        """It serves, but someone should look: a backup failed, for example."""
        ...

    def warnings(self) -> Sequence[str]:
        """Short fixed sentences, such as `isolation: none`."""
        ...

    async def not_ready_reasons(self) -> Sequence[str]:
        """Why a login would not work now; empty when it would. Bounded in time, cached, and never raises."""
        ...

    async def metrics_page(self, *, is_openmetrics: bool) -> bytes:
        """All metrics in Prometheus' text format, or in OpenMetrics 1.0."""
        ...
