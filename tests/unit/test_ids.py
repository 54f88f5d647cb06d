"""Ids: valid, unique, in order."""

from __future__ import annotations

import time
import uuid

from gateway.ids import new_id


def test_an_id_is_a_uuid_of_version_7_and_tells_its_time() -> None:
    made = uuid.UUID(new_id())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert abs((made.int >> 80) - time.time() * 1000) < 5000


def test_ids_made_one_after_the_other_sort_so() -> None:
    ids = []
    for _ in range(50):
        ids.append(new_id())
        before = time.time_ns()
        while time.time_ns() - before < 500:  # the resolution is 244 ns
            continue
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
