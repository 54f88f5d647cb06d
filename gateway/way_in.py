"""How a client reaches a workspace: the line to paste, the entry for ~/.ssh/config, the editor's command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

# Below the 60 s after which common load balancers drop a line that is idle; three misses end it on the client's side.
ALIVE_SECONDS = 15
# Where to connect to, for one who stands on the machine that listens everywhere.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class WayIn:
    """One workspace, as a client sees it. The two files lie on the client's machine: a trial alone knows them."""

    workspace: str
    host: str
    port: int
    tree: str  # as seen inside
    known_hosts: str | None = None
    identity: str | None = None

    @property
    def alias(self) -> str:
        """The host's name in ~/.ssh/config, of which editors make windows and scp its prefix."""
        return f"homeport-{self.workspace}"


def ssh_command(way: WayIn) -> str:
    """The line to paste, which needs no configuration."""
    words = ["ssh", *([] if way.port == 22 else ["-p", str(way.port)])]
    if way.identity is not None:
        words += [*_identity_option(way.identity), "-o", "IdentitiesOnly=yes"]
    if way.known_hosts is not None:
        words += ["-o", f"UserKnownHostsFile={_in_ssh_option(way.known_hosts)}"]
    return shlex.join([*words, f"{way.workspace}@{way.host}"])


def config_entry(way: WayIn) -> str:
    """The entry for ~/.ssh/config (ssh_config(5)), which every client of OpenSSH reads, Remote-SSH among them."""
    host = way.host.replace("%", "%%")  # a zone, as in fe80::1%eth0, is no token
    lines = [f"Host {way.alias}", f"  HostName {host}", f"  Port {way.port}", f"  User {way.workspace}"]
    lines.append(f"  ServerAliveInterval {ALIVE_SECONDS}")
    if way.identity is not None:
        lines += [f"  IdentityFile {_in_ssh_option(way.identity)}", "  IdentitiesOnly yes"]
    if way.known_hosts is not None:
        lines.append(f"  UserKnownHostsFile {_in_ssh_option(way.known_hosts)}")
    return "\n".join(lines)


def code_command(way: WayIn) -> str:
    """Opens the tree in VS Code, by the entry in ~/.ssh/config."""
    return shlex.join(["code", "--remote", f"ssh-remote+{way.alias}", way.tree])


def is_everywhere(host: str) -> bool:
    """Whether it is an address to listen on, which nobody can connect to from elsewhere."""
    return host in _LOOPBACK


def reached_here(host: str) -> str:
    """The address by which this machine itself reaches what listens on `host`."""
    return _LOOPBACK.get(host, host)


def known_hosts_name(host: str, port: int) -> str:
    """sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""
    return host if port == 22 else f"[{host}]:{port}"


def _identity_option(path: str) -> list[str]:
    # ssh looks for the file of -i by its plain name, and later expands `%` in it: both cannot be right.
    return ["-o", f"IdentityFile={_in_ssh_option(path)}"] if "%" in path else ["-i", path]


def _in_ssh_option(path: str) -> str:
    """A path as ssh_config(5) wants it: `%` begins a token, spaces need quotes."""
    path = path.replace("%", "%%")
    return f'"{path}"' if any(char in path for char in " \t") else path
