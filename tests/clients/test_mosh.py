"""mosh: ssh starts a server inside that must outlive the session, and all else goes by UDP.

Its server goes to HOME before it starts the shell, so that one starts in the home and not in the tree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.support.clients import require
from tests.support.installed import until
from tests.support.promises import hold_to_promises
from tests.support.server import Server, homeport
from tests.support.terminal import Terminal

pytestmark = pytest.mark.slow


@contextmanager
def mosh(server: Server, **size: int) -> Iterator[Terminal]:
    """A person's terminal with mosh in it, at the prompt. Its server, which stays when it is told nothing, is ended."""
    require("mosh", "mosh-client", "mosh-server")
    ssh = " ".join(["ssh", *server.ssh_options])
    environment = [f"{name}={value}" for name, value in server.environment.items()]
    # Without predictions, so that what is on the screen has come from the other side.
    command = ["env", *environment, "mosh", "--predict=never", f"--ssh={ssh}", "server"]
    with Terminal(command, **size) as terminal:
        try:
            until(lambda: any(line.endswith(("$", "#")) for line in terminal.screen()), "the prompt is there")
            terminal.enter("echo $PPID > ~/mosh-server.pid; echo rea''dy")
            terminal.wait("ready")
            yield terminal
        finally:
            server.ssh("pid=$(cat ~/mosh-server.pid) && rm ~/mosh-server.pid && kill $pid")


def test_shell_knows_its_size_its_locale_and_every_letter(server: Server) -> None:
    with mosh(server, columns=93, rows=17) as terminal:
        terminal.enter("stty size; locale charmap")
        terminal.wait("17 93")
        terminal.wait("UTF-8")
        terminal.enter("echo 'zwölf Ängste €'$((6*7))")
        terminal.wait("zwölf Ängste €42")
        terminal.resize(columns=101, rows=33)
        # The new size has been told when the terminal has it; until then the question is put again.
        terminal.enter("until [ \"$(stty size)\" = '33 101' ]; do sleep 0.05; done; echo grown'!'")
        terminal.wait("grown!")


def test_end_of_the_shell_ends_the_client(server: Server) -> None:
    with mosh(server) as terminal:
        terminal.enter("exit")
        terminal.wait("[mosh is exiting.]")
        assert terminal.wait_ended() == 0


def test_killed_client_leaves_its_shell_at_work(server: Server) -> None:
    with mosh(server) as terminal:
        terminal.enter("echo wai''ting; until [ -e go ]; do sleep 0.05; done; rm go; echo here > worked")
        terminal.wait("waiting")
        client_of(server).kill()  # a mere hangup it would pass on
        terminal.wait_ended()
        server.ssh("touch ~/go")
        until(lambda: server.ssh("cat ~/worked").stdout == b"here\n", "the shell went on")
        server.ssh("rm ~/worked")


def client_of(server: Server) -> psutil.Process:
    """The one that mosh has become, told by the HOME that we gave it."""
    home = str(server.client_home)
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended, a zombie among them
            if each.name() == "mosh-client" and each.environ().get("HOME") == home:
                return each
    raise AssertionError("no mosh-client is running")


def test_killed_gateway_is_not_missed(server: Server) -> None:
    if server.is_sshd:
        pytest.skip("sshd's end is the whole machine's in its namespaces; this is about a gateway's keeper")
    with homeport(server.name) as other:
        assert other.gateway is not None
        with mosh(other) as terminal:
            other.gateway.kill()
            terminal.enter("echo al''one")
            terminal.wait("alone")
            other.gateway.start()
            terminal.enter("echo still the''re")
            terminal.wait("still there")
        hold_to_promises(other.gateway)
