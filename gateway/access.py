"""Who may do what: pure functions from facts to a Decision with its reason. No I/O."""

from __future__ import annotations

import difflib
import ipaddress
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.errors import NameRefused
from gateway.interfaces import Decision, Forwarding, Principal, Workspace
from gateway.workspace_name import parse_workspace_name

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

PRIVILEGED_PORTS_END = 1024  # sshd keeps them from users as well, whatever the kernel would allow this process
_WIDTHS = tuple(Forwarding)  # the narrowest first


def no_such_workspace(principal: Principal, workspace_name: str, *, names: Iterable[str]) -> str:
    """What a principal hears who may not enter, whether the workspace is missing or outside the key's scope: the same
    words, and suggestions from the scope alone, so that a scoped key learns nothing about the rest."""
    visible = sorted(name for name in names if principal.may_enter(name))
    near = difflib.get_close_matches(workspace_name, visible, n=1, cutoff=0.6)
    missing = f'no workspace named "{workspace_name}"'
    meant = f'; did you mean "{near[0]}"?' if near else ""
    if principal.is_owner and not _may_be_a_name(workspace_name):  # `root`, of a ssh that was told no name
        return f"{missing}{meant or ';'} list them with: ssh lobby@host ls"
    if principal.is_owner:
        make = f"ake one with: ssh lobby@host new {workspace_name}"
        return f"{missing}{meant} M{make}" if near else f"{missing}; m{make}"
    if near or not visible:
        return missing + meant
    return f"{missing}; this key may enter {', '.join(visible[:5])}{', …' if len(visible) > 5 else ''}"


def _may_be_a_name(text: str) -> bool:
    try:
        return bool(parse_workspace_name(text))
    except NameRefused:
        return False


@dataclass(frozen=True, slots=True)
class OwnPorts:
    """Where the gateway itself listens."""

    closed: frozenset[int] = frozenset()  # HTTP: never reached by a forward
    ssh: frozenset[int] = frozenset()  # reached on any address of this machine: `ssh -J one@host other@host`


def forwarding_reach(principal: Principal, workspace: Workspace) -> Forwarding:
    """How far forwards go: the narrower word of key and workspace; loopback where neither says anything."""
    said = [value for value in (principal.forwarding, workspace.forwarding) if value is not None]
    return min(said, key=_WIDTHS.index) if said else Forwarding.LOOPBACK


def may_forward(principal: Principal, workspace: Workspace) -> Decision:
    """Decide whether anything is forwarded at all: streams, listeners, the agent and X11, as with sshd's
    DisableForwarding."""
    if forwarding_reach(principal, workspace) is Forwarding.OFF:
        return Decision.refuse(f"forwarding is off; {_how_to_widen(principal, workspace, Forwarding.LOOPBACK)}")
    return Decision.allow()


def may_forward_to(
    principal: Principal, workspace: Workspace, address: IpAddress, port: int, *, is_own: bool, own_ports: OwnPorts
) -> Decision:
    """Decide whether a direct-tcpip channel may reach an address, after name resolution (RFC 4254 §7.2).

    `is_own`: the address belongs to this machine. 127.1, ::ffff:127.0.0.1 and 0.0.0.0 all mean the same listener.
    """
    decision = may_forward(principal, workspace)
    if not decision.is_allowed:
        return decision
    if not 0 < port < 65536:
        return Decision.refuse("no such port")
    address = plain_address(address)
    # Connecting to the unspecified address reaches this host (ip(7)), so it counts as loopback.
    is_loopback = address.is_loopback or address.is_unspecified
    if (is_loopback or is_own) and port in own_ports.closed:
        return Decision.refuse("this port belongs to the gateway")
    if is_loopback or (is_own and port in own_ports.ssh):
        return Decision.allow()
    if forwarding_reach(principal, workspace) is not Forwarding.ANYWHERE:
        fix = _how_to_widen(principal, workspace, Forwarding.ANYWHERE)
        return Decision.refuse(f"only loopback can be reached from this workspace; {fix}")
    return Decision.allow()


def may_listen(principal: Principal, workspace: Workspace, port: int) -> Decision:
    """Decide whether a tcpip-forward may open this port of loopback (RFC 4254 §7.1); 0 is any port."""
    decision = may_forward(principal, workspace)
    if decision.is_allowed and 0 < port < PRIVILEGED_PORTS_END:
        return Decision.refuse(f"ports below {PRIVILEGED_PORTS_END} are the system's; take a higher one, or 0 for any")
    if decision.is_allowed and port > 65535:
        return Decision.refuse("no such port")
    return decision


def plain_address(address: IpAddress) -> IpAddress:
    """The IPv4 address where it is one in IPv6's clothes."""
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def _how_to_widen(principal: Principal, workspace: Workspace, wanted: Forwarding) -> str:
    """Who may change it, and how: an operator, by command, for each word that stands in the way."""
    key_is_narrower = principal.forwarding is not None and _is_narrower(principal.forwarding, wanted)
    commands = []
    if key_is_narrower:
        removal = shlex.join(["homeport", "keys", "rm", principal.name])
        # Whoever pastes this must not let a key in everywhere that was kept to some workspaces, or for ever.
        commands.append(f"{removal}, then homeport keys add --forwarding {wanted} FILE and all its other options")
    if not key_is_narrower or (workspace.forwarding is not None and _is_narrower(workspace.forwarding, wanted)):
        commands.append(f"homeport set {workspace.name} forwarding={wanted}")
    return f"an operator may change that with: {'; '.join(commands)}"


def _is_narrower(said: Forwarding, wanted: Forwarding) -> bool:
    return _WIDTHS.index(said) < _WIDTHS.index(wanted)
