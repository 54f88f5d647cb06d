"""Decisions: who enters, and where a forward may go."""

from __future__ import annotations

import ipaddress
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import access
from gateway.access import OwnPorts
from gateway.interfaces import Decision, Forwarding, Principal, Workspace

OWNER = Principal("k1", "ada", "SHA256:a")
SCOPED = Principal("k2", "bob", "SHA256:b", workspaces=frozenset({"app"}))
HTTP, SSH = 8022, 2222
OURS = OwnPorts(closed=frozenset({HTTP}), ssh=frozenset({SSH}))
LOOPBACK = "127.0.0.1"
LOOPBACKS = ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"]
OTHERS = ["192.0.2.1", "10.0.0.1", "169.254.169.254", "2001:db8::1", "::ffff:10.0.0.1"]


def key(forwarding: Forwarding | None) -> Principal:
    return Principal("k1", "ada", "SHA256:a", forwarding=forwarding)


def workspace(forwarding: Forwarding | None = None) -> Workspace:
    return Workspace("id", "app", Path("/home"), Path("/tree"), forwarding=forwarding)


def to(address: str, port: int, *, reach: Forwarding | None = None, is_own: bool = False) -> Decision:
    return access.may_forward_to(
        OWNER, workspace(reach), ipaddress.ip_address(address), port, is_own=is_own, own_ports=OURS
    )


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


def test_an_owner_is_told_how_to_make_what_is_missing_unless_it_may_not_be_made() -> None:
    assert access.no_such_workspace(OWNER, "notes", names=[]).endswith("; make one with: ssh lobby@host new notes")
    for reserved in ("root", "new", "enroll"):
        words = access.no_such_workspace(OWNER, reserved, names=["app"])
        assert words == f'no workspace named "{reserved}"; list them with: ssh lobby@host ls'


@pytest.mark.parametrize(
    ("of_key", "of_workspace", "meant"),
    [
        (None, None, "loopback"),
        ("anywhere", None, "anywhere"),
        (None, "anywhere", "anywhere"),
        ("anywhere", "loopback", "loopback"),
        ("off", "anywhere", "off"),
        ("loopback", "off", "off"),
        ("anywhere", "anywhere", "anywhere"),
    ],
)
def test_the_narrower_word_of_key_and_workspace_wins(of_key: str | None, of_workspace: str | None, meant: str) -> None:
    said = [None if word is None else Forwarding(word) for word in (of_key, of_workspace)]
    assert access.forwarding_reach(key(said[0]), workspace(said[1])) is Forwarding(meant)


@pytest.mark.parametrize("address", LOOPBACKS)
@pytest.mark.parametrize("reach", [None, Forwarding.LOOPBACK, Forwarding.ANYWHERE])
def test_forwards_reach_loopback_but_never_the_gateways_own_port(address: str, reach: Forwarding | None) -> None:
    """127.1, 0.0.0.0 and mapped addresses are all names of the same listener."""
    assert to(address, 3000, reach=reach).is_allowed
    assert to(address, SSH, reach=reach).is_allowed
    assert not to(address, HTTP, reach=reach).is_allowed


@pytest.mark.parametrize("address", OTHERS)
def test_other_machines_are_for_those_who_may_go_anywhere(address: str) -> None:
    assert not to(address, 80).is_allowed
    assert not to(address, SSH).is_allowed
    assert to(address, 80, reach=Forwarding.ANYWHERE).is_allowed
    assert to(address, HTTP, reach=Forwarding.ANYWHERE).is_allowed  # somebody else's port of that number


@pytest.mark.parametrize("reach", [None, Forwarding.ANYWHERE])
def test_the_gateways_ports_are_its_own_on_every_address_of_the_machine(reach: Forwarding | None) -> None:
    """A listener on 0.0.0.0 answers on the address of each interface as well; ssh -J is meant to reach SSH there."""
    assert not to("192.0.2.1", HTTP, reach=reach, is_own=True).is_allowed
    assert to("192.0.2.1", SSH, reach=reach, is_own=True).is_allowed
    assert to("192.0.2.1", 80, reach=reach, is_own=True).is_allowed is (reach is Forwarding.ANYWHERE)


@pytest.mark.parametrize("port", [0, 65536, 2**31])
def test_ports_that_are_none_are_refused(port: int) -> None:
    assert not to(LOOPBACK, port, reach=Forwarding.ANYWHERE).is_allowed
    assert access.may_listen(OWNER, workspace(), port).is_allowed is (port == 0)


@pytest.mark.parametrize("port", [1, 22, 1023])
def test_nobody_listens_on_the_systems_ports(port: int) -> None:
    assert not access.may_listen(OWNER, workspace(Forwarding.ANYWHERE), port).is_allowed
    assert access.may_listen(OWNER, workspace(), 1024).is_allowed


def test_off_is_off_for_everything() -> None:
    for principal, into in ((key(Forwarding.OFF), workspace()), (OWNER, workspace(Forwarding.OFF))):
        assert not access.may_forward(principal, into).is_allowed
        assert not access.may_listen(principal, into, 0).is_allowed
    assert not to(LOOPBACK, 3000, reach=Forwarding.OFF).is_allowed


def test_a_refusal_names_the_command_that_would_allow_it() -> None:
    """For each of the two that stands in the way, and only for those."""
    by_workspace = access.may_forward(OWNER, workspace(Forwarding.OFF)).reason
    assert "homeport set app forwarding=loopback" in by_workspace
    assert "keys" not in by_workspace
    by_key = access.may_forward(key(Forwarding.OFF), workspace(Forwarding.ANYWHERE)).reason
    assert "homeport keys add --forwarding loopback" in by_key
    assert "homeport set" not in by_key
    by_both = access.may_forward(key(Forwarding.OFF), workspace(Forwarding.OFF)).reason
    assert "homeport set app forwarding=loopback" in by_both
    assert "homeport keys add --forwarding loopback" in by_both
    assert "homeport set app forwarding=anywhere" in to("192.0.2.1", 80).reason


def test_a_refusal_names_a_key_as_a_shell_reads_it_and_reminds_of_its_limits() -> None:
    named = replace(key(Forwarding.OFF), name="ana's laptop; reboot", workspaces=frozenset({"app"}))
    reason = access.may_forward(named, workspace()).reason
    removal = reason.partition("homeport ")[2].partition(", then")[0]
    assert shlex.split(removal) == ["keys", "rm", "ana's laptop; reboot"]
    assert "all its other options" in reason
