"""Who on this machine is the client of a connection, with real sockets and real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from gateway.forwarding.local_clients import Ends, held_by

CLIENT = """
import socket, sys
s = socket.socket(int(sys.argv[1]), socket.SOCK_STREAM)
s.connect((sys.argv[2], int(sys.argv[3])))
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("listening", "connecting", "host"),
    [
        (socket.AF_INET, socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, socket.AF_INET6, "::ffff:127.0.0.1"),
        (socket.AF_INET6, socket.AF_INET6, "::1"),
    ],
)
def test_process_that_connected_is_told_from_all_others(listening: int, connecting: int, host: str) -> None:
    with socket.create_server(("::1" if listening == socket.AF_INET6 else "127.0.0.1", 0), family=listening) as server:
        port = str(server.getsockname()[1])
        command = [sys.executable, "-c", CLIENT, str(int(connecting)), host, port]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as client:
            server.settimeout(20)
            accepted, peer = server.accept()
            with accepted:
                ends = Ends(peer[:2], accepted.getsockname()[:2])
                other = Ends(("127.0.0.1", 1), ("127.0.0.1", 2))
                assert ends.is_local
                assert held_by(client.pid, [other, ends]) == {ends}
                assert held_by(os.getpid(), [other, ends]) == set()
            client.communicate()
    assert held_by(client.pid, [ends]) == set()  # it has ended


@pytest.mark.parametrize(
    ("client", "server", "is_local"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::1%eth0", True),
        ("192.0.2.7", "192.0.2.1", False),
        ("2001:db8::7", "2001:db8::1", False),
    ],
)
def test_client_of_this_machine_comes_from_an_address_of_it(client: str, server: str, is_local: bool) -> None:
    assert Ends((client, 1), (server, 2)).is_local is is_local
