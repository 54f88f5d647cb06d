"""What `homeport run` says: the line to paste, the editor's entry, and what goes on when it ends.

Texts and one known_hosts file; no part of the gateway is touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.caller_keys import CallerKeys
from gateway.config import Address
from gateway.environment import DEFAULT_PATH
from gateway.interfaces import SessionRow, Workspace
from gateway.state import Places
from gateway.way_in import WayIn, code_command, config_entry, known_hosts_name, reached_here, ssh_command

DEMO = "demo"


@dataclass(frozen=True, slots=True)
class Trial:
    """What the welcome tells. Addresses are the ones really bound."""

    ssh: Address
    http: Address
    places: Places
    caller: CallerKeys
    demo: Workspace | None
    tree: str  # of the demo, as seen inside
    isolation: str


def way_into(trial: Trial, workspace: str = DEMO) -> WayIn:
    """As `homeport connect` has it from the running gateway."""
    return WayIn(
        workspace,
        host=reached_here(trial.ssh.host),
        port=trial.ssh.port,
        tree=trial.tree,
        known_hosts=str(trial.places.known_hosts),
        identity=trial.caller.identity,
    )


def welcome(trial: Trial, problems: Sequence[str] = ()) -> str:
    """Everything a first visitor needs, on one screen."""
    name = trial.demo.name if trial.demo else "WORKSPACE"
    way = way_into(trial, name)
    host, port = reached_here(trial.http.host), trial.http.port
    shown_host = f"[{host}]" if ":" in host else host
    parts = [f"homeport: {note}" for note in (*trial.caller.notes, *problems)]
    if trial.caller.is_trial_key:
        parts.append("homeport: no usable key in ~/.ssh, so the trial has a key of its own; the line below uses it")
    if shutil.which("ssh", path=DEFAULT_PATH) is None:
        parts.append("homeport: there is no ssh client on this machine; install one (apt-get install openssh-client)")
    if trial.isolation == "none":
        parts.append("homeport: NO WALLS: programs run as this account and see its files; install bubblewrap for walls")
    parts += [
        "",
        "Homeport is ready. In another terminal:",
        "",
        f"  {ssh_command(way)}",
        "",
        "VS Code (Remote-SSH): put this into ~/.ssh/config,",
        "",
        *(f"  {line}" for line in config_entry(way).splitlines()),
        "",
        f"  then: {code_command(way)}",
        "",
        f"Health: http://{shown_host}:{port}/healthz   State: {trial.places.state_dir}",
        f"More workspaces: {command_name()} new OWNER/REPO, then REPO@ in the line above",
        "Stop: Ctrl-C (shells in workspaces are kept, and found again by the next start)",
        "",
    ]
    return "\n".join(parts)


def farewell(kept: Sequence[SessionRow]) -> str:
    """What goes on without the gateway, and how to end it."""
    if not kept:
        return f"homeport: stopped; nothing was left running. Again: {start_name()}"
    count = "1 shell goes on" if len(kept) == 1 else f"{len(kept)} shells go on"
    lines = [f"homeport: stopped. {count} without the gateway:"]
    lines += [f"  {row.login_name or '?'}  {row.command or 'shell'}  since {row.created_at:%H:%M} UTC" for row in kept]
    return "\n".join([*lines, f"homeport: find them again: {start_name()}; end them: {command_name()} stop --all"])


def command_name() -> str:
    """How the caller types `homeport` for this state."""
    return "./dev homeport" if clone_of_this_code() else "homeport"


def start_name() -> str:
    return "./dev run" if clone_of_this_code() else "homeport run"


def write_known_hosts(places: Places, ssh: Address, host_keys: Sequence[str]) -> None:
    """Name our host keys (`TYPE BASE64` each) for the address the printed line connects to, so that ssh asks nothing
    and another clone on the same port raises no alarm."""
    name = known_hosts_name(reached_here(ssh.host), ssh.port)
    temporary = places.known_hosts.with_suffix(".new")
    temporary.write_text("".join(f"{name} {line}\n" for line in host_keys))
    temporary.chmod(0o644)
    temporary.replace(places.known_hosts)


def clone_of_this_code() -> Path | None:
    """The clone this code is run from; None if it was installed."""
    clone = Path(__file__).resolve().parent.parent
    return clone if (clone / "dev").is_file() else None
