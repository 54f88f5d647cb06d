"""Homeport: an SSH gateway to workspaces. ARCHITECTURE.md is the map."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    """`gateway.__version__`, read when asked for: importlib.metadata costs 30 ms, which `homeport ls` would feel."""
    if name != "__version__":
        raise AttributeError(f"module 'gateway' has no attribute {name!r}")
    from importlib.metadata import version

    return version("homeport")
