"""Keeps a flood of refused logins from filling the disk: few rows per source and minute, the rest is counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

PERIOD_SECONDS = 60
ROWS_PER_SOURCE_MAX = 10
# For all sources together: a botnet is many sources. The rest is counted under no source.
ROWS_MAX = 300
_ELSEWHERE = ""


@dataclass(slots=True)
class RefusalLimit:
    """Says which refused logins get a row of their own. Bounded by ROWS_MAX sources."""

    _period: int = -1
    _rows: int = 0
    _seen: dict[str, int] = field(default_factory=dict)
    _unwritten: dict[str, int] = field(default_factory=dict)

    def admits(self, client_ip: str | None, now: float) -> bool:
        """Whether this one gets a row. Otherwise it is counted."""
        period = int(now // PERIOD_SECONDS)
        if period != self._period:
            self._period, self._rows = period, 0
            self._seen.clear()
        source = _source(client_ip)
        if self._rows >= ROWS_MAX:
            source = source if source in self._seen else _ELSEWHERE
        elif self._seen.get(source, 0) < ROWS_PER_SOURCE_MAX:
            self._rows += 1
            self._seen[source] = self._seen.get(source, 0) + 1
            return True
        self._unwritten[source] = self._unwritten.get(source, 0) + 1
        return False

    def take_counts(self, now: float, *, is_final: bool = False) -> dict[str | None, int]:
        """How many more each source had, once their minute is over. Each is handed out once."""
        if not self._unwritten or (not is_final and int(now // PERIOD_SECONDS) == self._period):
            return {}
        counts, self._unwritten = self._unwritten, {}
        return {source or None: count for source, count in counts.items()}


def _source(client_ip: str | None) -> str:
    """An address; of IPv6 its /64, since one machine has that many to choose from."""
    if not client_ip:
        return _ELSEWHERE
    try:
        address = ip_address(client_ip.partition("%")[0])
    except ValueError:
        return _ELSEWHERE
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(IPv6Address(int(address) >> 64 << 64)) + "/64"
    return str(address)
