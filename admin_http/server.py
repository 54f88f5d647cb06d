"""The listener: start, addresses, stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType

from aiohttp import web

from admin_http.api import API_PREFIX, BODY_BYTES_MAX, HEALTH_PREFIX, ApiPages
from admin_http.api_gate import ApiGate
from admin_http.api_source import ApiSource
from admin_http.connection import CONNECTION_COUNT_MAX, CONNECTION_SECONDS_MAX, Connection
from admin_http.host_guard import host_guard
from admin_http.openapi import openapi_document
from admin_http.pages import Pages
from admin_http.status import StatusSource
from gateway.config import Address, HttpSettings
from gateway.errors import StartRefused
from gateway.listening import close_without_loss

# Requests under way when the gateway stops; they take milliseconds.
STOP_SECONDS_MAX = 2.0


class AdminServer:
    """Serves the pages from `start` to `stop`; also an `async with`. Stopping twice is harmless."""

    def __init__(
        self,
        settings: HttpSettings,
        status: StatusSource,
        api: ApiSource,
        *,
        connection_seconds_max: float = CONNECTION_SECONDS_MAX,
        connection_count_max: int = CONNECTION_COUNT_MAX,
    ) -> None:
        self._listen = settings.listen
        self._connection_seconds_max = connection_seconds_max
        self._connection_count_max = connection_count_max
        self._open_connections: set[Connection] = set()
        self._sites: list[_BoundedSite] = []
        guards = [host_guard(settings.host_names)] if settings.listen.is_loopback else []
        application = web.Application(middlewares=guards, client_max_size=BODY_BYTES_MAX)
        Pages(status).add_to(application)
        _add_api(application, api, settings, version=status.version)
        self._runner = web.AppRunner(
            application, handle_signals=False, access_log=None, shutdown_timeout=STOP_SECONDS_MAX
        )

    async def start(self) -> None:
        """Listen. Raises StartRefused with the fix when the address cannot be had."""
        try:
            await self.bind()
            await self.serve()
        except StartRefused:
            await self.stop()
            raise

    async def bind(self, inherited: Sequence[socket.socket] = ()) -> None:
        """Have the address, and accept nothing yet. `inherited`: sockets that listen on it already. Raises as `start`;
        whatever it did, `stop` undoes it."""
        await self._runner.setup()
        for sock in inherited or (None,):
            site = _BoundedSite(
                self._runner,
                self._listen,
                self._open_connections,
                inherited=sock,
                seconds_max=self._connection_seconds_max,
                count_max=self._connection_count_max,
            )
            self._sites.append(site)
            with self._refusing():
                await site.start()

    async def serve(self) -> None:
        """Begin to accept. Raises as `start`."""
        for site in self._sites:
            with self._refusing():
                await site.serve()

    @property
    def addresses(self) -> list[Address]:
        """Where it listens; with port 0 in the settings, the port the kernel chose."""
        return [Address(host=name[0], port=name[1]) for name in self._runner.addresses]

    @property
    def sockets(self) -> list[socket.socket]:
        """What it listens on, as copies that the caller closes."""
        return [sock.dup() for site in self._sites for sock in site.listener.sockets]

    @property
    def open_connection_count(self) -> int:
        return len(self._open_connections)

    async def leave_to_others(self) -> None:
        """Stop listening where somebody else has a copy of the sockets. Who is connected is served on until `stop`."""
        await close_without_loss([site.listener for site in self._sites])

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StartRefused(_why_not(self._listen, error), detail=str(error)) from error

    async def stop(self) -> None:
        """Close the listener, give running requests two seconds, close the connections."""
        await self._runner.cleanup()

    async def __aenter__(self) -> AdminServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _add_api(application: web.Application, source: ApiSource, settings: HttpSettings, *, version: str) -> None:
    """Mounted apart, so that whatever lies below these two prefixes is behind the gate, pages or not."""
    gate, pages = ApiGate(source, settings), ApiPages(source, openapi_document(version))
    for prefix in (API_PREFIX, HEALTH_PREFIX):
        behind_gate = web.Application(middlewares=[gate.middleware])
        pages.add_to(behind_gate, prefix)
        application.add_subapp(prefix, behind_gate)


class _BoundedSite(web.BaseSite):
    """A TCPSite whose connections are ours."""

    def __init__(
        self,
        runner: web.AppRunner,
        listen: Address,
        open_connections: set[Connection],
        *,
        inherited: socket.socket | None,
        seconds_max: float,
        count_max: int,
    ) -> None:
        super().__init__(runner)
        self._listen = listen
        self._inherited = inherited
        self._seconds_max = seconds_max
        self._count_max = count_max
        self._open_connections = open_connections

    @property
    def name(self) -> str:
        return f"http://{self._listen}"

    async def start(self) -> None:
        await super().start()
        loop = asyncio.get_running_loop()
        server = self._runner.server
        assert server is not None

        def connection() -> Connection:
            return Connection(
                server, self._open_connections, loop=loop, seconds_max=self._seconds_max, count_max=self._count_max
            )

        if self._inherited is not None:
            self._server = await loop.create_server(connection, sock=self._inherited, start_serving=False)
        else:
            host, port = self._listen.host, self._listen.port
            self._server = await loop.create_server(connection, host, port, start_serving=False)

    async def serve(self) -> None:
        await self.listener.start_serving()

    @property
    def listener(self) -> asyncio.Server:
        assert isinstance(self._server, asyncio.Server)
        return self._server


def _why_not(listen: Address, error: OSError) -> str:
    other = "choose another with HOMEPORT_HTTP_LISTEN, for example HOMEPORT_HTTP_LISTEN=127.0.0.1:0 for any free port"
    if error.errno == errno.EADDRINUSE:
        return f"the HTTP address {listen} is in use by another program; {other}"
    if error.errno == errno.EACCES:
        return f"the HTTP address {listen} needs a privilege this account lacks; {other}"
    return f"cannot listen on the HTTP address {listen}; {other}"
