"""Why nothing is packed or unpacked: a code, and the paths that it is about."""

from __future__ import annotations

from collections.abc import Sequence

PATHS_NAMED_MAX = 10


class Refused(Exception):
    """`code` is one of the gateway's own list (gateway/workspaces/packer.py)."""

    def __init__(self, code: str, paths: Sequence[str] = (), count: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.paths = list(paths[:PATHS_NAMED_MAX])
        self.count = len(paths) if count is None else count
