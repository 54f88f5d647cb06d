"""The owner's GitHub account: logging in and out, and what is asked of GitHub in the account's name.

The tokens themselves, and when they are renewed, are in tokens.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from gateway.config import GitHubSettings
from gateway.credentials.decision import Origin
from gateway.credentials.git_settings import GitIdentity, identity_of
from gateway.errors import CommandRefused, GatewayError, GithubRefused, GithubTokenRefused, GithubUnavailable
from gateway.github.tokens import REFRESH_PLACE, TOKEN_PLACE, GithubRow, GithubTokens
from gateway.github.values import (
    DeviceCode,
    GithubApi,
    GithubRepository,
    GithubUser,
    IssuedTokens,
    RepositoryPage,
    StillPending,
)
from gateway.github.vault import Sealed
from gateway.interfaces import GitToken

T = TypeVar("T")

CHECK_SECONDS = 5.0  # for `github status`, which has an answer without it
REVOKE_SECONDS = 10.0
SEARCH_PAGE = 100
SEARCH_PAGES_MAX = 10
INTERVAL_SECONDS_MAX = 60.0
VALID = "valid"


@dataclass(frozen=True, slots=True)
class GithubStatus:
    """What `github status` shows."""

    is_logged_in: bool
    host: str  # whose account it is: "github.com"
    login: str | None = None  # also of a login that has ended
    name: str | None = None
    email: str | None = None
    scopes: tuple[str, ...] | None = None
    is_personal: bool = False  # a token that a person made, rather than a device login
    is_renewable: bool = False
    expires_at: datetime | None = None
    logged_in_at: datetime | None = None
    refreshed_at: datetime | None = None
    refresh_failed_at: datetime | None = None
    refresh_failure: str | None = None
    ended: str | None = None  # why a login is no more, although nobody logged out
    check: str | None = None  # what GitHub said to the token now: "valid", or why it could not be asked


@dataclass(frozen=True, slots=True)
class LoggedOut:
    """What `github logout` did. The token is gone from here in any case."""

    login: str | None  # None: nobody was logged in
    is_revoked: bool = False
    is_personal: bool = False
    why_not_revoked: str = ""
    by_hand_url: str = ""  # where its owner revokes it


class GithubAccount:
    """One per process, over the tokens of the state. The caller closes it."""

    def __init__(
        self,
        settings: GitHubSettings,
        *,
        api: GithubApi,
        tokens: GithubTokens,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._api = api
        self.tokens = tokens
        self._sleep = sleep
        self.why_not_for_git = ""  # why git in workspaces gets no token even so. Set by the wiring.

    async def close(self) -> None:
        await self.tokens.close()
        await self._api.close()

    async def git_token(self) -> GitToken:
        """See GithubTokens.git_token."""
        return await self.tokens.git_token()

    async def has_token(self) -> bool:
        return await self.tokens.has_token()

    async def token_suspected(self) -> None:
        await self.tokens.token_suspected()

    async def git_identity(self) -> GitIdentity | None:
        """Who commits are by, where git was not told otherwise."""
        return identity_of((await self.tokens.row()).profile, Origin.of_url(self._settings.web_url))

    async def rotate_vault(self) -> int:
        return await self.tokens.rotate_vault()

    # ------------------------------------------------------------------------------------------ logging in and out

    @property
    def scopes(self) -> str:
        """What a device login asks for."""
        return self._settings.scopes

    async def begin_device_login(self) -> DeviceCode:
        """Raises CommandRefused without an app's client_id."""
        if not self._settings.client_id:
            raise CommandRefused(
                "there is no client_id in [github], so GitHub does not know who asks (docs/github.md sets one up); "
                "or give a personal token with: homeport github login --with-token"
            )
        return await self._api.begin_device_login()

    async def finish_device_login(self, code: DeviceCode) -> GithubUser:
        """Wait until the person has answered, then log in. Cancelled before that, nothing is kept anywhere."""
        deadline = time.monotonic() + code.expires_seconds
        while True:
            await self._sleep(code.interval_seconds)
            if time.monotonic() > deadline:
                raise CommandRefused("nobody entered the code in time; begin again with: homeport github login")
            try:
                answer = await self._api.device_tokens(code)
            except GithubUnavailable:  # RFC 8628 §3.5: more slowly, then
                answer = StillPending(min(code.interval_seconds * 2, INTERVAL_SECONDS_MAX))
            if isinstance(answer, IssuedTokens):
                return await self._take(answer, is_personal=False)
            if answer.interval_seconds is not None:
                code = replace(code, interval_seconds=answer.interval_seconds)

    async def login_with_token(self, token: str) -> GithubUser:
        """Take a personal token, once GitHub has said whose it is."""
        return await self._take(IssuedTokens(token), is_personal=True)

    async def logout(self) -> LoggedOut:
        """Forget the tokens, then have GitHub forget them. Personal ones may be used elsewhere and are not revoked."""
        async with self.tokens.alone():
            row = await self.tokens.row()
            secrets, why_not = await self._secrets_of(row)
            await self.tokens.forget()
        await self.tokens.tell()
        if row.token is None:
            return LoggedOut(None)
        is_personal = row.profile.get("is_personal") is True
        if not is_personal and secrets:
            why_not = await self._revoked(secrets) or why_not
        return LoggedOut(
            str(row.profile.get("login") or "unknown"),
            is_revoked=not is_personal and bool(secrets) and not why_not,
            is_personal=is_personal,
            why_not_revoked=why_not,
            by_hand_url=f"{self._settings.web_url}/settings/{'tokens' if is_personal else 'applications'}",
        )

    async def status(self) -> GithubStatus:
        """Who is logged in; asks GitHub whether the token still holds, and does not wait long for the answer."""
        row = await self.tokens.row()
        check = None
        if row.token is not None and self.tokens.seconds_left(row) > 0:
            check = await self._checked(row.token)
            row = await self.tokens.row()  # which that may have changed
        return _status(row, check, host=urlsplit(self._settings.web_url).netloc)

    async def _take(self, issued: IssuedTokens, *, is_personal: bool) -> GithubUser:
        try:
            user = await self._api.user(issued.access)
        except GithubTokenRefused:
            raise CommandRefused("GitHub does not know this token; nothing has changed") from None
        profile = _profile(user, is_personal=is_personal, now=self.tokens.now())
        async with self.tokens.alone():
            await self.tokens.save(replace(issued, expires_at=issued.expires_at or user.token_expires_at), profile)
        await self.tokens.tell()
        return user

    async def _secrets_of(self, row: GithubRow) -> tuple[list[str], str]:
        """What GitHub shall forget, and why some of it cannot be named."""
        secrets, why_not = [], ""
        for sealed, place in ((row.token, TOKEN_PLACE), (row.refresh_token, REFRESH_PLACE)):
            if sealed is not None:
                try:
                    secrets.append(await self.tokens.opened(sealed, place))
                except GatewayError as error:  # a login that cannot be read must still be forgotten
                    why_not = error.user_message
        return secrets, why_not

    async def _revoked(self, secrets: list[str]) -> str:
        """Why not; empty if GitHub has taken them back."""
        try:
            async with asyncio.timeout(REVOKE_SECONDS):
                await self._api.revoke(secrets)
        except TimeoutError:
            return "GitHub did not answer"
        except GithubRefused:
            return f"{urlsplit(self._settings.web_url).netloc} does not let tokens be revoked from here"
        except GatewayError as error:
            return error.user_message
        return ""

    async def _checked(self, sealed: Sealed) -> str:
        """What GitHub says to the token, in words."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self.tokens.check(sealed)
        except TimeoutError:
            return "GitHub did not answer"
        except GatewayError as error:
            return error.user_message
        return VALID

    # ----------------------------------------------------------------------------------------- asking GitHub

    async def repositories(self, *, search: str | None, page: int, limit: int) -> RepositoryPage:
        """Those the account may see, the last pushed first. `search`: part of a name or description."""
        if search is None:
            return await self._asked(lambda token: self._api.repositories(token, page=page, limit=limit))
        found: list[GithubRepository] = []
        for number in range(1, SEARCH_PAGES_MAX + 1):
            got = await self._page_of_repositories(number)
            found += [each for each in got.repositories if _is_about(each, search.casefold())]
            if not got.has_more or len(found) > page * limit:
                break
        begin = (page - 1) * limit
        return RepositoryPage(found[begin : begin + limit], len(found) > begin + limit)

    async def repository(self, full_name: str) -> GithubRepository | None:
        """What GitHub knows of `owner/name`, also by a name it had before; None if nothing, or nobody answers."""
        return await self._if_answered(lambda token: self._api.repository(token, full_name))

    async def repository_by_id(self, repository_id: int) -> GithubRepository | None:
        """The same, by what stays when it is renamed."""
        return await self._if_answered(lambda token: self._api.repository_by_id(token, repository_id))

    async def user_keys(self, login: str) -> list[str]:
        """Somebody's public SSH keys. Anyone may ask for them; with a token more often."""
        return await self._api.user_keys(await self._token_if_any(), login)

    async def _page_of_repositories(self, number: int) -> RepositoryPage:
        return await self._asked(lambda token: self._api.repositories(token, page=number, limit=SEARCH_PAGE))

    async def _asked(self, question: Callable[[str], Awaitable[T]]) -> T:
        """Ask GitHub something as the account. A token that was refused is renewed once, if it can be."""
        token = await self.git_token()
        row = await self.tokens.row()
        try:
            return await question(token.secret)
        except GithubTokenRefused:
            if row.token is not None:
                await self.tokens.refused(row.token)
        return await question((await self.git_token()).secret)

    async def _if_answered(self, question: Callable[[str | None], Awaitable[T | None]]) -> T | None:
        try:
            return await question(await self._token_if_any())
        except GatewayError:
            return None

    async def _token_if_any(self) -> str | None:
        try:
            return (await self.git_token()).secret
        except GatewayError:
            return None


def _is_about(repository: GithubRepository, wanted: str) -> bool:
    return wanted in f"{repository.full_name} {repository.description or ''}".casefold()


def _profile(user: GithubUser, *, is_personal: bool, now: datetime) -> dict[str, Any]:
    return {
        "login": user.login,
        "id": user.id,
        "name": user.name,
        "email": user.email,
        "scopes": None if user.scopes is None else list(user.scopes),
        "is_personal": is_personal,
        "logged_in_at": now.isoformat(),
    }


def _status(row: GithubRow, check: str | None, *, host: str) -> GithubStatus:
    profile = row.profile
    scopes = profile.get("scopes")
    has_failed = profile.get("refresh_failed_at") is not None
    return GithubStatus(
        is_logged_in=row.token is not None,
        host=host,
        login=_text(profile, "login"),
        name=_text(profile, "name"),
        email=_text(profile, "email"),
        scopes=tuple(str(scope) for scope in scopes) if isinstance(scopes, list) else None,
        is_personal=profile.get("is_personal") is True,
        is_renewable=row.refresh_token is not None,
        expires_at=row.expires_at,
        logged_in_at=_moment(profile, "logged_in_at"),
        refreshed_at=_moment(profile, "refreshed_at"),
        refresh_failed_at=_moment(profile, "refresh_failed_at"),
        refresh_failure=_text(profile, "refresh_failure") if has_failed else None,
        ended=_text(profile, "ended"),
        check=check,
    )


def _text(profile: Mapping[str, Any], key: str) -> str | None:
    value = profile.get(key)
    return value if isinstance(value, str) else None


def _moment(profile: Mapping[str, Any], key: str) -> datetime | None:
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(_text(profile, key) or "")
    return None
