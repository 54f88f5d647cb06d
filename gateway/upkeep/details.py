"""How the gateway is, in figures, for who may know them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gateway.upkeep import host

T = TypeVar("T")
Figures = dict[str, object]


def figures(state_dir: Path, database_file: Path, *, backup_age_seconds: Callable[[], float | None]) -> Figures:
    """What cannot be had here is null. May block: for a thread."""
    backup_age = _tried(backup_age_seconds)
    return {
        "memory_bytes": _share(lambda: host.memory()[0]),
        "disk_bytes": _share(lambda: host.disk(state_dir)),
        "descriptors": _share(host.descriptors),
        "ptys": _share(host.ptys),
        "database_bytes": _tried(lambda: host.file_bytes(database_file)),
        "database_wal_bytes": _tried(lambda: host.file_bytes(host.wal_of(database_file))),
        "backup_age_seconds": None if backup_age is None else round(backup_age, 3),
    }


def _tried(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (OSError, ValueError):  # a container may hide it
        return None


def _share(read: Callable[[], host.Usage]) -> Figures | None:
    usage = _tried(read)
    return None if usage is None else {"used": usage.used, "limit": usage.limit}
