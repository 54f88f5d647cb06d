"""The walls of the screens process: the library in it parses what any program printed, so it may touch nothing.

It computes, and talks to the gateway through one socket over which it gets and gives descriptors. It cannot open,
connect, start, signal or trace anything, nor make memory executable. What the filter lets through is what a running
interpreter needs; everything it imports must have been imported before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from pathlib import Path

from gateway.keeper import seccomp

# The interpreter and its libraries take 150 MB of addresses, the screens it keeps are bounded far below the rest.
_ADDRESS_SPACE_BYTES = 1 << 30
_FILE_BYTES = 16 * 1024 * 1024  # of one memory file: the largest thing it hands out is a painting
_DESCRIPTORS_MAX = 512
# Ends before the gateway, should the machine run out of memory; it is started again, a gateway has all the sessions.
_OOM_SCORE = 500
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_PROT_EXEC = 4

_NUMBERS = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
        "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "pwrite64": 18,
        "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "setitimer": 38, "getpid": 39, "sendmsg": 46,
        "recvmsg": 47, "exit": 60, "ftruncate": 77, "gettimeofday": 96, "getrusage": 98, "sigaltstack": 131,
        "gettid": 186, "futex": 202, "restart_syscall": 219, "clock_gettime": 228, "clock_nanosleep": 230,
        "exit_group": 231, "newfstatat": 262, "ppoll": 271, "getrandom": 318, "memfd_create": 319,
    },
    "aarch64": {
        "ftruncate": 46, "close": 57, "lseek": 62, "read": 63, "write": 64, "pread64": 67, "pwrite64": 68, "ppoll": 73,
        "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98, "nanosleep": 101, "setitimer": 103,
        "clock_gettime": 113, "clock_nanosleep": 115, "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132,
        "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "getrusage": 165, "gettimeofday": 169,
        "getpid": 172, "gettid": 178, "sendmsg": 211, "recvmsg": 212, "brk": 214, "munmap": 215, "mremap": 216,
        "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278, "memfd_create": 279,
    },
}  # fmt: skip
_NOT_EXECUTABLE = ("mmap", "mprotect")  # their third argument says what the memory may be used for


def confine() -> bool:
    """Give up everything that is not needed from here on. False: this kernel has no filters, the rest is in place."""
    _lower_limits()
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    machine = os.uname().machine
    return machine in _NUMBERS and seccomp.install(_filter(machine))


def _lower_limits() -> None:
    with contextlib.suppress(OSError):  # a container may show /proc read-only
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    for limit, value in (
        (resource.RLIMIT_AS, _ADDRESS_SPACE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS_MAX),
        (resource.RLIMIT_NPROC, 0),
    ):
        _, hard = resource.getrlimit(limit)
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lowered, lowered))


def _filter(machine: str) -> bytes:
    """Refuse with EPERM what is not named: an interpreter goes on then, with an error that says so."""
    arch, numbers = seccomp.AUDIT_ARCH[machine], _NUMBERS[machine]
    lines: list[tuple[int, int, str | None, str | None]] = [
        (seccomp.LOAD, seccomp.ARCH, None, None),
        (seccomp.JUMP_IF_EQUAL, arch, None, "refuse"),
        (seccomp.LOAD, seccomp.NR, None, None),
    ]
    for name, number in numbers.items():
        lines.append((seccomp.JUMP_IF_EQUAL, number, "check" if name in _NOT_EXECUTABLE else "allow", None))
    places = {"refuse": len(lines), "check": len(lines) + 1, "allow": len(lines) + 3}
    lines += [
        (seccomp.RETURN, seccomp.REFUSE, None, None),
        (seccomp.LOAD, seccomp.ARGUMENTS + 16, None, None),
        (seccomp.JUMP_IF_ANY_BIT, _PROT_EXEC, "refuse again", None),
        (seccomp.RETURN, seccomp.ALLOW, None, None),
        (seccomp.RETURN, seccomp.REFUSE, None, None),
    ]
    places["refuse again"] = len(lines) - 1
    return seccomp.assembled(lines, places)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")
