"""What GitHub tells, as values, and the protocol of whoever asks it (gateway/workspaces/github.py). No I/O here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

# GitHub's own rules (docs.github.com, "About usernames"); Enterprise Managed Users have an underscore in theirs.
_OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,98}[A-Za-z0-9])?")
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """What a login or a renewal gave. Never printed or logged."""

    access: str = field(repr=False)
    refresh: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None  # of the access token; None: it does not expire


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """A device login that has begun (RFC 8628 §3.2)."""

    device_code: str = field(repr=False)
    user_code: str  # for the person to type
    verification_url: str  # and where
    expires_seconds: float
    interval_seconds: float


@dataclass(frozen=True, slots=True)
class StillPending:
    """The person has not answered yet; when to ask again (RFC 8628 §3.5)."""

    interval_seconds: float | None = None  # a new one, for we asked too soon


@dataclass(frozen=True, slots=True)
class GithubUser:
    """Whom a token belongs to, and what else the answer told of the token."""

    login: str
    id: int
    name: str | None
    email: str | None  # for commits: public, or GitHub's address that leads nowhere
    scopes: tuple[str, ...] | None = None  # None: not told; apps and fine-grained tokens have permissions instead
    token_expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class GithubRepository:
    id: int  # stays when the repository is renamed
    full_name: str  # owner/name, as it is now
    default_branch: str
    is_private: bool
    is_archived: bool
    description: str | None
    pushed_at: datetime | None


@dataclass(frozen=True, slots=True)
class RepositoryPage:
    repositories: Sequence[GithubRepository]
    has_more: bool


class GithubApi(Protocol):
    """Asks GitHub. Each call ends in bounded time and raises GithubUnavailable (later, perhaps), GithubRefused (no), or
    GithubTokenRefused (the token is not known any more)."""

    async def begin_device_login(self) -> DeviceCode: ...

    async def device_tokens(self, code: DeviceCode) -> IssuedTokens | StillPending:
        """GithubRefused: the person declined, or the code has expired."""
        ...

    async def renewed(self, refresh_token: str) -> IssuedTokens:
        """The old pair is void once GitHub has answered. GithubTokenRefused: it was void before."""
        ...

    async def revoke(self, secrets: Sequence[str]) -> None: ...

    async def user(self, token: str) -> GithubUser: ...

    async def repositories(self, token: str, *, page: int, limit: int) -> RepositoryPage:
        """Those the token may see, the last pushed first."""
        ...

    async def repository(self, token: str | None, full_name: str) -> GithubRepository | None:
        """None: there is none, or none the token may see. A renamed one is found by its old name."""
        ...

    async def repository_by_id(self, token: str | None, repository_id: int) -> GithubRepository | None: ...

    async def user_keys(self, token: str | None, login: str) -> list[str]:
        """The public SSH keys of somebody, as OpenSSH lines without comment."""
        ...

    async def close(self) -> None: ...


def is_login(text: str) -> bool:
    """Whether it may be the name of a user or organisation there."""
    return _OWNER.fullmatch(text) is not None


def is_full_name(text: str) -> bool:
    """Whether it may be `owner/repository` there."""
    owner, _, name = text.partition("/")
    is_name = _REPOSITORY.fullmatch(name) is not None and name not in (".", "..") and not name.endswith(".git")
    return is_login(owner) and is_name
