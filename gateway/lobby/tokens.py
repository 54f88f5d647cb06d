"""`token mint|ls|revoke`: bearer tokens of the HTTP API."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.bearer import hash_of, new_token
from gateway.errors import CommandRefused, UsageWrong
from gateway.journal import JournalAction
from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.shapes import api_token_shape
from gateway.lobby.text import age, clean, parse_moment

if TYPE_CHECKING:
    from argparse import Namespace

    from gateway.interfaces import ApiToken
    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext

SCOPES = ("read", "write")  # ApiScope; the command line loads this, and interfaces.py is costly
EXPIRES = "30d"
EXPIRES_DAYS_MAX = 366  # what is forgotten somewhere shall end by itself
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}")


def _mint_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="what it is for; the journal names it")
    parser.add_argument(
        "--scope",
        choices=SCOPES,
        default="read",
        help="write reads as well (default: read)",
    )
    parser.add_argument(
        "--expires", metavar="WHEN", default=EXPIRES, help=f"1h, 30d, 8w or a date, within a year (default: {EXPIRES})"
    )
    json_option(parser)


async def _mint(lobby: LobbyContext, args: Namespace) -> int:
    from gateway.interfaces import ApiScope

    if not _NAME.fullmatch(args.name):
        raise UsageWrong(
            f"{clean(args.name, length_max=60)!r} cannot be a token's name; use up to 50 letters, digits, . - and _, "
            "beginning with a letter or digit"
        )
    now = datetime.now(UTC)
    expires_at = parse_moment(args.expires, now)
    if expires_at > now + timedelta(days=EXPIRES_DAYS_MAX):
        raise UsageWrong(f"--expires {clean(args.expires)}: a token lasts a year at most; write for example 90d")
    secret = new_token()
    token_hash = hash_of(secret)
    assert token_hash is not None
    token = await lobby.services.store.add_api_token(
        name=args.name, token_hash=token_hash, scope=ApiScope(args.scope), created_by=lobby.who, expires_at=expires_at
    )
    try:
        await lobby.journal(JournalAction.TOKEN_MINTED, token=token.name, **_terms(token))
        if args.json:
            await lobby.print_json({**api_token_shape(token), "token": secret})
        else:
            await lobby.print(secret)
    except BaseException:  # nobody has seen it
        await lobby.services.store.remove_api_token(token.name)
        raise
    await lobby.note(f"{token.name} may {token.scope}, and ends {age(token.expires_at)}; it is not shown again")
    return EXIT_OK


def _terms(token: ApiToken) -> dict[str, object]:
    shape = api_token_shape(token)
    return {name: shape[name] for name in ("scope", "expires_at")}


async def _ls(lobby: LobbyContext, args: Namespace) -> int:
    tokens = await lobby.services.store.list_api_tokens()
    if args.json:
        await lobby.print_json([api_token_shape(token) for token in tokens])
        return EXIT_OK
    if not tokens:
        await lobby.note(f"no tokens, so nobody can use the HTTP API; make one with: {lobby.prog} token mint NAME")
        return EXIT_OK
    now = datetime.now(UTC)
    rows = [
        (
            clean(token.name),
            token.scope.value,
            age(token.last_used_at, now),
            age(token.expires_at, now) if token.expires_at > now else "expired",
            clean(token.created_by, length_max=40),
        )
        for token in tokens
    ]
    await lobby.print_table(("NAME", "SCOPE", "USED", "EXPIRES", "MADE BY"), rows)
    return EXIT_OK


def _revoke_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="as `token ls` shows it")


async def _revoke(lobby: LobbyContext, args: Namespace) -> int:
    removed = await lobby.services.store.remove_api_token(args.name)
    if removed is None:
        names = [token.name for token in await lobby.services.store.list_api_tokens()]
        near = difflib.get_close_matches(args.name, names, n=1, cutoff=0.6)
        hint = f'; did you mean "{clean(near[0])}"?' if near else f"; list them with: {lobby.prog} token ls"
        raise CommandRefused(f"no token {clean(args.name, length_max=60)!r}{hint}")
    await lobby.journal(JournalAction.TOKEN_REVOKED, token=removed.name, **_terms(removed))
    await lobby.print(f"revoked {clean(removed.name)}")
    return EXIT_OK


COMMANDS = (
    Command(
        name="token mint",
        summary="make a token for the HTTP API, and print it once",
        run=_mint,
        arguments=_mint_arguments,
        teaching="""
The token goes to standard output and nowhere else: only its hash is kept. Whoever has it
can ask http://…/api/v1/ (docs/api.md) with the header `Authorization: Bearer TOKEN`, for
all workspaces, until it expires or is revoked.

--scope: `read` lists workspaces, sessions, the journal and measurements; `write` also
makes workspaces.

examples:
  homeport token mint dashboard
  homeport token mint ci --scope write --expires 1h > token

--json: an object as in `homeport token ls --json`, and the token in `token`.
""",
    ),
    Command(
        name="token ls",
        summary="list the tokens for the HTTP API",
        run=_ls,
        arguments=json_option,
        teaching="""
examples:
  homeport token ls

--json: a list of objects with id, name, scope (read, write), created_by, expires_at,
last_used_at (within half a minute), created_at.
""",
    ),
    Command(
        name="token revoke",
        summary="take a token away",
        run=_revoke,
        arguments=_revoke_arguments,
        teaching="""
The next call with it is refused.

examples:
  homeport token revoke ci
""",
    ),
)
