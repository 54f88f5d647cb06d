"""`whoami`, `stats`: who asks, and how much goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.shapes import statistics_shape, whoami_shape
from gateway.lobby.text import clean, duration

if TYPE_CHECKING:
    from argparse import Namespace

    from gateway.lobby.context import LobbyContext


async def _whoami(lobby: LobbyContext, args: Namespace) -> int:
    from gateway import __version__

    principal = lobby.principal
    if args.json:
        await lobby.print_json(whoami_shape(principal, version=__version__))
        return EXIT_OK
    rows = [("name", clean(lobby.who))]
    if principal is None:
        rows.append(("scope", "everything: the operator, on the host"))
    else:
        rows.append(("fingerprint", principal.fingerprint))
        names = principal.workspaces
        rows.append(("scope", "all workspaces" if names is None else ", ".join(sorted(names)) or "no workspace"))
        rows.append(("forwarding", principal.forwarding or "as each workspace says"))
    rows.append(("gateway", f"homeport {__version__}"))
    await lobby.print_table(("WHO", "YOU ARE"), rows)
    return EXIT_OK


async def _stats(lobby: LobbyContext, args: Namespace) -> int:
    figures = await lobby.services.store.session_statistics()
    if args.json:
        await lobby.print_json(statistics_shape(figures))
        return EXIT_OK
    life = "-" if figures.life_seconds_mean is None else duration(figures.life_seconds_mean)
    rows = [
        ("attached", str(figures.active)),
        ("detached", str(figures.paused)),
        ("ended in the last 24 h", str(figures.ended_last_day)),
        ("on record", str(figures.total)),
        ("mean life, of those ended in 7 days", life),
    ]
    await lobby.print_table(("SESSIONS", "FIGURE"), rows)
    return EXIT_OK


COMMANDS = (
    Command(
        name="whoami",
        summary="show who the gateway takes you for, and what you may enter",
        run=_whoami,
        arguments=json_option,
        for_scoped_keys=True,
        teaching="""
Your key says who you are. A key that may enter every workspace is an owner's and may run
every command; one that may enter some is offered those that show and change nothing else.

examples:
  homeport whoami
  homeport whoami --json

--json: an object with principal (null: the operator, on the host), fingerprint,
is_owner, workspaces (null: all), forwarding (null: says nothing), version.
""",
    ),
    Command(
        name="stats",
        summary="show how many sessions there are and were",
        run=_stats,
        arguments=json_option,
        teaching="""
Rows of ended sessions are kept for retention.sessions_days (7).

examples:
  homeport stats
  homeport stats --json | jq .active

--json: an object with active, paused, total, ended_last_24h, and life_seconds_mean (of
those that ended in the last 7 days; null: none did).
""",
    ),
)
