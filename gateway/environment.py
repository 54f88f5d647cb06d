"""The environment of a program in a workspace: built from nothing, plus what the allow-list lets a client add.

Nothing of the gateway's own environment is ever inherited: it may hold secrets, and a client that could set
LD_PRELOAD, PATH or BASH_ENV could run its own code before ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.credentials.git_settings import git_variables
from gateway.interfaces import Inside, SessionRequest, Workspace

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_LANG = "C.UTF-8"
VALUE_MAX_BYTES = 4096
VARIABLE_COUNT_MAX = 64


def is_allowed_variable(name: str, allowed: Iterable[str]) -> bool:
    """Whether the allow-list has this name; a `*` at a pattern's end stands for anything."""
    return any(name == item or (item.endswith("*") and name.startswith(item[:-1])) for item in allowed)


def program_environment(inside: Inside, workspace: Workspace, request: SessionRequest) -> dict[bytes, bytes]:
    """HOME, USER, PATH, SSH_CONNECTION and the rest as sshd(8) "LOGIN PROCESS" sets them, plus the client's own."""
    client_host, client_port = request.client_address
    server_host, server_port = request.server_address
    environment: dict[str, str] = {
        "LANG": DEFAULT_LANG,
        **_clean(request.environment),
        "HOME": inside.home,
        "USER": inside.user,
        "LOGNAME": inside.user,
        "SHELL": inside.shell,
        "PATH": f"{inside.home}/.local/bin:{DEFAULT_PATH}",
        "PWD": inside.tree,
        "SSH_CLIENT": f"{client_host} {client_port} {server_port}",
        "SSH_CONNECTION": f"{client_host} {client_port} {server_host} {server_port}",
        "WORKSPACE_NAME": workspace.name,
        **git_variables(inside.git_directory, request.environment),
    }
    if workspace.github_repo or workspace.github_url:
        environment["WORKSPACE_REPO"] = workspace.github_repo or workspace.github_url or ""
    if inside.runtime_dir:
        environment["XDG_RUNTIME_DIR"] = inside.runtime_dir
    if request.forwards_agent and inside.agent_socket:
        environment["SSH_AUTH_SOCK"] = inside.agent_socket
    if request.display is not None:
        environment["DISPLAY"] = request.display
    if request.terminal is not None:
        environment["TERM"] = request.terminal.term or "dumb"
    return {name.encode(): value.encode(errors="surrogateescape") for name, value in environment.items()}


def _clean(requested: Mapping[str, str]) -> dict[str, str]:
    """The client's variables without what execve(2) cannot carry."""
    return {name: value for name, value in requested.items() if "\0" not in value and "\0" not in name}
