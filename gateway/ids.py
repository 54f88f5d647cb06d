"""Sortable random ids in UUIDv7 form (RFC 9562 §5.7): time first, so an index on them stays in order."""

from __future__ import annotations

import os
import time
import uuid

_NS_PER_MS = 1_000_000


def new_id() -> str:
    """A new id, for example `01932b7e-8f3c-7c4e-9d31-5a1f0c8e2b77`.

    The 12 bits after the version hold the fraction of the millisecond (§6.2, method 3), so that ids made one after the
    other sort so; the last 62 bits are random, so that nobody guesses one.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), _NS_PER_MS)
    fraction = nanoseconds * 4096 // _NS_PER_MS
    random = int.from_bytes(os.urandom(8)) & (1 << 62) - 1
    version, variant = 0x7, 0x2
    return str(uuid.UUID(int=milliseconds << 80 | version << 76 | fraction << 64 | variant << 62 | random))
