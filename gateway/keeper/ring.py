"""What a terminal printed while nobody owned it: bounded, oldest dropped and counted."""

from __future__ import annotations

import fcntl
import os

from .protocol import RING_MAX_BYTES, RINGS_TOTAL_MAX_BYTES

RING_MIN_BYTES = 64 * 1024  # what each terminal may keep even when all rings together are full


class RingBudget:
    """The memory all rings of this keeper take together."""

    def __init__(self, total_max_bytes: int = RINGS_TOTAL_MAX_BYTES) -> None:
        self.total_max_bytes = total_max_bytes
        self.used_bytes = 0


class Ring:
    """Takes no memory until something is appended."""

    def __init__(self, budget: RingBudget, max_bytes: int = RING_MAX_BYTES) -> None:
        self.lost_bytes = 0
        self._budget = budget
        self._max_bytes = max_bytes
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def append(self, data: bytes) -> None:
        before = len(self._data)
        others = self._budget.used_bytes - before
        allowed = min(self._max_bytes, max(RING_MIN_BYTES, self._budget.total_max_bytes - others))
        self._data += data
        surplus = len(self._data) - allowed
        if surplus > 0:
            del self._data[:surplus]  # cheap: a bytearray moves its start, it does not move its bytes
            self.lost_bytes += surplus
        self._budget.used_bytes += len(self._data) - before

    def clear(self) -> None:
        self._budget.used_bytes -= len(self._data)
        self._data = bytearray()
        self.lost_bytes = 0

    def to_memfd(self) -> int:
        """The content as a sealed memory file: no size limit as in a message, and it cannot change while it is read."""
        fd = os.memfd_create("homeport-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(self._data)
            while view:
                view = view[os.write(fd, view) :]
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            os.close(fd)
            raise
        return fd
