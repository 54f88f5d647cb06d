"""Answers kept in memory until something is written: every login asks for its key and its workspace.

Sound because one process changes keys and workspaces at a time (its lock), and that process forgets here at each write.
A gateway that was replaced forgets when it sees that another has written (`Store.changed_elsewhere`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class ReadCache(Generic[K, V]):
    """Rows by key. Only found ones are kept, so a stranger's guesses do not fill it; at most `entries_max`."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._found: dict[K, V] = {}
        self._generation = 0

    async def get(self, key: K, read: Callable[[], Awaitable[V | None]]) -> V | None:
        """The kept answer, or what `read` finds now."""
        if key in self._found:
            return self._found[key]
        generation = self._generation
        value = await read()
        # A write that came while we read may have changed what we found: the answer is good, but not to keep.
        if value is not None and generation == self._generation and len(self._found) < self._entries_max:
            self._found[key] = value
        return value

    def clear(self) -> None:
        """After a write."""
        self._found.clear()
        self._generation += 1
