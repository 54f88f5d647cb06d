"""What the rest of the gateway wants to know of a connection."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.interfaces import Principal

if TYPE_CHECKING:
    from gateway.ssh.connection import Connection

CLIENT_VERSION_MAX_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    connection_id: str
    client_ip: str
    client_version: str
    login_name: str
    principal: Principal | None
    offered: tuple[str, ...]  # fingerprints, the first few
    offer_count: int
    refusal_reason: str | None  # not logged in: why; None if it never tried
    duration_ms: float


def facts_of(connection: Connection) -> ConnectionFacts:
    login = connection.login
    return ConnectionFacts(
        connection_id=connection.connection_id,
        client_ip=connection.client_address[0],
        client_version=str(connection.get_extra_info("client_version") or "")[:CLIENT_VERSION_MAX_CHARACTERS],
        login_name=connection._username,  # get_extra_info has it only once logged in, and strangers gave one, too
        principal=login.principal,
        offered=tuple(login.offered),
        offer_count=login.offer_count,
        refusal_reason=login.refusal_reason,
        duration_ms=round((time.monotonic() - connection.started) * 1000, 1),
    )
