"""The one kind of answer this server gives: small, not cached, not sniffed, and silent about what serves it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from multidict import CIMultiDict

# Nothing here is a document: a browser that is sent here shall not run, frame, guess, keep or tell anything.
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

JSON_TYPE = "application/json"


class Answer(web.Response):
    """A whole body at once; the connection ends after it (see connection.py)."""

    def __init__(
        self,
        body: bytes,
        *,
        content_type: str = JSON_TYPE,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        all_headers = CIMultiDict({**SECURITY_HEADERS, hdrs.CONTENT_TYPE: content_type, **(headers or {})})
        super().__init__(body=body, status=status, headers=all_headers)
        self.force_close()

    async def _prepare_headers(self) -> None:
        # aiohttp adds its name and version here and has no switch for it; a test watches that this keeps working.
        await super()._prepare_headers()
        self.headers.popall(hdrs.SERVER, None)


def json_answer(value: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(json.dumps(value).encode() + b"\n", status=status, headers=headers)


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def error_answer(status: int, message: str = "", *, headers: Mapping[str, str] | None = None) -> Answer:
    """`{"error": "not_found", "message": …}`: the code is stable, the message is for people. The API's own errors
    (problem.py) have the code in `code`, where it stands here as well."""
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "error"
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    body = {"error": code, "message": message or phrase, "code": code, "details": [], "timestamp": timestamp()}
    return json_answer(body, status=status, headers=headers)


def from_library(response: web.StreamResponse) -> web.StreamResponse:
    """Our own words in place of an answer that aiohttp made (404, 405, 417, a malformed request …)."""
    if isinstance(response, Answer):
        return response
    messages = {
        400: "the request is malformed, or too large",
        404: "there is no such page; try /healthz, /readyz, /metrics, or with a token /api/v1/openapi.json",
        405: "only GET and HEAD are answered here",
    }
    allow = response.headers.get(hdrs.ALLOW, "")
    return error_answer(
        response.status, messages.get(response.status, ""), headers={hdrs.ALLOW: allow} if allow else None
    )
