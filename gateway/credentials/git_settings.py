"""How git in a workspace finds us: two files that it reads at each start, and the variables that name them. Pure.

The helper must be the last word, the identity the first; so they come by two ways (ARCHITECTURE.md):

    credentials   included by GIT_CONFIG_COUNT, the strongest: for our URLs no other helper is asked, since each that is
                  asked is also told what was given, and `store` would write it into the home
    system        in the place of /etc/gitconfig, which it includes: the weakest, so the user's own always wins

Both are read anew by each git, so a login or a logout counts at once, also in shells and editors that run for days.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.credentials.decision import AskKind, CredentialScope, Origin

CREDENTIALS_FILE = "credentials"
SYSTEM_FILE = "system"
_COUNT_MAX = 1000


@dataclass(frozen=True, slots=True)
class GitIdentity:
    """Who commits are by, where the user has not said otherwise."""

    name: str
    email: str


def identity_of(profile: Mapping[str, object], origin: Origin) -> GitIdentity | None:
    """Of a GitHub profile; without an address in it GitHub's own for such people. None: nobody is logged in."""
    login, number = profile.get("login"), profile.get("id")
    if not isinstance(login, str) or not isinstance(number, int):
        return None
    name, email = profile.get("name"), profile.get("email")
    return GitIdentity(
        name=name if isinstance(name, str) and name.strip() else login,
        email=email if isinstance(email, str) and "@" in email else f"{number}+{login}@users.noreply.{origin.host}",
    )


def git_variables(git_directory: str | None, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a program's environment needs. `environment`: what it has already, whose own settings of git stay."""
    if git_directory is None:
        return {}
    count = (environment or {}).get("GIT_CONFIG_COUNT", "")
    number = int(count) if count.isascii() and count.isdecimal() and int(count) < _COUNT_MAX else 0
    return {
        "GIT_CONFIG_SYSTEM": f"{git_directory}/{SYSTEM_FILE}",
        "GIT_CONFIG_COUNT": str(number + 1),
        f"GIT_CONFIG_KEY_{number}": "include.path",
        f"GIT_CONFIG_VALUE_{number}": f"{git_directory}/{CREDENTIALS_FILE}",
    }


def system_file(identity: GitIdentity | None) -> str:
    lines = [] if identity is None else [
        "[user]", f"\tname = {_quoted(identity.name)}", f"\temail = {_quoted(identity.email)}",
    ]  # fmt: skip
    return _file(*lines, "[include]", "\tpath = /etc/gitconfig")  # after ours: an administrator's own wins as well


def credentials_file(
    *, origin: Origin, scope: CredentialScope, github_repo: str | None, helper: Sequence[str], has_token: bool
) -> str | None:
    """None: git shall behave as without us.

    Where a token may be had, our helper is the only one. Everywhere else on that host it is asked last, and only says
    why there is none; the user's own credentials go on working.
    """
    if scope is CredentialScope.OFF or not helper:
        return None
    explain = ["helper = " + _quoted(_command(helper, AskKind.EXPLAIN))]
    exclusive = ["helper =", "helper = " + _quoted(_command(helper, AskKind.GET)), "useHttpPath = true"]
    sections: list[str] = []
    if not has_token or scope is not CredentialScope.ANY:
        sections += _section(str(origin), explain)
    if has_token:
        for path in _paths(scope, github_repo):
            sections += _section(f"{origin}{path}", exclusive)
    return _file(*sections)


def _paths(scope: CredentialScope, github_repo: str | None) -> list[str]:
    """What git compares with the URL, whole parts and letter by letter; GitHub itself knows no case."""
    if scope is CredentialScope.ANY:
        return [""]
    if github_repo is None:
        return []
    names = {github_repo, github_repo.lower()}
    if scope is CredentialScope.OWNER:
        return sorted({f"/{name.partition('/')[0]}" for name in names})
    return sorted(f"/{name}{ending}" for name in names for ending in ("", ".git", ".wiki.git"))


def _command(helper: Sequence[str], kind: AskKind) -> str:
    # git tells helpers to keep what worked, too: a start of the interpreter for nothing.
    return f'!f() {{ test "$1" = store || exec {shlex.join(helper)} {kind} "$1"; }}; f'


def _section(url: str, lines: Sequence[str]) -> list[str]:
    return [f"[credential {_quoted(url)}]", *(f"\t{line}" for line in lines)]


def _quoted(value: str) -> str:
    """As git-config(1) reads it back, whatever is in it; nothing can end the line."""
    plain = "".join(letter for letter in value if letter.isprintable())
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _file(*lines: str) -> str:
    return "\n".join(["# Written by Homeport, anew at each change.", *lines]) + "\n"
