"""`theme`: the colours of the lobby's tables and its picker. A theme names, for each part, a style as rich reads it.

Colours are the sixteen that every terminal has, which its own settings paint: nothing is unreadable that was readable.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import UsageWrong
from gateway.journal import JournalAction
from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.text import clean

if TYPE_CHECKING:
    from argparse import Namespace

    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext


@dataclass(frozen=True, slots=True)
class Theme:
    """Styles of rich; the picker has the same ones (picker.py)."""

    header: str
    name: str  # the first column: what one would type
    text: str
    quiet: str  # "-", "never"
    chosen: str  # the picker's line
    hint: str


THEMES = {
    "default": Theme("bold", "bold cyan", "", "bright_black", "reverse", "bright_black"),
    "dark": Theme("bold bright_blue", "bright_cyan", "white", "bright_black", "black on bright_cyan", "bright_black"),
    "light": Theme("bold blue", "blue", "black", "bright_black", "white on blue", "bright_black"),
    "mono": Theme("bold", "bold", "", "dim", "reverse", "dim"),
    "high-contrast": Theme("bold underline", "bold", "", "", "bold reverse", ""),  # nothing is dimmed
}
DEFAULT = "default"


async def theme_of(lobby: LobbyContext) -> Theme:
    """The one that is set; the default for one that a later version had."""
    return THEMES.get(await lobby.services.store.theme() or DEFAULT, THEMES[DEFAULT])


async def _theme(lobby: LobbyContext, args: Namespace) -> int:
    current = await lobby.services.store.theme()
    current = current if current in THEMES else DEFAULT
    if args.json:
        await lobby.print_json({"theme": current, "themes": list(THEMES)})
        return EXIT_OK
    await lobby.print_table(("THEME", "IN USE"), [(name, "yes" if name == current else "-") for name in THEMES])
    return EXIT_OK


def _set_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help=", ".join(THEMES))


async def _set(lobby: LobbyContext, args: Namespace) -> int:
    if args.name not in THEMES:
        near = difflib.get_close_matches(args.name, THEMES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ";"
        raise UsageWrong(f"no theme {clean(args.name, length_max=60)!r}{hint} there are: {', '.join(THEMES)}")
    before = await lobby.services.store.theme() or DEFAULT
    await lobby.services.store.set_theme(args.name)
    await lobby.journal(JournalAction.SETTINGS_CHANGED, setting="theme", value=args.name, before=before)
    await lobby.print(f"the theme is {args.name}, was {before}")
    return EXIT_OK


COMMANDS = (
    Command(
        name="theme",
        summary="show the themes: colours of tables and the picker",
        run=_theme,
        arguments=json_option,
        for_scoped_keys=True,
        teaching="""
One theme for all who use the gateway. Colours are shown on a terminal alone, and not with
TERM=dumb, or NO_COLOR set on your side (over SSH it is passed on with SendEnv NO_COLOR).

examples:
  homeport theme
  homeport theme set high-contrast

--json: an object with theme (the one in use) and themes (all names).
""",
    ),
    Command(
        name="theme set",
        summary="choose the theme, for all who use the gateway",
        run=_set,
        arguments=_set_arguments,
        teaching="""
default and mono suit any background; high-contrast is for eyes that need it.

examples:
  homeport theme set dark
  homeport theme set default
""",
    ),
)
