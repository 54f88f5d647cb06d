"""What a client's test knows of a server, whichever it is: Homeport with one kind of wall, or OpenSSH's sshd.

Clients read nothing of the account that runs the tests: each gets an empty HOME and an environment made from nothing.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tests.support.installed import (
    DEADLINE_SECONDS,
    WORKSPACE,
    InstalledGateway,
    Result,
    free_port,
    run,
    until,
)
from tests.support.sshd import Sshd

LOOPBACK = "127.0.0.1"
CLIENT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Client(subprocess.Popen[bytes]):
    """A client that goes on; a test that fails does not wait for it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, traceback)


class Server:
    """One server that runs, and the files a client needs to log in."""

    def __init__(
        self,
        name: str,
        *,
        port: int,
        host: str = LOOPBACK,
        gateway: InstalledGateway | None = None,
        sshd: Sshd | None = None,
    ) -> None:
        self.name = name  # none, bubblewrap or sshd
        self.gateway = gateway
        self.sshd = sshd
        self.host = host
        self.port = port
        self.user = WORKSPACE
        # Short, for control sockets lie in it; the client's own files, which nothing of the server reads.
        self.scratch = Path(tempfile.mkdtemp(prefix="hc-", dir="/tmp"))
        self.client_home = self.scratch / "home"
        self.client_home.mkdir()
        self.key = self.scratch / "id_ed25519"
        self.rsa_key = self.scratch / "id_rsa"  # PEM, which every old client reads
        for options in (
            ["-t", "ed25519", "-f", self.key],
            ["-t", "rsa", "-b", "2048", "-m", "PEM", "-f", self.rsa_key],
        ):
            subprocess.run(["ssh-keygen", "-q", "-N", "", "-C", "client", *options], check=True)
        self.known_hosts = self.scratch / "known_hosts"
        self.ssh_config = self.scratch / "ssh_config"
        self.home = self.tree = ""  # as programs see them

    @property
    def is_sshd(self) -> bool:
        return self.sshd is not None

    @property
    def passing_user(self) -> str:
        """The login name whose shells end with their connection; sshd knows no others."""
        return self.user if self.is_sshd else f"{self.user}+new"

    @property
    def environment(self) -> dict[str, str]:
        """Of every client: as after a login on a machine that is new."""
        return {"PATH": CLIENT_PATH, "HOME": str(self.client_home), "LANG": "C.UTF-8", "SHELL": "/bin/sh"}

    def meet(self) -> None:
        """Write the clients' files: the server serves, and lets both keys in."""
        scan = run(["ssh-keyscan", "-p", str(self.port), self.host], env=self.environment)
        assert scan.stdout, scan.stderr
        self.known_hosts.write_bytes(scan.stdout)
        self.ssh_config.write_text(
            f"Host server\nHostName {self.host}\nPort {self.port}\nUser {self.user}\n"
            f"IdentityFile {self.key}\nIdentitiesOnly yes\nIdentityAgent none\nBatchMode yes\nLogLevel ERROR\n"
            f"UserKnownHostsFile {self.known_hosts}\nGlobalKnownHostsFile none\nStrictHostKeyChecking yes\n"
            "UpdateHostKeys no\n"
        )
        self.home, self.tree = self.ssh('echo "$HOME"; pwd').stdout.decode().split()

    def close(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    # ------------------------------------------------------------------------------------------ clients

    def run(self, command: list[str | bytes], **options: object) -> Result:
        """A client, by its own command line."""
        return run(command, **{"env": self.environment, **options})

    def start(self, command: list[str | bytes], **options: object) -> Client:
        """A client that goes on, with pipes for its three streams unless told otherwise."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return Client(command, **{"env": self.environment, "cwd": "/", **pipes, **options})  # type: ignore[call-overload,no-any-return]

    def ssh(self, *words: str | bytes, **options: object) -> Result:
        """Stock ssh. Words before a `--` are its options, the others the command; without `--` all are the command."""
        return self.run(self.ssh_command(*words), **options)

    def ssh_command(self, *words: str | bytes) -> list[str | bytes]:
        split = words.index("--") if "--" in words else 0
        options, command = words[:split], words[split + 1 if "--" in words else 0 :]
        return ["ssh", *self.ssh_options, *options, "server", *command]

    @property
    def ssh_options(self) -> tuple[str, str]:
        """For ssh, scp, sftp and what starts them (`rsync -e`, GIT_SSH_COMMAND); the host is then `server`."""
        return ("-F", str(self.ssh_config))

    @contextlib.contextmanager
    def master(self, *options: str) -> Iterator[tuple[str, ...]]:
        """One connection for many sessions; yields the options that use it (ssh_config(5) ControlMaster)."""
        path = self.scratch / f"m{free_port()}"
        command = [*self.ssh_options, "-S", str(path), "server"]
        # -f returns once logged in; its own output must go nowhere, or we would wait for the background one.
        subprocess.run(["ssh", "-fNM", *options, *command], check=True, timeout=DEADLINE_SECONDS, cwd="/",
                       env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            yield ("-S", str(path), "-o", "ControlMaster=no")
        finally:
            self.run(["ssh", "-O", "exit", *command])
            until(lambda: not path.exists(), "the master connection ended")

    @contextlib.contextmanager
    def login_shell(self, name: str) -> Iterator[None]:
        """Make it the account's, until left."""
        set_shell = self.sshd.set_shell if self.sshd else self._set_workspace_shell
        set_shell(name)
        try:
            yield
        finally:
            set_shell(None)

    def _set_workspace_shell(self, name: str | None) -> None:
        assert self.gateway is not None
        self.gateway.homeport("set", self.user, f"shell={name or 'default'}")


@contextlib.contextmanager
def homeport(isolation: str, *, host: str = LOOPBACK, **settings: object) -> Iterator[Server]:
    """The installed gateway, not yet held to any promise."""
    gateway = InstalledGateway(isolation, **settings)
    gateway.environment["HOMEPORT_SSH_LISTEN"] = f"{f'[{host}]' if ':' in host else host}:{gateway.ssh_port}"
    server = Server(isolation, port=gateway.ssh_port, host=host, gateway=gateway)
    try:
        gateway.set_up()
        for name, key in (("client", server.key), ("client-rsa", server.rsa_key)):
            gateway.homeport("keys", "add", f"{key}.pub", "--name", name)
        server.meet()
        yield server
    finally:
        gateway.close()
        gateway.remove()
        server.close()


@contextlib.contextmanager
def openssh(*, host: str = LOOPBACK, **settings: object) -> Iterator[Server]:
    """A private sshd with the same keys, account name and shell. `settings` are sshd_config(5) keywords."""
    sshd = Sshd(WORKSPACE, settings, host=host)
    server = Server("sshd", port=sshd.port, host=host, sshd=sshd)
    try:
        keys = "".join(Path(f"{key}.pub").read_text() for key in (server.key, server.rsa_key))
        sshd.start(keys)
        server.meet()
        yield server
    finally:
        sshd.close()
        server.close()
