"""The one table of commands, and how typed words find a line of it."""

from __future__ import annotations

import difflib

from gateway.errors import UsageWrong
from gateway.lobby import connect, journal, keys, operations, recordings, sessions, settings, workspaces
from gateway.lobby.command import EXIT_STATUS_HELP, Command, HelpAsked
from gateway.lobby.text import clean

COMMANDS: tuple[Command, ...] = (
    *workspaces.COMMANDS,
    *settings.COMMANDS,
    *connect.COMMANDS,
    *keys.COMMANDS,
    *sessions.COMMANDS,
    *recordings.COMMANDS,
    *journal.COMMANDS,
    *operations.COMMANDS,
)
_BY_NAME = {command.name: command for command in COMMANDS}
_GROUPS = {name.split()[0] for name in _BY_NAME if " " in name}
_ASKING_FOR_HELP = ("help", "-h", "--help")


def find_command(argv: list[str], *, prog: str = "homeport", on_host: bool = True) -> tuple[Command, list[str]]:
    """The command that `argv` begins with, and the words that are left. Raises HelpAsked and UsageWrong."""
    offered = {name: command for name, command in _BY_NAME.items() if on_host or not command.on_host_only}
    if not argv or (argv[0] in _ASKING_FOR_HELP and len(argv) == 1):
        raise HelpAsked(overview(prog=prog, on_host=on_host))
    if argv[0] == "help":
        return find_command([*argv[1:], "--help"], prog=prog, on_host=on_host)
    for word_count in (2, 1):
        command = offered.get(" ".join(argv[:word_count]))
        if command is not None:
            return command, argv[word_count:]
    if argv[0] in _GROUPS and (len(argv) == 1 or argv[1] in _ASKING_FOR_HELP):
        raise HelpAsked(overview(prog=prog, on_host=on_host, group=argv[0]))
    typed = " ".join(argv[:2] if argv[0] in _GROUPS else argv[:1])
    near = difflib.get_close_matches(typed, offered, n=1, cutoff=0.5)
    hint = f"; did you mean: {prog} {near[0]}" if near else ""
    raise UsageWrong(f"no command {clean(typed, length_max=60)!r}{hint}\nlist them with: {prog} --help")


def overview(*, prog: str, on_host: bool, group: str | None = None) -> str:
    """What `--help` alone shows: every command with its one line."""
    shown = [
        command
        for command in COMMANDS
        if (on_host or not command.on_host_only) and (group is None or command.name.startswith(group + " "))
    ]
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
