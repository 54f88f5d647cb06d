"""Who may do what: pure functions from facts to a Decision with its reason. No I/O."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable

from gateway.interfaces import Decision, Principal

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def no_such_workspace(principal: Principal, workspace_name: str, *, names: Iterable[str]) -> str:
    """What a principal hears who may not enter, whether the workspace is missing or outside the key's scope: the same
    words, and suggestions from the scope alone, so that a scoped key learns nothing about the rest."""
    visible = sorted(name for name in names if principal.may_enter(name))
    near = difflib.get_close_matches(workspace_name, visible, n=1, cutoff=0.6)
    if near:
        hint = f'; did you mean "{near[0]}"?'
    elif visible:
        hint = f"; this key may enter {', '.join(visible[:5])}{', …' if len(visible) > 5 else ''}."
    else:
        hint = "."
    return f'no workspace named "{workspace_name}"{hint} A new one is made on the host: homeport new NAME'


def may_forward_to(address: IpAddress, port: int, *, closed_ports: frozenset[int]) -> Decision:
    """Decide whether a direct-tcpip channel may reach an address, after name resolution (RFC 4254 §7.2).

    `closed_ports` are the gateway's own listeners other than SSH: 127.1, ::ffff:127.0.0.1 and 0.0.0.0 all mean them.
    """
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    # Connecting to the unspecified address reaches this host (ip(7)), so it counts as loopback.
    if not (address.is_loopback or address.is_unspecified):
        return Decision.refuse("only loopback can be reached from a workspace")
    if port in closed_ports:
        return Decision.refuse("this port belongs to the gateway")
    if not 0 < port < 65536:
        return Decision.refuse("no such port")
    return Decision.allow()
