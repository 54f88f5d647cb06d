"""`keys add|ls|rm`: the public keys that may log in."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from gateway.errors import CommandRefused, KeyRefused, NameTaken, UsageWrong
from gateway.journal import JournalAction
from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.settings import FORWARDING
from gateway.lobby.shapes import key_shape
from gateway.lobby.text import age, clean, parse_moment
from gateway.public_key import parse_public_key

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from gateway.interfaces import AccessKey
    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext
    from gateway.public_key import PublicKey

    NameOf = Callable[[PublicKey], str]

KEYS_PER_FILE_MAX = 200
NAME_LENGTH_MAX = 100


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    key: PublicKey


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="public keys, one a line; - reads standard input")
    parser.add_argument("--name", metavar="N", help="who this is (default: the key's comment)")
    limit_arguments(parser)


def limit_arguments(parser: Parser) -> None:
    """What new keys may do, for every command that adds some."""
    parser.add_argument("--workspaces", metavar="A,B", help="the only workspaces it may enter (default: all)")
    parser.add_argument(
        "--forwarding", choices=FORWARDING, help="how far its forwards may reach (default: as each workspace says)"
    )
    parser.add_argument("--expires", metavar="WHEN", help="30d, 12h, 8w or a date such as 2030-12-31 (default: never)")
    json_option(parser)


async def _add(lobby: LobbyContext, args: Namespace) -> int:
    """All or nothing: every line is read and checked before the first key is stored."""
    await checked_limits(lobby, args)
    keys = _parse(await lobby.stdin.read_all(), source=args.file)
    return await admit(lobby, keys, args, name_of=lambda key: args.name or _usual_name(key, args.file))


async def admit(lobby: LobbyContext, keys: list[PublicKey], args: Namespace, *, name_of: NameOf) -> int:
    """Let the keys in, all or none, within the limits of `args` (`--name` and those of `limit_arguments`)."""
    expires_at, scope = await checked_limits(lobby, args)
    known = {key.fingerprint: key for key in await lobby.services.store.list_keys()}
    _refuse_changes(lobby, [known[key.fingerprint] for key in keys if key.fingerprint in known], args)
    for parsed in keys:
        if parsed.fingerprint in known:
            await lobby.note(f"already there as {_shown(known[parsed.fingerprint])}")
    wanted = _named([key for key in keys if key.fingerprint not in known], known.values(), args, name_of)
    added: list[AccessKey] = []
    try:
        for one in wanted:
            added.append(
                await lobby.services.store.add_key(
                    name=one.name,
                    fingerprint=one.key.fingerprint,
                    public_key=one.key.line,
                    workspaces=scope,
                    options={} if args.forwarding is None else {"forwarding": args.forwarding},
                    expires_at=expires_at,
                )
            )
    except BaseException:
        for key in added:
            await lobby.services.store.remove_key(key.fingerprint)
        raise
    for key in added:
        await lobby.journal(JournalAction.KEY_ADDED, key=key.name, fingerprint=key.fingerprint, **_limits(key))
    if args.json:
        await lobby.print_json([key_shape(key) for key in added])
    else:
        for key in added:
            await lobby.print(f"added {_shown(key)}")
    return EXIT_OK


async def checked_limits(lobby: LobbyContext, args: Namespace) -> tuple[datetime | None, frozenset[str] | None]:
    """When keys with these arguments expire, and the workspaces they may enter. Raises UsageWrong, CommandRefused."""
    return None if args.expires is None else parse_moment(args.expires), await _scope(lobby, args.workspaces)


async def _scope(lobby: LobbyContext, text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    names = {name.strip().lower() for name in text.split(",")} - {""}
    if not names:
        raise UsageWrong("--workspaces names none; write for example: --workspaces my-app,notes")
    known = [workspace.name for workspace in await lobby.services.store.list_workspaces()]
    for name in sorted(names - set(known)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f'; did you mean "{near[0]}"?' if near else f"; make it first with: {lobby.prog} new NAME"
        raise CommandRefused(f'--workspaces: no workspace named "{clean(name, length_max=60)}"{hint}')
    return frozenset(names)


def _parse(data: bytes, *, source: str) -> list[PublicKey]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise CommandRefused(f"{clean(source)} is not text; the public key is the file that ends in .pub") from None
    keys: dict[str, PublicKey] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if "PRIVATE KEY" in line:
            raise CommandRefused(f"{clean(source)} is a private key; keep it secret and add the .pub file beside it")
        try:
            key = parse_public_key(line)
        except KeyRefused as error:
            problems.append(f"line {number}: {error.user_message}")
            continue
        keys.setdefault(key.fingerprint, key)
    if problems:
        shown = problems[:10] + ([f"and {len(problems) - 10} more"] if len(problems) > 10 else [])
        raise CommandRefused("\n".join(["nothing was added:", *(f"  {problem}" for problem in shown)]))
    if not keys:
        raise CommandRefused(f"there is no public key in {'the input' if source == '-' else clean(source)}")
    if len(keys) > KEYS_PER_FILE_MAX:
        raise CommandRefused(f"{len(keys)} keys are more than the {KEYS_PER_FILE_MAX} that one call may add")
    return list(keys.values())


def _refuse_changes(lobby: LobbyContext, known: list[AccessKey], args: Namespace) -> None:
    """A known key is no error, but options that would not take effect are: the caller would believe they did."""
    if known and any(value is not None for value in (args.name, args.workspaces, args.forwarding, args.expires)):
        raise CommandRefused(
            f"{_shown(known[0])} is there already and would stay as it is; "
            f"remove it first with: {lobby.prog} keys rm {known[0].fingerprint}"
        )


def _named(keys: list[PublicKey], known: Iterable[AccessKey], args: Namespace, name_of: NameOf) -> list[_Wanted]:
    """Give each key a name of its own: `ana`, `ana-2`, …"""
    taken = {key.name for key in known}
    wanted = []
    for key in keys:
        base = name_of(key)
        if args.name and len(keys) == 1 and base in taken:
            raise NameTaken(f'there is a key named "{clean(base)}"; choose another --name')
        name = base
        number = 2
        while name in taken:
            name = f"{base}-{number}"
            number += 1
        taken.add(name)
        wanted.append(_Wanted(name, key))
    return wanted


def _usual_name(key: PublicKey, file: str) -> str:
    """The comment (usually account@machine), else the file's name."""
    stem = "" if file == "-" else PurePath(file).stem
    return clean((key.comment or stem or "key").strip(), length_max=NAME_LENGTH_MAX)


def _limits(key: AccessKey) -> dict[str, object]:
    """What keeps the key from everything, as `keys ls --json` names it."""
    shape = key_shape(key)
    return {name: shape[name] for name in ("workspaces", "forwarding", "expires_at") if shape[name] is not None}


def _shown(key: AccessKey) -> str:
    scope = "all workspaces" if key.workspaces is None else ", ".join(sorted(key.workspaces))
    forwarding = f"; forwarding {clean(key.options['forwarding'])}" if "forwarding" in key.options else ""
    return f"{clean(key.name)} {key.fingerprint} ({scope}{forwarding})"


async def _ls(lobby: LobbyContext, args: Namespace) -> int:
    keys = await lobby.services.store.list_keys()
    if args.json:
        await lobby.print_json([key_shape(key) for key in keys])
        return EXIT_OK
    if not keys:
        await lobby.note(f"no keys yet, so nobody can log in; add one with: {lobby.prog} keys add FILE")
        return EXIT_OK
    rows = [
        (
            clean(key.name),
            "all" if key.workspaces is None else ",".join(sorted(key.workspaces)) or "none",
            clean(key.options.get("forwarding", "-")),
            age(key.last_used_at),
            age(key.expires_at),
            key.fingerprint,
        )
        for key in keys
    ]
    await lobby.print_table(("NAME", "WORKSPACES", "FORWARDING", "USED", "EXPIRES", "FINGERPRINT"), rows)
    return EXIT_OK


def _rm_arguments(parser: Parser) -> None:
    parser.add_argument("key", metavar="NAME|FINGERPRINT", help="as `keys ls` shows it")


async def _rm(lobby: LobbyContext, args: Namespace) -> int:
    removed = await lobby.services.store.remove_key(args.key)
    if removed is None:
        names = [key.name for key in await lobby.services.store.list_keys()]
        near = difflib.get_close_matches(args.key, names, n=1, cutoff=0.6)
        hint = f'; did you mean "{clean(near[0])}"?' if near else f"; list them with: {lobby.prog} keys ls"
        raise CommandRefused(f"no key {clean(args.key)!r}{hint}")
    await lobby.journal(JournalAction.KEY_REMOVED, key=removed.name, fingerprint=removed.fingerprint)
    count = lobby.services.disconnect(removed.fingerprint)
    closed = "" if not count else f"; closed {count} connection{'s' if count > 1 else ''} it had open"
    await lobby.print(f"removed {_shown(removed)}{closed}")
    return EXIT_OK


COMMANDS = (
    Command(
        name="keys add",
        summary="let a public key log in",
        run=_add,
        arguments=_add_arguments,
        makes_state=True,
        stdin_from=lambda args: str(args.file),
        teaching="""
FILE holds one public key a line, as in authorized_keys; empty lines and # comments are
skipped. Either every key of the file is added or none. A line with options such as
command= or from= is refused as long as they would not be enforced.

--forwarding: `off` (no forwards at all), `loopback` (the workspace itself), `anywhere`;
see `homeport set --help`. Of what key and workspace say, the narrower holds.

examples:
  homeport keys add - < ~/.ssh/id_ed25519.pub
  homeport keys add - --name ana --workspaces my-app,notes --expires 30d < laptop.pub
  homeport keys add - --name ci --forwarding off < ci.pub
  curl -s https://github.com/OWNER.keys | homeport keys add - --name OWNER

--json: a list of the added keys, as in `homeport keys ls --json`.
""",
    ),
    Command(
        name="keys ls",
        summary="list the keys that may log in",
        run=_ls,
        arguments=json_option,
        teaching="""
examples:
  homeport keys ls

--json: a list of objects with id, name, fingerprint, public_key, workspaces (null: all),
forwarding (null: says nothing), expires_at, last_used_at, created_at.
""",
    ),
    Command(
        name="keys rm",
        summary="take a key away",
        run=_rm,
        arguments=_rm_arguments,
        teaching="""
The next login with it is refused, and the connections it has open are closed.

examples:
  homeport keys rm ana
  homeport keys rm SHA256:…
""",
    ),
)
