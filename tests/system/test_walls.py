"""A hostile program in a walled workspace: what it can see, read, signal and break. Nothing of the gateway's."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.installed import InstalledGateway, until

# Runs inside: python3 reads it from its input; the facts come back as JSON.
LOOK_AROUND = r"""
import json, os
def read(path, size=1 << 16):
    try:
        with open(path, "rb") as file:
            return file.read(size).decode("latin-1")
    except OSError as error:
        return f"refused: {error.errno}"
pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
print(json.dumps({
    "pids": {pid: read(f"/proc/{pid}/cmdline") for pid in pids},
    "environments": {pid: read(f"/proc/{pid}/environ") for pid in pids},
    "homes": sorted(os.listdir("/home")), "workspaces": sorted(os.listdir("/workspaces")),
    "root": sorted(os.listdir("/")), "tmp": sorted(os.listdir("/tmp")), "run": sorted(os.listdir("/run")),
    "mounts": read("/proc/self/mountinfo"), "fds": sorted(os.listdir("/proc/self/fd")),
    "fd1": [read("/proc/1/environ"), read("/proc/1/mem"), read("/proc/1/maps")],
    "uid": os.getuid(), "status": read("/proc/self/status"),
}))
"""

# Each attempt on the keeper (pid 1), and what the kernel said to it.
ATTACK = r"""
import ctypes, json, os, signal
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    ctypes.set_errno(0)
    result = function(*arguments)
    return "done" if result >= 0 else f"errno {ctypes.get_errno()}"
def attempt(action):
    try:
        action()
    except OSError as error:
        return f"errno {error.errno}"
    return "done"
said = {}
for name in ("SIGKILL", "SIGSTOP", "SIGTERM", "SIGINT", "SIGHUP", "SIGSEGV", "SIGUSR1", "SIGPIPE", "SIGQUIT"):
    attempt(lambda: os.kill(1, getattr(signal, name)))
said["ptrace attach"] = call(libc.ptrace, 16, 1, None, None)
said["ptrace seize"] = call(libc.ptrace, 0x4206, 1, None, None)
pidfd = os.pidfd_open(1)
for target in range(16):
    said[f"pidfd_getfd {target}"] = call(libc.syscall, 438, pidfd, target, 0)
for name in ("mem", "environ", "fd", "maps", "cwd", "root", "stack", "syscall"):
    path = f"/proc/1/{name}"
    said[f"read {name}"] = attempt(lambda: os.listdir(path) if name == "fd" else open(path, "rb").read(1)
                                   if name not in ("cwd", "root") else os.readlink(path))
buffer = ctypes.create_string_buffer(8)
class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
local, remote = Iovec(ctypes.addressof(buffer), 8), Iovec(0x400000, 8)
said["process_vm_readv"] = call(libc.process_vm_readv, 1, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
said["replace keeper"] = attempt(lambda: os.rename("/.homeport/keeper", "/.homeport/mine"))
said["write keeper"] = attempt(lambda: open("/.homeport/keeper/server.py", "a"))
said["mount"] = call(libc.mount, b"none", b"/tmp", b"tmpfs", 0, None)
said["write /usr"] = attempt(lambda: open("/usr/planted", "w"))
said["write /etc"] = attempt(lambda: open("/etc/planted", "w"))
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def neighbour(walled: InstalledGateway) -> Iterator[str]:
    """Another workspace with a secret in its home, its tree and a running program's environment."""
    walled.homeport("new", "neighbour")
    walled.ssh("echo s3cret > ~/secret; echo s3cret > secret; echo s3cret > /tmp/secret", workspace="neighbour")
    pid = walled.ssh("NEIGHBOUR=s3cret sleep 900 >/dev/null 2>&1 & echo $!", workspace="neighbour").stdout.decode()
    yield "neighbour"
    walled.ssh(f"kill {pid}", workspace="neighbour")


@pytest.fixture(scope="module")
def seen(walled: InstalledGateway, neighbour: str) -> dict[str, object]:
    done = walled.ssh("python3 -", input=LOOK_AROUND.encode())
    facts: dict[str, object] = json.loads(done.stdout)
    return facts


def test_only_own_processes_are_seen(walled: InstalledGateway, seen: dict[str, object]) -> None:
    commands = seen["pids"]
    assert isinstance(commands, dict)
    assert "keeper" in commands["1"]
    assert not [line for line in commands.values() if "serve" in line or "sleep\x00900" in line or "asyncssh" in line]
    assert walled.process is not None
    assert len(commands) < 8, commands


def test_no_environment_tells_anything_of_the_gateway(seen: dict[str, object]) -> None:
    text = json.dumps(seen["environments"])
    assert not [word for word in ("HOMEPORT", "NOTIFY_SOCKET", "DATABASE_URL", "s3cret") if word in text]


def test_only_own_home_tree_and_temporary_files_are_seen(seen: dict[str, object]) -> None:
    assert (seen["homes"], seen["workspaces"]) == (["demo"], ["demo"])
    assert "secret" not in json.dumps([seen["tmp"], seen["run"]])
    assert seen["uid"] != 0


def test_program_holds_no_descriptor_of_ours(seen: dict[str, object]) -> None:
    """0, 1, 2, and the one that lists the directory."""
    assert seen["fds"] == ["0", "1", "2", "3"]


def test_program_has_no_capability_and_cannot_gain_any(seen: dict[str, object]) -> None:
    status = dict(line.split(":", 1) for line in str(seen["status"]).splitlines() if ":" in line)
    assert {status[name].strip() for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"].strip() == "1"


def test_keeper_s_memory_and_environment_cannot_be_read(seen: dict[str, object]) -> None:
    answers = seen["fd1"]
    assert isinstance(answers, list)
    assert all(answer.startswith("refused") or not answer for answer in answers), answers


def test_no_path_leads_to_the_gateway_s_files(walled: InstalledGateway, neighbour: str) -> None:
    paths = [walled.state_dir, walled.directory / "run", walled.directory / "key", walled.directory / "homeport.toml"]
    paths += [*walled.state_dir.glob("workspaces/*"), walled.state_dir / "keys", walled.state_dir / "homeport.db"]
    for path in paths:
        for way in ("", "/proc/1/root", "/proc/self/root/../..", "/workspaces/demo/../.."):
            done = walled.ssh(f"cat {way}{path} || ls {way}{path}")
            assert (done.returncode != 0, done.stdout) == (True, b""), path


def test_links_planted_in_the_tree_lead_nowhere_outside(walled: InstalledGateway) -> None:
    """sftp and git act inside, so a link to the gateway's database is a link to nothing."""
    walled.ssh(f"ln -s {walled.state_dir}/homeport.db db; ln -s {walled.state_dir} state")
    done = walled.client("sftp", "-b", "-", "demo@gateway", input=b"get db /dev/null\n")
    assert done.returncode != 0
    assert walled.client("scp", "-q", "demo@gateway:state/homeport.db", "/dev/null").returncode != 0
    walled.ssh("rm db state")


def test_attacks_on_the_keeper_are_refused_and_it_lives_on(walled: InstalledGateway) -> None:
    walled.ssh("true")
    before = walled.keeper_pids()
    done = walled.ssh("python3 -", input=ATTACK.encode())
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert not [name for name, answer in said.items() if answer == "done"], said
    assert walled.ssh("echo alive").stdout == b"alive\n"
    assert walled.keeper_pids() == before


@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE", "RLIMIT_CPU", "RLIMIT_AS"])
def test_keeper_s_limits_cannot_be_lowered_from_inside(walled: InstalledGateway, limit: str) -> None:
    """prlimit(2) asks for equal ids only: with RLIMIT_CPU the kernel itself would kill the keeper."""
    attack = f"import resource; resource.prlimit(1, resource.{limit}, (1, 1))"
    refused = walled.ssh(f"python3 -c '{attack}'")
    assert b"PermissionError" in refused.stderr
    assert walled.ssh("echo alive").stdout == b"alive\n"


def test_programs_may_change_their_own_limits_and_read_those_of_others(walled: InstalledGateway) -> None:
    done = walled.ssh(
        "ulimit -n 512 && ulimit -n && prlimit --pid 1 --nofile --noheadings -o SOFT >/dev/null && echo read"
    )
    assert done.stdout == b"512\nread\n"


def test_kill_of_everything_ends_the_programs_and_not_the_keeper(walled: InstalledGateway) -> None:
    walled.ssh("true")
    before = walled.keeper_pids()
    assert walled.ssh("kill -KILL -1; exit 5").returncode in (5, 255)
    assert walled.ssh("echo alive").stdout == b"alive\n"
    assert walled.keeper_pids() == before


def test_neighbours_cannot_signal_each_other(walled: InstalledGateway, neighbour: str) -> None:
    running = walled.programs("sleep 900")
    assert running
    walled.ssh("pkill -KILL sleep; for p in $(seq 2 400); do kill -KILL $p; done 2>/dev/null; true")
    assert walled.programs("sleep 900") == running


def test_garbage_to_every_port_that_can_be_reached_harms_nobody(walled: InstalledGateway) -> None:
    """The network is shared, so the gateway's two listeners hear what a program shouts."""
    shout = (
        "import os, socket, sys\n"
        "for port in map(int, sys.argv[1:]):\n"
        "    for data in (b'', os.urandom(9000), b'GET / HTTP/1.1\\r\\n' * 5000, b'SSH-2.0-x\\r\\n' + b'z' * 50000):\n"
        "        with socket.create_connection(('127.0.0.1', port), 5) as s:\n"
        "            try: s.sendall(data); s.shutdown(1); s.settimeout(5); s.recv(100)\n"
        "            except OSError: pass\n"
    )
    done = walled.ssh(f"python3 - {walled.ssh_port} {walled.http_port}", input=shout.encode())
    assert done.returncode == 0, done.stderr
    assert walled.ssh("echo fine").stdout == b"fine\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{walled.http_port}/healthz", timeout=10) as answer:
        assert answer.status == 200


def test_health_and_metrics_name_no_workspace_and_no_person(walled: InstalledGateway) -> None:
    for page in ("healthz", "readyz", "metrics"):
        with urllib.request.urlopen(f"http://127.0.0.1:{walled.http_port}/{page}", timeout=10) as answer:
            text = answer.read().decode()
        assert not [word for word in ("demo", "neighbour", "ada", str(walled.directory), "SHA256") if word in text]


def test_fork_storm_of_one_session_does_not_stop_another_workspace(walled: InstalledGateway, neighbour: str) -> None:
    """300 processes at once, all reparented to the keeper, which must reap them and still answer."""
    walled.ssh("for i in $(seq 300); do (sleep 1 & ) ; done", timeout=30)
    assert walled.ssh("echo fine", workspace=neighbour).stdout == b"fine\n"
    assert walled.ssh("echo fine").stdout == b"fine\n"
    # Bracketed, so that neither the pattern nor its shell matches itself.
    until(lambda: walled.ssh("pgrep -c '^[s]leep' -f || true").stdout.strip() == b"0", "all were reaped")


def test_control_socket_is_closed_to_other_accounts(walled: InstalledGateway) -> None:
    path = walled.directory / "run" / "control.sock"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    if os.geteuid() == 0:  # root is let in by its credentials
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(path))
            sock.sendall(os.urandom(4096))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    assert walled.homeport("ls").returncode == 0
