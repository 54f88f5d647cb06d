"""Whether git gets the token: what it asks, parsed once, and the answer with its reason. Pure.

The question comes from a program of the workspace, which may put anything in it, and may have been told what to ask by
a repository (a submodule's URL, a redirect). So nothing is searched for in it: protocol, host and port must be ours,
and the owner of the path the workspace's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from gateway.errors import CredentialRefused
from gateway.interfaces import Decision

ASK_MAX_BYTES = 8 * 1024
_DEFAULT_PORTS = {"https": 443, "http": 80}
# Without a dot at the end, which names the same host and is another to whoever compares.
_HOST = re.compile(r"((?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)|\[[0-9a-f:]+\])(?::([1-9][0-9]{0,4}))?")
_PATH = re.compile(r"[A-Za-z0-9._/-]{1,1000}")


class CredentialScope(StrEnum):
    """For which repositories a workspace gets the token. In order, the narrowest first."""

    OFF = "off"
    REPOSITORY = "repository"  # the one that it was made from
    OWNER = "owner"  # all of that one's owner: submodules, forks of a team
    ANY = "any"  # all on the host, also for workspaces that were not made from a repository


class AskKind(StrEnum):
    GET = "get"
    ERASE = "erase"  # the server refused what we gave
    EXPLAIN = "explain"  # say why there is nothing; nothing is ever given


@dataclass(frozen=True, slots=True)
class Origin:
    """Protocol, host and port of the one server that the token is for."""

    protocol: str
    host: str  # lower case, with the port where it is not the protocol's own

    @classmethod
    def of_url(cls, url: str) -> Origin:
        """Of a setting, which was checked when it was read. Raises CredentialRefused."""
        parts = urlsplit(url)
        return cls(parts.scheme, _plain_host(parts.scheme, parts.netloc))

    def __str__(self) -> str:
        return f"{self.protocol}://{self.host}"


@dataclass(frozen=True, slots=True)
class CredentialAsk:
    """What git asks (git-credential(1) INPUT/OUTPUT FORMAT). Still as hostile as it came."""

    kind: AskKind
    protocol: str = ""
    host: str = ""
    path: str = ""
    username: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, data: bytes) -> CredentialAsk:
        """The first line says what is asked; the others are git's. Raises CredentialRefused."""
        if len(data) > ASK_MAX_BYTES:
            raise CredentialRefused(f"git's question has more than {ASK_MAX_BYTES} bytes")
        try:
            first, *lines = data.decode().split("\n")
            kind = AskKind(first)
        except ValueError:
            raise CredentialRefused("this is not a question of git's credential helper") from None
        values: dict[str, str] = {}
        for name, _, value in (line.partition("=") for line in lines if line):
            if name in ("protocol", "host", "path", "username", "password"):
                if name in values:
                    raise CredentialRefused(f"git's question has two values for {name}")
                values[name] = value
        return cls(kind, **values)


def may_have_token(
    ask: CredentialAsk, *, origin: Origin, scope: CredentialScope, github_repo: str | None, username: str
) -> Decision:
    """`github_repo`: the `owner/repo` that the workspace was made from; `username`: what goes with the token."""
    if scope is CredentialScope.OFF:
        return Decision.refuse('credential_scope = "off" in [github]: workspaces get no token')
    if not _is_at(ask, origin):
        return Decision.refuse(f"the token is for {origin} alone")
    if ask.username and ask.username != username:
        return Decision.refuse("the URL or a setting of git names a user; take the user name out")
    if scope is CredentialScope.ANY:
        return Decision.allow()
    if github_repo is None:
        return Decision.refuse(f"this workspace was not made from a repository on {origin}, so it gets no token")
    own = github_repo.lower()
    owner = own.partition("/")[0]
    asked = (repository_of(ask.path) or "").lower()
    # No path at all: git was not told to say it (credential.useHttpPath), as where we are asked for the reason alone.
    if ask.path and not asked:
        return Decision.refuse("this is not a repository's path")
    if scope is CredentialScope.OWNER and asked.partition("/")[0] != owner:
        return Decision.refuse(f"this workspace gets the token for repositories of {owner} alone")
    # GitHub keeps a repository's wiki beside it.
    if scope is CredentialScope.REPOSITORY and asked.removesuffix(".wiki") != own:
        return Decision.refuse(f"this workspace gets the token for {own} alone")
    return Decision.allow()


def repository_of(path: str) -> str | None:
    """The `owner/repo` of a URL's path; more may follow (git-lfs asks for `owner/repo.git/info/lfs`). None: it is none,
    or has something in it that another reader of the URL might read otherwise."""
    parts = path.removeprefix("/").removesuffix("/").split("/")
    if not _PATH.fullmatch(path) or len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        return None
    owner, repository = parts[0], parts[1]
    repository = repository[:-4] if repository.lower().endswith(".git") else repository
    return f"{owner}/{repository}" if repository not in ("", ".", "..") else None


def _is_at(ask: CredentialAsk, origin: Origin) -> bool:
    try:
        return ask.protocol == origin.protocol and _plain_host(ask.protocol, ask.host) == origin.host
    except CredentialRefused:
        return False


def _plain_host(protocol: str, text: str) -> str:
    """In lower case, and without the protocol's own port. Raises CredentialRefused for whatever is odd: a user name,
    a line's end, letters that only look like ours."""
    match = _HOST.fullmatch(text.lower()) if text.isascii() else None
    port = int(match[2]) if match is not None and match[2] else None
    if match is None or (port or 0) > 65535:
        raise CredentialRefused("this is not a host's name")
    return match[1] if port in (None, _DEFAULT_PORTS.get(protocol)) else f"{match[1]}:{port}"
