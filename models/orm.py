"""How Tortoise and aerich find the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Another process (the command line without a gateway, a backup) may hold the write lock for a moment.
BUSY_TIMEOUT_MS = 5_000


def orm_config(database_file: Path | str) -> dict[str, Any]:
    """The configuration for one SQLite file. `credentials` other than the path become PRAGMAs of each connection."""
    return {
        "connections": {
            "default": {
                "engine": "tortoise.backends.sqlite",
                "credentials": {
                    "file_path": str(database_file),
                    "journal_mode": "WAL",
                    # Safe in WAL mode: a power cut may lose the last commits, never the file's consistency.
                    "synchronous": "NORMAL",
                    "foreign_keys": "ON",
                    "busy_timeout": BUSY_TIMEOUT_MS,
                },
            }
        },
        "apps": {"models": {"models": ["models", "aerich.models"], "default_connection": "default"}},
        "use_tz": True,
        "timezone": "UTC",
    }


# aerich is only used to write migrations (`./dev makemigration NAME`), which compares the tables with the newest
# migration file and needs no database: it must never read one, because it unpickles what stands in its own table.
TORTOISE_ORM = orm_config(":memory:")
