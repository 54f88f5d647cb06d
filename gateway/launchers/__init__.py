"""Starts keepers and speaks to them: one launcher per kind of wall, one set of keepers per gateway.

    launcher, warnings = await choose_launcher(config.isolation, listeners_are_loopback=…, private_paths=…)
    keepers = WorkspaceKeepers(launcher, runtime_dir=…, gateway_id=…, settings=config.session)

A new kind of wall is one class like those in none.py and bubblewrap.py, and one line in choose.py.
"""

from __future__ import annotations

from gateway.launchers.choose import choose_launcher
from gateway.launchers.keepers import WorkspaceKeepers
from gateway.launchers.launcher import KeeperLauncher

__all__ = ["KeeperLauncher", "WorkspaceKeepers", "choose_launcher"]
