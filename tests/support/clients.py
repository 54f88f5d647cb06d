"""Clients that other people wrote: found, or made from a lock file; one that is missing is skipped with the reason.

On the build machine (CI is set) nothing is missing: `./dev test` installs every program named in tests/clients, so
there a missing one fails instead of passing unseen.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import CLIENT_PATH

NPM_SECONDS = 300.0
TOOLS = Path(sys.prefix) / ".tools"  # what package managers other than pip installed, beside pip's


def require(*programs: str) -> None:
    """Skip unless all of them are installed."""
    missing = [name for name in programs if shutil.which(name, path=CLIENT_PATH) is None]
    if missing:
        unavailable(f"not installed: {', '.join(missing)}; ./dev test installs them, as root on Debian")


def unavailable(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def node_modules(package: Path) -> Path:
    """The modules that the folder's package-lock.json pins, without running any script of theirs; made once."""
    require("node", "npm")
    lock = (package / "package-lock.json").read_bytes()
    place = TOOLS / f"{package.name}-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not place.exists():
        building = place.with_name(f"{place.name}.{os.getpid()}")
        shutil.copytree(package, building, ignore=shutil.ignore_patterns("node_modules"))
        command = ["npm", "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=building, capture_output=True, timeout=NPM_SECONDS)
        if done.returncode != 0:
            shutil.rmtree(building)
            unavailable(f"npm ci of {package.name} failed: {done.stderr.decode(errors='replace')[-300:]}")
        building.rename(place)
    return place / "node_modules"
