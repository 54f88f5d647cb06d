"""What is asked of GitHub, and what is believed of its answers."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import GitHubSettings
from gateway.errors import GatewayError, GithubRefused, GithubTokenRefused, GithubUnavailable
from gateway.github.values import is_full_name, is_login
from gateway.workspaces import github as client_module
from gateway.workspaces.github import GithubClient
from tests.support.fake_github import FakeGithub, FakeRepository

SECRET = "ghp_ThisOneMustNotBeSeenAnywhere0000000"


@contextlib.asynccontextmanager
async def asking(**fields: Any) -> AsyncIterator[tuple[FakeGithub, GithubClient]]:
    async with FakeGithub.running(**fields) as github, client_of(github.url) as client:
        yield github, client


@contextlib.asynccontextmanager
async def client_of(url: str) -> AsyncIterator[GithubClient]:
    client = GithubClient(GitHubSettings(web_url=url, api_url=f"{url}/api/v3", client_id="Iv1.0123456789abcdef"))
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[GithubClient]:
    """A server of the test's own for every path."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with client_of(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
            yield client
    finally:
        await runner.cleanup()


async def test_each_question_says_who_asks_and_in_which_version():
    async with asking() as (github, client):
        await client.user(github.new_token())
        assert github.headers[0]["User-Agent"].startswith("homeport/")
        assert github.headers[0]["X-GitHub-Api-Version"] == "2022-11-28"


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    """It would see where tokens go, and whoever starts the gateway may not know of the variable."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with asking() as (github, client):
        assert (await client.user(github.new_token())).login == "octocat"


async def test_netrc_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    async with asking(keys={"ana": []}) as (github, client):
        await client.user_keys(None, "ana")
        assert github.authorizations == [None]


# ----------------------------------------------------------------------------------------------- who it is


async def test_scopes_and_expiry_of_a_token_are_told_with_the_user():
    async with asking() as (github, client):
        classic = await client.user(github.new_token(scopes="repo, gist"))
        assert (classic.scopes, classic.token_expires_at) == (("repo", "gist"), None)
        ends = int(time.time()) + 3600
        fine = await client.user(github.new_token(prefix="github_pat_", expires_at=float(ends), tells_expiry=True))
        assert fine.scopes is None
        assert fine.token_expires_at is not None
        assert fine.token_expires_at.timestamp() == ends


@pytest.mark.parametrize(
    ("email", "emails", "expected"),
    [
        ("public@example.org", None, "public@example.org"),
        (None, None, "octocat@users.noreply.127.0.0.1"),
        (None, [], "583231+octocat@users.noreply.127.0.0.1"),
        (None, [("me@example.org", True, "public")], "me@example.org"),
        (None, [("me@example.org", True, "private")], "583231+octocat@users.noreply.127.0.0.1"),
    ],
)
async def test_commits_never_show_an_address_that_is_kept_private(
    email: str | None, emails: list[tuple[str, bool, str]] | None, expected: str
):
    async with asking() as (github, client):
        github.user.email = email
        unseen = [("octocat@users.noreply.127.0.0.1", False, None)]
        github.user.emails = [
            {"email": address, "verified": True, "primary": primary, "visibility": visibility}
            for address, primary, visibility in (unseen if emails is None else emails)
        ]
        assert (await client.user(github.new_token())).email == expected


async def test_a_token_that_may_not_ask_for_addresses_is_still_good():
    async with asking() as (github, client):
        user = await client.user(github.new_token(scopes="repo"))
        assert user.email == "583231+octocat@users.noreply.127.0.0.1"


async def test_a_token_that_github_does_not_know_is_told_apart():
    async with asking() as (_, client):
        with pytest.raises(GithubTokenRefused):
            await client.user("ghp_unknown")


# ------------------------------------------------------------------------------------------- repositories, keys


async def test_pages_are_turned_by_number_and_the_last_one_is_known():
    repositories = [FakeRepository(number, f"octocat/r{number}") for number in range(1, 6)]
    async with asking(repositories=repositories) as (github, client):
        token = github.new_token()
        pages = [await client.repositories(token, page=number, limit=2) for number in (1, 2, 3)]
        assert [[each.id for each in page.repositories] for page in pages] == [[1, 2], [3, 4], [5]]
        assert [page.has_more for page in pages] == [True, True, False]


async def test_a_renamed_repository_is_found_by_its_old_name_and_by_its_id():
    moved = FakeRepository(7, "octocat/new-name", default_branch="trunk", private=True)
    async with asking(repositories=[moved], renamed={"octocat/old-name": 7}) as (github, client):
        token = github.new_token()
        found = await client.repository(token, "octocat/Old-Name")
        assert found is not None
        assert (found.id, found.full_name, found.default_branch) == (7, "octocat/new-name", "trunk")
        assert await client.repository_by_id(token, 7) == found
        assert await client.repository(None, "octocat/new-name") is None, "without a token it is not there"
        assert await client.repository(token, "octocat/none") is None


@pytest.mark.parametrize(
    "name", ["../../user", "a/b/../../user", "a/..", "a/b?x=1", "a/b.git", "-a/b", "a/b#c", "a b/c"]
)
async def test_a_name_that_is_none_is_never_asked_for(name: str):
    async with asking() as (github, client):
        assert await client.repository(None, name) is None
        with pytest.raises(GithubRefused):
            await client.user_keys(None, name)
        assert github.asked == []


@given(st.text(max_size=120))
def test_what_may_be_a_name_can_be_put_into_a_path(text: str):
    for name in [text] * is_login(text) + [text] * is_full_name(text):
        assert name.isascii()
        assert not set(name) & set("?#%\\ \n\r\t:@&=+") and ".." not in name.split("/")


async def test_keys_of_somebody_who_is_not_there_are_refused_by_name():
    async with asking(keys={"ana": ["ssh-ed25519 AAAA"]}) as (_, client):
        assert await client.user_keys(None, "ana") == ["ssh-ed25519 AAAA"]
        with pytest.raises(GithubRefused, match="knows nobody named ben"):
            await client.user_keys(None, "ben")


# ---------------------------------------------------------------------------------------------- limits, trouble


IN_HALF_AN_HOUR = "by the test's own clock"


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (429, {"Retry-After": "90"}, "in 1 min"),
        (403, {"Retry-After": "30"}, "in 30 s"),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": IN_HALF_AN_HOUR}, "in 30 min"),
        (429, {}, "in a few minutes"),
        (429, {"Retry-After": "soon"}, "in a few minutes"),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "9" * 40}, "in a few minutes"),
    ],
)
async def test_a_limit_is_said_with_the_time_to_wait(status: int, headers: dict[str, str], said: str):
    in_half_an_hour = str(int(time.time()) + 1830)
    headers = {name: in_half_an_hour if value == IN_HALF_AN_HOUR else value for name, value in headers.items()}
    async with asking(rate_limit=(status, headers)) as (github, client):
        with pytest.raises(GithubUnavailable, match=f"asked too often; try again {said}"):
            await client.user(github.new_token())


async def test_a_403_that_is_no_limit_is_a_refusal_with_github_s_reason():
    async def forbid(request: web.Request) -> web.Response:
        return web.json_response({"message": "Resource protected by organization SAML enforcement."}, status=403)

    async with answering(forbid) as client:
        with pytest.raises(GithubRefused, match=r"HTTP 403.*SAML enforcement"):
            await client.user(SECRET)


async def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 0.1)
    async with asking(is_silent=True) as (github, client):
        with pytest.raises(GithubUnavailable, match=r"did not answer within 0\.1 s"):
            await client.user(github.new_token())


async def test_a_server_that_is_not_there_is_said_in_words_without_the_path():
    async with client_of("http://127.0.0.1:1") as client:
        with pytest.raises(GithubUnavailable) as error:
            await client.user(SECRET)
        assert error.value.user_message == "127.0.0.1:1 cannot be reached: connection refused"


@pytest.mark.parametrize("is_packed", [False, True])
async def test_an_answer_without_end_is_cut_also_when_it_is_packed(monkeypatch: pytest.MonkeyPatch, is_packed: bool):
    monkeypatch.setattr(client_module, "ANSWER_MAX_BYTES", 100_000)

    async def flood(request: web.Request) -> web.StreamResponse:
        bomb = gzip.compress(bytes(50_000_000), 1) if is_packed else bytes(1_000_000)
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"} if is_packed else {})

    async with answering(flood) as client:
        with pytest.raises(GithubUnavailable, match="more than 100000 bytes"):
            await client.user(SECRET)


async def test_a_token_does_not_follow_a_redirect_to_another_host():
    elsewhere: list[str | None] = []

    async def listen(request: web.Request) -> web.Response:
        elsewhere.append(request.headers.get("Authorization"))
        return web.json_response({"login": "mallory", "id": 1})

    async with answering(listen) as other:
        target = other._settings.api_url + "/user"

        async def redirect(request: web.Request) -> web.Response:
            return web.Response(status=302, headers={"Location": target})

        async with answering(redirect) as client:
            with pytest.raises(GithubUnavailable, match="redirects to another host"):
                await client.user(SECRET)
    assert elsewhere == []


async def test_redirects_in_a_circle_end():
    async def circle(request: web.Request) -> web.Response:
        return web.Response(status=301, headers={"Location": str(request.rel_url)})

    async with answering(circle) as client:
        with pytest.raises(GithubUnavailable, match="redirects without end"):
            await client.repository(None, "a/b")


async def test_a_secret_is_never_sent_on_by_a_redirect_of_a_post():
    async def redirect(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    asked: list[str] = []
    async with answering(redirect) as client:
        with pytest.raises(GatewayError):
            await client.renewed(SECRET)
    assert asked == ["/login/oauth/access_token"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    ["login", "id", "name", "email", "access_token", "refresh_token", "expires_in", "error", "interval", "device_code",
     "user_code", "verification_uri", "full_name", "default_branch", "message", "key", "error_description"]
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    value=_JSON | st.dictionaries(_FIELDS, _JSON, max_size=8) | st.lists(st.dictionaries(_FIELDS, _JSON), max_size=3)
)
def test_whatever_the_answer_holds_it_is_an_error_of_ours_or_a_value(value: object):
    async def ask_all() -> None:
        async with asking(body_instead=json.dumps(value).encode()) as (_, client):
            code = client_module.DeviceCode("d", "u", "v", 900, 5)
            for question in (
                client.begin_device_login(), client.device_tokens(code), client.renewed("r"), client.user("t"),
                client.repositories("t", page=1, limit=5), client.repository("t", "a/b"), client.user_keys("t", "a"),
            ):  # fmt: skip
                with contextlib.suppress(GatewayError):
                    await question

    asyncio.run(ask_all())


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"\xff\xfe", b'{"login": "a\\u0000b", "id": 1}'])
async def test_what_is_no_json_is_said_with_the_setting_to_look_at(body: bytes):
    async with asking(body_instead=body) as (_, client):
        with pytest.raises(GatewayError, match=r"is \[github\] right\?|api_url in \[github\] right\?"):
            await client.user(SECRET)


async def test_a_token_that_would_be_two_header_lines_is_not_taken():
    async def issue(request: web.Request) -> web.Response:
        return web.json_response({"access_token": "gho_a\r\nHost: evil", "token_type": "bearer"})

    async with answering(issue) as client:
        with pytest.raises(GithubUnavailable, match="no usable access_token"):
            await client.renewed("r")


@pytest.mark.parametrize(("given", "hours"), [(28800, 8), ("28800", 8), (2**52, 366 * 24)])
async def test_how_long_a_token_lives_is_a_number_a_text_or_too_much(given: object, hours: int):
    async def issue(request: web.Request) -> web.Response:
        return web.json_response({"access_token": "ghu_a", "expires_in": given, "refresh_token": "ghr_b"})

    async with answering(issue) as client:
        issued = await client.renewed("r")
    assert issued.expires_at is not None
    assert round((issued.expires_at - datetime.now(UTC)).total_seconds() / 3600) == hours
