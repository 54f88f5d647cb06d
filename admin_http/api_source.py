"""What the API shows and does, as a protocol: gateway/api.py implements it over the store and the yard.

Shapes are what the lobby prints with `--json`, made by the same functions, so that both tell the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.interfaces import ApiToken
from gateway.journal import JournalAction

Shape = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Span:
    """The rows of one page."""

    page: int  # from 1
    limit: int

    @property
    def skip(self) -> int:
        return (self.page - 1) * self.limit


@dataclass(frozen=True, slots=True)
class Rows:
    """One page, and how many rows all pages have: by the same filter."""

    rows: Sequence[Shape]
    total: int


@dataclass(frozen=True, slots=True)
class WantedWorkspace:
    """An empty workspace, or one that is cloned from `source` at its first login."""

    name: str
    source: str | None  # "owner/repo" or a URL
    branch: str | None
    description: str | None


class ApiSource(Protocol):
    """Every question may raise GatewayError."""

    async def find_token(self, token: str) -> ApiToken | None:
        """What is known of a bearer token; None: unknown, revoked or expired."""
        ...

    def note_token_used(self, token: ApiToken) -> None: ...

    async def record_access(
        self, *, success: bool, client_ip: str | None, user_agent: str | None, details: Mapping[str, object]
    ) -> None:
        """A row in the journal. Floods of refusals are bounded by whoever writes them."""
        ...

    async def workspaces(self, span: Span, *, include_archived: bool) -> Rows: ...

    async def workspace(self, name: str) -> Shape | None: ...

    async def create_workspace(self, wanted: WantedWorkspace, *, by: ApiToken) -> Shape:
        """Cancelled or failed, it leaves nothing behind."""
        ...

    async def sessions(self, span: Span, *, workspace: str | None, include_ended: bool) -> Rows: ...

    async def auth_logs(
        self,
        span: Span,
        *,
        action: JournalAction | None,
        client_ip: str | None,
        workspace: str | None,
        principal: str | None,
        since: datetime | None,
    ) -> Rows: ...

    async def metrics(self, span: Span, *, metric: str, since: datetime, until: datetime) -> Rows: ...

    async def stats(self) -> Shape: ...

    async def health(self) -> Shape:
        """As `Health` in api_values.py."""
        ...
