"""The installed command, run as its users run it: `homeport serve` on a state of its own, stock clients against it.

Nothing here imports the gateway. What happened is read from its log (events), its database (read-only) and /proc.
Started by root, the command becomes its account by itself, and the clients stay root's: the harness needs no account.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

HOMEPORT = Path(sys.executable).parent / "homeport"
WORKSPACE = "demo"
START_SECONDS = 30.0
STOP_SECONDS = 30.0
DEADLINE_SECONDS = 20.0  # of anything a test waits for, unless it says otherwise
POLL_SECONDS = 0.02
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Result = subprocess.CompletedProcess[bytes]
T = TypeVar("T")


def until(question: Callable[[], T], what: str, *, seconds: float = DEADLINE_SECONDS) -> T:
    """Ask until the answer is true, and return it. For what the world offers no event for (/proc, a screen, a row)."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still not: {what}")
        time.sleep(POLL_SECONDS)
    return answer


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def restart_port() -> int:
    """A free one that no client's connection is given while the server is away for a moment (ip(7),
    ip_local_port_range): there the kernel picks from for `connect`, and for everybody's port 0."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = 10_000 + secrets.randbelow(max(first - 10_000, 1000))
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class Log:
    """The gateway's events, as they are written. Ends when every holder of its standard error has gone."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.events: list[dict[str, object]] = []
        self.other_lines: list[str] = []
        self.has_ended = False
        self._pipe = pipe
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._follow, name="gateway-log", daemon=True)
        self._thread.start()

    def wait(self, event: str, *, seconds: float = DEADLINE_SECONDS, **keys: object) -> dict[str, object]:
        """The first event of this name with these keys, seen already or still to come."""

        def found() -> dict[str, object] | None:
            matches = (e for e in self.events if e["event"] == event and keys.items() <= e.items())
            return next(matches, None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self.has_ended, seconds)
            match = found()
        if match is None:
            raise AssertionError(f"no event {event} {keys} within {seconds:g} s; the log:\n{self.text()}")
        return match

    def wait_end(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.has_ended, STOP_SECONDS), (
                "somebody still holds the gateway's log"
            )
        self._thread.join(STOP_SECONDS)

    def text(self) -> str:
        return "\n".join([json.dumps(event) for event in self.events[-50:]] + self.other_lines)

    def failures(self) -> list[str]:
        """Tracebacks, errors, and everything that is not an event."""
        bad = [json.dumps(e) for e in self.events if "traceback" in e or e.get("level") == "error"]
        return bad + self.other_lines

    def _follow(self) -> None:
        with self._pipe:
            for raw in self._pipe:
                line = raw.decode(errors="replace").rstrip("\n")
                with self._changed:
                    try:
                        self.events.append(json.loads(line))
                    except ValueError:
                        self.other_lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self.has_ended = True
            self._changed.notify_all()


class InstalledGateway:
    """One state, and the gateway on it: started, stopped, killed and started again."""

    def __init__(self, isolation: str, **settings: object) -> None:
        """`settings`: more of the environment, for example `ssh_login_grace_seconds=1`."""
        self.isolation = isolation
        self.directory = Path(tempfile.mkdtemp(prefix="hp-", dir="/tmp"))  # short: socket paths have 107 bytes
        self.directory.chmod(0o755)  # the account the gateway becomes must pass
        self.state_dir = self.directory / "state"
        self.ssh_port, self.http_port = restart_port(), restart_port()
        self.environment = {
            "PATH": _PATH,
            "HOME": str(self.directory),
            "LANG": "C.UTF-8",
            "HOMEPORT_CONFIG": str(self.directory / "homeport.toml"),
            "HOMEPORT_STATE_DIR": str(self.state_dir),
            "HOMEPORT_RUNTIME_DIR": str(self.directory / "run"),
            "HOMEPORT_SSH_LISTEN": f"127.0.0.1:{self.ssh_port}",
            "HOMEPORT_HTTP_LISTEN": f"127.0.0.1:{self.http_port}",
            "HOMEPORT_ISOLATION": isolation,
            **{f"HOMEPORT_{name.upper()}": str(value) for name, value in settings.items()},
        }
        (self.directory / "homeport.toml").write_text("")
        if os.geteuid() != 0:
            (self.directory / "run").mkdir(mode=0o700)
        self.process: subprocess.Popen[bytes] | None = None
        self.logs: list[Log] = []
        self._config = self.directory / "ssh_config"

    @property
    def log(self) -> Log:
        return self.logs[-1]

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # --------------------------------------------------------------------------------------- start and end

    def start(self) -> None:
        """Start the gateway and wait until it says so, as systemd would (sd_notify(3))."""
        path = self.directory / "notify.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(path))
            path.chmod(0o666)
            notify.settimeout(0.1)
            environment = {**self.environment, "NOTIFY_SOCKET": str(path)}
            self.process = subprocess.Popen(
                [str(HOMEPORT), "serve"], env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/"
            )
            assert self.process.stderr is not None
            self.logs.append(Log(self.process.stderr))
            deadline = time.monotonic() + START_SECONDS
            while True:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in notify.recv(4096):
                        return
                assert self.process.poll() is None, f"the gateway ended at its start:\n{self.log.text()}"
                assert time.monotonic() < deadline, f"the gateway did not get ready:\n{self.log.text()}"

    def set_up(self) -> None:
        """Start for the first time, with a key that may log in and a workspace."""
        self.start()
        self.key = self.new_key("key")
        self.homeport("keys", "add", str(self.key.with_suffix(".pub")), "--name", "ada")
        self.homeport("new", WORKSPACE)
        self._write_ssh_config()

    def kill(self) -> None:
        """As if the machine's memory ran out: no word, no order."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STOP_SECONDS)
        self.log.wait_end()

    def terminate(self, *, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(seconds)
        self.log.wait_end()
        return status

    def reload(self) -> int:
        """`homeport reload`; returns the pid of the new one."""
        before = self.serving_pid
        done = self.homeport("reload")
        after = self.serving_pid
        assert after != before, (done.stdout, done.stderr)
        return after

    def close(self) -> None:
        """End everything: the gateway, if it still runs, and the keepers with what runs in them."""
        self.homeport("stop", "--all", check=False)
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
        for log in self.logs:
            log.wait_end()

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    # ------------------------------------------------------------------------------------------- the clients

    def new_key(self, name: str) -> Path:
        path = self.directory / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path], check=True)
        return path

    def homeport(self, *words: str, check: bool = True, **options: object) -> Result:
        """The operator's command on this state."""
        done = run([str(HOMEPORT), *words], env=self.environment, **options)
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def ssh(self, *words: str | bytes, workspace: str = WORKSPACE, **options: object) -> Result:
        """Stock ssh: options first, then the command, as `ssh demo@gateway …` (the host comes between)."""
        return run(self.ssh_command(*words, workspace=workspace), **options)

    def ssh_command(self, *words: str | bytes, workspace: str = WORKSPACE) -> list[str | bytes]:
        """Words before a `--` are options of ssh, the others the command; without `--` all are the command."""
        split = words.index("--") if "--" in words else 0
        options, command = words[:split], words[split + 1 if "--" in words else 0 :]
        return ["ssh", *self.ssh_options, *options, f"{workspace}@gateway", *command]

    def _write_ssh_config(self) -> None:
        lines = [
            "Host gateway",
            "HostName 127.0.0.1",
            f"Port {self.ssh_port}",
            f"IdentityFile {self.key}",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            "BatchMode yes",
            # Accepted once and then held to: a restart must not change the host key.
            "StrictHostKeyChecking accept-new",
            f"UserKnownHostsFile {self.directory}/known_hosts",
            "LogLevel ERROR",
        ]
        self._config.write_text("\n".join(lines) + "\n")

    def plain_ssh_command(self, key: Path | None, *options: str, workspace: str = WORKSPACE) -> list[str]:
        """ssh without our configuration file, for tests of the login itself; `key` None: whatever an agent holds."""
        identity = ["-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"] if key else []
        known = ["-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={self.directory}/known_hosts"]
        quiet = ["-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
        where = ["-p", str(self.ssh_port), f"{workspace}@127.0.0.1"]
        return ["ssh", "-F", "none", *options, *identity, *known, *quiet, *where]

    @property
    def ssh_options(self) -> tuple[str, str]:
        return ("-F", str(self._config))

    def client(self, name: str, *words: str | Path | bytes, **options: object) -> Result:
        """scp or sftp with our configuration."""
        return run([name, *self.ssh_options, *words], **options)

    @contextlib.contextmanager
    def master(self, workspace: str = WORKSPACE) -> Iterator[tuple[str, ...]]:
        """One connection for many sessions; yields the options that use it (ssh_config(5) ControlMaster)."""
        path = self.directory / f"master-{free_port()}"
        command = ["ssh", *self.ssh_options, "-S", str(path), f"{workspace}@gateway"]
        # -f returns once logged in; its own output must go nowhere, or we would wait for the background one.
        subprocess.run([*command[:1], "-fNM", *command[1:]], check=True, timeout=DEADLINE_SECONDS,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            yield ("-S", str(path), "-o", "ControlMaster=no")
        finally:
            run([*command[:1], "-O", "exit", *command[1:]])
            until(lambda: not path.exists(), "the master connection ended")

    # --------------------------------------------------------------------------------------- what came of it

    def rows(self, query: str, *values: object) -> list[dict[str, object]]:
        """Read the database as the operator's sqlite3 would, without ever writing a file there."""
        has_wal = (self.state_dir / "homeport.db-wal").exists()
        mode = "mode=ro" if self.is_running or has_wal else "immutable=1"
        with contextlib.closing(sqlite3.connect(f"file:{self.state_dir}/homeport.db?{mode}", uri=True)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]

    def until_row(self, query: str, *values: object) -> dict[str, object]:
        """The journal is written beside the login, and a row's end just after the client's."""
        return until(lambda: self.rows(query, *values), f"a row for {query} {values}")[0]

    def until_no_live_row(self) -> None:
        def live() -> list[dict[str, object]]:
            return self.rows("SELECT kind, name, command, status FROM sessions WHERE status <> 'terminated'")

        try:
            until(lambda: not live(), "every session's row ended")
        except AssertionError as error:
            raise AssertionError(f"{error}; left: {live()}") from None

    def processes(self) -> list[tuple[int, str]]:
        """Every process that belongs to this gateway or to a workspace of it: (pid, command line)."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if _mentions(folder, self.directory.name):
                        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        found.append((int(folder.name), command))
        return found

    @property
    def serving_pid(self) -> int:
        """Of the gateway that holds the state; another one after each reload."""
        return int((self.state_dir / "gateway.lock").read_text())

    def gateway_pids(self) -> set[int]:
        """The one that serves and those it replaced, as they say themselves; and those of killed ones."""
        folder = self.directory / "run" / "gateways"
        names = os.listdir(folder) if folder.exists() else []
        return {int(name) for name in names if name.isdigit() and Path(f"/proc/{name}").exists()}

    def keeper_pids(self) -> list[int]:
        """The keepers themselves (not bwrap outside of them)."""
        return [
            pid for pid, command in self.processes() if "-I -S " in command and not command.startswith("/usr/bin/bwrap")
        ]

    def all_programs(self) -> list[tuple[int, str]]:
        """What runs in the workspaces: everything but the gateway, its keepers and their sandboxes."""
        assert self.process is not None
        ours = {self.process.pid, *self.gateway_pids(), *self.keeper_pids()}
        return [(pid, line) for pid, line in self.processes() if pid not in ours and "bwrap" not in line.split(" ")[0]]

    def programs(self, marker: str) -> list[int]:
        """Programs whose command line has the marker, in any workspace."""
        return [pid for pid, command in self.processes() if marker in command and "ssh -F" not in command]


def _mentions(process: Path, name: str) -> bool:
    """By command line, environment, directory, mounts or open files: each kind of process shows at least one."""
    needle = name.encode()
    if any(needle in (process / file).read_bytes() for file in ("cmdline", "environ", "mountinfo")):
        return b"Z" not in (process / "stat").read_bytes().rpartition(b")")[2][:3]
    links = [process / "cwd", *(process / "fd").iterdir()]
    return any(name in os.readlink(link) for link in links)


def run(command: list[str | bytes], **options: object) -> Result:
    settings: dict[str, object] = {"capture_output": True, "timeout": DEADLINE_SECONDS, "cwd": "/", **options}
    if "input" not in settings and "stdin" not in settings:
        settings["stdin"] = subprocess.DEVNULL
    if "stdout" in settings or "stderr" in settings:
        del settings["capture_output"]
    return subprocess.run(command, check=False, **settings)
