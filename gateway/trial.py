"""`homeport run`: a gateway to try, from nothing to a line to paste.

The state lies in the clone. The caller's own keys may log in, a workspace `demo` is there, and everything an ssh client
needs is printed, so that it asks nothing. Belongs to the wiring like app.py, which does the serving itself; what is
said is in welcome.py.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from gateway.app import Gateway
from gateway.caller_keys import CallerKeys, collect_caller_keys
from gateway.config import Config, load_config
from gateway.environment import DEFAULT_PATH
from gateway.errors import GatewayError, KeyRefused, NameTaken
from gateway.events import Event
from gateway.ids import new_id
from gateway.interfaces import AccessKey, Inside, Keeper, Launcher, ProgramSpec, SessionRow, Workspace
from gateway.log import log_warning, set_up_logging
from gateway.privileges import become
from gateway.public_key import PublicKey, parse_public_key
from gateway.state import Owner, Places, own_state_dir, prepare
from gateway.welcome import DEMO, Trial, clone_of_this_code, farewell, welcome, write_known_hosts

DEMO_SECONDS = 30
STATE_FOLDER = ".homeport"

_DEMO_README = """# demo

You are inside a workspace: its own home, processes and /tmp, and this git repository.

- Leave with `exit` or Ctrl-D. What listens on a port here is reached with `ssh -L`.
- `ssh lobby@HOST new OWNER/REPO` clones the next workspace from GitHub, and `ssh REPO@HOST` opens it: HOST with the
  same options as in the line that brought you here. `./dev homeport new OWNER/REPO` in the clone of Homeport does, too.
- Nothing here matters: break it, and `homeport rm demo` puts it away.
"""
# Written by a program inside: the gateway itself never touches a tree. Output goes nowhere, so no pipe can fill.
_DEMO_SCRIPT = """exec >/dev/null 2>&1 </dev/null
[ -e README.md ] && exit 0
printf '%s' "$1" > README.md && git add README.md &&
    git -c user.name=Homeport -c user.email=homeport@localhost commit --quiet -m 'A workspace to try things in'
"""


def main() -> int:
    """`homeport run`: the exit status. Raises GatewayError with one sentence for the person who typed it."""
    os.environ.update(trial_environment(os.environ))
    config = load_config()
    caller = CallerKeys.from_bytes(become(config, lambda: _collect(config)))
    # A person watches: the story is told below, and only what is wrong comes between.
    set_up_logging(as_json=False, level=config.log.level if "HOMEPORT_LOG_LEVEL" in os.environ else "warning")
    places = prepare(config)
    _say(f"homeport: starting; the state is in {places.state_dir}")
    kept = asyncio.run(_run(config, places, caller))
    _say(farewell(kept))
    return 0


async def _run(config: Config, places: Places, caller: CallerKeys) -> Sequence[SessionRow]:
    """Serve until stopped; returns the sessions that go on without the gateway."""
    async with Gateway.running(config, places) as gateway:
        gateway.client_identity = caller.identity
        gateway.why_no_reload = (
            "this is a trial in front of a terminal: stop it with Ctrl-C and start it again; shells go on"
        )
        said = await admit_caller(gateway.store, caller)
        launcher = gateway.launcher
        demo, problem = await have_demo(gateway.store, gateway.yard, gateway.keepers, launcher)
        write_known_hosts(places, gateway.ssh_address, gateway.host_key_lines)
        trial = Trial(
            ssh=gateway.ssh_address,
            http=gateway.http_address,
            places=places,
            caller=caller,
            demo=demo,
            tree=launcher.inside(demo).tree if demo else "/",
            isolation=launcher.name,
        )
        _say(welcome(trial, [*said, problem] if problem else said))
        await gateway.serve_until_stopped()
        return await gateway.sessions_to_keep()


def _collect(config: Config) -> bytes:
    if os.geteuid() != 0:  # root has claimed it already, for the account
        own_state_dir(config, Owner.current())
    return collect_caller_keys(config.state_dir).to_bytes()


def _say(text: str) -> None:
    with suppress(BrokenPipeError):  # nobody reads any more; the gateway serves on
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


# --------------------------------------------------------------------------------------------- before serving


def trial_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the trial's state in it: in the clone, unless the caller named one or a settings file.

    An installed package has no clone around it; then the usual state directory stays.
    """
    changed = dict(environment)
    clone = clone_of_this_code()
    if clone and not environment.get("HOMEPORT_STATE_DIR") and not environment.get("HOMEPORT_CONFIG"):
        changed["HOMEPORT_STATE_DIR"] = str(clone / STATE_FOLDER)
    return changed


class TrialStore(Protocol):
    async def list_keys(self) -> list[AccessKey]: ...

    async def add_key(self, *, name: str, fingerprint: str, public_key: str) -> AccessKey: ...

    async def find_workspace(self, login_name: str) -> Workspace | None: ...


class _Progress(Protocol):
    async def write(self, data: bytes) -> None: ...


class TrialYard(Protocol):
    async def create(
        self, *, name: str | None, source: str | None, progress: _Progress, is_terminal: bool
    ) -> Workspace: ...


class TrialKeepers(Protocol):
    async def keeper_for(self, workspace: Workspace) -> Keeper: ...


async def admit_caller(store: TrialStore, caller: CallerKeys) -> list[str]:
    """Let the caller's keys log in; returns what was done, a line each. Known keys stay as they are."""
    known = await store.list_keys()
    fingerprints, names = {key.fingerprint for key in known}, {key.name for key in known}
    said = []
    for line in caller.lines:
        try:
            key = parse_public_key(line)
        except KeyRefused as error:
            said.append(f"a key was passed over: {error.user_message}")
            continue
        if key.fingerprint in fingerprints:
            continue
        name = _free_name(key, names)
        with suppress(NameTaken):  # a command added it at this very moment: it is there, which is what we want
            await store.add_key(name=name, fingerprint=key.fingerprint, public_key=key.line)
            said.append(f"may log in: {name} {key.fingerprint}")
        fingerprints.add(key.fingerprint)
        names.add(name)
    return said


async def have_demo(
    store: TrialStore, yard: TrialYard, keepers: TrialKeepers, launcher: Launcher
) -> tuple[Workspace | None, str]:
    """The workspace `demo`, with a first commit, and what went wrong with it ("" if nothing did). None: it was put away
    by hand, or could not be made; the gateway serves without it."""
    found = await store.find_workspace(DEMO)
    if found is not None:
        return (found, "") if found.is_active else (None, "")
    try:
        demo = await yard.create(name=DEMO, source=None, progress=_Silent(), is_terminal=False)
    except GatewayError as error:
        log_warning(Event.GATEWAY_WARNED, reason="demo_missing", error_code=error.code)
        return None, f"the workspace {DEMO} could not be made: {error.user_message}"
    try:
        exit_code = await _fill_demo(await keepers.keeper_for(demo), launcher.inside(demo))
        problem = "" if exit_code == 0 else "git could not make its first commit in demo; is git installed?"
    except (GatewayError, TimeoutError) as error:
        problem = f"the workspace {DEMO} is empty: {error}"
    return demo, problem


class _Silent:
    async def write(self, data: bytes) -> None:
        """Nobody watches: what matters comes back as an error."""


async def _fill_demo(keeper: Keeper, inside: Inside) -> int | None:
    """Write the README and commit it, from inside."""
    values = {"HOME": inside.home, "USER": inside.user, "LOGNAME": inside.user, "PATH": DEFAULT_PATH}
    spec = ProgramSpec(
        session_id=new_id(),
        argv=(b"sh", b"-c", _DEMO_SCRIPT.encode(), b"sh", _DEMO_README.encode()),
        executable=b"/bin/sh",
        environment={name.encode(): value.encode() for name, value in values.items()},
        directory=inside.tree.encode(),
    )
    program = await keeper.start(spec)
    try:
        async with asyncio.timeout(DEMO_SECONDS):
            return (await asyncio.shield(program.exited)).exit_code
    finally:
        for fd in (program.stdin_fd, program.stdout_fd, program.stderr_fd):
            if fd is not None:
                os.close(fd)
        with suppress(GatewayError):  # the keeper went first, and with it everything to forget
            if not program.exited.done():
                await keeper.hang_up(spec.session_id)
            await keeper.forget(spec.session_id)


def _free_name(key: PublicKey, taken: set[str]) -> str:
    base = key.comment[:80] or "key"
    return next(name for name in (base, *(f"{base}-{number}" for number in range(2, 10_000))) if name not in taken)
