"""What a running command sees: its streams, who asked, and the services it may use."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from gateway.errors import CommandRefused
from gateway.lobby.text import clean, table
from gateway.lobby.themes import theme_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.interfaces import Principal
    from gateway.journal import JournalAction
    from gateway.lobby.services import Services
    from gateway.lobby.themes import Theme

INPUT_MAX_BYTES = 1024 * 1024  # a file of public keys; nothing larger is ever read from a caller


class Output(Protocol):
    """One of the caller's streams. Waits for a slow reader, and raises ConnectionError once it is gone."""

    async def write(self, data: bytes) -> None: ...


class Input(Protocol):
    async def read_all(self) -> bytes:
        """Everything the caller sends, at most INPUT_MAX_BYTES. Raises CommandRefused beyond that."""
        ...


class Person(Protocol):
    """Whoever sits at the terminal that the command was typed in."""

    async def ask(self, question: str, *, is_secret: bool = False) -> str:
        """Show the question on stderr and wait for one line, without its end; a secret is not echoed. Cancelled by
        Ctrl-C. Raises CommandRefused if nobody can answer (no terminal), which the caller makes into the option to
        use instead."""
        ...


class Nobody:
    """A command without a terminal."""

    async def ask(self, question: str, *, is_secret: bool = False) -> str:
        raise CommandRefused("there is no terminal to ask on")


@dataclass(slots=True)
class LobbyContext:
    """One command's view of the world."""

    stdin: Input
    stdout: Output
    stderr: Output
    services: Services
    columns: int = 80
    is_terminal: bool = False  # stdout is a terminal: fit to its width, show progress
    has_colour: bool = False  # it shows colours, and whoever sits there did not say NO_COLOR
    principal: Principal | None = None  # None: the operator, on the host itself
    client_ip: str | None = None  # whence it was typed; None: on the host
    prog: str = "homeport"  # how the caller reaches us, for help and hints
    person: Person = field(default_factory=Nobody)
    screen: Output | None = None  # where programs' own output goes as it is; None: to stdout like all else
    more_about_failures: str = "the gateway's log has the whole story"

    @property
    def who(self) -> str:
        return "operator" if self.principal is None else self.principal.name

    @property
    def scope(self) -> frozenset[str] | None:
        """The names of the workspaces that whoever asks may know of; None: all."""
        return None if self.principal is None else self.principal.workspaces

    def way_into(self, name: str) -> str:
        """The next thing to type: whoever came by ssh knows the way, on the host a port and a key go with it."""
        return f"{self.prog} connect {name}" if self.principal is None else f"ssh {name}@host"

    async def print(self, text: str = "") -> None:
        await self.stdout.write((text + "\n").encode(errors="backslashreplace"))

    async def note(self, text: str) -> None:
        """A word to the person, beside the data: on stderr, with our name before it. What others named (a branch, a
        file) may be in it, so nothing that a terminal acts on passes."""
        harmless = "\n".join(clean(line, length_max=len(line)) for line in text.split("\n"))
        await self.stderr.write(f"homeport: {harmless}\n".encode(errors="backslashreplace"))

    async def journal(self, action: JournalAction, **details: object) -> None:
        """Write down what was done and by whom. Only what was done: refusals are in the log."""
        await self.services.store.record(
            action, success=True, client_ip=self.client_ip, details={"by": self.who, **details}
        )

    async def print_json(self, value: object) -> None:
        text = json.dumps(value, indent=2 if self.is_terminal else None, ensure_ascii=False)
        await self.print(text if text.isprintable() else "".join(map(_harmless, text)))

    async def print_table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if not self.has_colour:
            await self.print(table(headers, rows, columns_max=self.columns if self.is_terminal else None))
            return
        theme = await theme_of(self)
        # In a thread: rich takes its time, the first of it to be imported.
        await self.print(await asyncio.to_thread(_painted, headers, rows, self.columns, theme))


def _harmless(letter: str) -> str:
    """What json.dumps leaves as it is, and a terminal acts on: 8-bit controls, marks that reorder. Only in strings is
    anything of the kind, where JSON has a way to write it."""
    return letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1]


def _painted(headers: Sequence[str], rows: Sequence[Sequence[str]], columns: int, theme: Theme) -> str:
    from gateway.lobby.painting import painted_table

    return painted_table(headers, rows, columns=columns, theme=theme)
