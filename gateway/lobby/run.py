"""Runs one command for one caller: parses, runs, turns every outcome into words and an exit status."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.errors import CommandRefused, GatewayError, UsageWrong
from gateway.events import Event
from gateway.lobby.command import EXIT_OK, EXIT_REFUSED, HelpAsked
from gateway.lobby.context import LobbyContext
from gateway.lobby.table import Offer, find_command
from gateway.lobby.text import clean
from gateway.log import log_event, log_failure

if TYPE_CHECKING:
    from argparse import Namespace

    from gateway.interfaces import Principal
    from gateway.lobby.command import Command
    from gateway.lobby.control import Caller, RunForCaller
    from gateway.lobby.services import Services


def runner(services: Services) -> RunForCaller:
    """What a ControlServer runs for each caller: the operator's commands over these services."""

    async def run(caller: Caller) -> int:
        lobby = LobbyContext(
            stdin=caller.stdin,
            stdout=caller.stdout,
            stderr=caller.stderr,
            services=services,
            columns=caller.columns,
            is_terminal=caller.is_terminal,
            has_colour=caller.has_colour,
            person=caller.person,
        )
        return await run_command(lobby, caller.argv, on_host=True)

    return run


async def run_command(lobby: LobbyContext, argv: list[str], *, on_host: bool) -> int:
    """The exit status, with the reason on stderr if it is not zero. Raises only ConnectionError (the caller is gone)
    and CancelledError."""
    started = time.monotonic()
    name = "unknown"  # what was typed is not logged: it may be anything
    try:
        command, words = find_command(argv, prog=lobby.prog, who=_offer(lobby.principal, on_host=on_host))
        name = command.name
        run = command.run or _refuse_host_command
        args = command.parse(words, prog=lobby.prog, columns=lobby.columns)
        _refuse_odd_words(command, words, args)
        if not on_host:
            _refuse_files(lobby, command, args)
        status = await run(lobby, args)
    except HelpAsked as help_asked:
        await lobby.stdout.write(help_asked.text.encode())
        status = EXIT_OK
    except GatewayError as error:
        await lobby.note(error.user_message)
        # Not the message: it repeats what was typed, and a URL or a key's name is nobody's business in the log.
        log_event(Event.COMMAND_REFUSED, command=name, principal=lobby.who, error_code=error.code, reason=error.detail)
        return error.exit_status if isinstance(error, CommandRefused) else EXIT_REFUSED
    except ConnectionError:
        raise
    except Exception:
        log_failure(Event.COMMAND_FAILED, command=name, principal=lobby.who)
        await lobby.note(f"internal error; {lobby.more_about_failures}")
        return EXIT_REFUSED
    duration_ms = round((time.monotonic() - started) * 1000)
    log_event(Event.COMMAND_RUN, command=name, principal=lobby.who, exit_status=status, duration_ms=duration_ms)
    return status


def _offer(principal: Principal | None, *, on_host: bool) -> Offer:
    if on_host:
        return Offer.HOST
    return Offer.OWNER if principal is None or principal.is_owner else Offer.SCOPED


def _refuse_odd_words(command: Command, words: list[str], args: Namespace) -> None:
    """Bytes that are no text come from a command line on the host; a file may be named so, and nothing else."""
    files = tuple(name for name in (command.stdin_from(args), command.stdout_to(args)) if name)
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word) and not (files and word.endswith(files)):
            raise UsageWrong(f"{clean(word, length_max=60)!r} is not UTF-8")


def _refuse_files(lobby: LobbyContext, command: Command, args: Namespace) -> None:
    """Over SSH the caller's files are on the caller's machine, and its shell joins them with our streams."""
    if command.stdin_from(args) not in (None, "-"):
        raise UsageWrong(f"files are on your side; write: {lobby.prog} {command.name} - … < FILE")
    if command.stdout_to(args) not in (None, "-"):
        raise UsageWrong(f"files are on your side; write: {lobby.prog} {command.name} … > FILE")


async def _refuse_host_command(lobby: LobbyContext, args: Namespace) -> int:
    raise CommandRefused("this command works on the host alone, in the shell that calls it")
