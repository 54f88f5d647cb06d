"""`ssh -t lobby@host`: what the picker lists, and what becomes of a choice. The picker itself is loaded when needed."""

from __future__ import annotations

import asyncio
import json
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.lobby.command import EXIT_OK, EXIT_USAGE
from gateway.lobby.picker_state import Choice, Entry, MakeNew, PickerState, entries_of
from gateway.lobby.run import run_command
from gateway.lobby.themes import theme_of
from gateway.lobby.workspaces import visible

if TYPE_CHECKING:
    from types import ModuleType

    from gateway.lobby.channel_end import ChannelEnd
    from gateway.lobby.context import LobbyContext

__all__ = ["Choice", "MakeNew", "make_new", "show_picker"]

SESSIONS_MAX = 1000  # of all workspaces; beyond, those that were used last


async def show_picker(lobby: LobbyContext, end: ChannelEnd, *, term: str) -> Choice:
    """List what whoever asks may enter, and wait for a choice. Cancelled, it leaves the client's screen as it was."""
    principal = lobby.principal
    assert principal is not None

    async def look() -> list[Entry]:
        workspaces = visible(lobby, await lobby.services.store.list_workspaces())
        sessions = await lobby.services.store.list_sessions(limit=SESSIONS_MAX, workspaces=lobby.scope)
        return entries_of(workspaces, sessions, principal)

    state = PickerState(await look(), who=lobby.who, may_make=principal.is_owner)
    theme = await theme_of(lobby)
    picker = await asyncio.to_thread(_load)
    choice: Choice = await picker.pick(state, end, look=look, term=term, theme=theme, has_colour=lobby.has_colour)
    return choice


def _load() -> ModuleType:
    from gateway.lobby import picker

    return picker


async def make_new(lobby: LobbyContext, typed: str) -> tuple[int, str | None]:
    """Run `new` with these words; its exit status, and the name of what it made. Whatever goes wrong has been said."""
    try:
        words = shlex.split(typed)
    except ValueError:
        await lobby.note("the quotes do not match")
        return EXIT_USAGE, None
    answer = _Kept()
    status = await run_command(replace(lobby, stdout=answer), ["new", "--json", *words], on_host=False)
    if status != EXIT_OK:
        return status, None
    try:
        return status, json.loads(answer.data)["name"]
    except ValueError:  # its help was asked for
        await lobby.stdout.write(answer.data)
        return status, None


class _Kept:
    """An Output that is read here."""

    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data
