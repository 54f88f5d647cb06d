"""`log`: the journal, for people and for scripts. Every text in it may come from a client."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from gateway.errors import UsageWrong
from gateway.journal import JournalAction
from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.shapes import journal_shape
from gateway.lobby.text import clean, parse_past, size

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from gateway.journal import JournalRow
    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext

LIMIT = 50
LIMIT_MAX = 2_000  # made into text at once, while nothing else runs: some 20 ms
# Said in columns of their own, or of use to a script alone.
_NOT_SHOWN = ("principal", "by", "connection_id", "session_id", "method", "workspace", "login_name")
_TEXT_CHARACTERS_MAX = 500  # what a detail may have at most; a pipe cuts nothing


def _arguments(parser: Parser) -> None:
    parser.add_argument("--action", metavar="A", help="only these, such as login, forward, file, workspace_changed")
    parser.add_argument("--workspace", metavar="NAME", help="only what concerned this workspace")
    parser.add_argument("--principal", metavar="P", help="only what this key did, by its name in `keys ls`")
    parser.add_argument("--since", metavar="WHEN", help="90m, 12h, 30d, 8w (ago), or a date such as 2026-01-31 (UTC)")
    parser.add_argument(
        "--limit", metavar="N", default=str(LIMIT), help=f"the newest N (default: {LIMIT}, at most {LIMIT_MAX})"
    )
    json_option(parser)


async def _log(lobby: LobbyContext, args: Namespace) -> int:
    action = None if args.action is None else _action(args.action)
    since = None if args.since is None else parse_past(args.since)
    rows = await lobby.services.store.list_auth_logs(
        action=action, workspace=args.workspace, principal=args.principal, since=since, limit=_limit(args.limit)
    )
    rows = rows[::-1]  # the newest is read first, at the prompt
    if args.json:
        await lobby.print_json([journal_shape(row) for row in rows])
        return EXIT_OK
    if not rows:
        await lobby.note("the journal has nothing of that kind")
        return EXIT_OK
    cells = [
        (
            f"{row.created_at:%Y-%m-%d %H:%M:%S}",
            row.action.value,
            _of(row.details, "principal", "by"),
            clean(row.client_ip or "-"),
            _of(row.details, "workspace", "login_name"),
            what(row),
        )
        for row in rows
    ]
    await lobby.print_table(("TIME (UTC)", "ACTION", "WHO", "FROM", "WORKSPACE", "WHAT"), cells)
    return EXIT_OK


def _action(text: str) -> JournalAction:
    known = [action.value for action in JournalAction]
    if text in known:
        return JournalAction(text)
    near = difflib.get_close_matches(text, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    raise UsageWrong(f"no action {clean(text, length_max=60)!r}; {hint}")


def _limit(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text) or int(text) > LIMIT_MAX:
        raise UsageWrong(f"--limit {clean(text, length_max=30)}: write a number from 1 to {LIMIT_MAX}")
    return int(text)


def _of(details: Mapping[str, object], *names: str) -> str:
    found = next((details[name] for name in names if details.get(name)), "-")
    return clean(str(found), length_max=60)


def what(row: JournalRow) -> str:
    """A row's details on one line. What failed begins with the word."""
    details = {name: value for name, value in row.details.items() if name not in _NOT_SHOWN}
    if row.action is JournalAction.FILE:
        first = _words(details, "operation", "path") + _arrow(details, "new_path")
    elif row.action is JournalAction.FORWARD:
        first = _words(details, "kind", "target")
        if details.get("result") == "ended":
            del details["result"]
    else:
        first = ""
    rest = ", ".join(_named(name, value) for name, value in details.items())
    failed = "" if row.success or details.get("result") == "refused" else "failed: "
    return (failed + ", ".join(part for part in (first, rest) if part)) or "-"


def _words(details: dict[str, object], *names: str) -> str:
    """These details, taken out, without their names."""
    return " ".join(clean(str(details.pop(name)), length_max=_TEXT_CHARACTERS_MAX) for name in names if name in details)


def _arrow(details: dict[str, object], name: str) -> str:
    words = _words(details, name)
    return f" → {words}" if words else ""


def _named(name: str, value: object) -> str:
    if name == "result":
        return clean(str(value))
    if name.startswith("bytes_") and isinstance(value, int):
        return f"{size(value)} {name.removeprefix('bytes_')}"
    if isinstance(value, list):
        value = " ".join(map(str, value))
    return f"{clean(name)}={clean(str(value), length_max=_TEXT_CHARACTERS_MAX)}"


COMMANDS = (
    Command(
        name="log",
        summary="show the journal: logins, changes, forwards, files",
        run=_log,
        arguments=_arguments,
        teaching="""
The newest rows, the very newest last. Forwarded streams and file operations by SFTP have
a row when they end, listeners (ssh -R) and agents also when they begin. Bytes are counted
from the client (in) and to it (out).
Rows are kept for retention.auth_logs_days (30).

examples:
  homeport log
  homeport log --action login --since 1h
  homeport log --workspace my-app --action file --limit 1000 --json

--json: a list of objects with id, action, success, client_ip, user_agent, details (an
object that depends on the action), created_at.
""",
    ),
)
