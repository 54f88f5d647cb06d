"""One gateway per module and kind of wall, and what must hold when a module is through with it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

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


Lend = Callable[[str], InstalledGateway]


@pytest.fixture(scope="session")
def lend_gateway() -> Iterator[Lend]:
    """One gateway per kind of wall, started when first asked for, for all tests that leave it running."""
    with ExitStack() as stack:
        lent: dict[str, InstalledGateway] = {}

        def lend(isolation: str) -> InstalledGateway:
            if isolation not in lent:
                new = InstalledGateway(isolation, session_pipe_linger_seconds=PIPE_LINGER_SECONDS)
                lent[isolation] = stack.enter_context(contextmanager(running)(new))
            return lent[isolation]

        yield lend


@pytest.fixture(scope="module", params=["none", "bubblewrap"])
def gateway(request: pytest.FixtureRequest, lend_gateway: Lend, bubblewrap_problem: str) -> Iterator[InstalledGateway]:
    """A running gateway with a key and the workspace `demo`. After each module nothing may be left in it."""
    skip_without_walls(request.param, bubblewrap_problem)
    gateway = lend_gateway(request.param)
    yield gateway
    hold_to_promises(gateway)


@pytest.fixture(scope="module")
def walled(lend_gateway: Lend, bubblewrap_problem: str) -> Iterator[InstalledGateway]:
    """A gateway whose workspaces have walls."""
    skip_without_walls("bubblewrap", bubblewrap_problem)
    gateway = lend_gateway("bubblewrap")
    yield gateway
    hold_to_promises(gateway)


def skip_without_walls(isolation: str, problem: str) -> None:
    if isolation == "bubblewrap" and problem:
        pytest.skip(f"bubblewrap does not work here: {problem}")


def running(gateway: InstalledGateway) -> Iterator[InstalledGateway]:
    """Set up, lend, hold the gateway to its promises, and end it without a trace."""
    try:
        gateway.set_up()
        yield gateway
        is_running = gateway.process is not None and gateway.process.poll() is None
        if is_running:
            hold_to_promises(gateway)
        gateway.close()
        # A keeper that was told to end leaves its programs a moment to do so (HUP, then KILL).
        until(lambda: not gateway.processes(), f"no process left: {gateway.processes()}")
        hold_to_promises(gateway)
    finally:
        gateway.close()
        gateway.remove()


def hold_to_promises(gateway: InstalledGateway) -> None:
    """No row of a session that is over, no program of one, nothing in the log that somebody should act on."""
    gateway.until_no_live_row()
    until(lambda: not gateway.all_programs(), f"no program left: {gateway.all_programs()}")
    failures = [line for log in gateway.logs for line in log.failures()]
    assert not failures, "\n".join(failures)
