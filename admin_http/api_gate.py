"""Who may come in: the one way to everything that needs a token, and the one place where calls are written down.

In order: the token, its share of requests, whether there is such a page, the scope. Who has no good token is held back
by address, and hears the same of every path. Who has one is not: programs of workspaces share the machine's loopback
with those who look after it, and could else use up their share. Changes and refusals go into the journal.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from admin_http.answer import Answer
from admin_http.api_source import ApiSource
from admin_http.problem import Problem, of_library, of_refusal
from admin_http.rate_limit import RateLimit
from gateway.client_source import source_of
from gateway.config import HttpSettings
from gateway.errors import GatewayError
from gateway.events import Event
from gateway.ids import new_id
from gateway.interfaces import ApiScope, ApiToken
from gateway.log import log_event, log_failure

# Below the connection's own deadline (connection.py), so that there is an answer in time.
CALL_SECONDS_MAX = 12.0
READING = (hdrs.METH_GET, hdrs.METH_HEAD)
METHOD_CHARACTERS_MAX = 20
_REALM = 'Bearer realm="homeport"'  # RFC 6750 §3

TOKEN: web.RequestKey[ApiToken] = web.RequestKey("token", ApiToken)
CHANGED: web.RequestKey[dict[str, object]] = web.RequestKey(
    "changed", dict
)  # what a handler set out to change, for the journal


class ApiGate:
    """A middleware for the parts of the application behind it."""

    def __init__(self, source: ApiSource, settings: HttpSettings) -> None:
        self._source = source
        self._by_token = RateLimit(settings.api_requests_per_minute)
        self._strangers = RateLimit(settings.api_strangers_per_minute)

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._pass(request, handler)

        return gate

    async def _pass(self, request: web.Request, handler: Handler) -> Answer:
        started = time.monotonic()
        answer = await self._answer(request, handler)
        duration_ms = round((time.monotonic() - started) * 1000)
        log_event(
            Event.API_CALLED, level=logging.DEBUG, page=_page_of(request), status=answer.status, duration_ms=duration_ms
        )
        return answer

    async def _answer(self, request: web.Request, handler: Handler) -> Answer:
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                answer = await self._admit(request, handler)
        except Exception as error:
            problem = _problem_of(error)
            more = {} if problem is not None else {"error_id": _logged(request)}
            problem = problem or Problem(500, "internal", "Internal server error")
            answer = problem.answer(**more)
            await self._write_down(request, answer, code=problem.code, **more)
        else:
            if request.method not in READING:
                await self._write_down(request, answer)
        return answer

    async def _admit(self, request: web.Request, handler: Handler) -> Answer:
        token = await self._token(request)
        request[TOKEN] = token
        _hold_back(self._by_token, token.id)
        self._source.note_token_used(token)
        if request.match_info.http_exception is not None:
            raise request.match_info.http_exception
        if request.method not in READING and token.scope is not ApiScope.WRITE:
            challenge = f'{_REALM}, error="insufficient_scope", scope="{ApiScope.WRITE}"'
            raise Problem(
                403,
                "insufficient_scope",
                "this token may only read; make one that writes with: homeport token mint NAME --scope write",
                headers={hdrs.WWW_AUTHENTICATE: challenge},
            )
        answer = await handler(request)
        assert isinstance(answer, Answer)
        return answer

    async def _token(self, request: web.Request) -> ApiToken:
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        scheme, _, secret = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        token = await self._source.find_token(secret.strip(" ")) if scheme.lower() == "bearer" else None
        if token is not None:
            return token
        _hold_back(self._strangers, source_of(request.remote))
        if scheme.lower() != "bearer":
            raise Problem(
                401,
                "unauthorized",
                "a token is needed, as `Authorization: Bearer TOKEN`; make one with: homeport token mint NAME",
                headers={hdrs.WWW_AUTHENTICATE: _REALM},
            )
        raise Problem(
            401,
            "invalid_token",
            "the token is unknown, revoked or expired; make one with: homeport token mint NAME",
            headers={hdrs.WWW_AUTHENTICATE: f'{_REALM}, error="invalid_token"'},
        )

    async def _write_down(self, request: web.Request, answer: Answer, **more: object) -> None:
        token = request.get(TOKEN)
        details = {
            "principal": None if token is None else f"token:{token.name}",
            "request": f"{request.method[:METHOD_CHARACTERS_MAX]} {request.path}",
            "status": answer.status,
            **more,
            **request.get(CHANGED, {}),
        }
        try:
            await self._source.record_access(
                success=answer.status < 400,
                client_ip=request.remote,
                user_agent=request.headers.get(hdrs.USER_AGENT),
                details=details,
            )
        except GatewayError as error:  # said by the store already; the answer stands
            log_failure(Event.HTTP_FAILED, reason="not in the journal", error_code=error.code)


def _hold_back(limit: RateLimit, source: str) -> None:
    if wait := limit.wait_seconds(source):
        seconds = math.ceil(wait)
        raise Problem(
            429,
            "rate_limited",
            f"too many requests; try again in {seconds} s",
            headers={hdrs.RETRY_AFTER: str(seconds)},
        )


def _problem_of(error: Exception) -> Problem | None:
    """None: a failure of ours."""
    match error:
        case Problem():
            return error
        case GatewayError():
            return of_refusal(error)
        case web.HTTPException():
            return of_library(error)
        case TimeoutError():
            return Problem(503, "timeout", "this took too long; try again in a moment", headers={hdrs.RETRY_AFTER: "5"})
    return None


def _logged(request: web.Request) -> str:
    """Inside an `except` block: the traceback is in the log, by the id that the client is given."""
    error_id = new_id()
    log_failure(Event.HTTP_FAILED, error_id=error_id, page=_page_of(request))
    return error_id


def _page_of(request: web.Request) -> str:
    """Not the path, which is the client's text."""
    resource = request.match_info.route.resource
    return "none" if resource is None else f"{request.method} {resource.canonical}"
