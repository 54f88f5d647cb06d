"""Health and metrics as a client on the wire sees them: raw sockets, so that nothing is hidden by a client library."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from admin_http import AdminServer
from gateway.config import Address, HttpSettings
from gateway.errors import StartRefused
from tests.support.api import FakeApi

LOOPBACK = Address(host="127.0.0.1", port=0)
SETTINGS = HttpSettings(listen=LOOPBACK)


@dataclass
class FakeStatus:
    version: str = "1.2.3"
    degraded: bool = False
    reasons: list[str] = field(default_factory=list)
    page: bytes = b"homeport_up 1\n"
    failure: Exception | None = None
    asked_openmetrics: bool | None = None
    hold: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    def uptime_seconds(self) -> float:
        return 12.5

    def is_degraded(self) -> bool:
        return self.degraded

    def warnings(self) -> list[str]:
        return ["isolation: none"]

    async def not_ready_reasons(self) -> list[str]:
        self.entered.set()
        if self.failure is not None:
            raise self.failure
        if self.hold is not None:
            await self.hold.wait()
        return self.reasons

    async def metrics_page(self, *, is_openmetrics: bool) -> bytes:
        self.asked_openmetrics = is_openmetrics
        return self.page


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@asynccontextmanager
async def serving(status: FakeStatus, *, host_names: tuple[str, ...] = (), **options: object) -> AsyncIterator[Address]:
    """A server on a free port; afterwards no task and no descriptor may be left."""
    tasks, descriptors = asyncio.all_tasks(), set(os.listdir("/proc/self/fd"))
    settings = HttpSettings(listen=LOOPBACK, host_names=host_names)
    server = AdminServer(settings, status, FakeApi(), **options)  # type: ignore[arg-type]
    async with server:
        yield server.addresses[0]
    await _until(lambda: asyncio.all_tasks() == tasks)
    gc.collect()
    await _until(lambda: len(os.listdir("/proc/self/fd")) <= len(descriptors))


async def _until(is_so) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.001)


async def exchange(address: Address, request: bytes) -> Reply:
    """Send the bytes and read until the server closes."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(request)
        async with asyncio.timeout(5):
            return parse(await reader.read())
    finally:
        writer.close()
        await writer.wait_closed()


def parse(raw: bytes) -> Reply:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return Reply(int(first.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body)


async def ask(address: Address, path: str, *, method: str = "GET", host: str = "localhost", more: str = "") -> Reply:
    return await exchange(address, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/workspaces"])
async def test_a_packed_body_is_not_unpacked(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a bomb, which would hold everybody up, nor what is no packed body, which would be a failure of ours."""
    async with serving(FakeStatus()) as address:
        for body in (zlib.compress(bytes(200_000_000)), b"xx"):
            head = (
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: deflate\r\nContent-Length: {len(body)}"
            )
            before = time.process_time()
            reply = await exchange(address, f"{head}\r\n\r\n".encode() + body)
            assert reply.status in (401, 405)
            assert time.process_time() - before < 0.1
    assert caplog.records == []


async def test_healthz_tells_status_version_uptime_and_warnings() -> None:
    """S175. Monitors depend on these names."""
    async with serving(FakeStatus()) as address:
        reply = await ask(address, "/healthz")
    body = reply.json()
    assert reply.status == 200
    assert (body["status"], body["version"], body["uptime_seconds"]) == ("healthy", "1.2.3", 12.5)
    assert body["warnings"] == ["isolation: none"]
    assert str(body["timestamp"]).endswith("Z")


async def test_a_degraded_gateway_is_alive() -> None:
    """207 confuses probes; degraded is a word in a 200."""
    async with serving(FakeStatus(degraded=True)) as address:
        reply = await ask(address, "/healthz")
    assert (reply.status, reply.json()["status"]) == (200, "degraded")


async def test_readyz_is_200_when_a_login_would_work() -> None:
    async with serving(FakeStatus()) as address:
        reply = await ask(address, "/readyz")
    assert (reply.status, reply.json()) == (200, {"status": "ready"})


async def test_readyz_is_503_with_the_reasons() -> None:
    async with serving(FakeStatus(reasons=["database is not writable"])) as address:
        reply = await ask(address, "/readyz")
    assert reply.status == 503
    assert reply.json() == {"status": "not_ready", "reasons": ["database is not writable"]}


async def test_metrics_come_in_the_format_asked_for() -> None:
    status = FakeStatus()
    async with serving(status) as address:
        plain = await ask(address, "/metrics")
        assert status.asked_openmetrics is False
        openmetrics = await ask(
            address, "/metrics", more="Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n"
        )
        assert status.asked_openmetrics is True
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert plain.body == b"homeport_up 1\n"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_head_is_get_without_the_body(path: str) -> None:
    async with serving(FakeStatus()) as address:
        reply = await ask(address, path, method="HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: magic\r\n\r\n", 417),
        (b"garbage\r\n\r\n", 400),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 400),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n", 400),
    ],
)
async def test_every_answer_has_the_security_headers_and_none_names_the_server(
    request_bytes: bytes, status: int
) -> None:
    """A malformed request is answered by another path inside aiohttp, with its name and version on it."""
    async with serving(FakeStatus()) as address:
        reply = await exchange(address, request_bytes)
    assert reply.status == status
    assert "server" not in reply.headers
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in reply.headers
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) >= ({"status"} if status == 200 else {"error", "message"})
    assert b"aiohttp" not in reply.body.lower()


async def test_a_wrong_method_is_told_the_right_ones() -> None:
    async with serving(FakeStatus()) as address:
        reply = await ask(address, "/metrics", method="DELETE")
    assert (reply.status, reply.headers["allow"]) == (405, "GET,HEAD")
    assert reply.json()["error"] == "method_not_allowed"


async def test_a_foreign_host_name_is_refused_and_addresses_pass() -> None:
    """DNS rebinding: a web page whose name resolves to loopback must not read this with the visitor's browser."""
    async with serving(FakeStatus(), host_names=("gate.example",)) as address:
        statuses = {
            host: (await ask(address, "/readyz", host=host)).status
            for host in ("127.0.0.1", "[::1]:8022", "localhost:8022", "10.0.0.7", "gate.example", "evil.example")
        }
        nameless = await exchange(address, b"GET /readyz HTTP/1.0\r\n\r\n")
    assert statuses.pop("evil.example") == 403
    assert set(statuses.values()) == {200}
    assert nameless.status == 200


async def test_a_failure_of_ours_is_a_500_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(FakeStatus(failure=RuntimeError("/secret/path"))) as address:
        reply = await ask(address, "/readyz")
    assert (reply.status, reply.json()["error"]) == (500, "internal_server_error")
    assert b"secret" not in reply.body
    assert [record.getMessage() for record in caplog.records] == ["http.failed"]


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    """Everything the server sent before it closed or aborted the connection."""
    got = bytearray()
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(1_000_000):
                got += data
    return bytes(got)


@pytest.mark.parametrize(
    "beginning", [b"", b"GET /healthz HT", b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"]
)
async def test_a_slow_client_is_let_go(beginning: bytes) -> None:
    """Silence, half a header and half a body all end with the connection's deadline."""
    async with serving(FakeStatus(), connection_seconds_max=0.2) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(beginning)
        await read_to_the_end(reader)
        writer.close()


async def test_a_client_that_does_not_read_is_let_go() -> None:
    """The answer is larger than every buffer on the way, and nobody takes it."""
    server = AdminServer(SETTINGS, FakeStatus(page=b"x" * 30_000_000), FakeApi(), connection_seconds_max=0.3)
    async with server:
        address = server.addresses[0]
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=1024)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await _until(lambda: server.open_connection_count == 1)
        await _until(lambda: server.open_connection_count == 0)
        assert len(await read_to_the_end(reader)) < 30_000_000
        writer.close()


async def test_connections_beyond_the_limit_are_told_so_and_a_free_place_serves_again() -> None:
    status = FakeStatus(hold=asyncio.Event())
    async with serving(status, connection_count_max=2) as address:
        waiting = [asyncio.create_task(ask(address, "/readyz")) for _ in range(2)]
        await status.entered.wait()
        await _until(lambda: status.hold is not None and len(status.hold._waiters) == 2)
        refused = await ask(address, "/healthz")
        assert status.hold is not None
        status.hold.set()
        served = await asyncio.gather(*waiting)
        again = await ask(address, "/healthz")
    assert refused.status == 503
    assert refused.json()["error"] == "service_unavailable"
    assert [reply.status for reply in served] == [200, 200]
    assert again.status == 200


async def test_a_request_under_way_is_answered_when_the_server_stops() -> None:
    status = FakeStatus(hold=asyncio.Event())
    async with serving(status) as address:
        asked = asyncio.create_task(ask(address, "/readyz"))
        await status.entered.wait()
        assert status.hold is not None
        asyncio.get_running_loop().call_soon(status.hold.set)
    assert (await asked).status == 200


async def test_a_client_that_vanishes_leaves_nothing_behind() -> None:
    status = FakeStatus(hold=asyncio.Event())
    async with serving(status) as address:
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await status.entered.wait()
        writer.transport.abort()
        assert status.hold is not None
        status.hold.set()


async def test_a_taken_port_is_refused_with_the_fix() -> None:
    async with serving(FakeStatus()) as address:
        with pytest.raises(StartRefused, match=f"{address} is in use.*HOMEPORT_HTTP_LISTEN"):
            await AdminServer(HttpSettings(listen=address), FakeStatus(), FakeApi()).start()


async def test_stopping_twice_is_harmless() -> None:
    server = AdminServer(SETTINGS, FakeStatus(), FakeApi())
    await server.start()
    await server.stop()
    await server.stop()
