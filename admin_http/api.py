"""The API's pages: one table of operations, from which the routes and the OpenAPI document are made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from aiohttp import hdrs, web
from pydantic import BaseModel, ValidationError

from admin_http import api_values as values
from admin_http.answer import JSON_TYPE, Answer, json_answer
from admin_http.api_gate import CHANGED, TOKEN
from admin_http.api_source import ApiSource, Rows, Span, WantedWorkspace
from admin_http.problem import Problem, detail, of_validation, validation_failed

API_PREFIX = "/api/v1"
HEALTH_PREFIX = "/health"
BODY_BYTES_MAX = 64 * 1024
METRICS_SPAN = timedelta(hours=1)

Q = TypeVar("Q", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Operation:
    """One page by one method. `summary` goes into the document; `answer` None: the document itself."""

    prefix: str
    path: str
    summary: str
    run: Callable[[ApiPages, web.Request], Awaitable[Answer]]
    answer: type[BaseModel] | None
    query: type[BaseModel] = values.NoQuery
    body: type[BaseModel] | None = None
    method: str = hdrs.METH_GET
    status: int = 200
    refusals: tuple[int, ...] = ()  # beside those that every page has


class ApiPages:
    """Answers whoever the gate has let in."""

    def __init__(self, source: ApiSource, document: bytes) -> None:
        self._source = source
        self._document = document

    def add_to(self, application: web.Application, prefix: str) -> None:
        """Its pages under `prefix`, which the application is mounted at."""
        for operation in OPERATIONS:
            if operation.prefix == prefix:
                if operation.method == hdrs.METH_GET:
                    application.router.add_get(operation.path, self._handler(operation))
                else:
                    application.router.add_route(operation.method, operation.path, self._handler(operation))

    def _handler(self, operation: Operation) -> Callable[[web.Request], Awaitable[Answer]]:
        async def handle(request: web.Request) -> Answer:
            return await operation.run(self, request)

        return handle

    async def document(self, request: web.Request) -> Answer:
        _query(request, values.NoQuery)
        return Answer(self._document)

    async def workspaces(self, request: web.Request) -> Answer:
        query = _query(request, values.WorkspacesQuery)
        span = Span(query.page, query.limit)
        rows = await self._source.workspaces(span, include_archived=query.include_archived)
        return _page("workspaces", rows, span)

    async def workspace(self, request: web.Request) -> Answer:
        _query(request, values.NoQuery)
        name = request.match_info["name"]
        found = await self._source.workspace(name) if name.isascii() else None  # bytes that are no text are in others
        if found is None:
            raise Problem(404, "not_found", "there is no such workspace")
        return json_answer(found)

    async def create_workspace(self, request: web.Request) -> Answer:
        _query(request, values.NoQuery)
        wanted = await _body(request, values.NewWorkspace)
        changed: dict[str, object] = {"workspace": wanted.name.lower()}
        request[CHANGED] = changed
        made = await self._source.create_workspace(
            WantedWorkspace(wanted.name, wanted.source, wanted.branch, wanted.description), by=request[TOKEN]
        )
        return json_answer(made, status=201, headers={hdrs.LOCATION: f"{API_PREFIX}/workspaces/{made['name']}"})

    async def sessions(self, request: web.Request) -> Answer:
        query = _query(request, values.SessionsQuery)
        span = Span(query.page, query.limit)
        rows = await self._source.sessions(span, workspace=query.workspace, include_ended=query.include_ended)
        return _page("sessions", rows, span)

    async def auth_logs(self, request: web.Request) -> Answer:
        query = _query(request, values.AuthLogsQuery)
        span = Span(query.page, query.limit)
        rows = await self._source.auth_logs(
            span,
            action=query.action,
            client_ip=query.client_ip,
            workspace=query.workspace,
            principal=query.principal,
            since=query.since,
        )
        return _page("auth_logs", rows, span)

    async def metrics(self, request: web.Request) -> Answer:
        query = _query(request, values.MetricsQuery)
        span = Span(query.page, query.limit)
        until = query.until or datetime.now(UTC)
        since = query.since or max(until, _EARLIEST + METRICS_SPAN) - METRICS_SPAN
        rows = await self._source.metrics(span, metric=query.metric, since=since, until=until)
        return _page("metrics", rows, span)

    async def stats(self, request: web.Request) -> Answer:
        _query(request, values.NoQuery)
        return json_answer(await self._source.stats())

    async def health(self, request: web.Request) -> Answer:
        """503 when a login would not work, as /readyz; degraded is 200 (S178)."""
        _query(request, values.NoQuery)
        shape = await self._source.health()
        return json_answer(shape, status=503 if shape["status"] == "unhealthy" else 200)


_EARLIEST = datetime.min.replace(tzinfo=UTC)
OPERATIONS = (
    Operation(
        API_PREFIX, "/workspaces", "Workspaces, by name", ApiPages.workspaces, values.Workspaces, values.WorkspacesQuery
    ),
    Operation(
        API_PREFIX,
        "/workspaces",
        "Make a workspace: an empty one, or one that is cloned at its first login",
        ApiPages.create_workspace,
        values.Workspace,
        body=values.NewWorkspace,
        method=hdrs.METH_POST,
        status=201,
        refusals=(403, 409, 413, 415),
    ),
    Operation(API_PREFIX, "/workspaces/{name}", "One workspace", ApiPages.workspace, values.Workspace, refusals=(404,)),
    Operation(
        API_PREFIX, "/sessions", "Sessions, the newest first", ApiPages.sessions, values.Sessions, values.SessionsQuery
    ),
    Operation(
        API_PREFIX,
        "/auth-logs",
        "The journal, the newest first",
        ApiPages.auth_logs,
        values.AuthLogs,
        values.AuthLogsQuery,
    ),
    Operation(
        API_PREFIX,
        "/metrics",
        "Measurements of one kind, one a minute, the newest first",
        ApiPages.metrics,
        values.Metrics,
        values.MetricsQuery,
    ),
    Operation(API_PREFIX, "/stats", "What the sessions add up to", ApiPages.stats, values.Stats),
    Operation(API_PREFIX, "/openapi.json", "This document", ApiPages.document, None),
    Operation(HEALTH_PREFIX, "/detailed", "How the gateway is", ApiPages.health, values.Health),
)


def _query(request: web.Request, model: type[Q]) -> Q:
    given = list(request.query.items())
    if len(given) > len({name for name, _ in given}):
        raise validation_failed([detail([_repeated(given)], "repeated", "give it once")])
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise of_validation(error) from None


def _repeated(given: list[tuple[str, str]]) -> str:
    return Counter(name for name, _ in given).most_common(1)[0][0]


async def _body(request: web.Request, model: type[Q]) -> Q:
    """At most BODY_BYTES_MAX, which the application counts; JSON, which pydantic reads with a bound on its depth."""
    charset = (request.charset or "utf-8").lower()
    is_plain = request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() == "identity"
    if request.content_type != JSON_TYPE or charset not in ("utf-8", "utf8") or not is_plain:
        raise Problem(415, "unsupported_media_type", f"send the body as {JSON_TYPE} in UTF-8, without an encoding")
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        raise of_validation(error) from None


def _page(name: str, rows: Rows, span: Span) -> Answer:
    pages = math.ceil(rows.total / span.limit)
    pagination = {"page": span.page, "limit": span.limit, "total": rows.total, "pages": pages}
    return json_answer({name: list(rows.rows), "pagination": pagination})
