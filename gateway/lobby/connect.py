"""`connect`: what to write into ~/.ssh/config, and what to type."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway import way_in
from gateway.errors import CommandRefused, UsageWrong
from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.shapes import way_in_shape
from gateway.lobby.text import clean
from gateway.lobby.workspaces import workspace_named

if TYPE_CHECKING:
    from argparse import Namespace

    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext
    from gateway.way_in import WayIn

# It goes into a file that ssh reads, so nothing that means something there: names, addresses, and a zone's name.
_HOST = re.compile(r"(?!-)[A-Za-z0-9._:-]{1,253}(?:%[A-Za-z0-9._-]{1,15})?")


def _arguments(parser: Parser) -> None:
    parser.add_argument("workspace", metavar="WORKSPACE", help="which one to enter")
    parser.add_argument("--host", metavar="H", help="how clients name the gateway (default: where it listens)")
    parser.add_argument("--port", metavar="P", help="the port they use (default: where it listens)")
    json_option(parser)


async def _connect(lobby: LobbyContext, args: Namespace) -> int:
    host = None if args.host is None else _host(args.host)
    port = None if args.port is None else _port(args.port)
    workspace = await workspace_named(lobby, args.workspace)
    way = await lobby.services.way_in(workspace)
    if lobby.scope is not None:  # a trial's own files: paths of its owner
        way = replace(way, known_hosts=None, identity=None)
    way = await _as_reached(lobby, way, host, port)
    if args.json:
        await lobby.print_json(way_in_shape(way))
        return EXIT_OK
    # All of it may be appended to the file: what is no entry is a comment there.
    await lobby.print(f"# For ~/.ssh/config; then: ssh {way.alias}")
    await lobby.print(way_in.config_entry(way))
    await lobby.print(f"# Without it:  {way_in.ssh_command(way)}")
    await lobby.print(f"# VS Code:     {way_in.code_command(way)}")
    return EXIT_OK


async def _as_reached(lobby: LobbyContext, way: WayIn, host: str | None, port: int | None) -> WayIn:
    """The way as clients go it. Raises CommandRefused where nobody could tell how."""
    port = port or way.port
    if port == 0:
        raise CommandRefused("the gateway takes a port when it starts, and none is running; say which with --port")
    if host is None and way_in.is_everywhere(way.host):
        host = await lobby.services.own_name()
        if host is None or not _HOST.fullmatch(host):
            raise CommandRefused(
                f"the gateway listens on every address ({way.host}), and this machine has no name for the network; "
                "say how clients name it, with --host"
            )
        await lobby.note(
            f"the gateway listens on every address; {host} is this machine's name for itself: "
            "if clients know it by another, give --host"
        )
    elif host is None and (way.host.startswith("127.") or way.host in ("::1", "localhost")) and not way.known_hosts:
        await lobby.note(f"the gateway listens on {way.host}: only this machine reaches it (HOMEPORT_SSH_LISTEN)")
    host = host or way.host
    if (host, port) != (way.host, way.port):  # its files hold for the address they were made for
        way = replace(way, host=host, port=port, known_hosts=None, identity=None)
    return way


def _host(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not _HOST.fullmatch(host):
        raise UsageWrong(f"--host {clean(text)!r} is not a host; write a name or an address, such as gateway.example")
    if ":" in host and not _is_address(host):  # most likely `gateway.example:2200`, which ssh would look up as a name
        raise UsageWrong(f"--host {clean(text)!r} is not a host; a port has an option of its own: --port")
    return host


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _port(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise UsageWrong(f"--port {clean(text)!r} is not a port; write a number from 1 to 65535")
    return int(text)


COMMANDS = (
    Command(
        name="connect",
        summary="print the ssh entry and the editor's line for a workspace",
        run=_connect,
        arguments=_arguments,
        for_scoped_keys=True,
        teaching="""
Everything printed may go into ~/.ssh/config of the machine you sit at, which needs a key
that `homeport keys add` has let in. With the entry in place:

  ssh homeport-my-app                          a terminal
  scp notes.txt homeport-my-app:               into the tree
  sftp homeport-my-app                         the tree; absolute paths reach the rest
  rsync -a src/ homeport-my-app:src/
  ssh -L 8080:localhost:8080 homeport-my-app   a server in the workspace, on your machine

examples:
  homeport connect my-app
  homeport connect my-app --host gateway.example >> ~/.ssh/config

--json: an object with workspace, alias, host, port, user, tree (the working tree as seen
inside), known_hosts and identity (files, or null), config, ssh and code (the texts).
""",
    ),
)
