"""`sessions`, `kill`: what runs, and how to end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.errors import CommandRefused, UsageWrong
from gateway.journal import JournalAction
from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.shapes import session_shape
from gateway.lobby.text import age, clean, size, unique_prefixes
from gateway.lobby.workspaces import workspace_named

if TYPE_CHECKING:
    from argparse import Namespace

    from gateway.interfaces import SessionRow
    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext

SESSIONS_SHOWN_MAX = 200
ID_LENGTH_MIN = 4  # a shorter beginning is a typing error, not an id


def pick(wanted: str, ids: Sequence[str], *, noun: str, listing: str) -> str:
    """The one id that begins with `wanted`. Raises CommandRefused: none, or several."""
    if len(wanted) < ID_LENGTH_MIN:
        raise UsageWrong(f"{clean(wanted)!r} is too short for an id; see: {listing}")
    matches = [identifier for identifier in ids if identifier.startswith(wanted.lower())]
    if not matches:
        raise CommandRefused(f"no {noun} {clean(wanted, length_max=60)!r}; see: {listing}")
    if len(matches) > 1:
        prefixes = unique_prefixes(ids)
        shown = " ".join(prefixes[match] for match in matches[:5]) + (" …" if len(matches) > 5 else "")
        raise CommandRefused(f"{clean(wanted)!r} could be {len(matches)} of them: {shown}")
    return matches[0]


def _sessions_arguments(parser: Parser) -> None:
    parser.add_argument("--all", action="store_true", help=f"ended ones as well, the newest {SESSIONS_SHOWN_MAX}")
    json_option(parser)


async def _sessions(lobby: LobbyContext, args: Namespace) -> int:
    rows = await lobby.services.store.list_sessions(include_ended=args.all, limit=SESSIONS_SHOWN_MAX)
    if args.json:
        await lobby.print_json([session_shape(row) for row in rows])
        return EXIT_OK
    if not rows:
        await lobby.note(f"no sessions{' yet' if args.all else ' now; ended ones: ' + lobby.prog + ' sessions --all'}")
        return EXIT_OK
    prefixes = unique_prefixes([row.id for row in rows])
    cells = [
        (
            prefixes[row.id],
            row.workspace_name or "-",
            _what(row),
            _state(row),
            age(row.created_at),
            clean(row.principal or "-", length_max=40),
            size(row.bytes_out),
        )
        for row in rows
    ]
    await lobby.print_table(("ID", "WORKSPACE", "WHAT", "STATE", "BEGAN", "WHO", "OUTPUT"), cells)
    return EXIT_OK


def _what(row: SessionRow) -> str:
    if row.kind == "shell":
        return f"shell {row.name}" if row.name else "shell"
    return clean(row.command or row.kind, length_max=60)


def _state(row: SessionRow) -> str:
    if row.status != "terminated":
        return str(row.status)
    if row.exit_signal is not None:
        return f"signal {row.exit_signal}"
    if row.exit_code is not None:
        return f"exit {row.exit_code}"
    return str(row.end_reason or "ended")


def _kill_arguments(parser: Parser) -> None:
    parser.add_argument("ids", metavar="ID", nargs="*", help="sessions, by the beginning of their ids")
    parser.add_argument("--workspace", metavar="NAME", help="everything that runs in this workspace")


async def _kill(lobby: LobbyContext, args: Namespace) -> int:
    if bool(args.ids) == bool(args.workspace):
        raise UsageWrong(f"say what to end: an id from `{lobby.prog} sessions`, or --workspace NAME")
    rows = {row.id: row for row in await lobby.services.store.list_sessions(limit=10_000)}
    if args.workspace:
        workspace = await workspace_named(lobby, args.workspace)
        await lobby.services.sessions.kill_workspace(workspace.id)
        await lobby.journal(JournalAction.SESSION_TERMINATED, workspace=workspace.name, how="kill --workspace")
        await lobby.print(f"ended everything that ran in {workspace.name}")
        return EXIT_OK
    listing = f"{lobby.prog} sessions"
    for session_id in [pick(wanted, list(rows), noun="running session", listing=listing) for wanted in args.ids]:
        await lobby.services.sessions.kill(session_id)
        await lobby.journal(JournalAction.SESSION_TERMINATED, session_id=session_id, how="kill")
        row = rows[session_id]
        await lobby.print(f"ended {session_id}: {_what(row)} in {row.workspace_name or 'no workspace'}")
    return EXIT_OK


COMMANDS = (
    Command(
        name="sessions",
        summary="list what runs: shells, commands, file transfers",
        run=_sessions,
        arguments=_sessions_arguments,
        teaching="""
active: a client is attached. paused: the program runs on, nobody is attached.

examples:
  homeport sessions
  homeport sessions --all --json

--json: a list of objects with id, workspace, kind, status, name, command, principal,
client_ip, bytes_in, bytes_out, created_at, last_activity_at, ended_at, end_reason,
exit_code, exit_signal.
""",
    ),
    Command(
        name="kill",
        summary="end sessions: their programs get a hang-up, then are killed",
        run=_kill,
        arguments=_kill_arguments,
        teaching="""
The beginning of an id is enough, as long as it names one running session. What was
printed so far stays in the recording. --workspace ends background programs as well.

examples:
  homeport kill 01932b7e
  homeport kill --workspace my-app
""",
    ),
)
