"""What the HTTP API stands on, in memory; and its client: stock `http.client`, in a thread."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from admin_http.api_source import Rows, Shape, Span, WantedWorkspace
from gateway.interfaces import ApiScope, ApiToken, SessionStatistics
from gateway.lobby.shapes import session_shape, statistics_shape, workspace_shape
from tests.support.lobby import session, workspace

READ, WRITE = "hp_" + "r" * 43, "hp_" + "w" * 43


def api_token(name: str, scope: ApiScope) -> ApiToken:
    return ApiToken(f"id-{name}", name, scope, "operator", datetime.now(UTC) + timedelta(hours=1))


HEALTH: Shape = {
    "status": "healthy",
    "version": "1.2.3",
    "uptime_seconds": 1.5,
    "timestamp": "2030-01-01T00:00:00.000Z",
    "warnings": [],
    "not_ready_reasons": [],
    "cpu_percent": None,
    "memory_bytes": {"used": 1, "limit": 2},
    "disk_bytes": {"used": 1, "limit": 2},
    "descriptors": None,
    "ptys": None,
    "database_bytes": 1,
    "database_wal_bytes": 0,
    "backup_age_seconds": None,
}


@dataclass
class FakeApi:
    """Implements ApiSource."""

    tokens: dict[str, ApiToken] = field(
        default_factory=lambda: {READ: api_token("reader", ApiScope.READ), WRITE: api_token("writer", ApiScope.WRITE)}
    )
    names: list[str] = field(default_factory=lambda: ["my-app", "notes"])
    failure: Exception | None = None  # of each question, but not of the journal
    record_failure: Exception | None = None
    before_create: Callable[[], Awaitable[object]] | None = None
    created: list[WantedWorkspace] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    asked: list[Mapping[str, object]] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    health_shape: Shape = field(default_factory=lambda: HEALTH)

    async def find_token(self, token: str) -> ApiToken | None:
        return self.tokens.get(token)

    def note_token_used(self, token: ApiToken) -> None:
        self.used.append(token.name)

    async def record_access(
        self, *, success: bool, client_ip: str | None, user_agent: str | None, details: Mapping[str, object]
    ) -> None:
        if self.record_failure is not None:
            raise self.record_failure
        self.journal.append({"success": success, "client_ip": client_ip, "user_agent": user_agent, **details})

    async def workspaces(self, span: Span, *, include_archived: bool) -> Rows:
        self._ask(include_archived=include_archived)
        shown = self.names[span.skip : span.skip + span.limit]
        return Rows([workspace_shape(workspace(name)) for name in shown], len(self.names))

    async def workspace(self, name: str) -> Shape | None:
        self._ask(name=name)
        return workspace_shape(workspace(name)) if name in self.names else None

    async def create_workspace(self, wanted: WantedWorkspace, *, by: ApiToken) -> Shape:
        self._ask()
        if self.before_create is not None:
            await self.before_create()
        self.created.append(wanted)
        return workspace_shape(workspace(wanted.name.lower()))

    async def sessions(self, span: Span, **filters: object) -> Rows:
        self._ask(**filters)
        return Rows([session_shape(session("0" * 36))], 1)

    async def auth_logs(self, span: Span, **filters: object) -> Rows:
        self._ask(**filters)
        return Rows([], 0)

    async def metrics(self, span: Span, **filters: object) -> Rows:
        self._ask(**filters)
        return Rows([], 0)

    async def stats(self) -> Shape:
        self._ask()
        return statistics_shape(SessionStatistics(1, 2, 3, 4, None))

    async def health(self) -> Shape:
        self._ask()
        return self.health_shape

    def _ask(self, **filters: object) -> None:
        self.asked.append(filters)
        if self.failure is not None:
            raise self.failure


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


def call(
    port: int,
    path: str,
    *,
    token: str | None = READ,
    method: str = "GET",
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One request; a body that is no bytes is sent as JSON."""
    sent = {} if token is None else {"Authorization": f"Bearer {token}"}
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    if body is not None:
        sent["Content-Type"] = "application/json"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body=body, headers={**sent, **(headers or {})})  # type: ignore[arg-type]
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


async def asking(port: int, path: str, **options: Any) -> Reply:
    return await asyncio.to_thread(call, port, path, **options)
