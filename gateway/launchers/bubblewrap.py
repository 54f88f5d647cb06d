"""The wall of namespaces: a workspace sees its own home and tree, a read-only system, its own /tmp, pids and ipc.

Only what is bound is visible, wherever the state directory lies. Started without privileges, it grants none. The
keeper is pid 1 inside, so it survives the gateway, and everything inside ends with it; --die-with-parent is left out
on purpose.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from gateway.errors import LauncherUnavailable
from gateway.interfaces import Inside, Workspace
from gateway.launchers import inside as common
from gateway.launchers.inside import Interpreter
from gateway.launchers.place import KeeperPlace
from gateway.launchers.published_socket import SOCKET_NAME
from gateway.launchers.scratch import empty_directory

# Under the read-only root: programs can rename or replace neither, nor a directory above them.
KEEPER_INSIDE = "/.homeport/keeper"
AGENT_INSIDE = "/.homeport/agent"
GIT_INSIDE = "/.homeport/git"
RUN_MAX_BYTES = 64 * 1024 * 1024
SHM_MAX_BYTES = 256 * 1024 * 1024
SYSTEM_DIRECTORIES = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# /opt for what is installed by hand, dpkg's state so that `dpkg -l` works, /sys for what asks it for processors.
SHOWN_IF_THERE = ("/opt", "/sys", "/var/lib/dpkg")
MASKED = ("/etc/homeport",)
RESOLV_CONF = Path("/etc/resolv.conf")
SIZED_SINCE = (0, 7)  # `--size`
PERMS_SINCE = (0, 5)  # `--perms`
PROBE_SECONDS = 15


class BubblewrapLauncher:
    name = "bubblewrap"

    def __init__(self, interpreter: Interpreter, *, private_paths: Iterable[Path] = ()) -> None:
        """`private_paths`: what the gateway keeps to itself, hidden even where it lies below something shown."""
        self._interpreter = interpreter
        self._private_paths = tuple(path.resolve() for path in private_paths)
        self._bwrap = shutil.which("bwrap") or "bwrap"
        self._version = _version_of(self._bwrap)

    def inside(self, workspace: Workspace) -> Inside:
        name = common.checked_name(workspace.name)
        return Inside(
            home=f"/home/{name}",
            tree=f"/workspaces/{name}",
            user=name,
            runtime_dir=f"/run/user/{os.getuid()}",
            shell=common.login_shell(workspace.shell),
            sftp_server=common.sftp_server(self._interpreter, KEEPER_INSIDE),
            agent_socket=f"{AGENT_INSIDE}/{SOCKET_NAME}",
            git_directory=GIT_INSIDE,
            credential_helper=common.credential_helper(self._interpreter, KEEPER_INSIDE, GIT_INSIDE),
            python=tuple(self._interpreter.command()),
            programs=KEEPER_INSIDE,
        )

    def command(
        self, workspace: Workspace, place: KeeperPlace, keeper_arguments: list[str], *, status_fd: int
    ) -> list[str]:
        inside = self.inside(workspace)
        scratch = workspace.home.parent / "tmp"
        temporary = {"/tmp": scratch / "tmp", "/var/tmp": scratch / "var-tmp"}  # noqa: S108
        for directory in (workspace.home, workspace.tree):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        empty_directory(scratch)
        for source in temporary.values():
            source.mkdir(parents=True)
            source.chmod(0o1777)
        return [
            self._bwrap,
            *self._namespaces(),
            "--json-status-fd", str(status_fd),
            *self._system(),
            *_binds(temporary),
            *self._names(inside, place),
            *self._python(inside),
            "--ro-bind", str(place.agent_directory), AGENT_INSIDE,
            "--ro-bind", str(place.git_directory), GIT_INSIDE,
            *self._masks(),
            *_binds({inside.home: workspace.home, inside.tree: workspace.tree}),
            "--remount-ro", "/dev",
            "--remount-ro", "/",
            "--chdir", "/",
            *self._interpreter.command(KEEPER_INSIDE, *keeper_arguments),
        ]  # fmt: skip

    def probe(self) -> str:
        """Run a tiny sandbox for real. Returns "" if it works, else what was wrong. Blocking."""
        if self._version is None:
            return "the command bwrap is not installed"
        if self._version < PERMS_SINCE:
            return "bwrap is older than 0.5"
        command = [
            self._bwrap, *self._namespaces(), *self._system(), *self._python(None), "--remount-ro", "/",
            *self._interpreter.command("-c", common.PROBE),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, env={}, check=False
            )
        except (
            subprocess.TimeoutExpired
        ):  # its own words are the whole command line, and health shows ours to strangers
            return f"bwrap did not end within {PROBE_SECONDS} s"
        except OSError as error:
            return f"bwrap cannot be started: {error.strerror}"
        words = done.stderr.decode(errors="replace").strip().splitlines()
        return "" if done.returncode == 0 else (words[-1] if words else f"bwrap ended with {done.returncode}")

    def warnings(self) -> list[str]:
        if self._version is not None and self._version < SIZED_SINCE:
            return ["bubblewrap is older than 0.7: a workspace may fill the machine's memory through /run and /dev/shm"]
        return []

    # ------------------------------------------------------------------------- the parts of the command line

    def _namespaces(self) -> list[str]:
        # The network is shared: forwards, mosh and package managers work as outside. A session of its own, so that
        # Ctrl-C where the gateway was started does not reach it.
        return ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]

    def _system(self) -> list[str]:
        arguments = [*_parents("/var/lib/x"), "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"]
        for name in SYSTEM_DIRECTORIES:
            path = Path(name)
            if path.is_symlink():
                arguments += ["--symlink", str(path.readlink()), name]
            elif path.is_dir():
                arguments += ["--ro-bind", name, name]
        for name in SHOWN_IF_THERE:
            arguments += ["--ro-bind-try", name, name]
        runtime_dir = f"/run/user/{os.getuid()}"
        arguments += [
            "--proc", "/proc", "--dev", "/dev",
            "--perms", "1777", *self._tmpfs("/dev/shm", SHM_MAX_BYTES),  # noqa: S108
            "--perms", "0755", *self._tmpfs("/run", RUN_MAX_BYTES),
            "--perms", "0755", "--dir", "/run/user", "--perms", "0700", "--dir", runtime_dir,
            "--perms", "1777", "--dir", "/run/lock", "--symlink", "../run", "/var/run",
            "--perms", "0700", "--dir", "/root",
        ]  # fmt: skip
        return arguments + _resolver()

    def _tmpfs(self, path: str, size_bytes: int) -> list[str]:
        has_size = self._version is not None and self._version >= SIZED_SINCE
        return [*(["--size", str(size_bytes)] if has_size else []), "--tmpfs", path]

    def _names(self, inside: Inside, place: KeeperPlace) -> list[str]:
        """passwd and group with the workspace's name: the prompt, `~`, git and scp all ask them."""
        gid = os.getgid()
        place.passwd.write_text(
            common.passwd_lines(name=inside.user, uid=os.getuid(), gid=gid, home=inside.home, shell=inside.shell)
        )
        place.group.write_text(common.group_lines(name=inside.user, gid=gid))
        for file in (place.passwd, place.group):
            file.chmod(0o644)
        return ["--ro-bind", str(place.passwd), "/etc/passwd", "--ro-bind", str(place.group), "/etc/group"]

    def _python(self, inside: Inside | None) -> list[str]:
        """The keeper's folder, and the interpreter's library at the same path as outside: it is built into it."""
        arguments = [*_parents("/.homeport/x"), "--ro-bind", str(common.KEEPER_FOLDER), KEEPER_INSIDE]
        prefix = self._interpreter.prefix
        if prefix is None or prefix.is_relative_to("/usr"):
            return arguments
        if inside is not None and any(prefix.is_relative_to(taken) for taken in (inside.home, inside.tree)):
            raise LauncherUnavailable(
                f"no Python for the workspace {inside.user}: ours lies where its home will be; "
                "install the system's with: apt install python3"
            )
        return [*arguments, *_parents(str(prefix)), "--ro-bind", str(prefix), str(prefix)]

    def _masks(self) -> list[str]:
        shown = [Path(name) for name in ("/usr", "/etc", *SHOWN_IF_THERE)]
        if self._interpreter.prefix is not None:
            shown.append(self._interpreter.prefix)
        arguments = []
        for path in (*map(Path, MASKED), *self._private_paths):
            if any(path.is_relative_to(directory) for directory in shown):
                if path.is_dir():
                    arguments += ["--perms", "0755", *self._tmpfs(str(path), 4096), "--remount-ro", str(path)]
                elif path.exists():
                    arguments += ["--ro-bind", "/dev/null", str(path)]
        return arguments


def _binds(sources: dict[str, Path]) -> list[str]:
    return [word for path, source in sources.items() for word in (*_parents(path), "--bind", str(source), path)]


def _parents(path: str) -> list[str]:
    """Directories that bubblewrap would otherwise make by itself, closed to everyone."""
    parents = [parent for parent in reversed(Path(path).parents) if str(parent) != "/"]
    return [word for parent in parents for word in ("--perms", "0755", "--dir", str(parent))]


def _resolver() -> list[str]:
    """/etc/resolv.conf is often a link into /run, which is not shown."""
    target = RESOLV_CONF.resolve()
    if not target.is_file() or target.is_relative_to("/etc") or target.is_relative_to("/usr"):
        return []
    return [*_parents(str(target)), "--ro-bind", str(target), str(target)]


def _version_of(bwrap: str) -> tuple[int, ...] | None:
    try:
        done = subprocess.run([bwrap, "--version"], capture_output=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(rb"(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else None
