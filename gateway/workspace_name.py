"""What a workspace may be called and where it may come from. Pure functions that return the checked value.

Each refuses with NameRefused and says what would be accepted. The database checks the same rules again, more coarsely.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, unquote, urlsplit

from gateway.errors import NameRefused

NAME_CHARACTERS_MAX = 50
DESCRIPTION_CHARACTERS_MAX = 200
BRANCH_CHARACTERS_MAX = 255
URL_CHARACTERS_MAX = 2000

# Login names with a meaning of their own, now or later; account names that a generated passwd file has already;
# and words that would read like one of our commands' options or answers.
RESERVED_NAMES = frozenset(
    (
        "admin", "administrator", "all", "anonymous", "api", "bin", "config", "daemon", "enroll", "gateway", "git",
        "guest", "health", "help", "homeport", "host", "keeper", "lobby", "localhost", "login", "logout", "me", "new",
        "nobody", "nogroup", "none", "operator", "root", "self", "session", "sessions", "share", "ssh", "sshd",
        "sudo", "sys", "system", "user", "workspace", "workspaces",
    )
)  # fmt: skip

# fullmatch everywhere: `$` would let a final newline pass.
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]*")
_OWNER = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}")
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}")
_SSH_SHORT = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)@([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?):([^:]+)")
_SSH_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
# Neither git's own words nor an option's: owner/repo, as people write it.
_OWNER_AND_REPOSITORY = re.compile(r"[^/:@\s]+/[^/:@\s]+")
GITHUB_URL = "https://github.com"
# git-check-ref-format(1): what no reference may contain.
_BRANCH_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)")


@dataclass(frozen=True, slots=True)
class WorkspaceName:
    display: str  # as given
    slug: str  # what stands before the @: lower case


@dataclass(frozen=True, slots=True)
class RepositoryUrl:
    """Something git may be given: no command, no option, no secret in it."""

    url: str
    scheme: str  # https or ssh; http only where it was allowed for its host
    host: str  # lower case
    port: int | None
    path: str  # without slashes around it
    github_repo: str | None = None  # "owner/repo", if it is on the GitHub that is configured


@dataclass(frozen=True, slots=True)
class GitHosts:
    """Where repositories may come from: one GitHub, and hosts that were named beside it."""

    web_url: str = GITHUB_URL  # https, or http on loopback (config.py)
    others: tuple[str, ...] = ()  # names of hosts; "*" is any

    def parse(self, text: str) -> RepositoryUrl:
        """`owner/repo` on the GitHub, or a URL on an allowed host. Raises NameRefused."""
        if _OWNER_AND_REPOSITORY.fullmatch(text):
            return self._on_github(f"{self.web_url}/{parse_github_repo(text.removesuffix('.git'))}")
        found = self._on_github(text)
        if found.github_repo is None and not self._is_allowed(found.host):
            raise NameRefused(
                f"repositories may not be cloned from {found.host}; to allow it, add it to the setting hosts in [git]"
                f" (now: {', '.join((self._web.hostname or '', *self.others))})"
            )
        return found

    def _on_github(self, text: str) -> RepositoryUrl:
        web = self._web
        found = parse_repository_url(text, is_http_allowed=web.scheme == "http")
        is_http = found.scheme == "http"
        # Plain http is for that one listener on loopback, and for no other port of it.
        if is_http and (found.host, found.port) != (web.hostname, web.port):
            raise NameRefused(f"{text!r} cannot be cloned; plain http is not safe, use https")
        host = _GITHUB_NAMES.get(found.host, found.host)
        # Another port is another server. ssh has its own, whatever the web's is.
        if host != web.hostname or found.port != (None if found.scheme == "ssh" else web.port):
            return found
        prefix = web.path.strip("/")
        if prefix and not found.path.startswith(f"{prefix}/"):
            return found
        repository = found.path.removeprefix(f"{prefix}/" if prefix else "")
        repository = repository[:-4] if repository.lower().endswith(".git") else repository
        return replace(found, github_repo=parse_github_repo(repository))

    @property
    def _web(self) -> SplitResult:
        return urlsplit(self.web_url)

    def _is_allowed(self, host: str) -> bool:
        named = {name.strip().lower() for name in self.others}
        return "*" in named or host in named or _GITHUB_NAMES.get(host, host) == self._web.hostname


# Other names of github.com itself; docs.github.com: "Using SSH over the HTTPS port".
_GITHUB_NAMES = {"www.github.com": "github.com", "ssh.github.com": "github.com"}


def parse_workspace_name(text: str) -> WorkspaceName:
    """Up to 50 letters, digits, `-` and `_`, beginning with a letter or digit; not a reserved word."""
    slug = text.lower()
    rule = f"use up to {NAME_CHARACTERS_MAX} letters, digits, - and _, beginning with a letter or digit"
    if not text:
        raise NameRefused(f"a workspace needs a name; {rule}")
    if len(text) > NAME_CHARACTERS_MAX:
        raise NameRefused(f"the name is {len(text)} characters long; {rule}")
    if not _NAME.fullmatch(text) or not _SLUG.fullmatch(slug):
        raise NameRefused(f"{text!r} cannot be a workspace's name; {rule}")
    if slug in RESERVED_NAMES:
        raise NameRefused(f"the name {slug!r} is reserved; choose another, for example {slug}-1")
    return WorkspaceName(text, slug)


def parse_github_repo(text: str) -> str:
    """`owner/repo` by GitHub's own rules, which leave no room for path or option tricks."""
    owner, slash, repository = text.partition("/")
    is_sound = (
        bool(slash)
        and _OWNER.fullmatch(owner) is not None
        and _REPOSITORY.fullmatch(repository) is not None
        and repository not in (".", "..")
        and not repository.lower().endswith(".git")
    )
    if not is_sound:
        raise NameRefused(f"{text!r} is not a GitHub repository; write for example octocat/hello-world")
    return text


def parse_repository_url(text: str, *, is_http_allowed: bool = False) -> RepositoryUrl:
    """`https://host/path`, `ssh://user@host/path` or `user@host:path`; nothing with a secret or a command in it.

    `ext::`, `file:` and the like make git execute or read things here; a password in a URL ends up in logs and `ps`.
    Which hosts are allowed is not asked here (`GitHosts`).
    """
    if len(text) > URL_CHARACTERS_MAX or re.search(r"[\x00-\x20\x7f]", text) or not text.isascii():
        raise NameRefused(f"this is not a repository's URL; {_FOR_EXAMPLE}")
    short = _SSH_SHORT.fullmatch(text)
    if short is not None:
        _check_path(text, short[3])
        return RepositoryUrl(text, "ssh", short[2].lower(), None, short[3].strip("/"))
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise NameRefused(f"this is not a URL; {_FOR_EXAMPLE}") from None
    # First, because the refusals below repeat the URL.
    if parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        raise NameRefused("take the user name and password out of the URL; secrets do not belong in it")
    schemes = ("https", "ssh", "http") if is_http_allowed else ("https", "ssh")
    # git reads the scheme as it is written: `HTTPS://` would be a helper of that name.
    if not text.startswith(tuple(f"{scheme}://" for scheme in schemes)) or parts.query or parts.fragment:
        raise NameRefused(f"{text!r} cannot be cloned; use https://host/path, ssh://user@host/path or user@host:path")
    if parts.username is not None and not _SSH_USER.fullmatch(parts.username):
        raise NameRefused(f"{text!r} has an odd user name")
    if parts.hostname is None or not _HOST.fullmatch(parts.hostname) or port == 0:
        raise NameRefused(f"{text!r} names no host; {_FOR_EXAMPLE}")
    _check_path(text, parts.path.lstrip("/"))
    return RepositoryUrl(text, parts.scheme, parts.hostname.lower(), port, parts.path.strip("/"))


def parse_branch(text: str) -> str:
    """A branch's name by git-check-ref-format(1), and no leading `-`, which git would take for an option."""
    if (
        not text
        or len(text) > BRANCH_CHARACTERS_MAX
        or text.startswith(("-", ".", "/"))
        or text.endswith((".", "/"))
        or text == "@"
        or _BRANCH_FORBIDDEN.search(text)
    ):
        raise NameRefused(f"{text!r} is not a branch's name; write for example main")
    return text


def clean_description(text: str | None) -> str | None:
    """One line without control characters, since it is printed on terminals; None if nothing is left."""
    if text is None:
        return None
    # Cf: invisible marks that reorder or hide what stands around them.
    kept = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text)
    kept = " ".join("".join(char for char in kept if unicodedata.category(char) not in ("Cf", "Cs")).split())
    if len(kept) > DESCRIPTION_CHARACTERS_MAX:
        raise NameRefused(f"the description is {len(kept)} characters long; at most {DESCRIPTION_CHARACTERS_MAX} fit")
    return kept or None


def url_on_github(github_repo: str) -> str:
    return f"{GITHUB_URL}/{github_repo}"


def _check_path(url: str, path: str) -> None:
    plain = unquote(path)  # servers decode it, and `%2e%2e` is the same trick
    has_control = any(ord(letter) < 0x20 or letter == "\x7f" for letter in plain)
    if not plain.strip("/") or plain.startswith("-") or ".." in re.split(r"[/\\]", plain) or has_control:
        raise NameRefused(f"{url!r} names no repository; {_FOR_EXAMPLE}")


_FOR_EXAMPLE = "write for example https://github.com/octocat/hello-world"
