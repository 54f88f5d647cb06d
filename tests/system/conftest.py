"""One gateway per module and kind of wall, and what must hold when a module is through with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.fake_github import FakeGithub, FakeRepository, FakeToken
from tests.support.installed import HOMEPORT, InstalledGateway
from tests.support.promises import hold_to_promises, hold_to_silence
from tests.support.walls import walls, why_no_bubblewrap

PIPE_LINGER_SECONDS = 2.0  # the default of ten would be most of this folder's time
PERSONAL_TOKEN = "ghp_" + 36 * "0"
TOOLS = ("ssh", "scp", "sftp", "ssh-keygen", "git")


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; apt install openssh-client git")
    if not HOMEPORT.exists():
        pytest.skip(f"{HOMEPORT} is not there; install the project first: ./dev setup")


Lend = Callable[[str], InstalledGateway]


@pytest.fixture(scope="session")
def fake_github() -> Iterator[FakeGithub]:
    """The GitHub of every gateway here. It knows PERSONAL_TOKEN."""
    repositories = [FakeRepository(1296269, "octocat/Hello-World", description="My first repository")]
    tokens = {PERSONAL_TOKEN: FakeToken(PERSONAL_TOKEN)}
    with FakeGithub.in_thread(repositories=repositories, tokens=tokens, device_interval=1) as github:
        yield github


@pytest.fixture(scope="session")
def lend_gateway(fake_github: FakeGithub) -> Iterator[Lend]:
    """One gateway per kind of wall, started when first asked for, for all tests that leave it running."""
    with ExitStack() as stack:
        lent: dict[str, InstalledGateway] = {}

        def lend(isolation: str) -> InstalledGateway:
            if isolation not in lent:
                linger = {"session_pipe_linger_seconds": PIPE_LINGER_SECONDS}
                new = InstalledGateway(isolation, **linger, **fake_github.settings)
                lent[isolation] = stack.enter_context(contextmanager(running)(new))
            return lent[isolation]

        yield lend


@pytest.fixture(scope="module", params=walls())
def gateway(request: pytest.FixtureRequest, lend_gateway: Lend) -> Iterator[InstalledGateway]:
    """A running gateway with a key and the workspace `demo`. After each module nothing may be left in it."""
    skip_without_walls(request.param)
    gateway = lend_gateway(request.param)
    yield gateway
    hold_to_promises(gateway)


@pytest.fixture(scope="module")
def walled(lend_gateway: Lend) -> Iterator[InstalledGateway]:
    """A gateway whose workspaces have walls."""
    skip_without_walls("bubblewrap")
    gateway = lend_gateway("bubblewrap")
    yield gateway
    hold_to_promises(gateway)


def skip_without_walls(isolation: str) -> None:
    if isolation == "bubblewrap" and (problem := why_no_bubblewrap()):
        pytest.skip(problem)


def running(gateway: InstalledGateway) -> Iterator[InstalledGateway]:
    """Set up, lend, hold the gateway to its promises, and end it without a trace."""
    try:
        gateway.set_up()
        yield gateway
        if gateway.is_running:
            hold_to_promises(gateway)
        gateway.close()
        hold_to_silence(gateway)
    finally:
        gateway.close()
        gateway.remove()
