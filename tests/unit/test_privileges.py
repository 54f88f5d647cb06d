"""What becomes of root: an account, with nothing of root's left."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import Config
from gateway.errors import StartRefused
from gateway.privileges import Account, account_for, become, cleaned_environment
from gateway.state import Owner

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
ACCOUNT = Account("homeport", Owner(999, 999), "/var/lib/homeport")

# Says what is left, from the process that goes on. Root's own directory is closed, as /root is.
_PROGRAM = """
import json, os, sys
sys.path.insert(0, {root!r})
from gateway import privileges
from gateway.config import load_config
def start_again(environment):
    os.execve(sys.executable, [sys.executable, "-P", {file!r}], environment)
privileges._start_again = start_again
found = privileges.become(load_config(), lambda: b"read as %d" % os.getuid())
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
state = os.environ["HOMEPORT_STATE_DIR"]
open(os.path.join(state, "homeport.db"), "w").close()
print(json.dumps({{
    "handover": found.decode(), "uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(),
    "capabilities": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": status["NoNewPrivs"], "environment": dict(os.environ), "directory": os.getcwd(),
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),
    "neighbours": sorted(os.listdir(os.path.dirname(state))),
}}))
"""


def run_as_root(folder: Path, **more: str) -> dict[str, object]:
    """Become the account from a closed folder that holds the state and a file that is nobody's business."""
    (folder / "private").write_text("secret")
    program = Path(f"/tmp/hp-become-{os.getpid()}.py")
    program.write_text(_PROGRAM.format(root=str(ROOT), file=str(program)))
    program.chmod(0o644)
    environment = {**os.environ, "HOMEPORT_STATE_DIR": str(folder / "state"), "HOMEPORT_ACCOUNT": "daemon", **more}
    with open(folder / "private") as left_open:
        os.set_inheritable(left_open.fileno(), True)
        done = subprocess.run([sys.executable, "-P", str(program)], env=environment, capture_output=True, text=True,
                              close_fds=False)  # fmt: skip
    program.unlink()
    assert done.returncode == 0, done.stderr
    seen: dict[str, object] = json.loads(done.stdout)
    shutil.rmtree(str(seen["environment"]["HOMEPORT_RUNTIME_DIR"]), ignore_errors=True)  # type: ignore[index]
    return seen


@as_root
def test_nothing_of_root_is_left(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    seen = run_as_root(tmp_path, SECRET_OF_ROOT="x", SSH_AUTH_SOCK="/tmp/agent")
    daemon = pwd.getpwnam("daemon")
    assert seen["uids"] == [daemon.pw_uid] * 3
    assert seen["gids"] == [daemon.pw_gid] * 3
    assert seen["groups"] == []
    assert set(seen["capabilities"]) == {"0" * 16}  # type: ignore[call-overload]
    assert seen["no_new_privs"] == "1"
    assert not {"SECRET_OF_ROOT", "SSH_AUTH_SOCK"} & set(seen["environment"])  # type: ignore[call-overload]
    assert seen["handover"] == "read as 0"
    assert len(seen["descriptors"]) == 4  # type: ignore[arg-type]  # 0, 1, 2 and the one that lists them


@as_root
def test_the_state_is_reached_below_a_closed_directory_and_nothing_else_there(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert run_as_root(tmp_path)["neighbours"] == ["state"]
    owner = pwd.getpwnam("daemon").pw_uid
    assert {(tmp_path / "state").stat().st_uid, (tmp_path / "state/homeport.db").stat().st_uid} == {owner}
    assert (tmp_path / "private").read_text() == "secret"


@as_root
def test_an_existing_state_is_entered_as_its_owner(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(state, nobody.pw_uid, nobody.pw_gid)
    assert account_for(Config(state_dir=state)).owner == Owner(nobody.pw_uid, nobody.pw_gid)


@as_root
def test_root_is_no_account_to_become(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="is root itself; name an unprivileged one in HOMEPORT_ACCOUNT"):
        account_for(Config(state_dir=tmp_path / "state", account="root"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root becomes somebody else")
def test_without_root_only_the_collecting_is_done(tmp_path: Path) -> None:
    assert become(Config(state_dir=tmp_path / "state"), lambda: b"found") == b"found"
    assert not (tmp_path / "state").exists()


def test_the_environment_keeps_settings_and_language_and_drops_the_rest() -> None:
    given = {"HOMEPORT_SSH_LISTEN": "x", "LC_ALL": "C", "TERM": "xterm", "SUDO_UID": "1", "PATH": "/root/bin"}
    given |= {"HOME": "/root", "PYTHONPATH": "/root/lib", "LD_PRELOAD": "/root/x.so", "XDG_RUNTIME_DIR": "/run/user/0"}
    kept = cleaned_environment(given, ACCOUNT)
    assert {name: kept[name] for name in ("HOMEPORT_SSH_LISTEN", "LC_ALL", "TERM", "HOME", "USER")} == {
        "HOMEPORT_SSH_LISTEN": "x", "LC_ALL": "C", "TERM": "xterm", "HOME": "/var/lib/homeport", "USER": "homeport",
    }  # fmt: skip
    assert not {"SUDO_UID", "PYTHONPATH", "LD_PRELOAD", "XDG_RUNTIME_DIR"} & set(kept)
    assert "/root" not in kept["PATH"]


def test_the_libraries_are_loaded_by_the_account_alone(tmp_path: Path) -> None:
    """They look around at their import (asyncssh runs a linker to find one of its own), and take most of the start."""
    code = """
import sys
from gateway import cli, privileges

def become(config):
    print(sorted({"asyncssh", "aiohttp", "tortoise", "psutil"} & set(sys.modules)))
    raise SystemExit(0)

privileges.become = become
cli.main(["serve"])
"""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HOMEPORT_CONFIG": str(tmp_path / "homeport.toml")}
    (tmp_path / "homeport.toml").touch()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, timeout=30)
    assert done.stdout == b"[]\n", done
