"""The three pages that need no token."""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web

from admin_http.answer import Answer, error_answer, json_answer, timestamp
from admin_http.status import StatusSource

# The source bounds its own work below this; a page that hangs all the same must not look alive to a prober.
PAGE_SECONDS_MAX = 10.0

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Pages:
    """What each address answers. HEAD is GET without the body."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    def add_to(self, application: web.Application) -> None:
        application.router.add_get("/healthz", self.healthz)
        application.router.add_get("/readyz", self.readyz)
        application.router.add_get("/metrics", self.metrics)

    async def healthz(self, request: web.Request) -> Answer:
        """Alive: 200 as long as the event loop turns. Restarting the gateway helps when this fails, and only then."""
        source = self._source
        return json_answer(
            {
                "status": "degraded" if source.is_degraded() else "healthy",
                "version": source.version,
                "uptime_seconds": round(source.uptime_seconds(), 3),
                "timestamp": timestamp(),
                "warnings": list(source.warnings()),
            }
        )

    async def readyz(self, request: web.Request) -> Answer:
        """Ready: a login would work now. 503 with the reasons otherwise."""
        try:
            async with asyncio.timeout(PAGE_SECONDS_MAX):
                reasons = list(await self._source.not_ready_reasons())
        except TimeoutError:
            reasons = ["the checks did not end in time"]
        if reasons:
            return json_answer({"status": "not_ready", "reasons": reasons}, status=503)
        return json_answer({"status": "ready"})

    async def metrics(self, request: web.Request) -> Answer:
        """Prometheus' text format, or OpenMetrics where the scraper asks for it."""
        # The version asked for is not repeated in the answer: both formats are stable, and it is a stranger's text.
        is_openmetrics = "application/openmetrics-text" in request.headers.get(hdrs.ACCEPT, "")
        try:
            async with asyncio.timeout(PAGE_SECONDS_MAX):
                page = await self._source.metrics_page(is_openmetrics=is_openmetrics)
        except TimeoutError:
            return error_answer(504, "the figures could not be gathered in time")
        return Answer(page, content_type=OPENMETRICS_TYPE if is_openmetrics else TEXT_TYPE)
