"""Asks GitHub over HTTPS: the device login, renewals, and the few pages of the API that we need.

Only the two addresses of `[github]` are ever asked: no proxy of the environment, no cookie, no redirect to elsewhere.
Answers are bounded in time and size, and taken apart as what a stranger sent. No token is ever logged or put into a
message. Shapes and limits: https://docs.github.com/en/rest
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp

from gateway import __version__
from gateway.config import GitHubSettings
from gateway.errors import GithubRefused, GithubTokenRefused, GithubUnavailable
from gateway.github.values import (
    DeviceCode,
    GithubRepository,
    GithubUser,
    IssuedTokens,
    RepositoryPage,
    StillPending,
    is_full_name,
    is_login,
)
from gateway.workspaces.github_answers import (
    has_next,
    header_moment,
    issued_tokens,
    number_of,
    parsed,
    repository_of,
    required_text,
    secret_of,
    text_of,
    when_again,
)

ANSWER_SECONDS = 15.0  # for a whole answer; it takes half a second
CONNECT_SECONDS = 8.0
ANSWER_MAX_BYTES = 4 * 1024 * 1024  # a page of 100 repositories is 0.6 MB
REDIRECTS_MAX = 3
PAGE_MAX = 100  # GitHub's own
API_VERSION = "2022-11-28"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
# RFC 8628 §3.2 and §3.5: what holds where the answer says nothing.
INTERVAL_SECONDS_DEFAULT = 5
INTERVAL_SECONDS_MAX = 60
DEVICE_SECONDS_MAX = 3600
# A refresh token that will never work again, as GitHub says it and as RFC 6749 §5.2 does.
_VOID_REFRESH = ("bad_refresh_token", "invalid_grant")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    value: Any  # parsed JSON; None if it was none


class GithubClient:
    """Implements GithubApi. One session of connections, opened at the first question; `close` it."""

    def __init__(self, settings: GitHubSettings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings = settings
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # ------------------------------------------------------------------------------------------- logging in

    async def begin_device_login(self) -> DeviceCode:
        form = {"client_id": self._settings.client_id, "scope": self._settings.scopes}
        answer = await self._ask("POST", f"{self._settings.web_url}/login/device/code", form=form)
        if answer.status == 404:
            raise GithubRefused(
                f"{self._host} knows no app with the client_id {self._settings.client_id!r}; "
                "set it right in [github] (docs/github.md)"
            )
        value = self._oauth_value(answer)
        interval = number_of(value, "interval", default=INTERVAL_SECONDS_DEFAULT)
        return DeviceCode(
            device_code=secret_of(value, "device_code"),
            user_code=required_text(value, "user_code"),
            verification_url=required_text(value, "verification_uri"),
            expires_seconds=min(number_of(value, "expires_in", default=900), DEVICE_SECONDS_MAX),
            interval_seconds=min(max(interval, 1), INTERVAL_SECONDS_MAX),
        )

    async def device_tokens(self, code: DeviceCode) -> IssuedTokens | StillPending:
        form = {"client_id": self._settings.client_id, "device_code": code.device_code, "grant_type": DEVICE_GRANT}
        answer = await self._ask("POST", f"{self._settings.web_url}/login/oauth/access_token", form=form)
        value = answer.value if isinstance(answer.value, dict) else {}
        match value.get("error"):
            case "authorization_pending":
                return StillPending()
            case "slow_down":
                # GitHub says the new interval; RFC 8628 says five seconds more, and the caller knows of what.
                given = number_of(value, "interval", default=code.interval_seconds + INTERVAL_SECONDS_DEFAULT)
                return StillPending(min(max(given, 1), INTERVAL_SECONDS_MAX))
            case "expired_token" | "incorrect_device_code":
                raise GithubRefused("the code has expired; begin again with: homeport github login")
            case "access_denied":
                raise GithubRefused("the login was declined on GitHub; nothing has changed")
        return issued_tokens(self._oauth_value(answer), now=self._now())

    async def renewed(self, refresh_token: str) -> IssuedTokens:
        form = {
            "client_id": self._settings.client_id,
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
        }
        answer = await self._ask("POST", f"{self._settings.web_url}/login/oauth/access_token", form=form)
        error = answer.value.get("error") if isinstance(answer.value, dict) else None
        if error in _VOID_REFRESH:
            raise GithubTokenRefused("GitHub does not renew the login any more", detail=str(error))
        return issued_tokens(self._oauth_value(answer), now=self._now())

    async def revoke(self, secrets: Sequence[str]) -> None:
        """Needs no client secret, and must be asked without a token (docs.github.com/rest/credentials/revoke)."""
        answer = await self._ask(
            "POST", f"{self._settings.api_url}/credentials/revoke", json_body={"credentials": list(secrets)}
        )
        self._accepted(answer)

    # ---------------------------------------------------------------------------------------------- the API

    async def user(self, token: str) -> GithubUser:
        answer = await self._api("/user", token)
        value = self._object(answer)
        login, user_id = required_text(value, "login"), int(number_of(value, "id"))
        if not is_login(login):
            raise GithubRefused(f"{self._host} answered with no login name; is api_url in [github] right?")
        scopes = answer.headers.get("X-OAuth-Scopes")
        return GithubUser(
            login=login,
            id=user_id,
            name=text_of(value, "name"),
            email=text_of(value, "email") or await self._commit_email(token, login, user_id),
            scopes=None if scopes is None else tuple(scope.strip() for scope in scopes.split(",") if scope.strip()),
            token_expires_at=header_moment(answer.headers.get("GitHub-Authentication-Token-Expiration")),
        )

    async def repositories(self, token: str, *, page: int, limit: int) -> RepositoryPage:
        answer = await self._api(f"/user/repos?sort=pushed&per_page={min(limit, PAGE_MAX)}&page={page}", token)
        found = [repository_of(item) for item in self._list(answer)]
        return RepositoryPage([each for each in found if each is not None], has_next(answer.headers))

    async def repository(self, token: str | None, full_name: str) -> GithubRepository | None:
        return await self._repository(f"/repos/{full_name}", token) if is_full_name(full_name) else None

    async def repository_by_id(self, token: str | None, repository_id: int) -> GithubRepository | None:
        return await self._repository(f"/repositories/{int(repository_id)}", token)

    async def user_keys(self, token: str | None, login: str) -> list[str]:
        if not is_login(login):
            raise GithubRefused(f"{login!r} cannot be a name on GitHub")
        answer = await self._ask("GET", f"{self._settings.api_url}/users/{login}/keys?per_page={PAGE_MAX}", token=token)
        if answer.status == 404:
            raise GithubRefused(f"{self._host} knows nobody named {login}")
        keys = [item.get("key") for item in self._list(self._accepted(answer)) if isinstance(item, dict)]
        return [key for key in keys if isinstance(key, str)]

    async def _commit_email(self, token: str, login: str, user_id: int) -> str:
        """For somebody who shows none: GitHub may refuse pushes with an address that is kept private (GH007)."""
        unseen = f"@users.noreply.{self._web_host}"
        try:
            emails = [item for item in self._list(await self._api("/user/emails", token)) if isinstance(item, dict)]
        except GithubTokenRefused:
            raise
        except GithubRefused:  # the token may not ask for them
            emails = []
        shown = [
            text_of(item, "email") for item in emails if item.get("primary") and item.get("visibility") == "public"
        ]
        given = [address for item in emails if (address := text_of(item, "email")) and address.endswith(unseen)]
        return next((address for address in (*shown, *given) if address), f"{user_id}+{login}{unseen}")

    async def _repository(self, path: str, token: str | None) -> GithubRepository | None:
        answer = await self._ask("GET", self._settings.api_url + path, token=token)
        if answer.status == 404:
            return None
        return repository_of(self._object(self._accepted(answer)))

    async def _api(self, path: str, token: str) -> _Answer:
        return self._accepted(await self._ask("GET", self._settings.api_url + path, token=token))

    # -------------------------------------------------------------------------------------- one question

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        token: str | None = None,
        form: Mapping[str, str] | None = None,
        json_body: object = None,
    ) -> _Answer:
        """Raises GithubUnavailable. A redirect is followed on the same host alone, and never with a body."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                for _ in range(REDIRECTS_MAX + 1):
                    answer = await self._ask_once(method, url, headers, form, json_body)
                    target = answer.headers.get("Location", "")
                    if method != "GET" or answer.status not in (301, 302, 307, 308) or not target:
                        return self._in_order(answer)
                    url = self._redirected(url, target)
        except TimeoutError:
            raise GithubUnavailable(f"{_host_of(url)} did not answer within {ANSWER_SECONDS:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise GithubUnavailable(f"{_host_of(url)} cannot be reached: {_why(error)}") from None
        raise GithubUnavailable(f"{self._host} redirects without end")

    async def _ask_once(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None, json_body: object
    ) -> _Answer:
        async with self._opened().request(
            method, url, headers=headers, data=form, json=json_body, allow_redirects=False
        ) as response:
            data = bytearray()
            async for chunk in response.content.iter_chunked(64 * 1024):  # unpacked: so a bomb is bounded as well
                data += chunk
                if len(data) > ANSWER_MAX_BYTES:
                    raise GithubUnavailable(f"{_host_of(url)} answered with more than {ANSWER_MAX_BYTES} bytes")
            return _Answer(response.status, response.headers, await parsed(bytes(data)))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS),
                headers={
                    "Accept": "application/json",
                    "User-Agent": f"homeport/{__version__}",
                    "X-GitHub-Api-Version": API_VERSION,
                },
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    def _redirected(self, url: str, target: str) -> str:
        there = urljoin(url, target)
        if urlsplit(there)[:2] != urlsplit(url)[:2]:
            raise GithubUnavailable(f"{self._host} redirects to another host, which is not followed")
        return there

    def _in_order(self, answer: _Answer) -> _Answer:
        """Raises GithubUnavailable for what has nothing to do with the question: failures, limits."""
        if answer.status >= 500:
            raise GithubUnavailable(f"{self._host} fails (HTTP {answer.status}); try again later")
        headers = answer.headers
        is_spent = headers.get("X-RateLimit-Remaining") == "0" or "Retry-After" in headers
        if answer.status == 429 or (answer.status == 403 and is_spent):
            raise GithubUnavailable(f"{self._host} was asked too often; try again {when_again(headers)}")
        return answer

    def _accepted(self, answer: _Answer) -> _Answer:
        """Raises GithubTokenRefused and GithubRefused."""
        if answer.status == 401:
            raise GithubTokenRefused("GitHub does not know the token any more", detail=_said(answer))
        if not 200 <= answer.status < 300:
            raise GithubRefused(f"{self._host} refused (HTTP {answer.status}): {_said(answer)}")
        return answer

    def _oauth_value(self, answer: _Answer) -> Mapping[str, Any]:
        value = answer.value
        if isinstance(value, dict) and "error" in value:
            said = text_of(value, "error_description") or text_of(value, "error") or "no reason given"
            if value["error"] == "device_flow_disabled":
                said = "the device flow is switched off for this app; switch it on in its settings (docs/github.md)"
            raise GithubRefused(f"{self._host} refused: {said}")
        return self._object(self._accepted(answer))

    def _object(self, answer: _Answer) -> Mapping[str, Any]:
        if not isinstance(answer.value, dict):
            raise GithubUnavailable(f"{self._host} answered with something else than expected; is [github] right?")
        return answer.value

    def _list(self, answer: _Answer) -> list[Any]:
        if not isinstance(answer.value, list):
            raise GithubUnavailable(f"{self._host} answered with something else than expected; is [github] right?")
        return answer.value

    @property
    def _host(self) -> str:
        return _host_of(self._settings.api_url)

    @property
    def _web_host(self) -> str:
        return urlsplit(self._settings.web_url).hostname or ""


def _said(answer: _Answer) -> str:
    return (text_of(answer.value, "message") if isinstance(answer.value, dict) else None) or "no reason given"


def _why(error: Exception) -> str:
    """In words that name no path and no token: aiohttp's own may hold the whole URL."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted here"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        # asyncio's own words name the address again; those of a name that was not found have a negative number.
        return (os.strerror(number) if number > 0 else error.os_error.strerror or "no connection").lower()
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection"
    return type(error).__name__


def _host_of(url: str) -> str:
    return quote(urlsplit(url).netloc, safe=":.[]")
