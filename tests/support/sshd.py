"""OpenSSH's sshd, as the measure of what is right: on a port of its own, in namespaces of its own.

Nothing of the machine is changed, and no account is needed: sshd runs as root in a mount namespace where the password
file, /run and the login records are private, and in a pid namespace, so that nothing outlives it. Its one account has
no terminal of its own, no password, the workspaces' shell, and a number that nobody has.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gateway.config import SshSettings
from tests.support.installed import START_SECONDS, STOP_SECONDS, free_port, until

ACCOUNT_ID = 61_022
# Where `./dev` unpacks it if it is not installed: installing it would open port 22 of this machine.
UNPACKED = Path(sys.prefix) / "sshd"
_SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")

_CONFIG = """\
ListenAddress {host}
Port {port}
HostKey {directory}/host_ed25519
HostKey {directory}/host_ecdsa
AuthorizedKeysFile {directory}/authorized_keys
# The directory is under /tmp, which everyone may write.
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
PrintLastLog no
PrintMotd no
MaxStartups 200
MaxSessions 200
MaxAuthTries 20
AllowAgentForwarding yes
AllowStreamLocalForwarding yes
AcceptEnv {accepted}
Subsystem sftp {sftp}
"""

# Read-only for others: /run holds sshd's privilege separation directory, the records are wtmp and its like.
_IN_NAMESPACE = """\
mount --bind {directory}/passwd /etc/passwd
mount --bind {directory}/group /etc/group
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 755 /run/sshd
for file in wtmp btmp lastlog; do
    [ ! -e /var/log/$file ] || mount --bind {directory}/records /var/log/$file
done
cd /
exec "$0" "$@"
"""


def why_no_sshd() -> str:
    """Why sshd cannot be had here; empty if it can."""
    if os.geteuid() != 0:
        return "sshd is compared with by root only: it becomes its account"
    if _find() is None:
        return "sshd is not installed; ./dev test --against sshd unpacks it"
    done = subprocess.run([*_NAMESPACES, "true"], capture_output=True, timeout=START_SECONDS)
    return "" if done.returncode == 0 else f"no namespaces for sshd: {done.stderr.decode(errors='replace').strip()}"


class Sshd:
    """One sshd. `home` is the account's, and the tree as well: OpenSSH has but one."""

    def __init__(self, account: str, settings: Mapping[str, object], *, host: str) -> None:
        self.account = account
        self.host = host
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="hs-", dir="/tmp"))
        self.directory.chmod(0o755)  # its account must pass
        self.home = self.directory / "home"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, authorized_keys: str) -> None:
        program = _find()
        assert program is not None
        self._write_files(authorized_keys, program)
        script = _IN_NAMESPACE.format(directory=self.directory)
        argv = [str(program), "-D", "-f", str(self.directory / "sshd_config"), "-E", str(self.directory / "log")]
        environment = {"PATH": os.environ["PATH"]}
        if program.is_relative_to(UNPACKED):
            environment["LD_LIBRARY_PATH"] = ":".join(str(path) for path in UNPACKED.glob("**/lib/*-linux-*"))
        self._process = subprocess.Popen(
            [*_NAMESPACES, "sh", "-ec", script, *argv], env=environment, cwd="/", stdin=subprocess.DEVNULL
        )
        until(self._listens, f"sshd listens; its log:\n{self.log}", seconds=START_SECONDS)

    def close(self) -> None:
        """End it, and by the end of its pid namespace everything it started."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)

    def set_shell(self, name: str | None) -> None:
        """The account's login shell; None: the one that workspaces have by themselves."""
        shell = shutil.which(name, path="/usr/bin:/bin") if name else "/bin/bash"
        shell = shell if shell and Path(shell).exists() else "/bin/sh"
        # Written in place: the file is bound over /etc/passwd, and another file would not be.
        _extend("passwd", self.directory, [
            f"{self.account}:*:{ACCOUNT_ID}:{ACCOUNT_ID}::{self.home}:{shell}",
            "sshd:*:61023:65534::/run/sshd:/usr/sbin/nologin",
        ])  # fmt: skip

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"sshd ended at its start:\n{self.log}"
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1) as probe:
            return probe.recv(4) == b"SSH-"
        return False

    def _write_files(self, authorized_keys: str, program: Path) -> None:
        self.home.mkdir()
        os.chown(self.home, ACCOUNT_ID, ACCOUNT_ID)
        self.home.chmod(0o700)
        (self.directory / "authorized_keys").write_text(authorized_keys)
        (self.directory / "records").touch()
        for name in ("ed25519", "ecdsa"):
            path = self.directory / f"host_{name}"
            subprocess.run(["ssh-keygen", "-q", "-t", name, "-N", "", "-C", "", "-f", path], check=True)
        self.set_shell(None)
        _extend("group", self.directory, [f"{self.account}:x:{ACCOUNT_ID}:"])
        (self.directory / "sshd_config").write_text(self._config(program))

    def _config(self, program: Path) -> str:
        """sshd takes the first of two values, so the test's own come first."""
        sftp = next((path for path in _SFTP_SERVERS if Path(path).exists()), "internal-sftp")
        accepted = " ".join(SshSettings().environment_allowed)
        own = "".join(f"{name} {value}\n" for name, value in self._settings.items())
        # From OpenSSH 9.8 on sshd is several programs, whose places are compiled in.
        for name, keyword in (("sshd-session", "SshdSessionPath"), ("sshd-auth", "SshdAuthPath")):
            for path in UNPACKED.glob(f"usr/lib/openssh/{name}") if program.is_relative_to(UNPACKED) else ():
                own += f"{keyword} {path}\n"
        return own + _CONFIG.format(
            host=self.host, port=self.port, directory=self.directory, accepted=accepted, sftp=sftp
        )


_NAMESPACES = (
    "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
)  # fmt: skip


def _find() -> Path | None:
    """The machine's own, else the unpacked one."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin"
    found = shutil.which("sshd", path=places) or shutil.which("sshd", path=str(UNPACKED / "usr/sbin"))
    return Path(found) if found else None


def _extend(name: str, directory: Path, entries: list[str]) -> None:
    """The machine's file with our entries before its own, in place of those of the same name."""
    names = {entry.split(":")[0] for entry in entries}
    others = [line for line in Path("/etc", name).read_text().splitlines() if line.split(":")[0] not in names]
    (directory / name).write_text("\n".join([*entries, *others]) + "\n")
