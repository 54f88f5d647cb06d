"""The servers that stock clients meet: Homeport with each kind of wall, or with `--against sshd` OpenSSH's own.

A case that passes against sshd as well is known to ask for what is right. What differs, and why, is written down in
docs/compatibility.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.holdings import Holdings
from tests.support.installed import HOMEPORT
from tests.support.promises import hold_to_promises, hold_to_silence
from tests.support.server import Server, homeport, openssh
from tests.support.sshd import why_no_sshd
from tests.support.walls import walls, why_no_bubblewrap

PIPE_LINGER_SECONDS = 2.0  # the default of ten would be most of this folder's time
TOOLS = ("ssh", "scp", "sftp", "ssh-keygen", "ssh-keyscan", "git")
Lend = Callable[[str], Server]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        names = ["sshd"] if metafunc.config.getoption("--against") == "sshd" else walls()
        metafunc.parametrize("server", names, indirect=True, scope="module")


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; apt install openssh-client git")
    if not HOMEPORT.exists():
        pytest.skip(f"{HOMEPORT} is not there; install the project first: ./dev setup")


@pytest.fixture(scope="session")
def lend_server() -> Iterator[Lend]:
    """One server of each name for the whole run, started when first asked for."""
    with ExitStack() as stack:
        lent: dict[str, Server] = {}

        def lend(name: str) -> Server:
            if name not in lent:
                lent[name] = stack.enter_context(running(name))
            return lent[name]

        yield lend


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, lend_server: Lend) -> Iterator[Server]:
    """A running server that lets our keys in. After each module nothing may be left in it."""
    reasons = {"sshd": why_no_sshd, "bubblewrap": why_no_bubblewrap}
    if request.param in reasons and (problem := reasons[request.param]()):
        pytest.skip(problem)
    server = lend_server(request.param)
    yield server
    if server.gateway is not None:
        hold_to_promises(server.gateway)


@contextmanager
def running(name: str) -> Iterator[Server]:
    """A server at its default settings, and Homeport held to this: after everything it holds what it held before."""
    if name == "sshd":
        with openssh() as server:
            yield server
        return
    with homeport(name, session_pipe_linger_seconds=PIPE_LINGER_SECONDS) as server:
        assert server.gateway is not None
        before = Holdings.of(server)
        yield server
        if server.gateway.is_running:
            hold_to_promises(server.gateway)
            before.expect_no_more(server)
        server.gateway.close()
        hold_to_silence(server.gateway)
