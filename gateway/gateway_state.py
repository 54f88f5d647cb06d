"""What a gateway is doing, as a whole."""

from __future__ import annotations

from enum import Enum, auto


class GatewayState(Enum):
    """starting → serving → (retired →) draining → stopped; readiness is `SERVING` and nothing else."""

    STARTING = auto()
    SERVING = auto()
    RETIRED = auto()
    DRAINING = auto()
    STOPPED = auto()
