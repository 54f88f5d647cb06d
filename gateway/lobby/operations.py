"""`backup now`, `stop`, and the commands that only the host offers (their work is in cli.py and check.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.shapes import backup_shape
from gateway.lobby.text import size

if TYPE_CHECKING:
    from argparse import Namespace

    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext


async def _backup(lobby: LobbyContext, args: Namespace) -> int:
    made = await lobby.services.backup()
    if args.json:
        await lobby.print_json(backup_shape(made))
        return EXIT_OK
    pruned = f"; {made.pruned_count} older ones removed" if made.pruned_count else ""
    await lobby.print(f"backed up to {made.path} ({size(made.size_bytes)}, {made.duration_ms / 1000:.1f} s){pruned}")
    return EXIT_OK


def _stop_arguments(parser: Parser) -> None:
    parser.add_argument("--all", action="store_true", help="end the programs in the workspaces as well")


async def _stop(lobby: LobbyContext, args: Namespace) -> int:
    begun = await lobby.services.stop(args.all)
    if not begun.was_running:
        await lobby.note("no gateway is running")
    if begun.ended_count:
        await lobby.print(f"ended what ran in {begun.ended_count} workspace{'' if begun.ended_count == 1 else 's'}")
    elif begun.kept:
        names = sorted({row.workspace_name or "?" for row in begun.kept})
        programs = "1 program goes" if len(begun.kept) == 1 else f"{len(begun.kept)} programs go"
        await lobby.print(
            f"{programs} on without the gateway, in {', '.join(names)}; end them with: {lobby.prog} stop --all"
        )
    return EXIT_OK


async def _reload(lobby: LobbyContext, args: Namespace) -> int:
    await lobby.services.reload(lobby.print)
    return EXIT_OK


COMMANDS = (
    Command(
        name="backup now",
        summary="copy the database, checked, into the backups folder",
        run=_backup,
        arguments=json_option,
        teaching="""
The same backup as the nightly one: a consistent copy, checked, compressed, and only then
are the oldest removed. Workspaces' files are not part of it.

examples:
  homeport backup now

--json: an object with path, size_bytes, duration_ms, pruned_count.
""",
    ),
    Command(
        name="serve",
        summary="run the gateway in the foreground",
        run=None,
        on_host_only=True,
        makes_state=True,
        teaching="""
Settings come from HOMEPORT_… variables and the file named by HOMEPORT_CONFIG; see
`homeport check`. SIGTERM or Ctrl-C stop it in order: shells go on and are found again.

examples:
  homeport serve
  HOMEPORT_SSH_LISTEN=0.0.0.0:2222 homeport serve
""",
    ),
    Command(
        name="run",
        summary="try it out: a gateway with a demo workspace and your own key",
        run=None,
        on_host_only=True,
        makes_state=True,
        teaching="""
Prepares everything a first login needs, prints the ssh line to paste, and serves until
Ctrl-C.

examples:
  homeport run
""",
    ),
    Command(
        name="stop",
        summary="stop the gateway; shells go on unless --all",
        run=_stop,
        arguments=_stop_arguments,
        on_host_only=True,
        teaching="""
Terminal sessions live in their workspace's keeper and are found again by the next start.
With --all they end as well, also when no gateway runs any more.

examples:
  homeport stop
  homeport stop --all
""",
    ),
    Command(
        name="reload",
        summary="upgrade the running gateway without closing a connection",
        run=_reload,
        on_host_only=True,
        teaching="""
For an upgrade, or a changed settings file. The program is executed anew and takes over
the listening sockets, the sessions that wait, and the schedule; no connection is refused.
Connections that are open stay with the old process, which ends when they have: commands,
transfers, forwards, editors, terminals.

If the new one does not start, its reason is printed, and the old one goes on as if
nothing had been asked. A database upgrade that the old version cannot live with is such a
reason: then restart. Variables of the environment are those of the first start. A trial
(`homeport run`, `./dev run`) is not reloaded: stop it and start it again.

examples:
  homeport reload
""",
    ),
    Command(
        name="check",
        summary="show the settings in effect and check what can be checked",
        run=None,
        arguments=json_option,
        on_host_only=True,
        teaching="""
Changes nothing. Looks at the settings, the state directory, the database, the walls
between workspaces, the listening addresses and the keys. Exit status 1 if something
stands in the way of a start.

examples:
  homeport check
  HOMEPORT_CONFIG=./new.toml homeport check

--json: an object with settings (name to value) and checks, a list of objects with name,
state (ok, warning, failed) and message.
""",
    ),
    Command(
        name="db status",
        summary="show which migrations the database has",
        run=None,
        arguments=json_option,
        on_host_only=True,
        teaching="""
examples:
  homeport db status

--json: an object with applied, pending and unknown, each a list of migration names.
""",
    ),
    Command(
        name="db upgrade",
        summary="apply pending migrations now, after a backup",
        run=None,
        on_host_only=True,
        teaching="""
`homeport serve` does this by itself at start. Stop the gateway first.

examples:
  homeport db upgrade
""",
    ),
)
