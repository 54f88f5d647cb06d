"""`homeport check`: the settings in effect, and whether a gateway could start with them. Changes nothing.

Belongs to the wiring like app.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from gateway import state
from gateway.config import Address, Config, load_config, settings_in_effect
from gateway.errors import CommandRefused, GatewayError
from gateway.launchers.choose import choose_launcher
from gateway.lobby.client import connect, write_all
from gateway.lobby.command import EXIT_OK, EXIT_REFUSED
from gateway.lobby.text import table
from gateway.privileges import become
from gateway.services import database_file
from gateway.state import Places
from gateway.store.migrate import schema_status
from gateway.upkeep.schedule import check_cron


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the answer."""

    name: str
    state: Literal["ok", "warning", "failed"]
    message: str


def check(*, as_json: bool, columns: int, is_terminal: bool) -> int:
    """Print settings and checks; 1 if something stands in the way of a start. Raises ConfigInvalid."""
    config = load_config()
    if state.find(config) is not None:
        become(config)  # what is checked is what the owner of the state can do; SQLite leaves files of its reader
    settings = {name: _plain(value) for name, value in settings_in_effect(config)}
    checks = list(_checks(config))
    if as_json:
        text = json.dumps({"settings": settings, "checks": [asdict(one) for one in checks]})
    else:
        columns_max = columns if is_terminal else None
        shown = [
            (name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in settings.items()
        ]
        setting_lines = table(("SETTING", "VALUE"), shown, columns_max=columns_max)
        text = "\n".join([setting_lines, "", *(f"{one.state:8}{one.name}: {one.message}" for one in checks)])
    write_all(1, (text + "\n").encode(errors="backslashreplace"))
    return EXIT_REFUSED if any(one.state == "failed" for one in checks) else EXIT_OK


def _plain(value: object) -> object:
    """As JSON has it: numbers and truth values stay, lists of words stay, everything else is shown as text."""
    if isinstance(value, bool | int | float):
        return value
    return [str(item) for item in value] if isinstance(value, tuple) else str(value)


def _checks(config: Config) -> Iterator[Check]:
    places = state.find(config)
    is_running = False
    if places is None:
        yield _new_state(config.state_dir)
    else:
        yield Check("state", "ok", f"{places.state_dir}, runtime directory {places.runtime_dir}")
        yield _database(config, places)
        yield _host_keys(places.keys_dir)
        is_running = _is_running(places)
    yield Check("gateway", "ok", "one is running" if is_running else "none is running")
    yield _walls(config)
    for name, address in (("ssh.listen", config.ssh.listen), ("http.listen", config.http.listen)):
        yield _listener(name, address, is_running=is_running)
    yield _schedule(config)


def _new_state(state_dir: Path) -> Check:
    """Whether a first start could make it: what is there of the path is a directory this account may write to."""
    nearest = state_dir.absolute()
    while not os.access(nearest, os.F_OK) and nearest != nearest.parent:
        nearest = nearest.parent
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        obstacle = f"{nearest} is no directory this account may write to"
        return Check("state", "failed", f"cannot make {state_dir}: {obstacle}; name another in HOMEPORT_STATE_DIR")
    return Check("state", "warning", f"there is none yet in {state_dir}; the first start makes it")


def _database(config: Config, places: Places) -> Check:
    try:
        status = asyncio.run(schema_status(database_file(config, places)))
    except GatewayError as error:
        return Check("database", "failed", error.user_message)
    if status.unknown:
        unknown = ", ".join(status.unknown)
        return Check("database", "failed", f"it was written by a newer version ({unknown}); install that version")
    if status.pending:
        return Check("database", "ok", f"{len(status.pending)} migrations will be applied at the next start")
    return Check("database", "ok", "up to date")


def _host_keys(keys_dir: Path) -> Check:
    try:
        files = sorted(path for path in keys_dir.iterdir() if path.is_file() and path.suffix != ".pub")
    except OSError as error:
        return Check("host keys", "failed", f"cannot look into {keys_dir}: {error.strerror}")
    for path in files:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            return Check("host keys", "failed", f"others may read {path}; close it with: chmod 600 {path}")
    return Check("host keys", "ok", f"{len(files)} in {keys_dir}" if files else "the first start makes them")


def _is_running(places: Places) -> bool:
    try:
        connection = connect(places.control_socket)
    except CommandRefused:
        return True
    if connection is None:
        return False
    connection.close()
    return True


def _walls(config: Config) -> Check:
    if os.geteuid() == 0:
        return Check("isolation", "ok", f"{config.isolation}; tried at the start, as the account {config.account}")
    is_loopback = config.ssh.listen.is_loopback and config.http.listen.is_loopback
    try:
        launcher, warnings = asyncio.run(choose_launcher(config.isolation, listeners_are_loopback=is_loopback))
    except GatewayError as error:
        return Check("isolation", "failed", error.user_message)
    if warnings:
        return Check("isolation", "warning", f"{launcher.name}: {'; '.join(warnings)}")
    return Check("isolation", "ok", launcher.name)


def _schedule(config: Config) -> Check:
    expressions = {
        "metrics": config.schedule.metrics,
        "maintenance": config.schedule.maintenance,
        "backup": config.schedule.backup,
    }
    try:
        for name, expression in expressions.items():
            check_cron(name, expression)
    except GatewayError as error:
        return Check("schedule", "failed", error.user_message)
    return Check("schedule", "ok", f"{', '.join(expressions)}; times are UTC")


def _listener(name: str, address: Address, *, is_running: bool) -> Check:
    """Whether it could be bound; in use is as it should be while our own gateway runs."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        if is_running:
            return Check(name, "ok", f"{address}, in use by the running gateway")
        reason = (error.strerror or str(error)).lower()
        return Check(name, "failed", f"cannot listen on {address}: {reason}; free it or choose another address")
    if not address.is_loopback:
        return Check(name, "ok", f"{address}, reachable from other machines")
    return Check(name, "ok", f"{address}, this machine only")
