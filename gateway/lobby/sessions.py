"""`sessions`, `kill`: what runs, and how to end it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.errors import CommandRefused, UsageWrong
from gateway.journal import JournalAction
from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.shapes import session_shape
from gateway.lobby.text import age, clean, size, unique_prefixes
from gateway.lobby.workspaces import workspace_named
from gateway.words import duration_text

if TYPE_CHECKING:
    from argparse import Namespace

    from gateway.interfaces import SessionRow
    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext

SESSIONS_SHOWN_MAX = 200
SOON = timedelta(days=1)  # an end for want of use that is nearer than this is said in the table
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
        shown = ", ".join(prefixes[match] for match in matches[:5]) + (", …" if len(matches) > 5 else "")
        raise CommandRefused(f"{clean(wanted)!r} fits {len(matches)} of them; name one: {shown}")
    return matches[0]


def _sessions_arguments(parser: Parser) -> None:
    parser.add_argument("--all", action="store_true", help=f"ended ones as well, the newest {SESSIONS_SHOWN_MAX}")
    json_option(parser)


async def _sessions(lobby: LobbyContext, args: Namespace) -> int:
    rows = await lobby.services.store.list_sessions(
        include_ended=args.all, limit=SESSIONS_SHOWN_MAX, workspaces=lobby.scope
    )
    ends_at = lobby.services.ends_at()
    if args.json:
        await lobby.print_json([session_shape(row, ends_at=ends_at.get(row.id)) for row in rows])
        return EXIT_OK
    if not rows:
        await lobby.note(f"no sessions{' yet' if args.all else ' now; ended ones: ' + lobby.prog + ' sessions --all'}")
        return EXIT_OK
    prefixes = unique_prefixes([row.id for row in rows])
    now = datetime.now(UTC)
    cells = [
        (
            prefixes[row.id],
            row.login_name or "-",
            what(row),
            state_of(row, ends_at.get(row.id), now),
            _job(row, now),
            age(row.created_at, now),
            clean(row.principal or "-", length_max=40),
            size(row.bytes_out),
        )
        for row in rows
    ]
    await lobby.print_table(("ID", "LOGIN NAME", "WHAT", "STATE", "JOB", "BEGAN", "WHO", "OUTPUT"), cells)
    return EXIT_OK


def what(row: SessionRow) -> str:
    """What runs in it, on one line."""
    return "shell" if row.kind == "shell" else clean(row.command or row.kind, length_max=60)


def state_of(row: SessionRow, ends_at: datetime | None, now: datetime) -> str:
    if row.status == "terminated":
        return _end(row)
    if row.status == "active":
        state = "attached"
    else:
        state = "detached" if row.detached_at is None else f"detached {duration_text(now - row.detached_at)}"
    if ends_at is not None and ends_at - now < SOON:
        state += f", ends in {duration_text(ends_at - now)}"
    return state


def _end(row: SessionRow) -> str:
    if row.end_reason == "idle":
        return "idle"
    if row.exit_signal is not None:
        return f"signal {row.exit_signal}"
    if row.exit_code is not None:
        return f"exit {row.exit_code}"
    return str(row.end_reason or "ended")


def _job(row: SessionRow, now: datetime) -> str:
    """What a detached session is busy with, or was."""
    if row.status != "paused" or row.job is None:
        return "-"
    job = clean(row.job, length_max=40)
    if row.job_ended_at is None:
        return job
    at = row.job_ended_at  # in UTC, like the journal
    day = "" if now - row.job_ended_at < timedelta(hours=12) else f"{at.day} {at:%b} "
    return f"{job} ended {day}{at:%H:%M} ({age(row.job_ended_at, now)})"


def _kill_arguments(parser: Parser) -> None:
    parser.add_argument("ids", metavar="SESSION", nargs="*", help="my-app+NAME, or the beginning of an id")
    parser.add_argument("--workspace", metavar="NAME", help="everything that runs in this workspace")


async def _kill(lobby: LobbyContext, args: Namespace) -> int:
    if bool(args.ids) == bool(args.workspace):
        raise UsageWrong(f"say what to end: an id or my-app+NAME from `{lobby.prog} sessions`, or --workspace NAME")
    running = await lobby.services.store.list_sessions(limit=10_000, workspaces=lobby.scope)
    rows = {row.id: row for row in running}
    if args.workspace:
        workspace = await workspace_named(lobby, args.workspace)
        await lobby.services.sessions.kill_workspace(workspace.id)
        await lobby.journal(JournalAction.SESSION_TERMINATED, workspace=workspace.name, how="kill --workspace")
        await lobby.print(f"ended everything that ran in {workspace.name}")
        return EXIT_OK
    chosen = [_pick_session(wanted, rows, listing=f"{lobby.prog} sessions") for wanted in args.ids]
    for session_id in dict.fromkeys(chosen):
        await lobby.services.sessions.kill(session_id)
        await lobby.journal(JournalAction.SESSION_TERMINATED, session_id=session_id, how="kill")
        row = rows[session_id]
        await lobby.print(f"ended {session_id}: {what(row)} in {row.login_name or '-'}")
    return EXIT_OK


def _pick_session(wanted: str, rows: Mapping[str, SessionRow], *, listing: str) -> str:
    """By login name, or by the beginning of an id, which holds no `+`. Raises CommandRefused and UsageWrong."""
    if "+" not in wanted:
        is_workspace = any(row.workspace_name == wanted.lower() for row in rows.values())
        if is_workspace and not any(identifier.startswith(wanted.lower()) for identifier in rows):
            raise UsageWrong(
                f"{clean(wanted)!r} is a workspace: name one of its sessions by its id (see: {listing}), "
                f"or end them all: --workspace {clean(wanted.lower())}"
            )
        return pick(wanted, list(rows), noun="running session", listing=listing)
    named = [row.id for row in rows.values() if row.name is not None and row.login_name == wanted.lower()]
    if not named:
        raise CommandRefused(f"no running session {clean(wanted, length_max=110)!r}; see: {listing}")
    return named[0]


COMMANDS = (
    Command(
        name="sessions",
        summary="list what runs: shells, commands, file transfers",
        run=_sessions,
        arguments=_sessions_arguments,
        for_scoped_keys=True,
        teaching="""
attached: a client is there. detached: the program runs on, nobody is attached; JOB is
what it is busy with, or what has ended meanwhile and when (UTC). LOGIN NAME, before the
@, gets you to a session with a name; one without belongs to the key that began it.

examples:
  homeport sessions
  homeport sessions --all --json

--json: a list of objects with id, workspace, kind, status (active, paused, terminated),
name, command, principal, client_ip, bytes_in, bytes_out, created_at, last_activity_at,
ended_at, end_reason, exit_code, exit_signal; of a paused one detached_at, job and
job_ended_at (job null: a shell at its prompt); ends_at, when it is to be ended for want
of use, if nothing happens.
""",
    ),
    Command(
        name="kill",
        summary="end sessions: their programs get a hang-up, then are killed",
        run=_kill,
        arguments=_kill_arguments,
        for_scoped_keys=True,
        teaching="""
The beginning of an id is enough, as long as it names one running session. What was
printed so far stays in the recording. --workspace ends background programs as well.

examples:
  homeport kill 01932b7e
  homeport kill my-app+agent
  homeport kill --workspace my-app
""",
    ),
)
