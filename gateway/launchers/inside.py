"""What a workspace needs inside, whatever its wall: an interpreter, a login shell, an sftp-server, names for ids."""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gateway.keeper
from gateway.errors import LauncherUnavailable

KEEPER_FOLDER = Path(gateway.keeper.__file__).parent
SFTP_FALLBACK = "sftp_fallback.py"
CREDENTIAL_HELPER = "git_credential.py"
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/libexec/sftp-server",
                "/usr/lib/ssh/sftp-server")  # fmt: skip
SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/zsh", "/usr/bin/zsh", "/usr/bin/fish", "/bin/sh")
LISTED_SHELLS = Path("/etc/shells")  # shells(5); some systems put terminal multiplexers in
NOT_FOR_LOGIN = ("nologin", "false", "true", "sync", "git-shell", "tmux", "screen")
SYSTEM_PYTHON = Path("/usr/bin/python3")
RUNTIME_DIRECTORIES = Path("/run/user")
PROBE_SECONDS = 15
# Debian splits its Python: the minimal package lacks some of these, and 3.9 brought pidfd_open.
PROBE = "import sys, ctypes, fcntl, json, resource, selectors, socket, termios; sys.exit(sys.version_info < (3, 9))"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that runs the keeper: the real file, never a shim, which would cost 60 ms of every start."""

    path: str
    prefix: Path | None  # where its library lies, if that is not part of the system

    def command(self, *arguments: str) -> list[str]:
        # Isolated and without site: nothing of the environment, the user or site-packages is read.
        return [self.path, "-I", "-S", *arguments]


def find_interpreter() -> Interpreter:
    """The system's Python if it will do, else the one we run on. Blocking. Raises LauncherUnavailable."""
    own = Interpreter(os.path.realpath(getattr(sys, "_base_executable", sys.executable)), Path(sys.base_prefix))
    for candidate in (Interpreter(str(SYSTEM_PYTHON), None), own):
        if answers(candidate.command("-c", PROBE)):
            return candidate
    raise LauncherUnavailable("no Python for the workspaces: install it with: apt install python3")


def answers(command: list[str]) -> bool:
    """Whether `command` ends with 0 in time."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, env={}, cwd="/", check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@cache  # asked for each session, and a directory service may take its time
def account_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def login_shell(wanted: str | None = None) -> str:
    """`wanted`, a workspace's own, if it is installed (still: packages go); else the account's, if people log in with
    it; else the first there is. Raises LauncherUnavailable."""
    if wanted is not None and _is_usable(wanted):
        return wanted
    return _usual_shell()


def installed_shells() -> list[str]:
    """Every login shell of this machine that a workspace could have, one path each, the usual one first."""
    try:
        listed = [line.strip() for line in LISTED_SHELLS.read_text(errors="replace").splitlines()]
    except OSError:
        listed = []
    by_name: dict[str, str] = {}
    for path in (login_shell(), *SHELLS, *listed):
        if _is_usable(path):
            by_name.setdefault(path.rpartition("/")[2], path)
    return list(by_name.values())


@cache  # a directory service may take its time
def _usual_shell() -> str:
    try:
        own = pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:
        own = ""
    found = next((shell for shell in (own, *SHELLS) if _is_usable(shell)), None)
    if found is None:
        raise LauncherUnavailable("no shell found; install one with: apt install bash")
    return found


def _is_usable(shell: str) -> bool:
    """Whether it can be seen inside any wall, run, and given a command with `-c`."""
    is_seen = shell.startswith(("/bin/", "/usr/", "/opt/"))
    return is_seen and shell.rpartition("/")[2] not in NOT_FOR_LOGIN and os.access(shell, os.X_OK)


def account_runtime_dir() -> str | None:
    """The account's own directory for sockets (XDG_RUNTIME_DIR), if a login manager made it and it is private."""
    directory = RUNTIME_DIRECTORIES / str(os.getuid())
    try:
        found = directory.stat()
    except OSError:
        return None
    is_private = found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    return str(directory) if is_private else None


def sftp_server(interpreter: Interpreter, keeper_folder: str) -> tuple[str, ...]:
    """The system's own, or ours, run by the same interpreter as the keeper."""
    for path in SFTP_SERVERS:
        if os.access(path, os.X_OK):
            return (path,)
    return tuple(interpreter.command(f"{keeper_folder}/{SFTP_FALLBACK}"))


def credential_helper(interpreter: Interpreter, keeper_folder: str, git_directory: str) -> tuple[str, ...]:
    """What git inside runs to ask us (gitcredentials(7)); it lacks the mode and the operation yet."""
    return tuple(interpreter.command(f"{keeper_folder}/{CREDENTIAL_HELPER}", git_directory))


def passwd_lines(*, name: str, uid: int, gid: int, home: str, shell: str) -> str:
    """A passwd file in which the workspace's own entry comes first: it must win over a system name."""
    nologin = "/usr/sbin/nologin"
    others = {
        "root": f"root:x:0:0:root:/root:{nologin}",
        "nobody": f"nobody:x:65534:65534:nobody:/nonexistent:{nologin}",
    }
    own = f"{name}:x:{uid}:{gid}:workspace {name}:{home}:{shell}"
    return "\n".join([own, *(line for other, line in others.items() if other != name)]) + "\n"


def group_lines(*, name: str, gid: int) -> str:
    others = {"root": 0, "tty": 5, "nogroup": 65534}
    lines = [f"{name}:x:{gid}:", *(f"{other}:x:{number}:" for other, number in others.items() if other != name)]
    return "\n".join(lines) + "\n"


def checked_name(name: str) -> str:
    """The workspace's name, once more: from here on it is part of a path and of a passwd line."""
    if not _NAME.fullmatch(name):
        raise LauncherUnavailable(f"{name!r} cannot be a workspace's name: letters, digits and . _ - only")
    return name
