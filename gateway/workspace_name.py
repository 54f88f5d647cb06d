"""What a workspace may be called and where it may come from. Pure functions that return the checked value.

Each refuses with NameRefused and says what would be accepted. The database checks the same rules again, more coarsely.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import urlsplit

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
_SSH_SHORT = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)@([A-Za-z0-9][A-Za-z0-9.-]*):([^:]+)")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
# git-check-ref-format(1): what no reference may contain.
_BRANCH_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)")


@dataclass(frozen=True, slots=True)
class WorkspaceName:
    display: str  # as given
    slug: str  # what stands before the @: lower case


@dataclass(frozen=True, slots=True)
class RepositoryUrl:
    url: str
    github_repo: str | None  # "owner/repo", for GitHub's URLs


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


def parse_repository_url(text: str) -> RepositoryUrl:
    """`https://host/path`, `ssh://user@host/path` or `user@host:path`; nothing with a secret or a command in it.

    `ext::`, `file:` and the like make git execute or read things here; a password in a URL ends up in logs and `ps`.
    """
    if len(text) > URL_CHARACTERS_MAX or re.search(r"[\x00-\x20\x7f]", text) or not text.isascii():
        raise NameRefused("this is not a repository's URL; write for example https://github.com/octocat/hello-world")
    short = _SSH_SHORT.fullmatch(text)
    if short is not None:
        _check_path(text, short[3])
        return RepositoryUrl(text, _github_repo(short[2], short[3]))
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise NameRefused("this is not a URL; write for example https://github.com/octocat/hello-world") from None
    # First, because the refusals below repeat the URL.
    if parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        raise NameRefused("take the user name and password out of the URL; secrets do not belong in it")
    if parts.scheme not in ("https", "ssh") or parts.query or parts.fragment:
        raise NameRefused(f"{text!r} cannot be cloned; use https://host/path, ssh://user@host/path or user@host:path")
    if parts.username is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", parts.username):
        raise NameRefused(f"{text!r} has an odd user name")
    if parts.hostname is None or not _HOST.fullmatch(parts.hostname) or port == 0:
        raise NameRefused(f"{text!r} names no host; write for example https://github.com/octocat/hello-world")
    _check_path(text, parts.path.lstrip("/"))
    return RepositoryUrl(text, _github_repo(parts.hostname, parts.path) if port is None else None)


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
    return f"https://github.com/{github_repo}"


def _check_path(url: str, path: str) -> None:
    if not path.strip("/") or path.startswith("-") or ".." in path.split("/"):
        raise NameRefused(f"{url!r} names no repository; write for example https://github.com/octocat/hello-world")


def _github_repo(host: str, path: str) -> str | None:
    """The `owner/repo` of a URL on GitHub itself: an exact host, not one that merely contains the name."""
    if host.lower() not in ("github.com", "www.github.com", "ssh.github.com"):
        return None
    repository = path.strip("/")
    if repository.lower().endswith(".git"):
        repository = repository[:-4]
    return parse_github_repo(repository)
