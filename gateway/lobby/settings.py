"""`set`: what is set for one workspace. One line of `SETTINGS` for each."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import UsageWrong
from gateway.journal import JournalAction
from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.text import clean
from gateway.lobby.workspaces import workspace_named

if TYPE_CHECKING:
    from argparse import Namespace

    from gateway.interfaces import Workspace
    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext

DEFAULT = "default"
# The values of interfaces.Forwarding, which is too heavy for the command line (a test holds that they are the same).
FORWARDING = ("off", "loopback", "anywhere")


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that can be set for a workspace. Values are as typed; None: the default."""

    name: str
    allowed: Callable[[LobbyContext], str]  # the values, in words
    # What a typed value stands for, or None if it is not allowed.
    parse: Callable[[LobbyContext, str], str | None]
    value: Callable[[Workspace], str | None]
    default: Callable[[LobbyContext], str]  # what None means, for the person who reads it
    write: Callable[[LobbyContext, Workspace, str | None], Awaitable[None]]


def _shell_named(lobby: LobbyContext, text: str) -> str | None:
    """By its name or its path; only what is installed, since a wrong one would end every login with 127."""
    return next((path for path in lobby.services.shells() if text in (path, _name_of(path))), None)


def _shells(lobby: LobbyContext) -> str:
    return ", ".join(map(_name_of, lobby.services.shells())) + " (those installed here; see /etc/shells)"


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]


async def _write_forwarding(lobby: LobbyContext, workspace: Workspace, value: str | None) -> None:
    from gateway.interfaces import Forwarding

    await lobby.services.store.set_workspace_forwarding(workspace.id, None if value is None else Forwarding(value))


async def _write_shell(lobby: LobbyContext, workspace: Workspace, value: str | None) -> None:
    await lobby.services.store.set_workspace_shell(workspace.id, value)


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(
            name="forwarding",
            allowed=lambda lobby: ", ".join(FORWARDING),
            parse=lambda lobby, text: text if text in FORWARDING else None,
            value=lambda workspace: workspace.forwarding,
            default=lambda lobby: "loopback",
            write=_write_forwarding,
        ),
        Setting(
            name="shell",
            allowed=_shells,
            parse=_shell_named,
            value=lambda workspace: workspace.shell,
            default=lambda lobby: next(iter(lobby.services.shells()), "none is installed"),
            write=_write_shell,
        ),
    )
}


def _arguments(parser: Parser) -> None:
    parser.add_argument("workspace", metavar="WORKSPACE", help="whose settings")
    parser.add_argument("changes", metavar="NAME=VALUE", nargs="*", default=[], help="what to change (none: only show)")
    json_option(parser)


async def _set(lobby: LobbyContext, args: Namespace) -> int:
    """All or nothing is understood before the first change is made."""
    workspace = await workspace_named(lobby, args.workspace)
    changes = _parse(lobby, args.changes)
    before = {name: setting.value(workspace) for name, setting in SETTINGS.items()}
    changed = {name: value for name, value in changes.items() if value != before[name]}
    for name, value in changed.items():
        await SETTINGS[name].write(lobby, workspace, value)
        await lobby.journal(
            JournalAction.WORKSPACE_CHANGED,
            workspace=workspace.name,
            setting=name,
            value=value or DEFAULT,
            before=before[name] or DEFAULT,
        )
    if args.json:
        await lobby.print_json({"workspace": workspace.name, **before, **changed})
    elif changes:
        for name, value in changes.items():
            was = f"was {before[name] or DEFAULT}" if name in changed else "as it was"
            await lobby.print(f"{workspace.name}: {name} is {_shown(lobby, name, value)}, {was}")
    else:
        await lobby.print_table(("SETTING", "VALUE"), [(name, _shown(lobby, name, before[name])) for name in SETTINGS])
    return EXIT_OK


def _parse(lobby: LobbyContext, words: list[str]) -> dict[str, str | None]:
    changes: dict[str, str | None] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UsageWrong(f"{clean(word)!r} is not NAME=VALUE; write for example: forwarding=off")
        setting = SETTINGS.get(name)
        if setting is None:
            near = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ";"
            raise UsageWrong(f"no setting {clean(name, length_max=60)!r}{hint} there are: {', '.join(SETTINGS)}")
        if name in changes:
            raise UsageWrong(f"{name} is given twice")
        value = None if text == DEFAULT else setting.parse(lobby, text)
        if value is None and text != DEFAULT:
            typed = clean(f"{name}={text}", length_max=100)
            raise UsageWrong(f"{typed!r} cannot be; write {DEFAULT} or one of: {setting.allowed(lobby)}")
        changes[name] = value
    return changes


def _shown(lobby: LobbyContext, name: str, value: str | None) -> str:
    if value is None:
        return f"{DEFAULT} ({SETTINGS[name].default(lobby)})"
    is_allowed = SETTINGS[name].parse(lobby, value) is not None
    return value if is_allowed else f"{clean(value)} (not installed any more: {SETTINGS[name].default(lobby)} is used)"


COMMANDS = (
    Command(
        name="set",
        summary="show or change the settings of a workspace",
        run=_set,
        arguments=_arguments,
        teaching="""
forwarding  how far forwards of this workspace may reach (ssh -L, -R, -D, editors):
              off       nowhere; agent and X11 forwarding are off as well
              loopback  ports and sockets of the workspace itself (default)
              anywhere  whatever its own programs could reach
            A key may say the same (`homeport keys add --forwarding`); the narrower wins.
shell       the login shell: a name such as zsh, or a path; it must be installed, and be
            bash, zsh, fish, sh or listed in /etc/shells. Commands run through it, too.

VALUE `default` takes a setting back. What changed holds for sessions and forwards that
are opened from now on.

examples:
  homeport set my-app
  homeport set my-app shell=zsh forwarding=anywhere
  homeport set my-app forwarding=default

--json: an object with workspace, forwarding and shell (null: the default).
""",
    ),
)
