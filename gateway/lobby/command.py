"""What a command of the lobby is: its name, its help, its arguments and the coroutine that runs it.

Nothing here ends the process or prints: a wrong usage raises UsageWrong, `--help` raises HelpAsked, and whoever runs
the command (run.py, cli.py) decides where the words go. Light imports only: the command line loads this on each call.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from gateway.errors import UsageWrong
from gateway.lobby.text import clean

if TYPE_CHECKING:
    from gateway.lobby.context import LobbyContext

# Exit statuses, the whole table. `--help` of `homeport` prints it, and docs point here.
EXIT_OK = 0
EXIT_REFUSED = 1  # understood and declined, or failed; the reason is on stderr
EXIT_USAGE = 2  # not understood
EXIT_INTERRUPTED = 130  # Ctrl-C, as a shell would say it
EXIT_BROKEN_PIPE = 141  # whoever read our output went away, as a shell would say it
EXIT_UNREACHABLE = 255  # the gateway went away in the middle of the command

EXIT_STATUS_HELP = """\
exit status:
  0    done
  1    refused or failed; the reason is on standard error
  2    the command was not understood
  130  interrupted (Ctrl-C)
  141  the reader of the output went away
  255  the gateway went away in the middle of the command
"""

HELP_COLUMNS_MAX = 100  # longer lines of prose are hard to read
HELP_COLUMNS_MIN = 40

# Only at the beginning of a command: not `systemctl reload homeport`, nor what never works over SSH.
_EXAMPLE = re.compile(r"\bhomeport(?= (?!serve|run|stop|reload|check|db)[a-z])")

Run = Callable[["LobbyContext", argparse.Namespace], Awaitable[int]]


class HelpAsked(Exception):
    """Not a failure: carries the text that `--help` shall show."""

    def __init__(self, text: str) -> None:
        super().__init__("help asked")
        self.text = text


class Parser(argparse.ArgumentParser):
    """argparse without its habit of printing and ending the process."""

    color = False  # Python 3.14 colours help by itself; ours is read over ssh and by machines, too

    def error(self, message: str) -> NoReturn:
        raise UsageWrong(f"{clean(message)}\n{self.format_usage().rstrip()}\nlearn more with: {self.prog} --help")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise UsageWrong(message or f"the command ended early with status {status}")


class _HelpAction(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise HelpAsked(parser.format_help())


def no_file(_: argparse.Namespace) -> str | None:
    return None


def no_arguments(_: Parser) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Command:
    """One line of the table (table.py)."""

    name: str  # as typed, one or two words: "keys add"
    summary: str  # one line, for the overview
    teaching: str  # the long help: what it does, when to use it, examples
    run: Run | None  # None: it runs in the caller's own process, in cli.py
    arguments: Callable[[Parser], None] = no_arguments
    on_host_only: bool = False  # never offered over SSH
    # Also for keys that may enter some workspaces only. The command shows and changes nothing outside their scope:
    # it finds workspaces with `workspace_named` and `visible` (workspaces.py). Others are the operator's and owners'.
    for_scoped_keys: bool = False
    makes_state: bool = False  # without a gateway: may create the state directory (first set-up)
    # Files belong to whoever typed the command, so the caller's side opens them and they travel as stdin and stdout.
    stdin_from: Callable[[argparse.Namespace], str | None] = no_file  # "-" is the caller's own stdin
    stdout_to: Callable[[argparse.Namespace], str | None] = no_file

    def parser(self, *, prog: str, columns: int) -> Parser:
        width = max(HELP_COLUMNS_MIN, min(columns, HELP_COLUMNS_MAX))

        def formatter(prog: str) -> argparse.HelpFormatter:
            return argparse.RawDescriptionHelpFormatter(prog, width=width, max_help_position=28)

        parser = Parser(
            prog=f"{prog} {self.name}",
            description=self.summary[:1].upper() + self.summary[1:] + ".",
            epilog=_taught(self.teaching, prog),
            formatter_class=formatter,
            add_help=False,
            allow_abbrev=False,  # an abbreviation that works today could mean another option tomorrow
        )
        self.arguments(parser)
        parser.add_argument("-h", "--help", action=_HelpAction, nargs=0, help="show this help")
        return parser

    def parse(self, words: list[str], *, prog: str = "homeport", columns: int = 80) -> argparse.Namespace:
        """Raises UsageWrong and HelpAsked."""
        return self.parser(prog=prog, columns=columns).parse_args(words)


def _taught(teaching: str, prog: str) -> str:
    """The examples as whoever reads them would type them; what works on the host alone stays as it is."""
    text = teaching.strip("\n")
    return text if prog == "homeport" else _EXAMPLE.sub(prog, text)


def json_option(parser: Parser) -> None:
    """`--json`, spelled the same for every command that prints data."""
    parser.add_argument("--json", action="store_true", help="print JSON of a stable shape, see below")
