"""What `homeport run` says: the line to paste, the editor's entry, and what goes on when it ends.

Texts and one known_hosts file; no part of the gateway is touched.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.caller_keys import CallerKeys
from gateway.config import Address
from gateway.environment import DEFAULT_PATH
from gateway.interfaces import SessionRow, Workspace
from gateway.state import Places

DEMO = "demo"
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (where to connect, not where to listen)


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


def ssh_command(trial: Trial, workspace: str = DEMO) -> str:
    """The line to paste."""
    host, port = _reached_at(trial.ssh)
    words = ["ssh", *([] if port == 22 else ["-p", str(port)])]
    if trial.caller.identity is not None:
        words += [*_identity_option(trial.caller.identity), "-o", "IdentitiesOnly=yes"]
    words += ["-o", f"UserKnownHostsFile={_in_ssh_option(str(trial.places.known_hosts))}", f"{workspace}@{host}"]
    return shlex.join(words)


def vscode_entry(trial: Trial, workspace: str = DEMO) -> str:
    """The entry for ~/.ssh/config that Remote-SSH reads."""
    host, port = _reached_at(trial.ssh)
    lines = [f"Host homeport-{workspace}", f"  HostName {host}", f"  Port {port}", f"  User {workspace}"]
    if trial.caller.identity is not None:
        lines += [f"  IdentityFile {_in_ssh_option(trial.caller.identity)}", "  IdentitiesOnly yes"]
    return "\n".join([*lines, f"  UserKnownHostsFile {_in_ssh_option(str(trial.places.known_hosts))}"])


def welcome(trial: Trial, problems: Sequence[str] = ()) -> str:
    """Everything a first visitor needs, on one screen."""
    name = trial.demo.name if trial.demo else "WORKSPACE"
    host, port = _reached_at(trial.http)
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
        f"  {ssh_command(trial, name)}",
        "",
        "VS Code (Remote-SSH): put this into ~/.ssh/config,",
        "",
        *(f"  {line}" for line in vscode_entry(trial, name).splitlines()),
        "",
        f"  then: code --remote ssh-remote+homeport-{name} {shlex.quote(trial.tree)}",
        "",
        f"Health: http://{shown_host}:{port}/healthz   State: {trial.places.state_dir}",
        f"More workspaces: {command_name()} new https://github.com/OWNER/REPO",
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
    lines += [
        f"  {row.workspace_name or '?'}  {row.command or 'shell'}  since {row.created_at:%H:%M} UTC" for row in kept
    ]
    return "\n".join([*lines, f"homeport: find them again: {start_name()}; end them: {command_name()} stop --all"])


def command_name() -> str:
    """How the caller types `homeport` for this state."""
    return "./dev homeport" if clone_of_this_code() else "homeport"


def start_name() -> str:
    return "./dev run" if clone_of_this_code() else "homeport run"


def write_known_hosts(places: Places, ssh: Address, host_keys: Sequence[str]) -> None:
    """Name our host keys (`TYPE BASE64` each) for the address the printed line connects to, so that ssh asks nothing
    and another clone on the same port raises no alarm."""
    host, port = _reached_at(ssh)
    name = host if port == 22 else f"[{host}]:{port}"  # sshd(8), SSH_KNOWN_HOSTS FILE FORMAT
    temporary = places.known_hosts.with_suffix(".new")
    temporary.write_text("".join(f"{name} {line}\n" for line in host_keys))
    temporary.chmod(0o644)
    temporary.replace(places.known_hosts)


def clone_of_this_code() -> Path | None:
    """The clone this code is run from; None if it was installed."""
    clone = Path(__file__).resolve().parent.parent
    return clone if (clone / "dev").is_file() else None


def _reached_at(address: Address) -> tuple[str, int]:
    return _WILDCARDS.get(address.host, address.host), address.port


def _identity_option(path: str) -> list[str]:
    # ssh looks for the file of -i by its plain name, and later expands `%` in it: both cannot be right.
    return ["-o", f"IdentityFile={_in_ssh_option(path)}"] if "%" in path else ["-i", path]


def _in_ssh_option(path: str) -> str:
    """A path as ssh_config(5) wants it: `%` begins a token, spaces need quotes."""
    path = path.replace("%", "%%")
    return f'"{path}"' if any(char in path for char in " \t") else path
