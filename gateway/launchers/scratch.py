"""A workspace's /tmp on disk: emptied before each start of its keeper, whatever the last programs left there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from pathlib import Path

from gateway.ids import new_id

REMOVE_SECONDS = 600


def empty_directory(directory: Path) -> None:
    """Make `directory` new and empty at once; what was in it is removed beside the start, not before it.

    Only while no program of the workspace runs.
    """
    left_over = [*directory.parent.glob(f"{directory.name}.old-*")]
    if directory.exists() or directory.is_symlink():
        aside = directory.with_name(f"{directory.name}.old-{new_id()}")
        directory.rename(aside)
        left_over.append(aside)
    directory.mkdir(mode=0o700)
    if left_over:
        # A daemon: the end of the gateway need not wait for it, since the next start finds what is left.
        threading.Thread(target=_remove, args=(left_over,), name="scratch-removal", daemon=True).start()


def _remove(directories: list[Path]) -> None:
    # By rm, since the depth of a hostile tree is no limit for it, as it is for shutil.rmtree; and where programs
    # took the permission to enter from a directory, it is given back first.
    names = [os.fspath(directory) for directory in directories]
    for command in (["rm", "-rf", "--"], ["chmod", "-R", "u+rwX", "--"], ["rm", "-rf", "--"]):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [*command, *(name for name in names if os.path.lexists(name))] ,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                timeout=REMOVE_SECONDS, check=False, env={"PATH": "/usr/bin:/bin"},
            )  # fmt: skip
        if not any(os.path.lexists(name) for name in names):
            return
