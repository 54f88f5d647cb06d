"""What a proven key makes of a connection."""

from __future__ import annotations

import pytest

from gateway.interfaces import AccessKey, Forwarding
from gateway.ssh.auth import Login


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({}, None),
        ({"forwarding": "off"}, Forwarding.OFF),
        ({"forwarding": "anywhere"}, Forwarding.ANYWHERE),
        ({"forwarding": "a word of next year's version"}, Forwarding.OFF),
    ],
)
def test_a_key_says_how_far_its_forwards_reach(said: dict[str, str], meant: Forwarding | None) -> None:
    login = Login()
    login.proved(AccessKey("k1", "ada", "SHA256:a", "", options=said))
    assert login.principal is not None
    assert login.principal.forwarding is meant
