"""The first minute: `./dev run` in a fresh clone, and what it says is true when it is pasted as it stands.

One clone is set up for all, by plain python3 and pip (the slowest way, and the one every machine has). Each test has a
state of its own. Started by root, everything lies below a directory that only root may search, as /root is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP_SECONDS = 240
START_SECONDS = 60
ANSWER_SECONDS = 60
IS_ROOT = os.geteuid() == 0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SETUP_SECONDS + 60)]


def environment(**more: str) -> dict[str, str]:
    """The caller's, without uv, settings or the virtual environment these tests run in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOMEPORT_", "VIRTUAL_ENV"))}
    inside = str(Path(sys.prefix) / "bin")
    path = [entry for entry in kept.get("PATH", "").split(":") if entry != inside]
    free = {"HOMEPORT_SSH_LISTEN": "127.0.0.1:0", "HOMEPORT_HTTP_LISTEN": "127.0.0.1:0"}
    return {**kept, **free, "PATH": ":".join(path), "DEV_NO_UV": "1", **more}


@pytest.fixture(scope="module")
def closed() -> Iterator[Path]:
    """A short directory that nobody else may enter."""
    folder = Path(tempfile.mkdtemp(prefix="hp-first-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def clone(closed: Path) -> Path:
    clone = copy_clone(closed / "clone")
    done = subprocess.run(
        [clone / "dev", "setup"], env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        cwd="/", timeout=SETUP_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return clone


def copy_clone(clone: Path) -> Path:
    """What git would clone, with what is not committed yet."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    return clone


class Trial:
    """A running `./dev run`, and what it has printed."""

    def __init__(self, clone: Path, *become: str, seconds: float = START_SECONDS, **more: str) -> None:
        """`become`: a command that goes on as somebody else."""
        self.text = ""
        self._become = become
        self._process = subprocess.Popen(
            [*become, clone / "dev", "run"], env=environment(**more), cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._is_ready.wait(seconds), self.text

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.text += line
            if line.startswith("Stop:"):
                self._is_ready.set()
        self._is_ready.set()

    @property
    def ssh(self) -> list[str]:
        """The printed line, and nothing else that could make it work."""
        (line,) = [line for line in self.text.splitlines() if line.startswith("  ssh ")]
        return shlex.split(line)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._become, *self.ssh, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
        )

    def interrupt(self) -> str:
        """Ctrl-C; returns what was said from then on."""
        before = len(self.text)
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(ANSWER_SECONDS) == 0, self.text
        self._reader.join(ANSWER_SECONDS)
        return self.text[before:]

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(ANSWER_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def trial(clone: Path) -> Iterator[Trial]:
    """Without HOMEPORT_STATE_DIR, so the state is the clone's own."""
    trial = Trial(clone)
    yield trial
    trial.close()
    homeport(clone, "stop", "--all")
    remove_state(clone / ".homeport")


def homeport(clone: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [clone / "dev", "homeport", *words], env=environment(**more), cwd="/", stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=ANSWER_SECONDS,
    )  # fmt: skip


def remove_state(state: Path) -> None:
    record = state / "runtime-dir"
    if record.exists():
        shutil.rmtree(record.read_text().strip(), ignore_errors=True)
    shutil.rmtree(state, ignore_errors=True)


def refused(clone: Path, **more: str) -> str:
    """The one line a start that cannot work ends with."""
    done = subprocess.run(
        [clone / "dev", "run"], env=environment(**more), cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=START_SECONDS,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_the_printed_line_opens_the_demo_without_a_question(trial: Trial) -> None:
    done = trial.run("pwd; git log --format=%s; git status --short; exit 37")
    assert (done.returncode, done.stdout) == (37, "/workspaces/demo\nA workspace to try things in\n")
    assert "authenticity" not in done.stderr


def test_no_program_runs_as_root_and_no_file_becomes_roots(trial: Trial, clone: Path) -> None:
    assert trial.run("id -u; touch mine").stdout.strip() != "0"
    (made,) = (clone / ".homeport/workspaces").glob("*/tree/mine")
    assert made.stat().st_uid != 0
    owners = {path.lstat().st_uid for path in (clone / ".homeport").rglob("*") if "trial" not in path.parts}
    assert owners == {made.stat().st_uid}


def test_the_health_url_answers(trial: Trial) -> None:
    (url,) = [word for word in trial.text.split() if word.startswith("http://")]
    done = subprocess.run(["curl", "-sf", url], capture_output=True, text=True, timeout=ANSWER_SECONDS)
    assert (done.returncode, '"status": "healthy"' in done.stdout) == (0, True)


def test_connect_says_again_what_the_start_said(trial: Trial, clone: Path) -> None:
    done = homeport(clone, "connect", "demo")
    assert (done.returncode, done.stderr) == (0, "")
    said = trial.text.splitlines()
    for line in done.stdout.splitlines():
        what = line.partition(": ")[2].strip() if line.startswith("#") else line
        if what != "ssh homeport-demo":  # that goes by the entry, which is not in place at a first start
            assert [one for one in said if one.endswith(f" {what}")], (line, trial.text)


def test_ctrl_c_says_which_shells_go_on_and_the_next_start_finds_them(trial: Trial, clone: Path) -> None:
    with subprocess.Popen([*trial.ssh, "-tt", "echo up; exec sleep 600"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:  # fmt: skip
        assert client.stdout is not None
        while b"up" not in client.stdout.readline():
            assert client.poll() is None
        said = trial.interrupt()
        client.wait(ANSWER_SECONDS)
    assert "1 shell goes on without the gateway" in said
    assert "end them: ./dev homeport stop --all" in said
    again = Trial(clone)
    try:
        assert "sleep 600" in homeport(clone, "sessions").stdout
        assert homeport(clone, "stop", "--all").returncode == 0
    finally:
        again.close()
    assert "sleep 600" not in homeport(clone, "sessions").stdout


def test_a_state_so_deep_that_no_socket_path_would_fit_works(clone: Path, closed: Path) -> None:
    state = closed.joinpath(*["a-rather-long-directory-name"] * 6, "state")
    trial = Trial(clone, HOMEPORT_STATE_DIR=str(state))
    try:
        assert trial.run("echo deep").stdout == "deep\n"
        trial.interrupt()
    finally:
        trial.close()
        homeport(clone, "stop", "--all", HOMEPORT_STATE_DIR=str(state))
        remove_state(state)


def test_a_taken_port_is_one_sentence_with_the_fix(clone: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        line = refused(clone, HOMEPORT_SSH_LISTEN=f"127.0.0.1:{other.getsockname()[1]}")
    assert "HOMEPORT_SSH_LISTEN=" in line
    remove_state(clone / ".homeport")


def test_a_directory_full_of_other_things_is_one_sentence_with_the_fix(clone: Path, closed: Path) -> None:
    line = refused(clone, HOMEPORT_STATE_DIR=str(closed))
    assert "holds nothing of Homeport" in line
    assert "HOMEPORT_STATE_DIR" in line


def test_a_broken_database_is_one_sentence_with_the_fix(clone: Path, closed: Path) -> None:
    state = closed / "broken"
    state.mkdir(0o700)
    (state / "homeport.db").write_bytes(b"not a database " * 500)
    assert "backup" in refused(clone, HOMEPORT_STATE_DIR=str(state))
    remove_state(state)


def test_a_misspelt_setting_is_one_sentence_with_the_right_one(clone: Path) -> None:
    assert "did you mean HOMEPORT_SSH_LISTEN?" in refused(clone, HOMEPORT_SSH_LISTN="x")


def test_a_python_that_is_too_old_is_named_with_the_package_to_install(clone: Path, closed: Path) -> None:
    """Nothing but an old python3 and the few programs of a minimal system on PATH."""
    programs = closed / "bin"
    programs.mkdir()
    for name in ("sh", "dirname", "cat", "cksum", "id", "grep", "rm"):
        (programs / name).symlink_to(str(shutil.which(name)))
    old = programs / "python3"
    old.write_text('#!/bin/sh\ncase "$*" in *platform*) echo 3.9.2 ;; *) exit 1 ;; esac\n')
    old.chmod(0o755)
    (closed / "fresh").mkdir()
    shutil.copy2(clone / "dev", closed / "fresh" / "dev")
    done = subprocess.run(
        [closed / "fresh" / "dev", "run"], env={"PATH": str(programs)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "python3 is 3.9.2, and Python 3.11 or newer is needed" in done.stderr
    assert "apt-get install python3" in done.stderr


@pytest.mark.skipif(not IS_ROOT, reason="only root can be another account")
def test_an_ordinary_account_without_any_key_sets_up_its_own_clone_and_gets_in(closed: Path) -> None:
    """`daemon` has no ~/.ssh, and ssh looks for it through passwd whatever HOME says. HOME is missing, too."""
    system_path = "/usr/local/bin:/usr/bin:/bin"
    python = shutil.which("python3", path=system_path)
    newer = "import sys; sys.exit(sys.version_info < (3, 11))"
    if python is None or subprocess.run([python, "-c", newer]).returncode != 0:
        pytest.skip("no Python 3.11 that every account can run")
    closed.chmod(0o755)
    clone = copy_clone(closed / "ordinary")
    for path in (clone, *clone.rglob("*")):
        shutil.chown(path, "daemon", "daemon")
    become = ("setpriv", "--reuid=daemon", "--regid=daemon", "--clear-groups")
    trial = Trial(clone, *become, seconds=SETUP_SECONDS, HOME="/nonexistent", PATH=system_path, XDG_RUNTIME_DIR="")
    try:
        assert "the trial has a key of its own" in trial.text
        assert trial.run("whoami").stdout == "demo\n"
        assert "nothing was left running" in trial.interrupt()
    finally:
        trial.close()
        closed.chmod(0o700)
        remove_state(clone / ".homeport")
