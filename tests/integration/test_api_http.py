"""The API as its clients see it: who is let in, what is answered, what is refused, and what is written down."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from admin_http import AdminServer, api_gate
from admin_http.api import OPERATIONS
from admin_http.api_source import WantedWorkspace
from gateway.config import Address, HttpSettings
from gateway.errors import CommandRefused, LauncherUnavailable, NameTaken, StoreUnavailable
from gateway.journal import JournalAction
from tests.integration.test_admin_http import FakeStatus
from tests.support.api import READ, WRITE, FakeApi, Reply, asking

LISTEN = Address(host="127.0.0.1", port=0)
WORKSPACES = "/api/v1/workspaces"
PATHS = ["/api/v1/workspaces", "/api/v1/workspaces/my-app", "/api/v1/sessions", "/api/v1/auth-logs",
         "/api/v1/metrics?metric=cpu_usage", "/api/v1/stats", "/api/v1/openapi.json", "/health/detailed"]  # fmt: skip


@asynccontextmanager
async def serving(api: FakeApi, **settings: object) -> AsyncIterator[int]:
    async with AdminServer(HttpSettings(listen=LISTEN, **settings), FakeStatus(), api) as server:  # type: ignore[arg-type]
        yield server.addresses[0].port


def is_error(reply: Reply, status: int, code: str) -> bool:
    """S154: every refusal has one shape."""
    body = reply.json()
    assert reply.headers["content-type"] == "application/json"
    assert set(body) - {"error_id"} == {"error", "code", "details", "timestamp"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    assert (reply.status, body["code"]) == (status, code), body
    return True


# ------------------------------------------------------------------------------------------------ who is let in


@pytest.mark.parametrize("path", [*PATHS, "/api/v1/", "/api/v1/nothing", "/health/nothing", "/%61pi/v1/workspaces"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_nothing_behind_the_gate_is_told_without_a_token(path: str, method: str) -> None:
    """Not even which pages there are. The gate stands before the routes, so no spelling of a path goes around it."""
    api = FakeApi()
    async with serving(api) as port:
        reply = await asking(port, path, token=None, method=method)
    assert is_error(reply, 401, "unauthorized")
    assert reply.headers["www-authenticate"] == 'Bearer realm="homeport"'
    assert (api.asked, api.created, api.used) == ([], [], [])


@pytest.mark.parametrize(
    "header",
    ["Bearer hp_" + "x" * 43, "Bearer", "Bearer ", "Basic aHBfOng=", READ, f"Bearer {READ} {READ}", "Bearer ü"],
)
async def test_wrong_token_is_refused_and_the_challenge_says_so(header: str) -> None:
    async with serving(FakeApi()) as port:
        reply = await asking(port, WORKSPACES, token=None, headers={"Authorization": header})
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith('Bearer realm="homeport"')


async def test_two_tokens_are_none() -> None:
    async with serving(FakeApi()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = f"Host: localhost\r\nAuthorization: Bearer {READ}\r\nAuthorization: Bearer {WRITE}\r\n\r\n"
        writer.write(f"GET {WORKSPACES} HTTP/1.1\r\n{lines}".encode())
        assert b" 401 " in await reader.readline()
        writer.close()


async def test_token_is_known_in_any_case_of_its_scheme_and_its_use_is_noted() -> None:
    api = FakeApi()
    async with serving(api) as port:
        reply = await asking(port, WORKSPACES, token=None, headers={"Authorization": f"bearer {READ}"})
    assert (reply.status, api.used) == (200, ["reader"])


async def test_token_that_may_read_cannot_change_anything() -> None:
    api = FakeApi()
    async with serving(api) as port:
        reply = await asking(port, WORKSPACES, method="POST", body={"name": "new-one"})
    assert is_error(reply, 403, "insufficient_scope")
    assert 'error="insufficient_scope"' in reply.headers["www-authenticate"]
    assert api.created == []


async def test_every_page_is_answered_with_a_token_and_security_headers() -> None:
    """S196: headers on every answer, no CORS."""
    async with serving(FakeApi()) as port:
        replies = {path: await asking(port, path, headers={"Origin": "https://evil.example"}) for path in PATHS}
    assert {path: reply.status for path, reply in replies.items()} == dict.fromkeys(PATHS, 200)
    assert len(PATHS) == len([operation for operation in OPERATIONS if operation.method == "GET"])
    for reply in replies.values():
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_foreign_host_name_is_refused_before_the_token() -> None:
    async with serving(FakeApi()) as port:
        assert (await asking(port, WORKSPACES, headers={"Host": "evil.example"})).status == 403


async def test_open_pages_stay_open() -> None:
    async with serving(FakeApi()) as port:
        assert [(await asking(port, path, token=None)).status for path in ("/healthz", "/readyz", "/metrics")] == [
            200
        ] * 3


# ------------------------------------------------------------------------------------------------ what is answered


async def test_pages_are_cut_and_counted() -> None:
    """S139."""
    async with serving(FakeApi(names=[f"w{number}" for number in range(5)])) as port:
        body = (await asking(port, f"{WORKSPACES}?page=2&limit=2")).json()
        beyond = (await asking(port, f"{WORKSPACES}?page=9&limit=2")).json()
    assert [row["name"] for row in body["workspaces"]] == ["w2", "w3"]
    assert body["pagination"] == {"page": 2, "limit": 2, "total": 5, "pages": 3}
    assert (beyond["workspaces"], beyond["pagination"]["total"]) == ([], 5)


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=-1", "page=01", "page=1.0", "page= 1", "page=1_0", "page=", "limit=101",
     "limit=99999999999999999999", "pgae=2", "page=1&page=2", "include_archived=yes", "include_archived="],
)  # fmt: skip
async def test_parameters_are_checked_and_the_wrong_one_is_named(query: str) -> None:
    api = FakeApi()
    async with serving(api) as port:
        reply = await asking(port, f"{WORKSPACES}?{query.replace(' ', '%20')}")
    assert is_error(reply, 400, "validation_failed")
    assert reply.json()["error"] == "Validation failed"
    assert [detail["path"] for detail in reply.json()["details"]] == [[query.partition("=")[0]]]
    assert api.asked == []


async def test_filters_reach_the_store() -> None:
    api = FakeApi()
    since = "since=2026-01-31T12:00:00%2B05:30"
    async with serving(api) as port:
        assert (await asking(port, f"/api/v1/auth-logs?action=login&principal=ana&{since}")).status == 200
        assert (await asking(port, "/api/v1/sessions?workspace=my-app&include_ended=true")).status == 200
        assert (await asking(port, "/api/v1/metrics?metric=cpu_usage&until=2026-01-31T12:00:00Z")).status == 200
    logs, sessions, metrics = api.asked
    assert (logs["action"], logs["principal"], logs["client_ip"]) == (JournalAction.LOGIN, "ana", None)
    assert logs["since"] == datetime(2026, 1, 31, 6, 30, tzinfo=UTC)
    assert sessions == {"workspace": "my-app", "include_ended": True}
    assert (metrics["since"], metrics["until"]) == (
        datetime(2026, 1, 31, 11, tzinfo=UTC),
        datetime(2026, 1, 31, 12, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    "path",
    ["auth-logs?action=dance", "auth-logs?since=yesterday", "auth-logs?since=0", "auth-logs?since=2026-01-31",
     "auth-logs?since=2026-01-31T12:00:00", "auth-logs?since=2026-13-31T12:00:00Z", "auth-logs?principal=",
     "metrics", "metrics?metric=A", "metrics?metric=cpu_usage&limit=1441", "sessions?workspace=" + "a" * 51,
     "metrics?metric=x%0A", "stats?x=1", "workspaces/my-app?x=1"],
)  # fmt: skip
async def test_filters_that_make_no_sense_are_refused(path: str) -> None:
    async with serving(FakeApi()) as port:
        assert is_error(await asking(port, f"/api/v1/{path}"), 400, "validation_failed")


@pytest.mark.parametrize("until", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00%2B23:59"])
async def test_times_at_the_ends_of_the_calendar_are_no_failure(until: str) -> None:
    api = FakeApi()
    async with serving(api) as port:
        assert (await asking(port, f"/api/v1/metrics?metric=x&until={until}")).status in (200, 400)
        assert (await asking(port, f"/api/v1/auth-logs?since={until}")).status in (200, 400)
    assert all(time.astimezone(UTC) for asked in api.asked for time in asked.values() if isinstance(time, datetime))


@pytest.mark.parametrize(
    "path", ["workspaces/%ff", "workspaces/\xff", "sessions?workspace=%ff", "sessions?workspace=\xff"]
)
async def test_bytes_that_are_no_text_reach_no_database(path: str) -> None:
    """SQLite's module raises on what Python makes of them."""
    api = FakeApi()
    async with serving(api) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"GET /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {READ}\r\n\r\n"
        writer.write(head.encode("latin-1"))
        status = (await reader.readline()).split()[1]
        writer.close()
    assert status in (b"200", b"400", b"404")
    for asked in api.asked:
        str(asked.get("name", "")).encode()
        str(asked.get("workspace", "")).encode()


async def test_workspace_is_shown_by_its_name() -> None:
    async with serving(FakeApi()) as port:
        assert (await asking(port, f"{WORKSPACES}/notes")).json()["name"] == "notes"
        assert is_error(await asking(port, f"{WORKSPACES}/nots"), 404, "not_found")


async def test_page_or_method_that_is_not_there_is_refused_with_what_there_is() -> None:
    async with serving(FakeApi()) as port:
        assert is_error(await asking(port, "/api/v1/nothing"), 404, "not_found")
        reply = await asking(port, WORKSPACES, method="DELETE")
        assert is_error(reply, 405, "method_not_allowed")
        assert reply.headers["allow"] == "GET,HEAD,POST"
        head = await asking(port, WORKSPACES, method="HEAD")
        assert (head.status, head.body) == (200, b"")


async def test_health_in_detail_is_503_when_a_login_would_not_work() -> None:
    """S174, S176, S178."""
    api = FakeApi()
    async with serving(api) as port:
        assert (await asking(port, "/health/detailed")).status == 200
        api.health_shape = {**api.health_shape, "status": "degraded"}
        assert (await asking(port, "/health/detailed")).status == 200
        api.health_shape = {**api.health_shape, "status": "unhealthy"}
        assert (await asking(port, "/health/detailed")).status == 503


# ------------------------------------------------------------------------------------------------ what is made


async def make(port: int, body: object, **options: object) -> Reply:
    return await asking(port, WORKSPACES, token=WRITE, method="POST", body=body, **options)


async def test_workspace_is_made_and_answered_with_its_place() -> None:
    """S153."""
    api = FakeApi()
    async with serving(api) as port:
        reply = await make(port, {"name": "Hello", "github_repo": "octocat/hello", "branch": "dev", "description": "x"})
    assert (reply.status, reply.headers["location"], reply.json()["name"]) == (201, f"{WORKSPACES}/hello", "hello")
    assert api.created == [WantedWorkspace("Hello", "octocat/hello", "dev", "x")]


async def test_url_and_nothing_are_sources_as_well() -> None:
    api = FakeApi()
    async with serving(api) as port:
        assert (await make(port, {"name": "a", "url": "https://codeberg.org/a/b"})).status == 201
        assert (await make(port, {"name": "b", "github_repo": None, "description": None})).status == 201
    assert [wanted.source for wanted in api.created] == ["https://codeberg.org/a/b", None]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, ["name"]),
        ({"name": ""}, ["name"]),
        ({"name": "a" * 51}, ["name"]),
        ({"name": "-x"}, ["name"]),
        ({"name": "lobby"}, ["name"]),
        ({"name": "a\n"}, ["name"]),
        ({"name": 7}, ["name"]),
        ({"name": "a", "github_repo": "../.."}, ["github_repo"]),
        ({"name": "a", "github_repo": "-x/y"}, ["github_repo"]),
        ({"name": "a", "url": "ext::sh -c id"}, ["url"]),
        ({"name": "a", "url": "https://me:hunter2@github.com/a/b"}, ["url"]),
        ({"name": "a", "github_repo": "a/b", "branch": "--upload-pack=x"}, ["branch"]),
        ({"name": "a", "description": "x" * 201}, ["description"]),
        ({"name": "a", "is_active": False}, ["is_active"]),
        ({"name": "a", "local_path": "/etc"}, ["local_path"]),
        ({"name": "a", "github_repo": "a/b", "url": "https://github.com/a/b"}, []),
        ({"name": "a", "branch": "dev"}, []),
        ([], []),
        (b"", []),
        (b"{", []),
        (b'{"name": "\xff"}', []),
        (b'{"name": "\\ud800"}', []),
        (b"[" * 60_000, []),
        (b'{"a":' * 10_000, []),
    ],
)
async def test_body_that_is_wrong_is_refused_and_the_wrong_place_is_named(body: object, path: list[str]) -> None:
    """S142 to S151, T14 to T17, flaw 16: by the same rules as the commands."""
    api = FakeApi()
    async with serving(api) as port:
        reply = await make(port, body)
    assert is_error(reply, 400, "validation_failed")
    assert reply.json()["details"][0]["path"][:1] == path[:1]
    assert b"hunter2" not in reply.body
    assert api.created == []


async def test_refusal_repeats_little_of_what_was_sent() -> None:
    async with serving(FakeApi()) as port:
        reply = await make(port, {"x" * 30_000: 1, **{f"{number}": 1 for number in range(500)}})
    assert is_error(reply, 400, "validation_failed")
    assert len(reply.body) < 8_000


async def test_body_that_is_too_large_is_refused_and_the_client_hears_it() -> None:
    api = FakeApi()
    async with serving(api) as port:
        assert is_error(await make(port, b" " * (64 * 1024 + 1)), 413, "body_too_large")
        assert is_error(await make(port, b" " * 1_000_000), 413, "body_too_large")
        assert (await make(port, json.dumps({"name": "a"}).encode().ljust(60_000))).status == 201


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"},
     {"Content-Encoding": "gzip"}, {"Content-Type": "application/json; charset=utf-16"}],
)  # fmt: skip
async def test_body_that_is_not_plain_json_is_refused(headers: dict[str, str]) -> None:
    """A web page can send the first two without asking anybody; the third may be a bomb."""
    api = FakeApi()
    body = b"\x1f\x8b\x08\x00" if "Content-Encoding" in headers else b'{"name": "a"}'
    async with serving(api) as port:
        reply = await make(port, body, headers=headers)
    assert reply.status in (400, 415)
    assert api.created == []


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (NameTaken("there is one"), 409, "name_taken"),
        (CommandRefused("there are 100 workspaces already"), 409, "command_refused"),
        (LauncherUnavailable("install bubblewrap"), 503, "launcher_unavailable"),
        (StoreUnavailable("the disk is full", detail="/var/lib/homeport"), 503, "store_unavailable"),
    ],
)
async def test_what_the_gateway_refuses_has_a_status_of_its_own(failure: Exception, status: int, code: str) -> None:
    async with serving(FakeApi(failure=failure)) as port:
        reply = await make(port, {"name": "a"})
    assert is_error(reply, status, code)
    assert ("retry-after" in reply.headers) == (status == 503)


async def test_failure_of_ours_is_an_id_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """S152: the operator finds the rest by the id."""
    api = FakeApi(failure=RuntimeError("/secret/path"))
    async with serving(api) as port:
        reply = await make(port, {"name": "a"})
    assert is_error(reply, 500, "internal")
    assert (reply.json()["error"], b"secret" in reply.body) == ("Internal server error", False)
    error_id = reply.json()["error_id"]
    assert [record.keys["error_id"] for record in caplog.records] == [error_id]  # type: ignore[attr-defined]
    assert api.journal[0]["error_id"] == error_id


# ---------------------------------------------------------------------------------- how often, and the journal


async def test_token_that_asks_too_often_is_told_when_to_come_again() -> None:
    """S193."""
    api = FakeApi()
    async with serving(api, api_requests_per_minute=3) as port:
        statuses = [(await asking(port, WORKSPACES)).status for _ in range(3)]
        refused = await asking(port, WORKSPACES)
        other = await asking(port, WORKSPACES, token=WRITE)
    assert statuses == [200] * 3
    assert is_error(refused, 429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert other.status == 200


async def test_address_that_guesses_tokens_is_held_back_and_those_who_have_one_there_are_not() -> None:
    """Programs of workspaces share the loopback with whoever looks after the machine."""
    async with serving(FakeApi(), api_strangers_per_minute=2) as port:
        statuses = [(await asking(port, WORKSPACES, token="hp_" + "x" * 43)).status for _ in range(3)]
        nobody = await asking(port, WORKSPACES, token=None)
        known = await asking(port, WORKSPACES)
    assert statuses == [401, 401, 429]
    assert is_error(nobody, 429, "rate_limited")
    assert known.status == 200


async def test_changes_and_refusals_are_written_down_and_reading_is_not() -> None:
    """S53."""
    api = FakeApi()
    async with serving(api) as port:
        await asking(port, WORKSPACES)
        await make(port, {"name": "a"}, headers={"User-Agent": "curl/8"})
        await make(port, {"name": ""})
        await asking(port, WORKSPACES, token=None)
        await asking(port, WORKSPACES, method="POST", body={"name": "b"})
    made, invalid, nobody, reader = api.journal
    assert (made["success"], made["principal"], made["workspace"]) == (True, "token:writer", "a")
    assert (made["request"], made["status"], made["client_ip"]) == (f"POST {WORKSPACES}", 201, "127.0.0.1")
    assert made["user_agent"] == "curl/8"
    assert [(row["success"], row["status"], row["code"]) for row in (invalid, nobody, reader)] == [
        (False, 400, "validation_failed"),
        (False, 401, "unauthorized"),
        (False, 403, "insufficient_scope"),
    ]
    assert (nobody["principal"], reader["principal"]) == (None, "token:reader")
    assert not [row for row in api.journal if READ in str(row) or WRITE in str(row)]


async def test_answer_stands_when_the_journal_cannot_be_written(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(FakeApi(record_failure=StoreUnavailable("full"))) as port:
        assert (await make(port, {"name": "a"})).status == 201
        assert (await asking(port, WORKSPACES, token=None)).status == 401
    assert len(caplog.records) == 2


async def test_client_that_leaves_does_not_undo_what_it_began() -> None:
    entered, released = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        entered.set()
        await released.wait()

    api = FakeApi(before_create=hold)
    async with serving(api) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"Host: localhost\r\nAuthorization: Bearer {WRITE}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 12\r\n"
        writer.write(f'POST {WORKSPACES} HTTP/1.1\r\n{head}\r\n{{"name":"a"}}'.encode())
        async with asyncio.timeout(5):
            await entered.wait()
        writer.transport.abort()
        released.set()
        async with asyncio.timeout(5):
            while not api.journal:
                await asyncio.sleep(0.001)
    assert [wanted.name for wanted in api.created] == ["a"]


async def test_call_that_takes_too_long_is_undone_and_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose body does not come: each has an answer before the connection's own end."""
    monkeypatch.setattr(api_gate, "CALL_SECONDS_MAX", 0.1)
    api = FakeApi(before_create=asyncio.Event().wait)
    async with serving(api) as port:
        assert is_error(await make(port, {"name": "a"}), 503, "timeout")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"Host: localhost\r\nAuthorization: Bearer {WRITE}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 12\r\n"
        writer.write(f'POST {WORKSPACES} HTTP/1.1\r\n{head}\r\n{{"na'.encode())
        assert b" 503 " in await reader.readline()
        writer.close()
    assert api.created == []


async def test_document_names_every_operation_and_what_it_answers() -> None:
    async with serving(FakeApi()) as port:
        document = (await asking(port, "/api/v1/openapi.json")).json()
    assert (document["openapi"], document["info"]["version"]) == ("3.1.0", "1.2.3")
    named = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert named == {(operation.method, operation.prefix + operation.path) for operation in OPERATIONS}
    references = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
