"""`new`, `ls`, `rename`: workspaces. What is in their trees: trees.py."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from gateway.errors import CommandRefused, UsageWrong
from gateway.journal import JournalAction
from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.shapes import workspace_shape
from gateway.lobby.text import age, clean, counted

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable

    from gateway.interfaces import Workspace
    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext


async def workspace_named(lobby: LobbyContext, name: str) -> Workspace:
    """The active workspace `name`, or a refusal with the nearest one. An archived one counts as missing, and so does,
    in the same words, one outside the scope of the key that asks."""
    found = await lobby.services.store.find_workspace(name.lower())
    if found is not None and not visible(lobby, [found]):
        found = None
    if found is not None and found.is_active:
        return found
    if found is not None:
        raise CommandRefused(
            f'the workspace "{found.name}" is archived; bring it back with: {lobby.prog} unarchive {found.name}'
        )
    names = [workspace.name for workspace in visible(lobby, await lobby.services.store.list_workspaces())]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f'; did you mean "{near[0]}"?' if near else ";"
    raise CommandRefused(f'no workspace named "{clean(name, length_max=60)}"{hint} list them with: {lobby.prog} ls')


def visible(lobby: LobbyContext, workspaces: Iterable[Workspace]) -> list[Workspace]:
    """Those that whoever asks may know of."""
    principal = lobby.principal
    return [workspace for workspace in workspaces if principal is None or principal.may_enter(workspace.name)]


def looks_like_source(text: str) -> bool:
    """Whether the words of `new` mean something to clone: no workspace's name has one of these letters."""
    return any(letter in text for letter in ":/@")


def _new_arguments(parser: Parser) -> None:
    parser.add_argument("source", metavar="NAME|OWNER/REPO|URL", help="a name for an empty one, or what to clone")
    parser.add_argument("name", metavar="NAME", nargs="?", help="the clone's name (default: the repository's)")
    parser.add_argument("--branch", metavar="B", help="the branch to clone (default: the repository's own default)")
    parser.add_argument("--description", metavar="TEXT", help="one line on what it is for")
    parser.add_argument("--later", action="store_true", help="clone it at the first login, not now")
    json_option(parser)


async def _new(lobby: LobbyContext, args: Namespace) -> int:
    source, name = (args.source, args.name) if looks_like_source(args.source) else (None, args.source)
    if source is None and args.name is not None:
        raise UsageWrong(f"{clean(args.source)!r} is no repository; write for example: {lobby.prog} new {_URL} my-app")
    workspace = await lobby.services.workspaces.create(
        name=name,
        source=source,
        branch=args.branch,
        description=args.description,
        is_declared=args.later,
        progress=lobby.stderr,
        is_terminal=lobby.is_terminal,
        columns=lobby.columns,
    )
    await lobby.journal(JournalAction.WORKSPACE_CREATED, workspace=workspace.name)
    if args.json:
        await lobby.print_json(workspace_shape(workspace))
        return EXIT_OK
    state = "ready" if workspace.is_cloned else "declared, and cloned at its first login"
    await lobby.print(f"{workspace.name} is {state}; enter it with: {lobby.way_into(workspace.name)}")
    return EXIT_OK


def _rename_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="OLD", help="the workspace")
    parser.add_argument("new_name", metavar="NEW", help="what stands before the @ from now on")


async def _rename(lobby: LobbyContext, args: Namespace) -> int:
    workspace = await workspace_named(lobby, args.name)
    running = [row for row in await lobby.services.store.list_sessions() if row.workspace_id == workspace.id]
    if running:
        raise CommandRefused(
            f'"{workspace.name}" has {counted(len(running), "session")} running, whose paths have its name; '
            f"end them first with: {lobby.prog} kill --workspace {workspace.name}"
        )
    renamed, fingerprints = await lobby.services.workspaces.rename(workspace, args.new_name)
    await lobby.journal(JournalAction.WORKSPACE_CHANGED, workspace=renamed.name, setting="name",
                        value=renamed.name, before=workspace.name)  # fmt: skip
    # What is open with such a key still has the old name in its scope, which may soon be another workspace's.
    closed_count = sum(lobby.services.disconnect(fingerprint) for fingerprint in fingerprints)
    scopes = f", also in the scope of {counted(len(fingerprints), 'key')}" if fingerprints else ""
    closed = f"; {counted(closed_count, 'open connection')} of them closed" if closed_count else ""
    await lobby.print(f"{workspace.name} is {renamed.name} now{scopes}{closed}; enter it with: "
                      f"{lobby.way_into(renamed.name)}")  # fmt: skip
    return EXIT_OK


def _ls_arguments(parser: Parser) -> None:
    parser.add_argument("--all", action="store_true", help="the archived ones as well")
    json_option(parser)


async def _ls(lobby: LobbyContext, args: Namespace) -> int:
    workspaces = visible(lobby, await lobby.services.store.list_workspaces(include_inactive=args.all))
    if args.json:
        await lobby.print_json([workspace_shape(workspace) for workspace in workspaces])
        return EXIT_OK
    if not workspaces:
        is_scoped = lobby.scope is not None
        make = f"no workspaces yet; make one with: {lobby.prog} new NAME"
        await lobby.note("there is no workspace that this key may enter" if is_scoped else make)
        return EXIT_OK
    rows = [
        (
            workspace.name,
            _attached(workspace),
            clean(workspace.github_repo or workspace.github_url or "-"),
            workspace.branch,
            age(workspace.last_activity_at or workspace.created_at),
        )
        for workspace in workspaces
    ]
    await lobby.print_table(("NAME", "ATTACHED", "REPOSITORY", "BRANCH", "USED"), rows)
    return EXIT_OK


def _attached(workspace: Workspace) -> str:
    if not workspace.is_active:
        return "archived"
    return str(workspace.active_session_count) if workspace.is_cloned else "declared"


_URL = "OWNER/REPO"

COMMANDS = (
    Command(
        name="new",
        summary="make a workspace, empty or cloned",
        run=_new,
        arguments=_new_arguments,
        makes_state=True,
        teaching="""
A workspace is a home and a working tree with a name; `ssh NAME@HOST` lands in it.
With a name alone the tree is an empty git repository. OWNER/REPO is a repository on
GitHub; URLs may be https://…, ssh://… and git@host:path, on hosts that the setting
hosts in [git] names. git runs inside the workspace, behind its walls. When the network
fails, it tries again three times. Interrupted or failed, nothing half made is left.

--later writes the workspace down and clones it at its first login.

examples:
  homeport new notes
  homeport new OWNER/REPO
  homeport new OWNER/REPO my-app --branch next --description Staging
  homeport new git@gitlab.com:OWNER/REPO.git --later

names: a-z 0-9 - _, at most 50, beginning with a letter or digit.
--json: one object as in `homeport ls --json`.
""",
    ),
    Command(
        name="ls",
        summary="list the workspaces",
        run=_ls,
        arguments=_ls_arguments,
        for_scoped_keys=True,
        teaching="""
examples:
  homeport ls
  homeport ls --json | jq -r '.[].name'

USED tells the last activity in a workspace, or its making where there was none.

--json: a list of objects with id, name, branch, github_repo, url, is_active,
is_recorded, forwarding and shell (null: the default), active_session_count, created_at,
description, is_cloned (false: cloned at its first login), last_sync_at,
last_activity_at, archived_at.
""",
    ),
    Command(
        name="rename",
        summary="give a workspace another login name",
        run=_rename,
        arguments=_rename_arguments,
        teaching="""
The old name is free at once. Keys that may enter some workspaces only keep the one that
was renamed; their open connections are closed. Refused while programs run in it: its
home and tree have the name in their paths inside (/home/NAME, /workspaces/NAME), and
what wrote such a path down, like a Python venv, must be made anew.

examples:
  homeport rename my-app my-better-app
""",
    ),
)
