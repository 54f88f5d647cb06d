"""Which process of this machine is the client of a connection, as procfs(5) tells. Blocking."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

DESCRIPTORS_MAX = 4096  # of a process that is looked at; ssh(1) has a dozen


@dataclass(frozen=True, slots=True)
class Ends:
    """A TCP connection: (host, port) of the client and of the server, as the server sees them."""

    client: tuple[str, int]
    server: tuple[str, int]

    @property
    def is_local(self) -> bool:
        """Whether the client may be a process of this machine: it comes from loopback, or from where it goes to."""
        host = _address(self.client[0])
        return host.is_loopback or host == _address(self.server[0])


def held_by(pid: int, connections: Collection[Ends]) -> set[Ends]:
    """Those of the connections whose client is this process. None if it may not be looked at, or has ended."""
    try:
        inodes = _inodes(Path(f"/proc/{pid}/net"), connections)
        if not inodes:
            return set()
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            links = {_link(Path(one.path)) for one in islice(descriptors, DESCRIPTORS_MAX)}
    except OSError:
        return set()
    return {ends for link, ends in inodes.items() if link in links}


def _link(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""  # closed meanwhile


def _inodes(net: Path, connections: Collection[Ends]) -> dict[str, Ends]:
    """The client's sockets of these connections, as links of its descriptors name them."""
    wanted = {form: ends for ends in connections for form in _forms(ends)}
    found = {}
    for table in (net / "tcp", net / "tcp6"):
        if table.exists():  # no IPv6 in this kernel
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                ends = wanted.get((fields[1], fields[2]))
                if ends is not None:
                    found[f"socket:[{fields[9]}]"] = ends
    return found


def _forms(ends: Ends) -> list[tuple[str, str]]:
    """How the kernel's tables may write the client's socket: an IPv4 address also in IPv6's clothes."""
    client, server = _address(ends.client[0]), _address(ends.server[0])
    pairs = [(client.packed, server.packed)]
    if client.version == server.version == 4:
        pairs.append((_MAPPED + client.packed, _MAPPED + server.packed))
    return [(_hexadecimal(ours, ends.client[1]), _hexadecimal(theirs, ends.server[1])) for ours, theirs in pairs]


_MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:0.0.0.0")[:12]


def _hexadecimal(packed: bytes, port: int) -> str:
    """Words of 32 bits in the machine's order, then the port."""
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host.partition("%")[0])
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address
