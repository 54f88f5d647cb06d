"""Whom an address stands for, where clients are counted by where they come from."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

ELSEWHERE = ""  # of those whose address is not known, or not counted


def source_of(client_ip: str | None) -> str:
    """An address; of IPv6 its /64, since one machine has that many to choose from."""
    if not client_ip:
        return ELSEWHERE
    try:
        address = ip_address(client_ip.partition("%")[0])
    except ValueError:
        return ELSEWHERE
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(IPv6Address(int(address) >> 64 << 64)) + "/64"
    return str(address)
