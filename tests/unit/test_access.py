"""Decisions: who enters, and where a forward may go."""

from __future__ import annotations

import ipaddress

import pytest

from gateway import access
from gateway.interfaces import Principal

OWNER = Principal("k1", "ada", "SHA256:a")
SCOPED = Principal("k2", "bob", "SHA256:b", workspaces=frozenset({"app"}))


def test_an_owner_enters_any_workspace_and_a_scoped_key_its_own() -> None:
    assert OWNER.may_enter("app")
    assert SCOPED.may_enter("app")
    assert not SCOPED.may_enter("secret")


def test_a_missing_workspace_and_one_outside_the_scope_get_the_same_words() -> None:
    missing = access.no_such_workspace(SCOPED, "secret", names=["app", "other"])
    outside = access.no_such_workspace(SCOPED, "secret", names=["app", "other", "secret"])
    assert missing == outside


def test_suggestions_come_from_the_scope_alone() -> None:
    words = access.no_such_workspace(SCOPED, "apps", names=["app", "apps2"])
    assert '"app"' in words
    assert "apps2" not in words


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_forwards_reach_loopback_but_never_the_gateways_own_port(address: str) -> None:
    """127.1, 0.0.0.0 and mapped addresses are all names of the same listener."""
    parsed = ipaddress.ip_address(address)
    assert access.may_forward_to(parsed, 3000, closed_ports=frozenset({8022})).is_allowed
    assert not access.may_forward_to(parsed, 8022, closed_ports=frozenset({8022})).is_allowed


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "169.254.169.254", "2001:db8::1", "::ffff:10.0.0.1"])
def test_forwards_beyond_loopback_are_refused(address: str) -> None:
    assert not access.may_forward_to(ipaddress.ip_address(address), 80, closed_ports=frozenset()).is_allowed


@pytest.mark.parametrize("port", [0, 65536, 2**31])
def test_ports_that_are_none_are_refused(port: int) -> None:
    assert not access.may_forward_to(ipaddress.ip_address("127.0.0.1"), port, closed_ports=frozenset()).is_allowed
