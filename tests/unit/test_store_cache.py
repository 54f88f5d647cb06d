"""Answers kept in memory: never older than the last write."""

from __future__ import annotations

import asyncio

from gateway.store.cache import ReadCache


async def test_a_found_answer_is_read_once_and_a_missing_one_each_time() -> None:
    cache: ReadCache[str, str] = ReadCache(10)
    reads = []

    async def read(value: str | None) -> str | None:
        reads.append(value)
        return value

    assert [await cache.get("a", lambda: read("A")) for _ in range(3)] == ["A"] * 3
    assert [await cache.get("b", lambda: read(None)) for _ in range(2)] == [None] * 2
    assert reads == ["A", None, None]


async def test_a_write_during_a_read_is_not_hidden_by_the_older_answer() -> None:
    """A key that is removed while a login looks it up must not be found by the next login."""
    cache: ReadCache[str, str] = ReadCache(10)
    release = asyncio.Event()

    async def slow() -> str:
        await release.wait()
        return "old"

    async def nothing() -> None:
        return None

    looking = asyncio.create_task(cache.get("a", slow))
    await asyncio.sleep(0)
    cache.clear()
    release.set()
    assert await looking == "old"
    assert await cache.get("a", nothing) is None


async def test_the_cache_is_bounded() -> None:
    cache: ReadCache[int, int] = ReadCache(2)

    async def read(value: int) -> int:
        return value

    for number in range(5):
        assert await cache.get(number, lambda number=number: read(number)) == number
    assert len(cache._found) == 2
