"""The `homeport` command: finds out where a command runs, opens the caller's files, and says how it ended.

With a gateway running, commands act through its control socket, and nothing heavy is imported here: `homeport ls`
should feel instant. Without one they act on the state itself (direct.py). A few always run in this process: serve,
run, check and db.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import CommandRefused, GatewayError, StartRefused
from gateway.lobby.asking import can_ask
from gateway.lobby.client import connect, run_remote, write_all
from gateway.lobby.command import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REFUSED,
    Command,
    HelpAsked,
)
from gateway.lobby.table import find_command
from gateway.lobby.text import shows_colour
from gateway.lobby.wire import Request

if TYPE_CHECKING:
    from gateway.state import Places

STDIN_MAX_BYTES = 1024 * 1024  # what the gateway takes at most (lobby/context.py)
STOP_SECONDS = 60  # how long `homeport stop` waits for the gateway to be gone
STOP_POLL_SECONDS = 0.05
COLUMNS_WITHOUT_TERMINAL = 80
# Set for the process that `become` starts again (privileges.py): what the caller's files held comes with it.
HANDOVER_VARIABLE = "_HOMEPORT_HANDOVER_FD"


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns its exit status (the table is in lobby/command.py)."""
    words = sys.argv[1:] if argv is None else list(argv)
    shows_traceback = bool(words) and words[0] == "--debug"
    try:
        return _main(words[1:] if shows_traceback else words, shows_traceback=shows_traceback)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except GatewayError as error:
        if shows_traceback:
            raise
        return _refuse(error.user_message, error.exit_status if isinstance(error, CommandRefused) else EXIT_REFUSED)
    except Exception as error:
        if shows_traceback:
            raise
        return _refuse(f"unexpected {type(error).__name__}: {error}; see more with: homeport --debug …", EXIT_REFUSED)


def _main(words: list[str], *, shows_traceback: bool) -> int:
    if words == ["--version"]:
        from gateway import __version__

        write_all(1, f"homeport {__version__}\n".encode())
        return EXIT_OK
    try:
        command, rest = find_command(words)
        args = command.parse(rest, columns=_columns())
    except HelpAsked as help_asked:
        write_all(1, help_asked.text.encode())
        return EXIT_OK
    if command.run is None:
        return _on_this_host()[command.name](args)
    # Files first, as the caller: the gateway, or the account we become, might not be allowed to open them.
    stdin = _read_input(command.stdin_from(args))
    return _with_output_file(
        command.stdout_to(args), lambda: _run(command, words, stdin, shows_traceback=shows_traceback)
    )


def _run(command: Command, words: list[str], stdin: bytes, *, shows_traceback: bool) -> int:
    from gateway import state

    places = state.find(_where())
    connection = connect(places.control_socket) if places is not None else None
    if connection is not None and places is not None:
        request = Request(
            words, columns=_columns(), is_terminal=os.isatty(1), can_answer=can_ask(), has_colour=_has_colour()
        )
        status = run_remote(connection, request, stdin=stdin)
        return _wait_until_stopped(places, status) if command.name == "stop" else status
    if places is None and not command.makes_state:
        state_dir = _where().state_dir
        raise CommandRefused(
            f"there is no gateway state in {state_dir}, or this account may not see it; name another with "
            "HOMEPORT_STATE_DIR, use sudo, or begin one with: homeport serve"
        )
    from gateway.direct import run_on_state

    return run_on_state(
        words,
        stdin=stdin,
        columns=_columns(),
        is_terminal=os.isatty(1),
        has_colour=_has_colour(),
        shows_traceback=shows_traceback,
    )


def _wait_until_stopped(places: Places, status: int) -> int:
    """`stop` was understood; the prompt returns when the gateway is gone and another one could start."""
    from gateway.state import StateLock

    if status == EXIT_REFUSED:
        return status
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            with StateLock(places.state_lock):
                return EXIT_OK
        except StartRefused:  # it still holds the lock
            time.sleep(STOP_POLL_SECONDS)
    return _refuse(f"the gateway is still stopping after {STOP_SECONDS} s; its log says why", EXIT_REFUSED)


# --------------------------------------------------------------------------------------- where the gateway is


@dataclass(frozen=True, slots=True)
class Where:
    """The two settings that say where a gateway is, read without the weight of all the others."""

    state_dir: Path
    runtime_dir: Path | None


def _where(environment: Mapping[str, str] | None = None) -> Where:
    """As config.py would have it (a test holds that). Anything odd is left to config.py, which has the words."""
    environment = os.environ if environment is None else environment
    state_dir, runtime_dir = environment.get("HOMEPORT_STATE_DIR"), environment.get("HOMEPORT_RUNTIME_DIR")
    file = Path(environment.get("HOMEPORT_CONFIG") or "/etc/homeport/homeport.toml")
    if (state_dir is None or runtime_dir is None) and ("HOMEPORT_CONFIG" in environment or file.exists()):
        from gateway.config import load_config

        config = load_config(environment)
        return Where(config.state_dir, config.runtime_dir)
    return Where(
        _absolute(state_dir) if state_dir is not None else _usual_state_dir(environment),
        _absolute(runtime_dir) if runtime_dir is not None else None,
    )


def _usual_state_dir(environment: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/homeport")
    return Path(environment.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "homeport"


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()


# ------------------------------------------------------------------------------------------ the caller's files


def _read_input(name: str | None) -> bytes:
    if name is None or HANDOVER_VARIABLE in os.environ:
        return b""
    try:
        if name == "-":
            with open(0, "rb", closefd=False) as stdin:
                data = stdin.read(STDIN_MAX_BYTES + 1)
        else:
            with Path(name).expanduser().open("rb") as file:
                data = file.read(STDIN_MAX_BYTES + 1)
    except OSError as error:
        raise CommandRefused(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > STDIN_MAX_BYTES:
        raise CommandRefused(f"{'the input' if name == '-' else name} is longer than {STDIN_MAX_BYTES} bytes")
    return data


def _with_output_file(name: str | None, run: Callable[[], int]) -> int:
    """Run with standard output going to a file, which gets its name only when everything is in it."""
    if name is None or name == "-" or HANDOVER_VARIABLE in os.environ:
        return run()
    target = Path(name).expanduser()
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandRefused(f"cannot write {name}: {(error.strerror or str(error)).lower()}") from None
    is_done = False
    try:
        with _standard_output_to(fd):
            status = run() if os.geteuid() != 0 else _in_child(run)
        if status == EXIT_OK:
            partial.replace(target)
            is_done = True
        return status
    finally:
        if not is_done:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _standard_output_to(fd: int) -> Iterator[None]:
    kept = os.dup(1)
    try:
        os.dup2(fd, 1)
        os.close(fd)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _in_child(run: Callable[[], int]) -> int:
    """As root: `run` may end by executing the program again as another account, and the file is still ours to name."""
    child = os.fork()
    if child == 0:
        status = EXIT_REFUSED
        try:
            status = run()
        except GatewayError as error:
            status = _refuse(error.user_message, EXIT_REFUSED)
        finally:
            os._exit(status)
    while True:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except KeyboardInterrupt:  # the child got it too, and ends by itself
            continue


# ----------------------------------------------------------------------------- commands that run in this process


def _on_this_host() -> dict[str, Callable[[Namespace], int]]:
    return {"serve": _serve, "run": _try_out, "check": _check, "db status": _db_status, "db upgrade": _db_upgrade}


def _serve(_: Namespace) -> int:
    import asyncio
    import gc

    from gateway.config import load_config
    from gateway.log import set_up_logging
    from gateway.privileges import become
    from gateway.reload import replacing
    from gateway.stand_in import stand_in
    from gateway.state import prepare

    with replacing() as predecessor:
        config = load_config()
        become(config)
        # Only now: it is most of the start, and as root it would be for a process that is given up at once. What is
        # imported stays, so looking for garbage in it again and again, a tenth of the time, is spared now and later.
        gc.disable()
        from gateway.app import serve

        gc.freeze()
        gc.enable()
        is_json = config.log.format == "json" or (config.log.format == "auto" and not os.isatty(2))
        set_up_logging(as_json=is_json, level=config.log.level)
        places = prepare(config)
        was_replaced = asyncio.run(serve(config, places, predecessor))
    if was_replaced and predecessor is None:
        stand_in(places.state_lock)
    return EXIT_OK


def _try_out(_: Namespace) -> int:
    from gateway.trial import main as trial

    return trial()


def _check(args: Namespace) -> int:
    from gateway.check import check

    return check(as_json=args.json, columns=_columns(), is_terminal=os.isatty(1))


def _db_status(args: Namespace) -> int:
    from gateway.direct import show_database_status

    return show_database_status(as_json=args.json)


def _db_upgrade(_: Namespace) -> int:
    from gateway.direct import upgrade_database

    return upgrade_database()


# --------------------------------------------------------------------------------------------------- small things


def _columns() -> int:
    try:
        return os.get_terminal_size(1).columns or COLUMNS_WITHOUT_TERMINAL
    except OSError:
        return COLUMNS_WITHOUT_TERMINAL


def _has_colour() -> bool:
    return os.isatty(1) and shows_colour(os.environ.get("TERM", ""), no_color=os.environ.get("NO_COLOR", ""))


def _refuse(message: str, status: int) -> int:
    with contextlib.suppress(OSError):  # nobody hears us: the exit status still says it
        write_all(2, f"homeport: {message}\n".encode(errors="backslashreplace"))
    return status
