"""One HTTP connection, bounded in number, size and time.

One request per connection and one deadline for all of it: request, handling, and the client's reading of the answer.
Probes and scrapers lose nothing measurable by it, and slow headers, slow bodies, slow readers and idle connections
all meet the same end, without a timer for each.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from aiohttp import web

from admin_http.answer import from_library
from gateway.events import Event
from gateway.log import log_failure

# A scrape takes milliseconds; Prometheus itself gives up after 10 s by default.
CONNECTION_SECONDS_MAX = 15.0
# Each costs a descriptor that a login could need.
CONNECTION_COUNT_MAX = 64

# Parameters are short, and so are bodies (api.py); headers may be long, as cookies of other local servers come along.
_LIMITS: dict[str, Any] = {
    "max_line_size": 2048,
    "max_field_size": 8190,
    "max_headers": 64,
    # Whoever still sends a body that is too large could not read our answer if the connection were cut at once.
    "lingering_time": 1,
    "keepalive_timeout": CONNECTION_SECONDS_MAX,
    # A packed body is never taken (api.py). Unpacked all the same, 300 KB of it would be 300 MB of work, for anybody.
    "auto_decompress": False,
    "access_log": None,
    "logger": logging.getLogger("homeport.http"),
}

_FULL = b'{"error": "service_unavailable", "message": "too many connections; try again in a moment"}\n'
_FULL_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
    b"X-Content-Type-Options: nosniff\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
) % (len(_FULL), _FULL)


class Connection(web.RequestHandler):
    """aiohttp's protocol plus our bounds. `open_connections` is shared by all connections of one server."""

    def __init__(
        self,
        server: web.Server,
        open_connections: set[Connection],
        *,
        loop: asyncio.AbstractEventLoop,
        seconds_max: float = CONNECTION_SECONDS_MAX,
        count_max: int = CONNECTION_COUNT_MAX,
    ) -> None:
        super().__init__(server, loop=loop, **_LIMITS)
        self._open_connections = open_connections
        self._seconds_max = seconds_max
        self._count_max = count_max
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._deadline = self._loop.call_later(self._seconds_max, transport.abort)
        if len(self._open_connections) >= self._count_max:
            transport.write(_FULL_ANSWER)
            transport.close()
            return
        self._open_connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._open_connections.discard(self)
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Every answer goes through here, so here all of them get our headers and our words."""
        return await super().finish_response(request, from_library(resp), start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A malformed request is the client's affair; a failure of ours goes to the log, and only there."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log_failure(Event.HTTP_FAILED, status=status, reason=type(exc).__name__)
        return web.Response(status=status)
