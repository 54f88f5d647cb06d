"""`github login|logout|status`, `repos`, `keys import-github`, `vault rotate`: the owner's GitHub account."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, TypeVar

from gateway.errors import CommandRefused, KeyRefused, UsageWrong
from gateway.github.values import is_login
from gateway.journal import JournalAction
from gateway.lobby.command import EXIT_OK, EXIT_REFUSED, Command, json_option
from gateway.lobby.keys import admit, checked_limits, limit_arguments
from gateway.lobby.shapes import github_status_shape, repository_shape
from gateway.lobby.text import age, clean, cut
from gateway.public_key import parse_public_key

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Coroutine

    from gateway.github.account import GithubStatus
    from gateway.github.values import GithubRepository, GithubUser
    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext
    from gateway.public_key import PublicKey

T = TypeVar("T")

TOKEN_BYTES_MAX = 4096
LIMIT_DEFAULT = 30
LIMIT_MAX = 100
PAGE_MAX = 1000
SPINNER_SECONDS = 0.25
# What people are told before they agree (docs.github.com, "Scopes for OAuth apps").
_SCOPES = {
    "read:user": "see your profile",
    "user:email": "see your email addresses",
    "repo": "read and write all your repositories, private ones too",
    "public_repo": "read and write your public repositories",
    "workflow": "change workflow files",
    "read:org": "see your organisations and teams",
}


# ------------------------------------------------------------------------------------------------ login, logout


def _login_arguments(parser: Parser) -> None:
    parser.add_argument("--with-token", action="store_true", help="read a personal token from standard input instead")


async def _login(lobby: LobbyContext, args: Namespace) -> int:
    user = await (_login_with_token(lobby) if args.with_token else _login_by_device(lobby))
    how = "personal token" if args.with_token else "device"
    await lobby.journal(JournalAction.GITHUB_LOGIN, login=user.login, how=how)
    await lobby.print(f"logged in to GitHub as {_who(user.login, user.name)}")
    if user.scopes is not None and not {"repo", "public_repo"} & set(user.scopes):
        await lobby.note(
            f"the token has the scopes {', '.join(user.scopes) or 'none'}: without repo it opens no private repository"
        )
    if why_not := lobby.services.github().why_not_for_git:
        await lobby.note(why_not)
    return EXIT_OK


async def _login_by_device(lobby: LobbyContext) -> GithubUser:
    """RFC 8628: the person agrees in a browser, anywhere. Interrupted, nothing is kept here or there."""
    desk = lobby.services.github()
    code = await desk.begin_device_login()
    await lobby.note("this gateway will ask GitHub to let it:")
    for scope in desk.scopes.split():
        await _say(lobby, f"  {clean(scope):12}  {_SCOPES.get(scope, 'see docs.github.com, Scopes for OAuth apps')}")
    await _say(lobby, f"open      {clean(code.verification_url)}")
    await _say(lobby, f"and enter {clean(code.user_code)}")
    return await _while_waiting(lobby, desk.finish_device_login(code), "waiting for GitHub (Ctrl-C gives up)")


async def _login_with_token(lobby: LobbyContext) -> GithubUser:
    from gateway.lobby.context import Nobody  # only where it runs: it is heavy for the command line

    if isinstance(lobby.person, Nobody):  # then it comes through a pipe
        data = await lobby.stdin.read_all()
        text = data[: TOKEN_BYTES_MAX + 1].decode(errors="replace")
    else:
        text = await lobby.person.ask("personal token (not shown): ", is_secret=True)
    token = text.strip()
    if not token:
        raise UsageWrong(f"no token was given; write for example: {lobby.prog} github login --with-token < FILE")
    if len(token) > TOKEN_BYTES_MAX or not token.isascii() or not token.isprintable() or " " in token:
        raise CommandRefused("that is no token: one word is expected, such as ghp_… or github_pat_…")
    return await lobby.services.github().login_with_token(token)


async def _logout(lobby: LobbyContext, args: Namespace) -> int:
    done = await lobby.services.github().logout()
    if done.login is None:
        await lobby.print("nobody was logged in to GitHub")
        return EXIT_OK
    await lobby.journal(JournalAction.GITHUB_LOGOUT, login=done.login, revoked=done.is_revoked)
    if done.is_revoked:
        await lobby.print(f"logged out {clean(done.login)}; GitHub has revoked the token")
    elif done.is_personal:
        await lobby.print(f"logged out {clean(done.login)}; the token is gone from here, and still works elsewhere")
        await lobby.note(f"if nothing else uses it, delete it at {done.by_hand_url}")
    else:
        await lobby.print(f"logged out {clean(done.login)}; the token is gone from here")
        await lobby.note(f"it was not revoked: {done.why_not_revoked}; do it by hand at {done.by_hand_url}")
    return EXIT_OK


# ------------------------------------------------------------------------------------------------------- status


async def _status(lobby: LobbyContext, args: Namespace) -> int:
    status = await lobby.services.github().status()
    if args.json:
        await lobby.print_json(github_status_shape(status))
    elif status.is_logged_in:
        for label, text in _status_lines(status):
            await lobby.print(f"{label:9}  {text}")
    else:
        ended = "" if status.ended is None else f"; {clean(status.login or 'somebody')} was: {clean(status.ended)}"
        await lobby.note(f"nobody is logged in to GitHub{ended}; log in with: {lobby.prog} github login")
    return EXIT_OK if status.is_logged_in else EXIT_REFUSED


def _status_lines(status: GithubStatus) -> list[tuple[str, str]]:
    expiry = "no expiry" if status.expires_at is None else f"expires {age(status.expires_at)}"
    kind = "personal token" if status.is_personal else "device login"
    lines = [
        ("account", f"{_who(status.login or 'unknown', status.name)} at {status.host}"),
        ("token", f"{kind}, {expiry}{', renewed by itself' if status.is_renewable else ''}"),
        ("scopes", "as the token or app permits" if status.scopes is None else ", ".join(status.scopes) or "none"),
        ("commits", clean(status.email or "-")),
        ("logged in", age(status.logged_in_at)),
    ]
    if status.refreshed_at is not None:
        lines.append(("renewed", age(status.refreshed_at)))
    if status.refresh_failed_at is not None:
        lines.append(("failed", f"to renew {age(status.refresh_failed_at)}: {clean(status.refresh_failure or '')}"))
    if status.check is not None:
        lines.append(("check", "GitHub knows the token" if status.check == "valid" else clean(status.check)))
    return lines


# --------------------------------------------------------------------------------------------------------- repos


def _repos_arguments(parser: Parser) -> None:
    parser.add_argument("search", metavar="SEARCH", nargs="?", help="part of a name or description")
    parser.add_argument("--page", type=int, default=1, metavar="N", help="which page (default: 1)")
    parser.add_argument(
        "--limit", type=int, default=LIMIT_DEFAULT, metavar="N", help=f"how many on it (default: {LIMIT_DEFAULT})"
    )
    json_option(parser)


async def _repos(lobby: LobbyContext, args: Namespace) -> int:
    if not 1 <= args.page <= PAGE_MAX or not 1 <= args.limit <= LIMIT_MAX:
        raise UsageWrong(f"--page is 1 to {PAGE_MAX}, and --limit 1 to {LIMIT_MAX}")
    page = await lobby.services.github().repositories(search=args.search, page=args.page, limit=args.limit)
    workspaces = {
        workspace.github_repo.lower(): workspace.name
        for workspace in await lobby.services.store.list_workspaces()
        if workspace.github_repo
    }
    found = [(each, workspaces.get(each.full_name.lower())) for each in page.repositories]
    if args.json:
        shapes = [repository_shape(each, workspace) for each, workspace in found]
        await lobby.print_json({"page": args.page, "has_more": page.has_more, "repositories": shapes})
        return EXIT_OK
    if not found:
        await lobby.note("no repositories" + ("" if args.search is None else f" with {clean(args.search)!r} in them"))
        return EXIT_OK
    headers = ("REPOSITORY", "WORKSPACE", "BRANCH", "ACCESS", "PUSHED", "DESCRIPTION")
    await lobby.print_table(headers, [_repository_row(each, workspace) for each, workspace in found])
    if page.has_more:
        await lobby.note(f"there are more: {lobby.prog} repos {_again(args)}--page {args.page + 1}")
    return EXIT_OK


def _repository_row(repository: GithubRepository, workspace: str | None) -> tuple[str, ...]:
    access = "private" if repository.is_private else "public"
    return (
        repository.full_name,
        workspace or "-",
        clean(repository.default_branch),
        f"{access}, archived" if repository.is_archived else access,
        age(repository.pushed_at),
        clean(repository.description or "", length_max=80),
    )


def _again(args: Namespace) -> str:
    search = "" if args.search is None else f"{clean(args.search)} "
    return search + ("" if args.limit == LIMIT_DEFAULT else f"--limit {args.limit} ")


# ------------------------------------------------------------------------------------------- keys import-github


def _import_arguments(parser: Parser) -> None:
    parser.add_argument("login", metavar="NAME", help="whose public keys on GitHub")
    parser.add_argument("--name", metavar="N", help="who this is here (default: NAME)")
    parser.add_argument("--yes", action="store_true", help="add them without asking")
    limit_arguments(parser)


async def _import(lobby: LobbyContext, args: Namespace) -> int:
    if not is_login(args.login):
        raise UsageWrong(f"{clean(args.login, length_max=60)!r} cannot be a name on GitHub")
    _, scope = await checked_limits(lobby, args)
    keys = await _acceptable(lobby, await lobby.services.github().user_keys(args.login), args.login)
    known = {key.fingerprint for key in await lobby.services.store.list_keys()}
    new = [key for key in keys if key.fingerprint not in known]
    for key in keys:
        await _say(lobby, f"  {key.fingerprint}  {key.type}{'' if key in new else '  (there already)'}")
    if new and not args.yes:
        reach = "every workspace" if scope is None else ", ".join(sorted(scope))
        await _be_told_yes(lobby, f"let {_keys(len(new))} of {args.login} into {reach}? [y/N] ")
    return await admit(lobby, keys, args, name_of=lambda key: args.name or args.login)


async def _acceptable(lobby: LobbyContext, lines: list[str], login: str) -> list[PublicKey]:
    """Those that may log in here; the others are named, and stay out."""
    keys: dict[str, PublicKey] = {}
    for line in lines:
        try:
            key = parse_public_key(line)
        except KeyRefused as error:
            await lobby.note(f"left out {clean(line, length_max=40)}: {error.user_message}")
            continue
        keys.setdefault(key.fingerprint, key)
    if not keys:
        raise CommandRefused(f"{login} has no key on GitHub that could be added")
    return list(keys.values())


async def _be_told_yes(lobby: LobbyContext, question: str) -> None:
    try:
        answer = await lobby.person.ask(question)
    except CommandRefused:
        raise CommandRefused("nobody can be asked here; look at the fingerprints and add: --yes") from None
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandRefused("nothing was added")


def _keys(count: int) -> str:
    return f"{count} key{'' if count == 1 else 's'}"


# -------------------------------------------------------------------------------------------------- vault rotate


async def _rotate(lobby: LobbyContext, args: Namespace) -> int:
    old_count = await lobby.services.github().rotate_vault()
    await lobby.journal(JournalAction.VAULT_ROTATED, old_keys=old_count)
    removed = f"; {_keys(old_count)} removed" if old_count else ""
    await lobby.print(f"every secret is sealed under a new key{removed}")
    return EXIT_OK


# ---------------------------------------------------------------------------------------------------- small things


async def _say(lobby: LobbyContext, text: str) -> None:
    """Beside the data, like a note, but part of one that was begun."""
    await lobby.stderr.write(f"{text}\n".encode(errors="backslashreplace"))


async def _while_waiting(lobby: LobbyContext, work: Coroutine[object, object, T], text: str) -> T:
    """Show on a terminal that something is awaited, until it is there or has failed."""
    import asyncio  # only where it runs: the command line loads this file for every command

    if not lobby.is_terminal:
        return await work
    spinner = asyncio.create_task(_spin(lobby, cut(text, max(lobby.columns - 3, 1))), name="lobby:spinner")
    try:
        return await work
    finally:
        spinner.cancel()
        await asyncio.gather(spinner, return_exceptions=True)


async def _spin(lobby: LobbyContext, text: str) -> None:
    import asyncio

    blank = " " * (len(text) + 2)
    try:
        for sign in itertools.cycle("|/-\\"):
            await lobby.stderr.write(f"\r{sign} {text}".encode())
            await asyncio.sleep(SPINNER_SECONDS)
    finally:
        await lobby.stderr.write(f"\r{blank}\r".encode())


def _who(login: str, name: str | None) -> str:
    return clean(login) if name is None else f"{clean(login)} ({clean(name)})"


def _token_from(args: Namespace) -> str | None:
    """A pipe is read by the caller's side; at a terminal the person is asked, and nothing is shown."""
    return "-" if args.with_token and not os.isatty(0) else None


COMMANDS = (
    Command(
        name="github login",
        summary="log the gateway in to GitHub, for repositories and git",
        run=_login,
        arguments=_login_arguments,
        stdin_from=_token_from,
        teaching="""
Shows a code; enter it at the address shown, in any browser, and agree there. What will
be asked for is said first. Needs client_id in [github] (docs/github.md), and a way to
GitHub. Ctrl-C gives up and leaves nothing behind.

--with-token takes a personal token instead, classic or fine-grained: typed without being
shown, or from standard input. GitHub is asked whose it is before it is kept.

Tokens are kept encrypted. One that expires is renewed before it does. A new login takes
the place of the old one.

examples:
  homeport github login
  homeport github login --with-token < token.txt
""",
    ),
    Command(
        name="github logout",
        summary="forget the GitHub token, and have GitHub revoke it",
        run=_logout,
        teaching="""
The token is forgotten here in any case. One of a device login is revoked at GitHub; where
that does not work, the page to do it by hand is said. Personal tokens may be in use
elsewhere and are not revoked.

examples:
  homeport github logout
""",
    ),
    Command(
        name="github status",
        summary="show who is logged in to GitHub, and for how long",
        run=_status,
        arguments=json_option,
        teaching="""
Asks GitHub whether it still knows the token, for five seconds at most.
Exit status 1 if nobody is logged in.

examples:
  homeport github status

--json: an object with logged_in, host, login, name, email, scopes (null: not told),
kind (device, personal; null: nobody), renewable, expires_at (null: never), logged_in_at,
refreshed_at, refresh_failed_at, refresh_failure, ended (why a login is no more) and check
("valid", or what went wrong; null: not asked).
""",
    ),
    Command(
        name="repos",
        summary="list the repositories that the GitHub account may see",
        run=_repos,
        arguments=_repos_arguments,
        teaching="""
Those pushed to last come first. SEARCH looks through the newest 1000. `homeport new
OWNER/REPO` makes a workspace of one.

examples:
  homeport repos
  homeport repos hello --json

--json: an object with page, has_more and repositories, a list of objects with id,
full_name, default_branch, is_private, is_archived, description, pushed_at and workspace
(null: none has it).
""",
    ),
    Command(
        name="keys import-github",
        summary="let somebody's public keys on GitHub log in",
        run=_import,
        arguments=_import_arguments,
        teaching="""
Shows the fingerprints and asks before it adds them; --yes adds them without asking.
Whoever controls that account on GitHub now chooses these keys: compare the fingerprints
with what the person says. Keys added there later are not added here. What new keys may do
is limited as with `homeport keys add`.

examples:
  homeport keys import-github octocat --workspaces my-app --expires 30d

--json: a list of the added keys, as in `homeport keys ls --json`.
""",
    ),
    Command(
        name="vault rotate",
        summary="encrypt the kept secrets under a new key",
        run=_rotate,
        teaching="""
Makes a new key in the state's keys folder, encrypts every secret under it and removes the
old one: after somebody may have seen it, or by habit. Nobody has to log in again, but the
tokens in older backups of the database can be opened by no one any more.

examples:
  homeport vault rotate
""",
    ),
)
