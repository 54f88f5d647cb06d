"""Names and addresses of a forward, without a keeper."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from gateway import forwards

LOOPBACK = ipaddress.ip_address("127.0.0.1")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "::ffff:127.0.0.1", "localhost", "LocalHost."]
)
async def test_every_spelling_of_loopback_is_known_without_a_resolver(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check of the text alone would let `127.1` through to a port that `127.0.0.1` may not reach."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked a name server"))
    first = (await forwards._resolve(host))[0]
    assert LOOPBACK in (first, getattr(first, "ipv4_mapped", None))


@pytest.mark.parametrize("host", ["127.0.0.1 extra", "127.0.0.1\n", "", "a" * 300, "\0", "256.1.1.1.1"])
async def test_what_is_no_address_and_no_name_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError, match="not known"):
        await forwards._resolve(host)
