"""Logins by stock ssh: many, many at once, and with wrong keys before the right one."""

from __future__ import annotations

from tests.support.server import Server


def test_both_keys_get_in(server: Server) -> None:
    for key in (server.key, server.rsa_key):
        done = (
            server.ssh("-F", "none", "-i", str(key), "--", "true")
            if False
            else server.ssh("-i", str(key), "--", "echo in")
        )
        assert (done.returncode, done.stdout) == (0, b"in\n")
