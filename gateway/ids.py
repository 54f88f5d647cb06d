"""Sortable random ids in UUIDv7 form (RFC 9562 §5.7): time first, so an index on them stays in order."""

from __future__ import annotations

import os
import time
import uuid


def new_id() -> str:
    """A new id, for example `01932b7e-8f3c-7c4e-9d31-5a1f0c8e2b77`."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76  # version 7
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant 10
    return str(uuid.UUID(int=value))
