"""The two servers compared: a private sshd and a private gateway, both on loopback, in one temporary directory."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import psutil

from bench.processes import BenchError, Processes, descendants

WORKSPACE = "bench"
START_DEADLINE_SECONDS = 30
COMMAND_SECONDS = 30
LOG_SHOWN_BYTES = 1500
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")


@dataclass(frozen=True, slots=True)
class Login:
    """How a client gets in."""

    port: int
    login_name: str
    key_file: Path
    host: str = "127.0.0.1"

    def as_load(self) -> dict[str, object]:
        return {"host": self.host, "port": self.port, "login_name": self.login_name, "key_file": str(self.key_file)}


class Server(Protocol):
    """One of the two, started and stopped as often as a measurement wants it fresh."""

    name: str
    login: Login
    # How one begins a session that outlives its connection, and comes back to it: a login name and two commands.
    kept_screen: Mapping[str, object]

    def spawn(self) -> None:
        """Begin to start; the caller finds out when it serves."""
        ...

    def start(self) -> None:
        """Start, and wait until it listens."""
        ...

    def stop(self) -> None: ...

    def crash(self) -> None:
        """As if the machine's memory ran out; what outlives the server stays."""
        ...

    def processes(self) -> list[psutil.Process]:
        """All processes of the server, its sessions' programs among them."""
        ...


class _Daemon:
    """What both have in common: one child, one log, one port."""

    name = ""
    kept_screen: Mapping[str, object] = MappingProxyType({})

    def __init__(self, processes: Processes, directory: Path, login: Login) -> None:
        self._processes = processes
        self._directory = directory
        self._log = directory / f"{self.name}.log"
        self._child: subprocess.Popen[bytes] | None = None
        self.login = login

    def _spawn(self, argv: list[str], environment: dict[str, str]) -> None:
        assert self._child is None
        with self._log.open("ab") as log:
            self._child = self._processes.start(argv, environment=environment, stdout=log.fileno(), stderr=log.fileno())

    def spawn(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        if self._child is not None and self._child.poll() is None:
            return
        self.stop()
        self.spawn()
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while not _listens(self.login):
            assert self._child is not None
            if self._child.poll() is not None:
                raise BenchError(f"{self.name} ended with {self._child.returncode} at start: {self.log_tail()}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} does not listen after {START_DEADLINE_SECONDS} s: {self.log_tail()}")
            time.sleep(0.01)

    def stop(self) -> None:
        if self._child is not None:
            self._processes.stop(self._child, signal.SIGTERM)
            self._child = None

    def crash(self) -> None:
        assert self._child is not None
        self._processes.stop(self._child, signal.SIGKILL)
        self._child = None

    def processes(self) -> list[psutil.Process]:
        if self._child is None or self._child.poll() is not None:
            raise BenchError(f"{self.name} is not running: {self.log_tail()}")
        main = psutil.Process(self._child.pid)
        return [main, *descendants(main)]

    def log_tail(self) -> str:
        try:
            return self._log.read_bytes()[-LOG_SHOWN_BYTES:].decode(errors="replace").strip() or "(it logged nothing)"
        except FileNotFoundError:
            return "(it logged nothing)"


class Gateway(_Daemon):
    """The installed command with a state of its own."""

    name = "homeport"
    kept_screen = MappingProxyType({"login_name": f"{WORKSPACE}+screen", "begin": None, "again": None})

    def __init__(self, processes: Processes, directory: Path, *, key_file: Path, isolation: str) -> None:
        # A fresh session for each terminal, which ends with it, as sshd's do.
        super().__init__(processes, directory, Login(free_port(), f"{WORKSPACE}+new", key_file))
        self.command = Path(sys.executable).parent / "homeport"
        self._runtime_dir = Path(tempfile.mkdtemp(prefix="homeport-bench-", dir=_runtime_base(directory)))
        settings = directory / "homeport.toml"
        settings.write_text("# Nothing: neither the file in /etc nor the caller's environment shall count.\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOMEPORT_", "DATABASE_URL"))}
        self.environment = kept | {
            "HOMEPORT_CONFIG": str(settings),
            "HOMEPORT_STATE_DIR": str(directory / "state"),
            "HOMEPORT_RUNTIME_DIR": str(self._runtime_dir),
            "HOMEPORT_SSH_LISTEN": f"127.0.0.1:{self.login.port}",
            "HOMEPORT_HTTP_LISTEN": f"127.0.0.1:{free_port()}",
            "HOMEPORT_ISOLATION": isolation,
        }

    def prepare(self) -> None:
        """Start it for the first time, with a key and a workspace."""
        self.start()
        self.homeport("keys", "add", f"{self.login.key_file}.pub", "--name", "bench")
        self.homeport("new", WORKSPACE)

    def homeport(self, *words: str) -> str:
        return self._processes.run([str(self.command), *words], environment=self.environment)

    def spawn(self) -> None:
        self._spawn([str(self.command), "serve"], self.environment)

    def stop(self) -> None:
        # Keepers outlive the gateway; here nobody comes back for them.
        super().stop()
        self._processes.end_orphans()

    def processes(self) -> list[psutil.Process]:
        return [*super().processes(), *self._processes.orphans()]

    def remove(self) -> None:
        """Take away what does not lie in the run's directory."""
        shutil.rmtree(self._runtime_dir, ignore_errors=True)

    def isolation_in_effect(self) -> str:
        """What `auto` became; only the running gateway knows, and says so in its log."""
        found = re.search(r'"isolation": "(\w+)"', self._log.read_text(errors="replace"))
        return found[1] if found else ""

    def owner(self) -> pwd.struct_passwd:
        """The account it runs its programs as: the state's owner."""
        return pwd.getpwuid((self._directory / "state").stat().st_uid)


class Sshd(_Daemon):
    """OpenSSH's server with the system's binary, our keys and settings.

    As root its sessions run as the gateway's account, which has no shell: it starts in a mount namespace where the
    password file gives that account one, and where /run and the login records are its own. Nothing of the machine is
    changed. Where namespaces are not to be had, its sessions run as root.
    """

    name = "sshd"
    kept_screen = MappingProxyType({"begin": "tmux -L bench -f /dev/null new-session", "again": "tmux -L bench attach"})

    def __init__(
        self, processes: Processes, directory: Path, *, key_file: Path, host_key: Path, account: pwd.struct_passwd
    ) -> None:
        self.program = find_sshd()
        self._has_namespace = os.geteuid() == 0 and _may_unshare()
        runs_as = account if self._has_namespace else pwd.getpwuid(os.geteuid())
        # Under another name, for the account's own is locked in the shadow file, and sshd heeds that.
        login_name = WORKSPACE if self._has_namespace else runs_as.pw_name
        super().__init__(processes, directory, Login(free_port(), login_name, key_file))
        self.note = "" if runs_as.pw_uid == account.pw_uid else "sshd runs its sessions as root: no mount namespaces"
        self._home = directory / "home"
        self._home.mkdir()
        os.chown(self._home, runs_as.pw_uid, runs_as.pw_gid)
        self._config = directory / "sshd_config"
        self._config.write_text(_SSHD_CONFIG.format(
            port=self.login.port, host_key=host_key, key=f"{key_file}.pub", home=self._home, sftp=_sftp_server(),
        ))  # fmt: skip
        self._passwd = directory / "passwd"
        self._passwd.write_text(_passwd_with(account, self._home))
        (directory / "records").touch()
        self._made_run_dir = False

    def spawn(self) -> None:
        argv = [self.program, "-D", "-f", str(self._config), "-E", str(self._log)]
        if self._has_namespace:
            script = _IN_NAMESPACE.format(directory=self._directory)
            argv = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, *argv]
        elif os.geteuid() == 0 and not Path("/run/sshd").exists():
            Path("/run/sshd").mkdir(mode=0o755)  # sshd insists on it (privilege separation)
            self._made_run_dir = True
        self._spawn(argv, dict(os.environ))

    def stop(self) -> None:
        super().stop()
        if self._made_run_dir:
            Path("/run/sshd").rmdir()
            self._made_run_dir = False


_SSHD_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {host_key}
AuthorizedKeysFile {key}
# The temporary directory is under /tmp, which everyone may write.
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PidFile none
PrintLastLog no
PrintMotd no
# Above what is measured: 8 parallel connections, 110 sessions on one.
MaxStartups 1000
MaxSessions 1000
SetEnv HOME={home}
Subsystem sftp {sftp}
"""

# Read-only for others: /run holds sshd's privilege separation directory, the records are wtmp and its like.
_IN_NAMESPACE = """\
mount --bind {directory}/passwd /etc/passwd
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 755 /run/sshd
for file in wtmp btmp lastlog; do
    [ ! -e /var/log/$file ] || mount --bind {directory}/records /var/log/$file
done
cd {directory}/home
exec "$0" "$@"
"""


def find_sshd() -> str:
    found = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        raise BenchError("sshd is not installed, and it is what we compare with: apt-get install openssh-server")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _runtime_base(otherwise: Path) -> Path:
    """In memory, as /run is on an installed system (in a container it often is not): terminals are read into files."""
    shared_memory = Path("/dev/shm")
    return shared_memory if os.access(shared_memory, os.W_OK) else otherwise


def _passwd_with(account: pwd.struct_passwd, home: Path) -> str:
    """The machine's password file, but the account has another name, a shell and our home."""
    shell = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
    lines = [line for line in Path("/etc/passwd").read_text().splitlines() if line.split(":")[0] != account.pw_name]
    ours = f"{WORKSPACE}:x:{account.pw_uid}:{account.pw_gid}::{home}:{shell}"
    return "\n".join([*lines, ours]) + "\n"


def _may_unshare() -> bool:
    try:
        done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _sftp_server() -> str:
    return next((path for path in SFTP_SERVERS if Path(path).exists()), "internal-sftp")


def _listens(login: Login) -> bool:
    try:
        with socket.create_connection((login.host, login.port), timeout=1) as probe:
            return probe.recv(4) == b"SSH-"
    except OSError:
        return False
