"""Where the database is: a URL or path from the configuration, made into one path."""

from __future__ import annotations

from pathlib import Path

from gateway.errors import ConfigInvalid

_EXAMPLE = "write for example: sqlite:///var/lib/homeport/homeport.db"


def parse_database_url(text: str) -> Path:
    """`sqlite://PATH`, `file:PATH` or a plain path. Raises ConfigInvalid."""
    path = text
    for prefix in ("sqlite://", "file://", "file:"):
        if text.startswith(prefix):
            path = text.removeprefix(prefix)
            break
    if "://" in path:
        scheme = path.partition("://")[0]
        raise ConfigInvalid(
            f"database_url: {scheme}:// is not supported; only sqlite:// is, in this version; {_EXAMPLE}"
        )
    if "?" in path:
        raise ConfigInvalid(f"database_url: options after the ? are not supported; {_EXAMPLE}")
    if path in ("", ":memory:") or path.endswith("/"):
        raise ConfigInvalid(f"database_url = {text!r} does not name a file; {_EXAMPLE}")
    return Path(path).expanduser().absolute()
