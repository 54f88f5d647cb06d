"""Which wall: what the setting says, and for `auto` what works on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from gateway.config import Isolation
from gateway.errors import StartRefused
from gateway.launchers.bubblewrap import BubblewrapLauncher
from gateway.launchers.inside import find_interpreter
from gateway.launchers.launcher import KeeperLauncher
from gateway.launchers.none import NoneLauncher

INSTALL = "install it with: apt install bubblewrap"
NO_WALL = "programs run as the gateway's own account, without any wall around a workspace"


async def choose_launcher(
    isolation: Isolation,
    *,
    listeners_are_loopback: bool,
    private_paths: Iterable[Path] = (),
    runtime_dir: Path | None = None,
) -> tuple[KeeperLauncher, list[str]]:
    """The launcher, and warnings to show at start, in health and at login.

    `private_paths`: state and runtime directory, settings file. `runtime_dir`: where keepers have their places. Raises
    StartRefused with what to install, and LauncherUnavailable if there is no Python for the keepers.
    """
    interpreter = await asyncio.to_thread(find_interpreter)
    if isolation == "none":
        return NoneLauncher(interpreter, runtime_dir=runtime_dir), [f'isolation is off (isolation = "none"): {NO_WALL}']
    bubblewrap = await asyncio.to_thread(lambda: BubblewrapLauncher(interpreter, private_paths=private_paths))
    reason = await asyncio.to_thread(bubblewrap.probe)
    if not reason:
        return bubblewrap, bubblewrap.warnings()
    if isolation == "bubblewrap" or not listeners_are_loopback:
        wanted = 'isolation = "bubblewrap"' if isolation == "bubblewrap" else "listening beyond this machine"
        raise StartRefused(
            f"{wanted} needs bubblewrap, and it does not work here: {reason}; {_fix(reason)}", detail=reason
        )
    warning = f"bubblewrap does not work here ({reason}): {NO_WALL}; {_fix(reason)}"
    return NoneLauncher(interpreter, runtime_dir=runtime_dir), [warning]


def _fix(reason: str) -> str:
    if "not installed" in reason or "older" in reason:
        return INSTALL
    return (
        "it needs unprivileged user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), "
        "kernel.unprivileged_userns_clone=1 (older Debian), or a container started with them allowed"
    )
