"""One gateway per module and kind of wall, and what must hold when a module is through with it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.installed import HOMEPORT, InstalledGateway, until

PIPE_LINGER_SECONDS = 2.0  # the default of ten would be most of this folder's time
TOOLS = ("ssh", "scp", "sftp", "ssh-keygen", "git")


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; apt install openssh-client git")
    if not HOMEPORT.exists():
        pytest.skip(f"{HOMEPORT} is not there; install the project first: ./dev setup")


@pytest.fixture(scope="session")
def bubblewrap_problem() -> str:
    """Why bubblewrap cannot be used here; empty if it can."""
    try:
        done = subprocess.run(
            ["bwrap", "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "true"],
            capture_output=True,
            timeout=20,
        )
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip()


@pytest.fixture(scope="module", params=["none", "bubblewrap"])
def gateway(request: pytest.FixtureRequest, bubblewrap_problem: str) -> Iterator[InstalledGateway]:
    """A running gateway with a key and the workspace `demo`. At the end nothing may be left of it."""
    skip_without_walls(request.param, bubblewrap_problem)
    yield from running(InstalledGateway(request.param, session_pipe_linger_seconds=PIPE_LINGER_SECONDS))


@pytest.fixture(scope="module")
def walled(bubblewrap_problem: str) -> Iterator[InstalledGateway]:
    """A gateway whose workspaces have walls."""
    skip_without_walls("bubblewrap", bubblewrap_problem)
    yield from running(InstalledGateway("bubblewrap"))


def skip_without_walls(isolation: str, problem: str) -> None:
    if isolation == "bubblewrap" and problem:
        pytest.skip(f"bubblewrap does not work here: {problem}")


def running(gateway: InstalledGateway) -> Iterator[InstalledGateway]:
    """Set up, lend, and hold the gateway to its promises afterwards."""
    try:
        gateway.set_up()
        yield gateway
        gateway.until_no_live_row()
        gateway.close()
        # A keeper that was told to end leaves its programs a moment to do so (HUP, then KILL).
        until(lambda: not gateway.processes(), f"no process left: {gateway.processes()}")
        failures = [line for log in gateway.logs for line in log.failures()]
        assert not failures, "\n".join(failures)
    finally:
        gateway.close()
        gateway.remove()
