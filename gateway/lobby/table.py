"""The one table of commands, and how typed words find a line of it."""

from __future__ import annotations

import difflib
from enum import Enum, auto

from gateway.errors import CommandRefused, UsageWrong
from gateway.lobby import (
    about,
    archives,
    connect,
    github,
    journal,
    keys,
    operations,
    recordings,
    sessions,
    settings,
    themes,
    tokens,
    trees,
    workspaces,
)
from gateway.lobby.command import EXIT_STATUS_HELP, Command, HelpAsked
from gateway.lobby.text import clean


class Offer(Enum):
    """To whom commands are offered."""

    HOST = auto()  # the operator, on the machine itself
    OWNER = auto()  # a key that may enter every workspace
    SCOPED = auto()  # a key that may enter some


COMMANDS: tuple[Command, ...] = (
    *workspaces.COMMANDS,
    *trees.COMMANDS,
    *archives.COMMANDS,
    *settings.COMMANDS,
    *connect.COMMANDS,
    *keys.COMMANDS,
    *tokens.COMMANDS,
    *github.COMMANDS,
    *sessions.COMMANDS,
    *recordings.COMMANDS,
    *journal.COMMANDS,
    *about.COMMANDS,
    *themes.COMMANDS,
    *operations.COMMANDS,
)
_BY_NAME = {command.name: command for command in COMMANDS}
_GROUPS = {name.split()[0] for name in _BY_NAME if " " in name}
_NOT_FOR_SOME = "for keys that may enter every workspace; this one may enter some"
_ASKING_FOR_HELP = ("help", "-h", "--help")


def find_command(argv: list[str], *, prog: str = "homeport", who: Offer = Offer.HOST) -> tuple[Command, list[str]]:
    """The command that `argv` begins with, and the words that are left. Raises HelpAsked, UsageWrong, and
    CommandRefused for one that exists and is not offered to whoever asks."""
    if not argv or (argv[0] in _ASKING_FOR_HELP and len(argv) == 1):
        raise HelpAsked(overview(prog=prog, who=who))
    if argv[0] == "help":
        asked = [word for word in argv if word not in _ASKING_FOR_HELP]
        return find_command([*asked, "--help"], prog=prog, who=who)
    for word_count in (2, 1):
        command = _BY_NAME.get(" ".join(argv[:word_count]))
        if command is not None:
            _refuse_others(command, who)
            return command, argv[word_count:]
    offered = {name: command for name, command in _BY_NAME.items() if is_offered(command, who)}
    if argv[0] in _GROUPS and (len(argv) == 1 or argv[1] in _ASKING_FOR_HELP):
        raise HelpAsked(overview(prog=prog, who=who, group=argv[0]))
    typed = " ".join(argv[:2] if argv[0] in _GROUPS else argv[:1])
    near = difflib.get_close_matches(typed, offered, n=1, cutoff=0.5)
    hint = f"; did you mean: {prog} {near[0]}" if near else ""
    raise UsageWrong(f"no command {clean(typed, length_max=60)!r}{hint}\nlist them with: {prog} --help")


def is_offered(command: Command, who: Offer) -> bool:
    return who is Offer.HOST or (not command.on_host_only and (who is Offer.OWNER or command.for_scoped_keys))


def _refuse_others(command: Command, who: Offer) -> None:
    if is_offered(command, who):
        return
    if command.on_host_only:
        raise CommandRefused(f"`{command.name}` works on the host alone: homeport {command.name}")
    raise CommandRefused(f"`{command.name}` is {_NOT_FOR_SOME}")


def overview(*, prog: str, who: Offer, group: str | None = None) -> str:
    """What `--help` alone shows: every command with its one line."""
    shown = [
        command
        for command in COMMANDS
        if is_offered(command, who) and (group is None or command.name.startswith(group + " "))
    ]
    if not shown:
        raise CommandRefused(f"`{group}` is {_NOT_FOR_SOME}")
    name_width = max(len(command.name) for command in shown)
    lines = [f"  {command.name:{name_width}}  {command.summary}" for command in shown]
    if group is not None:
        return "\n".join([f"usage: {prog} {group} COMMAND", "", *lines, ""])
    return "\n".join(
        [
            f"usage: {prog} COMMAND [ARGUMENTS]",
            "",
            "An SSH gateway to your workspaces: `ssh NAME@HOST` lands in the workspace NAME.",
            "",
            "commands:",
            *lines,
            "",
            f"learn more with: {prog} COMMAND --help",
            "",
            EXIT_STATUS_HELP,
        ]
    )
