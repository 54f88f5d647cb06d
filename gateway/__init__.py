"""Homeport: an SSH gateway to workspaces. ARCHITECTURE.md is the map."""

from importlib.metadata import version

__version__ = version("homeport")
