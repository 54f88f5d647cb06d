"""Consistent, verified copies of a live database. Synchronous: callers run these in a thread.

Never by copying the file: what stands in the write-ahead log would be missing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from gateway.errors import StoreUnavailable

# A writer of another process may hold its lock for a moment; ours is never held for long.
BUSY_TIMEOUT_SECONDS = 5


def copy_database(source: Path, target: Path) -> None:
    """Write a consistent copy (0600) with VACUUM INTO on a connection of its own, and prove that it is sound.

    Raises StoreUnavailable; no half-made copy is left. `target` must not exist.
    """
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise StoreUnavailable(f"the backup cannot be written: {error.strerror}", detail=str(target)) from error
    try:
        with contextlib.closing(sqlite3.connect(source, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)) as reader:
            reader.execute("VACUUM INTO ?", (str(target),))
        check_database(target)
        with target.open("rb") as written:
            os.fsync(written.fileno())
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, (sqlite3.Error, OSError)):
            raise StoreUnavailable(f"the backup cannot be written: {error}", detail=str(target)) from error
        raise


def check_database(path: Path) -> None:
    """Raise StoreUnavailable if the file is damaged or has dangling references."""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as reader:
        (verdict,) = reader.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise StoreUnavailable("the copy of the database is damaged", detail=f"{path}: {verdict}")
        dangling = reader.execute("PRAGMA foreign_key_check").fetchone()
        if dangling is not None:
            raise StoreUnavailable("the copy of the database has dangling references", detail=f"{path}: {dangling}")
