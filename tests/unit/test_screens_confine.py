"""The walls around the screens process: what the library in it might be made to do, it cannot do."""

from __future__ import annotations

import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gateway.recording.screen import confine

pytestmark = pytest.mark.skipif(platform.machine() not in confine._NUMBERS, reason="no filter for this machine")

# Tried inside, each with the words of a program that should not be able to. Every one must be refused.
FORBIDDEN = {
    "read a file": "open('/etc/passwd')",
    "write a file": "open({path!r}, 'w')",
    "list a directory": "os.listdir('/')",
    "remove a file": "os.unlink({path!r})",
    "make a socket": "socket.socket()",
    "make a unix socket": "socket.socketpair()",
    "connect": "other.connect(('127.0.0.1', 1))",
    "signal the gateway": "os.kill(os.getppid(), 0)",
    "signal by owner": "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "signal a thread": "signal.pthread_kill(threading.get_ident(), 0)",
    "start a program": "os.posix_spawn('/bin/true', ['true'], {{}})",
    "become a program": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork()",
    "trace": "syscall(101, 16, os.getppid(), 0, 0)" if platform.machine() == "x86_64" else "syscall(117, 16, 1, 0, 0)",
    "read other memory": "syscall(310, os.getppid(), 0, 0, 0, 0, 0)"
    if platform.machine() == "x86_64"
    else "syscall(270, 1, 0, 0, 0, 0, 0)",
    "make memory executable": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "change limits": "syscall(302 if os.uname().machine == 'x86_64' else 261, os.getppid(), 0, 0, 0)",
}

SCRIPT = """
import ctypes, fcntl, mmap, os, resource, signal, socket, sys, threading
from gateway.recording.screen.confine import confine
libc = ctypes.CDLL(None, use_errno=True)
other = socket.socket()
def syscall(*numbers):
    if libc.syscall(*numbers) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
if not confine():
    sys.exit(77)
try:
    {code}
except PermissionError:
    print("refused", flush=True)
else:
    print("allowed", flush=True)
os._exit(0)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT).format(code=code)],
        capture_output=True, text=True, timeout=30, cwd=Path(__file__).parents[2],
    )  # fmt: skip


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_process_cannot(what: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    done = run(FORBIDDEN[what].format(path=str(victim)))
    if done.returncode == 77:
        pytest.skip("this kernel has no seccomp")
    assert done.stdout == "refused\n", (done.stdout, done.stderr)
    assert victim.exists() and victim.stat().st_size == 0


def test_what_it_needs_still_works() -> None:
    code = """
    import time, gc
    fd = os.memfd_create("x", os.MFD_CLOEXEC)
    os.write(fd, b"x" * 100_000); os.pread(fd, 10, 0); os.fstat(fd); os.close(fd)
    blocks = [bytearray(1_000_000) for _ in range(100)]; del blocks; gc.collect()
    time.sleep(0.001); time.monotonic(); os.urandom(8)
    signal.setitimer(signal.ITIMER_REAL, 5); signal.setitimer(signal.ITIMER_REAL, 0)
    raise PermissionError
    """
    done = run("\n    ".join(line.strip() for line in code.strip().splitlines()))
    assert done.stdout == "refused\n", done.stderr


def test_its_memory_is_bounded() -> None:
    done = run("bytearray(1 << 30)")
    assert "MemoryError" in done.stderr


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_two_machines_are_let_do_the_same(machine: str) -> None:
    """Calls that one of them has not are spelled in another way there; a number must not stand twice."""
    numbers = confine._NUMBERS[machine]
    assert len(set(numbers.values())) == len(numbers)
    differences = set(confine._NUMBERS["x86_64"]) ^ set(confine._NUMBERS["aarch64"])
    assert differences <= {"poll"}
    assert len(confine._filter(machine)) % 8 == 0
