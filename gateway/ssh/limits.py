"""How many connections there may be: in all, not yet logged in, and not yet logged in from one address.

asyncssh limits nothing by itself. What is over a limit is closed before a byte of the protocol is spoken, which
costs us least and tells a scanner nothing.
"""

from __future__ import annotations

from collections import Counter

from gateway.config import SshSettings


class ConnectionLimits:
    def __init__(self, settings: SshSettings) -> None:
        self._settings = settings
        self._total = 0
        self._strangers: Counter[str] = Counter()  # by address: connected, not logged in

    @property
    def connection_count(self) -> int:
        return self._total

    def reason_to_refuse(self, address: str) -> str | None:
        """Why a connection from `address` is one too many, or None."""
        if self._total >= self._settings.connections_max:
            return "connections_max"
        if self._strangers.total() >= self._settings.connections_unauthenticated_max:
            return "connections_unauthenticated_max"
        if self._strangers[address] >= self._settings.connections_unauthenticated_per_address_max:
            return "connections_unauthenticated_per_address_max"
        return None

    def opened(self, address: str) -> None:
        self._total += 1
        self._strangers[address] += 1

    def logged_in(self, address: str) -> None:
        self._forget_stranger(address)

    def closed(self, address: str, *, was_logged_in: bool) -> None:
        self._total -= 1
        if not was_logged_in:
            self._forget_stranger(address)

    def _forget_stranger(self, address: str) -> None:
        self._strangers[address] -= 1
        if self._strangers[address] <= 0:
            del self._strangers[address]
