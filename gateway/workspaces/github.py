"""Asks GitHub over HTTPS: the device login, renewals, and the few pages of the API that we need.

Only the two addresses of `[github]` are ever asked: no proxy of the environment, no cookie, no redirect to elsewhere.
Answers are bounded in time and size, and taken apart as what a stranger sent. No token is ever logged or put into a
message. Shapes and limits: https://docs.github.com/en/rest
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp

from gateway import __version__
from gateway.config import GitHubSettings
from gateway.errors import GithubRefused, GithubTokenRefused, GithubUnavailable
from gateway.github import (
    DeviceCode,
    GithubRepository,
    GithubUser,
    IssuedTokens,
    RepositoryPage,
    StillPending,
    is_full_name,
    is_login,
)
from gateway.words import duration_text

ANSWER_SECONDS = 15.0  # for a whole answer; it takes half a second
CONNECT_SECONDS = 8.0
ANSWER_MAX_BYTES = 4 * 1024 * 1024  # a page of 100 repositories is 0.6 MB
THREAD_MIN_BYTES = 64 * 1024  # longer answers are parsed beside the event loop
REDIRECTS_MAX = 3
PAGE_MAX = 100  # GitHub's own
SECRET_CHARACTERS_MAX = 4096
TEXT_CHARACTERS_MAX = 1000
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
        interval = _number(value, "interval", default=INTERVAL_SECONDS_DEFAULT)
        return DeviceCode(
            device_code=_secret(value, "device_code"),
            user_code=_required_text(value, "user_code"),
            verification_url=_required_text(value, "verification_uri"),
            expires_seconds=min(_number(value, "expires_in", default=900), DEVICE_SECONDS_MAX),
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
                given = _number(value, "interval", default=code.interval_seconds + INTERVAL_SECONDS_DEFAULT)
                return StillPending(min(max(given, 1), INTERVAL_SECONDS_MAX))
            case "expired_token" | "incorrect_device_code":
                raise GithubRefused("the code has expired; begin again with: homeport github login")
            case "access_denied":
                raise GithubRefused("the login was declined on GitHub; nothing has changed")
        return _tokens(self._oauth_value(answer), now=self._now())

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
        return _tokens(self._oauth_value(answer), now=self._now())

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
        login, user_id = _required_text(value, "login"), int(_number(value, "id"))
        if not is_login(login):
            raise GithubRefused(f"{self._host} answered with no login name; is api_url in [github] right?")
        scopes = answer.headers.get("X-OAuth-Scopes")
        return GithubUser(
            login=login,
            id=user_id,
            name=_text(value, "name"),
            email=_text(value, "email") or await self._commit_email(token, login, user_id),
            scopes=None if scopes is None else tuple(scope.strip() for scope in scopes.split(",") if scope.strip()),
            token_expires_at=_header_moment(answer.headers.get("GitHub-Authentication-Token-Expiration")),
        )

    async def repositories(self, token: str, *, page: int, limit: int) -> RepositoryPage:
        answer = await self._api(f"/user/repos?sort=pushed&per_page={min(limit, PAGE_MAX)}&page={page}", token)
        found = [_repository(item) for item in self._list(answer)]
        return RepositoryPage([each for each in found if each is not None], _has_next(answer.headers))

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
        shown = [_text(item, "email") for item in emails if item.get("primary") and item.get("visibility") == "public"]
        given = [address for item in emails if (address := _text(item, "email")) and address.endswith(unseen)]
        return next((address for address in (*shown, *given) if address), f"{user_id}+{login}{unseen}")

    async def _repository(self, path: str, token: str | None) -> GithubRepository | None:
        answer = await self._ask("GET", self._settings.api_url + path, token=token)
        if answer.status == 404:
            return None
        return _repository(self._object(self._accepted(answer)))

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
            return _Answer(response.status, response.headers, await _parsed(bytes(data)))

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
            raise GithubUnavailable(f"{self._host} was asked too often; try again {_when(headers)}")
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
            said = _text(value, "error_description") or _text(value, "error") or "no reason given"
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


# --------------------------------------------------------------------------------------- taking answers apart


async def _parsed(data: bytes) -> Any:
    if len(data) > THREAD_MIN_BYTES:
        return await asyncio.to_thread(_parse, data)
    return _parse(data)


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _tokens(value: Mapping[str, Any], *, now: datetime) -> IssuedTokens:
    expires_seconds = _number(value, "expires_in", default=0)
    return IssuedTokens(
        access=_secret(value, "access_token"),
        refresh=_secret(value, "refresh_token") if value.get("refresh_token") else None,
        expires_at=now + timedelta(seconds=expires_seconds) if expires_seconds > 0 else None,
    )


def _repository(value: Any) -> GithubRepository | None:
    """None: nothing that we could use."""
    if not isinstance(value, dict):
        return None
    full_name, branch = _text(value, "full_name") or "", _text(value, "default_branch") or ""
    if not is_full_name(full_name) or not branch:
        return None
    return GithubRepository(
        id=int(_number(value, "id")),
        full_name=full_name,
        default_branch=branch,
        is_private=value.get("private") is True,
        is_archived=value.get("archived") is True,
        description=_text(value, "description"),
        pushed_at=_iso_moment(_text(value, "pushed_at")),
    )


def _text(value: Mapping[str, Any], key: str) -> str | None:
    """One printable line, or None."""
    text = value.get(key)
    if not isinstance(text, str):
        return None
    return "".join(letter for letter in text[:TEXT_CHARACTERS_MAX] if letter.isprintable()).strip() or None


def _required_text(value: Mapping[str, Any], key: str) -> str:
    text = _text(value, key)
    if text is None:
        raise GithubUnavailable(f"GitHub's answer has no {key}; is [github] right?")
    return text


def _secret(value: Mapping[str, Any], key: str) -> str:
    """A token: it goes into headers and to git, where a line end would be another line."""
    text = value.get(key)
    if not isinstance(text, str) or not is_token(text):
        raise GithubUnavailable(f"GitHub's answer has no usable {key}; is [github] right?")
    return text


def is_token(text: str) -> bool:
    return 0 < len(text) <= SECRET_CHARACTERS_MAX and text.isascii() and text.isprintable() and " " not in text


def _number(value: Mapping[str, Any], key: str, *, default: float | None = None) -> float:
    """A number that is not negative and not beyond all measure; GitHub has sent some of them as texts."""
    number = value.get(key, default)
    if isinstance(number, str) and number.isascii() and number.isdecimal() and len(number) < 16:
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 2**53:
        raise GithubUnavailable(f"GitHub's answer has no usable {key}; is [github] right?")
    return number


def _header_moment(text: str | None) -> datetime | None:
    """`2030-01-02 03:04:05 UTC`, or with an offset (`+0000`)."""
    for form in ("%Y-%m-%d %H:%M:%S %Z", "%Y-%m-%d %H:%M:%S %z"):
        try:
            moment = datetime.strptime(text or "", form)  # noqa: DTZ007 (the zone is set below)
        except ValueError:
            continue
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def _iso_moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _has_next(headers: Mapping[str, str]) -> bool:
    """Only whether there is a next page (RFC 8288): its address is ours to make, not the answer's to name."""
    return 'rel="next"' in headers.get("Link", "")


def _when(headers: Mapping[str, str]) -> str:
    after, reset = headers.get("Retry-After", ""), headers.get("X-RateLimit-Reset", "")
    if after.isdecimal() and len(after) < 9:
        return f"in {duration_text(timedelta(seconds=int(after) or 1))}"
    if reset.isdecimal() and len(reset) < 12:
        return f"in {duration_text(timedelta(seconds=max(int(reset) - time.time(), 1)))}"
    return "in a few minutes"


def _said(answer: _Answer) -> str:
    return (_text(answer.value, "message") if isinstance(answer.value, dict) else None) or "no reason given"


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
