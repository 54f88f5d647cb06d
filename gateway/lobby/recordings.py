"""`rec ls|play|export|on|off`: what terminals printed."""

from __future__ import annotations

import math
from contextlib import aclosing
from typing import TYPE_CHECKING

from gateway.errors import CommandRefused, UsageWrong
from gateway.journal import JournalAction
from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.sessions import pick, what
from gateway.lobby.shapes import recording_shape
from gateway.lobby.text import age, clean, duration, size, unique_prefixes
from gateway.lobby.workspaces import workspace_named

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from datetime import timedelta

    from gateway.interfaces import SessionRow
    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext
    from gateway.lobby.services import RecordingInfo

# What a recording may leave switched on in the terminal that plays it: the other screen, mouse reports, bracketed
# paste, a hidden cursor, a scroll region, colours (xterm's control sequences, "DEC Private Mode Reset" and DECSTR).
TERMINAL_RESET = (
    b"".join(b"\x1b[?%dl" % mode for mode in (1049, 1000, 1002, 1003, 1004, 1006, 2004))
    + b"\x1b[!p\x1b[0m\x1b[?25h\r\n"
)
SPEED_MAX = 1000.0
EXPORT_WRITE_LENGTH = 32 * 1024
SESSIONS_LOOKED_AT_MAX = 2000  # the newest; recordings of older ones go by their workspace


async def _ls(lobby: LobbyContext, args: Namespace) -> int:
    sessions = await _sessions(lobby)
    recordings = await _recordings(lobby, sessions)
    if args.json:
        shapes = [recording_shape(recording, sessions.get(recording.session_id)) for recording in recordings]
        await lobby.print_json(shapes)
        return EXIT_OK
    if not recordings:
        await lobby.note("no recordings yet; every terminal session makes one")
        return EXIT_OK
    prefixes = unique_prefixes([recording.session_id for recording in recordings])
    rows = [
        (
            prefixes[recording.session_id],
            *_of_session(recording, sessions.get(recording.session_id)),
            age(recording.started_at),
            "running" if recording.is_live else _length(recording.duration),
            size(recording.size_bytes),
        )
        for recording in recordings
    ]
    await lobby.print_table(("ID", "LOGIN NAME", "WHAT", "BEGAN", "LENGTH", "SIZE"), rows)
    return EXIT_OK


async def _sessions(lobby: LobbyContext) -> dict[str, SessionRow]:
    rows = await lobby.services.store.list_sessions(
        include_ended=True, limit=SESSIONS_LOOKED_AT_MAX, workspaces=lobby.scope
    )
    return {row.id: row for row in rows}


async def _recordings(lobby: LobbyContext, sessions: Mapping[str, SessionRow]) -> Sequence[RecordingInfo]:
    """Those that whoever asks may see, newest first. The row of its session says where one belongs: the name in the
    file is that of its time, and may be another workspace's by now."""
    recordings = await lobby.services.recordings.list()
    if lobby.scope is None:
        return recordings
    return [recording for recording in recordings if recording.session_id in sessions]


def _of_session(recording: RecordingInfo, row: SessionRow | None) -> tuple[str, str]:
    """Login name and what ran, as far as the database still knows."""
    if row is None:
        return clean(recording.workspace_name), "-"
    return row.login_name or clean(recording.workspace_name), what(row)


def _length(length: timedelta | None) -> str:
    return "-" if length is None else duration(length.total_seconds())


async def _recording_id(lobby: LobbyContext, wanted: str) -> str:
    """By the beginning of its id, or by login name: the newest of that name."""
    sessions = await _sessions(lobby)
    ids = [recording.session_id for recording in await _recordings(lobby, sessions)]  # newest first
    if "+" in wanted:
        ids = [each for each in ids if each in sessions and sessions[each].login_name == wanted.lower()]
        if not ids:
            raise CommandRefused(f"no recording of {clean(wanted, length_max=110)!r}; see: {lobby.prog} rec ls")
        return ids[0]
    return pick(wanted, ids, noun="recording", listing=f"{lobby.prog} rec ls")


def _session_argument(parser: Parser) -> None:
    parser.add_argument("id", metavar="SESSION", help="the beginning of an id, or my-app+NAME: the newest of that name")


def _play_arguments(parser: Parser) -> None:
    _session_argument(parser)
    parser.add_argument("--speed", type=_positive, default=1.0, metavar="X", help="times faster (default: 1)")
    parser.add_argument(
        "--idle-limit", type=_positive, default=2.0, metavar="S", help="longest pause in seconds (default: 2)"
    )


async def _play(lobby: LobbyContext, args: Namespace) -> int:
    session_id = await _recording_id(lobby, args.id)
    pieces = lobby.services.recordings.play(
        session_id, speed=min(args.speed, SPEED_MAX), idle_seconds_max=args.idle_limit
    )
    screen = lobby.screen or lobby.stdout
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                await screen.write(piece)
    finally:
        if lobby.is_terminal:
            await screen.write(TERMINAL_RESET)
    return EXIT_OK


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise UsageWrong(f"{clean(text)!r} is not a number above zero; write for example 2 or 0.5")
    return value


def _export_arguments(parser: Parser) -> None:
    _session_argument(parser)
    parser.add_argument("--v2", action="store_true", help="asciicast v2, for players older than asciinema 3")
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead of standard output")


async def _export(lobby: LobbyContext, args: Namespace) -> int:
    session_id = await _recording_id(lobby, args.id)
    lines = lobby.services.recordings.asciicast(session_id, version=2 if args.v2 else 3)
    async with aclosing(lines):
        await _write_joined(lobby, lines)
    return EXIT_OK


async def _write_joined(lobby: LobbyContext, lines: AsyncGenerator[str, None]) -> None:
    """Many short lines make one write: a frame for each keystroke would cost more than the export itself."""
    waiting: list[str] = []
    waiting_length = 0
    async for line in lines:
        waiting.append(line)
        waiting_length += len(line)
        if waiting_length >= EXPORT_WRITE_LENGTH:
            await lobby.stdout.write("".join(waiting).encode())
            waiting.clear()
            waiting_length = 0
    await lobby.stdout.write("".join(waiting).encode())


def _workspace_argument(parser: Parser) -> None:
    parser.add_argument("name", metavar="WORKSPACE", help="as `ls` shows it")


async def _on(lobby: LobbyContext, args: Namespace) -> int:
    return await _switch(lobby, args.name, is_recorded=True)


async def _off(lobby: LobbyContext, args: Namespace) -> int:
    return await _switch(lobby, args.name, is_recorded=False)


async def _switch(lobby: LobbyContext, name: str, *, is_recorded: bool) -> int:
    workspace = await workspace_named(lobby, name)
    await lobby.services.store.set_workspace_recorded(workspace.id, is_recorded=is_recorded)
    await lobby.journal(JournalAction.RECORDING_SWITCHED, workspace=workspace.name, is_recorded=is_recorded)
    words = "are recorded" if is_recorded else "are not recorded"
    await lobby.print(f"new terminals in {workspace.name} {words}; those that are open stay as they began")
    return EXIT_OK


COMMANDS = (
    Command(
        name="rec ls",
        summary="list the recordings of terminal sessions",
        run=_ls,
        arguments=json_option,
        for_scoped_keys=True,
        teaching="""
What a terminal showed is recorded, what was typed is not.

examples:
  homeport rec ls

--json: a list of objects with session_id, workspace, name and command (of the session,
or null), started_at, duration_seconds (null: not known), size_bytes, is_live.
""",
    ),
    Command(
        name="rec play",
        summary="play a recording in this terminal",
        run=_play,
        arguments=_play_arguments,
        for_scoped_keys=True,
        teaching="""
Ctrl-C stops it and puts the terminal right. The terminal should be as large as the one
recorded. A running session plays up to now.

examples:
  homeport rec play my-app+agent
  homeport rec play 01932b7e --speed 4 --idle-limit 0.5
""",
    ),
    Command(
        name="rec export",
        summary="write a recording as an asciicast file",
        run=_export,
        arguments=_export_arguments,
        for_scoped_keys=True,
        stdout_to=lambda args: args.output,
        teaching="""
asciicast v3 is what asciinema 3 plays and its web player shows; --v2 is for older ones.

examples:
  homeport rec export 01932b7e > build.cast
  homeport rec export 01932b7e --v2 | asciinema play -
""",
    ),
    Command(
        name="rec on",
        summary="record the terminals of a workspace (the default)",
        run=_on,
        arguments=_workspace_argument,
        teaching="""
examples:
  homeport rec on my-app

HOMEPORT_RECORDING_ENABLED=false switches recording off for all workspaces.
""",
    ),
    Command(
        name="rec off",
        summary="do not record the terminals of a workspace",
        run=_off,
        arguments=_workspace_argument,
        teaching="""
Recordings that were made stay until retention removes them. What a terminal printed last
is still kept in memory, so that a restart of the gateway loses nothing of it.

examples:
  homeport rec off my-app
""",
    ),
)
