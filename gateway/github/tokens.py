"""The owner's GitHub tokens: sealed in the database, and valid when somebody asks for one.

Tokens are in memory only for the length of a question; between two of them they are sealed (vault.py). Whoever changes
them (login, logout, renewal, rotation) holds one lock, in this process and among all of this state, because a refresh
token works once: two who renew at the same time would lose the login.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from gateway.config import GitHubSettings
from gateway.errors import (
    CommandRefused,
    GatewayError,
    GithubTokenRefused,
    GithubUnavailable,
    SecretUnreadable,
    StoreUnavailable,
)
from gateway.events import Event
from gateway.file_lock import file_lock
from gateway.github.values import GithubApi, IssuedTokens
from gateway.github.vault import Place, Sealed, Vault
from gateway.interfaces import GitToken
from gateway.journal import JournalAction
from gateway.log import log_event, log_failure, log_warning

T = TypeVar("T")

TOKEN_PLACE = Place("settings", "singleton", "github_token")
REFRESH_PLACE = Place("settings", "singleton", "github_refresh_token")
LOCK_FILE = "github.lock"
LOCK_SECONDS = 40.0  # two questions to GitHub, each of which ends after 15 s
CLOSE_SECONDS = 8.0  # a renewal takes half a second; one that takes longer does not come to an end
# After a failure GitHub is left alone for so long: while the old token is still good, and when it is not any more.
RETRY_SECONDS = 60.0
RETRY_EXPIRED_SECONDS = 5.0
LOG_IN = "log in with: homeport github login (or: ssh lobby@HOST github login)"


@dataclass(frozen=True, slots=True)
class GithubRow:
    """The account as it stands in the database."""

    token: Sealed | None = None
    refresh_token: Sealed | None = None
    expires_at: datetime | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)  # JSON, nothing secret: see _profile


class AccountStore(Protocol):
    """What this module asks of the database (gateway/store)."""

    async def github_row(self) -> GithubRow: ...

    async def save_github(self, row: GithubRow) -> None: ...

    async def probe_writable(self) -> None: ...

    async def record(
        self, action: JournalAction, *, success: bool, details: Mapping[str, object] | None = None
    ) -> None: ...


class GithubTokens:
    """Implements GitTokens. One per process; `close` waits for a renewal that is under way."""

    def __init__(
        self,
        settings: GitHubSettings,
        *,
        api: GithubApi,
        vault: Vault,
        store: AccountStore,
        lock_dir: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._api = api
        self._vault = vault
        self._store = store
        self._lock_file = lock_dir / LOCK_FILE
        self.now = now
        self._changing = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None
        self._retry_at = 0.0  # by time.monotonic()
        self._journalled: Sealed | None = None  # what could not be opened, and was written down
        # Called when somebody logged in or out, and when the login ended. Set by the wiring.
        self.changed: Callable[[], Awaitable[None]] | None = None

    async def close(self) -> None:
        renewal = self._renewal
        if renewal is not None and not renewal.done():  # cut off, it could lose a token that GitHub has issued
            await asyncio.wait({renewal}, timeout=CLOSE_SECONDS)
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    async def git_token(self) -> GitToken:
        """See GitTokens. Raises SecretUnreadable and GithubUnavailable as well."""
        row = await self.row()
        if self._is_due(row) and self._may_try():
            await self._renewed()
            row = await self.row()
        if row.token is None:
            raise CommandRefused(_why_none(row))
        if self.seconds_left(row) <= 0:
            raise _expired(row)
        parts = urlsplit(self._settings.web_url)
        secret = await self.opened(row.token, TOKEN_PLACE)
        return GitToken(host=parts.netloc, protocol=parts.scheme, secret=secret, expires_at=row.expires_at)

    async def has_token(self) -> bool:
        """Whether somebody has logged in, from the state alone; the token may have been revoked meanwhile."""
        return (await self.row()).token is not None

    async def token_suspected(self) -> None:
        """A server refused the token: ask GitHub, so that the next one who wants it has a good one or is told why not.
        Never fails."""
        with contextlib.suppress(GatewayError):  # without an answer everything stays as it is
            row = await self.row()
            if row.token is not None and self.seconds_left(row) > 0:
                await self.check(row.token)

    async def refresh_if_due(self) -> str:
        """The scheduled job; its result in words. A failure is in the journal and in `github status`."""
        if not self._is_due(await self.row()):
            return "nothing to renew"
        await self._renewed()
        after = await self.row()
        return "renewed" if after.token is not None and not self._is_due(after) else "not renewed"

    async def expires_seconds(self) -> float | None:
        """How long the token is valid yet; None: there is none, or it does not expire."""
        row = await self.row()
        return None if row.token is None or row.expires_at is None else self.seconds_left(row)

    async def rotate_vault(self) -> int:
        """Seal everything under a new key, then remove the old ones; how many there were.

        Interrupted anywhere, every secret still opens: the new key is on the disk before anything is sealed under it,
        the row changes at once, and old keys go last. What was left lying is removed by the next rotation.
        """
        async with self.alone():
            return await _to_end(self._rotate())

    # ----------------------------------------------------------- for whoever changes the account (github/account.py)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Nobody else changes the account inside the block. Raises GithubUnavailable if others do, and do not end."""
        async with contextlib.AsyncExitStack() as held:
            try:
                await held.enter_async_context(self._changing)
                await held.enter_async_context(file_lock(self._lock_file, seconds=LOCK_SECONDS))
            except TimeoutError:
                raise GithubUnavailable("the GitHub account is being changed by another command; try again") from None
            except OSError as error:
                raise StoreUnavailable(f"{self._lock_file} cannot be opened: {error.strerror}") from error
            yield

    async def row(self) -> GithubRow:
        return await self._store.github_row()

    async def save(self, issued: IssuedTokens, profile: Mapping[str, Any]) -> None:
        """Replace the login. The caller is `alone`."""
        token = await self._sealed(issued.access, TOKEN_PLACE)
        refresh_token = await self._sealed(issued.refresh, REFRESH_PLACE)
        await self._replace(GithubRow(token, refresh_token, issued.expires_at, profile))
        self._retry_at = 0.0

    async def forget(self) -> None:
        """Remove the login. The caller is `alone`."""
        await self._replace(GithubRow())

    async def opened(self, sealed: Sealed, place: Place) -> str:
        """The secret. Raises SecretUnreadable, which is in the journal then."""
        try:
            return await asyncio.to_thread(self._vault.open, sealed, place)
        except SecretUnreadable as error:
            if self._journalled != sealed:  # once: whoever asks, may ask often
                self._journalled = sealed
                log_failure(Event.VAULT_FAILED, reason=error.detail, column=place.column)
                await self._journal(success=False, reason=error.user_message)
            raise

    def seconds_left(self, row: GithubRow) -> float:
        return float("inf") if row.expires_at is None else (row.expires_at - self.now()).total_seconds()

    async def check(self, sealed: Sealed) -> None:
        """Ask GitHub whose the token is. If nobody's: renew it, or end the login, and raise GithubTokenRefused."""
        try:
            await self._api.user(await self.opened(sealed, TOKEN_PLACE))
        except GithubTokenRefused:
            await self.refused(sealed)
            raise

    async def refused(self, sealed: Sealed) -> None:
        """GitHub does not know this token: renew it, or end the login."""
        await self._renewed(suspected=sealed)
        async with self.alone():
            row = await self.row()
            if row.token == sealed and row.refresh_token is None:
                await self._end(row, "GitHub has revoked the token")

    async def tell(self) -> None:
        """Whoever listens hears that the account is another now."""
        if self.changed is not None:
            await self.changed()

    async def _rotate(self) -> int:
        row = await self.row()
        token = await self.opened(row.token, TOKEN_PLACE) if row.token else None
        refresh_token = await self.opened(row.refresh_token, REFRESH_PLACE) if row.refresh_token else None
        key_id = await asyncio.to_thread(self._vault.make_key)
        sealed, sealed_refresh = (
            await self._sealed(token, TOKEN_PLACE),
            await self._sealed(refresh_token, REFRESH_PLACE),
        )
        await self._store.save_github(replace(row, token=sealed, refresh_token=sealed_refresh))
        return await asyncio.to_thread(lambda: self._vault.remove_keys(before=key_id))

    async def _replace(self, row: GithubRow) -> None:
        await _to_end(self._store.save_github(row))

    # ------------------------------------------------------------------------------------------------ renewing

    def _is_due(self, row: GithubRow) -> bool:
        is_renewable = row.refresh_token is not None and row.expires_at is not None
        return is_renewable and self.seconds_left(row) <= self._settings.refresh_minutes * 60

    def _may_try(self) -> bool:
        """Not right after a failure; a renewal that is under way is always joined."""
        return self._is_renewing() or time.monotonic() >= self._retry_at

    async def _renewed(self, *, suspected: Sealed | None = None) -> None:
        """Have the tokens renewed, by one renewal however many ask. It goes on if whoever asked is cancelled."""
        if suspected is not None and self._is_renewing():
            await self._joined()  # that one may have found nothing due, and have left the token as it is
        if not self._is_renewing():
            self._renewal = asyncio.create_task(self._renew(suspected), name="github:renewal")
            self._renewal.add_done_callback(_seen)
        await self._joined()

    async def _joined(self) -> None:
        assert self._renewal is not None
        try:
            await asyncio.shield(self._renewal)
        except GatewayError as error:  # the row says what holds now; whoever asked needs no more
            log_warning(Event.GITHUB_RENEWAL_FAILED, error_code=error.code, reason=error.user_message)

    def _is_renewing(self) -> bool:
        return self._renewal is not None and not self._renewal.done()

    async def _renew(self, suspected: Sealed | None) -> None:
        """`suspected`: renew even if it is not due, unless another token has taken its place meanwhile."""
        async with self.alone():
            row = await self.row()
            if row.refresh_token is None or not (self._is_due(row) or row.token == suspected):
                return
            try:
                refresh_token = await self.opened(row.refresh_token, REFRESH_PLACE)
                # The old pair is void once GitHub has answered: first see that the new one can be written down.
                await self._store.probe_writable()
                issued = await self._api.renewed(refresh_token)
            except GithubTokenRefused as error:
                await self._end(row, f"GitHub does not renew the login any more ({error.detail})")
                return
            except GatewayError as error:
                await self._could_not_renew(row, error)
                return
            profile = {**row.profile, "refreshed_at": self.now().isoformat(), "refresh_failed_at": None}
            await self.save(replace(issued, refresh=issued.refresh or refresh_token), profile)
        await self._journal(success=True, expires_at=issued.expires_at)
        log_event(Event.GITHUB_TOKEN_RENEWED)

    async def _could_not_renew(self, row: GithubRow, error: GatewayError) -> None:
        """The old token stays: it may be valid for some minutes yet, and GitHub may be back by then."""
        self._retry_at = time.monotonic() + (RETRY_SECONDS if self.seconds_left(row) > 0 else RETRY_EXPIRED_SECONDS)
        profile = {
            **row.profile,
            "refresh_failed_at": self.now().isoformat(),
            "refresh_failure": error.user_message,
        }
        log_warning(Event.GITHUB_RENEWAL_FAILED, error_code=error.code, reason=error.user_message)
        await self._replace(replace(row, profile=profile))
        await self._journal(success=False, reason=error.user_message)

    async def _end(self, row: GithubRow, reason: str) -> None:
        """GitHub knows the login no more: forget it, and remember why."""
        profile = {"login": row.profile.get("login"), "ended": reason, "ended_at": self.now().isoformat()}
        await self._replace(GithubRow(profile=profile))
        log_warning(Event.GITHUB_LOGIN_ENDED, reason=reason)
        await self._journal(success=False, reason=reason)
        await self.tell()

    async def _sealed(self, secret: str | None, place: Place) -> Sealed | None:
        return None if secret is None else await asyncio.to_thread(self._vault.seal, secret, place)

    async def _journal(self, *, success: bool, **details: object) -> None:
        await self._store.record(JournalAction.TOKEN_REFRESH, success=success, details=details)


async def _to_end(change: Coroutine[Any, Any, T]) -> T:
    """Have a change made whole, in milliseconds, before the cancellation of whoever asked for it goes on. Cancelled in
    the middle of a thread or a write, both would go on without the lock."""
    task = asyncio.create_task(change, name="github:change")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        _seen(task)
        raise


def _why_none(row: GithubRow) -> str:
    ended = row.profile.get("ended")
    return f"{ended}; {LOG_IN}" if isinstance(ended, str) else f"nobody is logged in to GitHub; {LOG_IN}"


def _expired(row: GithubRow) -> GatewayError:
    if row.refresh_token is None:
        return CommandRefused(f"the GitHub token has expired; {LOG_IN}")
    why = row.profile.get("refresh_failure") or "GitHub did not answer"
    return GithubUnavailable(f"the GitHub token has expired and could not be renewed: {why}; try again later")


def _seen(renewal: asyncio.Task[Any]) -> None:
    """Whoever waited for it may be gone."""
    if not renewal.cancelled():
        renewal.exception()
