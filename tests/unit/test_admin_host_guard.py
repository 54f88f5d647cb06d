"""Which Host headers a loopback listener believes."""

from __future__ import annotations

import pytest

from admin_http.host_guard import is_own_host


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8022", "[::1]", "[::1]:8022", "192.0.2.7:80", "localhost", "LOCALHOST:1", "a.localhost",
     "localhost.", "", "gate.example", "Gate.Example:443", "gate.example."],
)  # fmt: skip
def test_addresses_localhost_and_configured_names_are_ours(host: str) -> None:
    assert is_own_host(host, names=["gate.example"])


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "gate.example.evil.example", "evil.example:80",
     "a@127.0.0.1", "127.0.0.1:80:80", "[::1", "[evil.example]", "localhost:123456", "0x7f000001", "notlocalhost",
     "127.0.0.1/evil", "127.0.0.1\n"],
)  # fmt: skip
def test_every_other_name_is_foreign(host: str) -> None:
    """A name that merely begins or ends like ours resolves to wherever its owner likes."""
    assert not is_own_host(host, names=["gate.example"])
