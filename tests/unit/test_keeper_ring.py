"""What a terminal printed while nobody owned it."""

from __future__ import annotations

import fcntl
import os

import pytest

from gateway.keeper.ring import RING_MIN_BYTES, Ring, RingBudget


def test_the_oldest_bytes_are_dropped_and_counted() -> None:
    ring = Ring(RingBudget(), max_bytes=100)
    for number in range(30):
        ring.append(b"%09d\n" % number)
    fd = ring.to_memfd()
    assert os.pread(fd, 1000, 0) == b"".join(b"%09d\n" % number for number in range(20, 30))
    os.close(fd)
    assert (len(ring), ring.lost_bytes) == (100, 200)


def test_one_piece_larger_than_the_ring_leaves_its_end() -> None:
    ring = Ring(RingBudget(), max_bytes=10)
    ring.append(bytes(range(100)))
    fd = ring.to_memfd()
    assert (os.pread(fd, 100, 0), ring.lost_bytes) == (bytes(range(90, 100)), 90)
    os.close(fd)


def test_the_memory_file_is_sealed() -> None:
    ring = Ring(RingBudget())
    ring.append(b"x")
    fd = ring.to_memfd()
    with pytest.raises(PermissionError):
        os.write(fd, b"y")
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0)
    os.close(fd)


def test_all_rings_together_have_a_bound_but_each_keeps_something() -> None:
    budget = RingBudget(total_max_bytes=4 * RING_MIN_BYTES)
    rings = [Ring(budget, max_bytes=3 * RING_MIN_BYTES) for _ in range(4)]
    for ring in rings:
        ring.append(b"x" * 3 * RING_MIN_BYTES)
    assert [len(ring) // RING_MIN_BYTES for ring in rings] == [3, 1, 1, 1]
    rings[0].clear()
    assert budget.used_bytes == 3 * RING_MIN_BYTES
