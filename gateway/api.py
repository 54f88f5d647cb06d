"""What the HTTP API shows and does, from the real parts. Belongs to the wiring like app.py.

The shapes are the lobby's, so `homeport ls --json` and `GET /api/v1/workspaces` tell the same of a workspace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol

from admin_http.api_source import Rows, Shape, Span, WantedWorkspace
from gateway.bearer import has_expired, hash_of
from gateway.interfaces import ApiToken, Workspace
from gateway.journal import JournalAction
from gateway.lobby.shapes import (
    journal_shape,
    measurement_shape,
    moment,
    session_shape,
    statistics_shape,
    workspace_shape,
)
from gateway.store.store import Store
from gateway.upkeep.upkeep import Upkeep

# Samples are a minute apart.
CPU_AGE_MAX = timedelta(minutes=5)


class Yard(Protocol):
    """Makes workspaces (gateway/workspaces)."""

    async def create(
        self,
        *,
        name: str | None,
        source: str | None,
        branch: str | None = None,
        description: str | None = None,
        is_declared: bool = False,
        progress: Quiet,
        is_terminal: bool,
    ) -> Workspace: ...


class Quiet:
    """Progress that nobody watches."""

    async def write(self, data: bytes) -> None:
        pass


class GatewayApi:
    """Implements admin_http's ApiSource."""

    def __init__(
        self,
        store: Store,
        yard: Yard,
        *,
        ends_at: Callable[[], Mapping[str, datetime]],
        upkeep: Upkeep,
    ) -> None:
        self._store = store
        self._yard = yard
        self._ends_at = ends_at
        self._upkeep = upkeep

    async def find_token(self, token: str) -> ApiToken | None:
        token_hash = hash_of(token)
        found = None if token_hash is None else await self._store.find_api_token(token_hash)
        return None if found is None or has_expired(found, datetime.now(UTC)) else found

    def note_token_used(self, token: ApiToken) -> None:
        self._store.note_api_token_used(token.id)

    async def record_access(
        self, *, success: bool, client_ip: str | None, user_agent: str | None, details: Mapping[str, object]
    ) -> None:
        await self._store.record(
            JournalAction.API_ACCESS, success=success, client_ip=client_ip, user_agent=user_agent, details=details
        )

    async def workspaces(self, span: Span, *, include_archived: bool) -> Rows:
        rows, total = await self._store.workspace_page(
            include_inactive=include_archived, skip=span.skip, limit=span.limit
        )
        return Rows([workspace_shape(row) for row in rows], total)

    async def workspace(self, name: str) -> Shape | None:
        found = await self._store.counted_workspace(name)
        return None if found is None else workspace_shape(found)

    async def create_workspace(self, wanted: WantedWorkspace, *, by: ApiToken) -> Shape:
        made = await self._yard.create(
            name=wanted.name,
            source=wanted.source,
            branch=wanted.branch,
            description=wanted.description,
            is_declared=wanted.source is not None,  # a clone may take longer than any request
            progress=Quiet(),
            is_terminal=False,
        )
        await self._store.record(
            JournalAction.WORKSPACE_CREATED, success=True, details={"by": f"token:{by.name}", "workspace": made.name}
        )
        return workspace_shape(made)

    async def sessions(self, span: Span, *, workspace: str | None, include_ended: bool) -> Rows:
        rows, total = await self._store.session_page(
            workspace=workspace, include_ended=include_ended, skip=span.skip, limit=span.limit
        )
        ends_at = self._ends_at()
        return Rows([session_shape(row, ends_at=ends_at.get(row.id)) for row in rows], total)

    async def auth_logs(
        self,
        span: Span,
        *,
        action: JournalAction | None,
        client_ip: str | None,
        workspace: str | None,
        principal: str | None,
        since: datetime | None,
    ) -> Rows:
        rows, total = await self._store.auth_log_page(
            action=action,
            client_ip=client_ip,
            workspace=workspace,
            principal=principal,
            since=since,
            skip=span.skip,
            limit=span.limit,
        )
        return Rows([journal_shape(row) for row in rows], total)

    async def metrics(self, span: Span, *, metric: str, since: datetime, until: datetime) -> Rows:
        rows, total = await self._store.metric_page(metric, since=since, until=until, skip=span.skip, limit=span.limit)
        return Rows([measurement_shape(measured_at, row) for measured_at, row in rows], total)

    async def stats(self) -> Shape:
        return statistics_shape(await self._store.session_statistics())

    async def health(self) -> Shape:
        upkeep, now = self._upkeep, datetime.now(UTC)
        reasons = list(await upkeep.not_ready_reasons())
        # The sampler's, since two who ask psutil would each get what the other left.
        sampled = await self._store.metric_history("cpu_usage", since=now - CPU_AGE_MAX, limit=1)
        status = "unhealthy" if reasons else "degraded" if upkeep.is_degraded() else "healthy"
        return {
            "status": status,
            "version": upkeep.version,
            "uptime_seconds": round(upkeep.uptime_seconds(), 3),
            "timestamp": moment(now),
            "warnings": list(upkeep.warnings()),
            "not_ready_reasons": reasons,
            "cpu_percent": sampled[0][1].value if sampled else None,
            **await upkeep.figures(),
        }
