"""System call filters, in classic BPF, and the one for everything in a sandbox: no program may change the limits of
another process.

prlimit(2) asks for equal user ids only, not for the right to trace. A program of the workspace could lower its
keeper's RLIMIT_CPU, and the kernel would kill the keeper with every session. Changing one's own limits (pid 0, as
ulimit and setrlimit do) and reading anybody's stay allowed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping, Sequence

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
# From linux/bpf_common.h and linux/seccomp.h.
LOAD, JUMP_IF_EQUAL, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
# Offsets in struct seccomp_data: number, architecture, then from 16 on arguments of 8 bytes, on these machines with
# the lower half first.
NR, ARCH, ARGUMENTS = 0, 4, 16
X32_BIT = 0x40000000
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# machine → (its AUDIT_ARCH, prlimit64's numbers), and the same for the 32-bit programs its kernel may run.
_PRLIMIT = {
    "x86_64": ((AUDIT_ARCH["x86_64"], (302, 302 | X32_BIT)), (0x40000003, (340,))),
    "aarch64": ((AUDIT_ARCH["aarch64"], (261,)), (0x40000028, (369,))),
}
_PID, _NEW_LIMIT_LOW, _NEW_LIMIT_HIGH = ARGUMENTS, ARGUMENTS + 16, ARGUMENTS + 20


def forbid_foreign_limits() -> bool:
    """Install the filter for this process and all that it will start.

    False where the machine is not known or its kernel was built without filters. Needs no_new_privs, which bubblewrap
    sets. Raises OSError.
    """
    known = _PRLIMIT.get(os.uname().machine)
    return known is not None and install(_no_foreign_limits(known))


def install(code: bytes) -> bool:
    """False: the kernel was built without filters. Needs no_new_privs. Raises OSError."""
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a count, padding, a pointer.
    program = ctypes.create_string_buffer(struct.pack("H6xQ", len(code) // 8, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        if ctypes.get_errno() == errno.EINVAL:
            return False
        raise OSError(ctypes.get_errno(), "prctl PR_SET_SECCOMP failed")
    return True


def assembled(lines: Sequence[tuple[int, int, str | None, str | None]], places: Mapping[str, int]) -> bytes:
    """The program as the kernel takes it, from lines of (code, value, where to if it holds, where to if not).

    None is the next line; `places` tells the index of each line that others jump to, forwards only.
    """

    def skip(place: str | None, index: int) -> int:
        return 0 if place is None else places[place] - index - 1

    return b"".join(
        # struct sock_filter
        struct.pack("HBBI", code, skip(if_so, index), skip(if_not, index), value)
        for index, (code, value, if_so, if_not) in enumerate(lines)
    )


def _no_foreign_limits(known: tuple[tuple[int, tuple[int, ...]], ...]) -> bytes:
    lines: list[tuple[int, int, str | None, str | None]] = []
    places: dict[str, int] = {}
    for arch, numbers in known:
        lines += [(LOAD, ARCH, None, None), (JUMP_IF_EQUAL, arch, None, f"not {arch}"), (LOAD, NR, None, None)]
        lines += [(JUMP_IF_EQUAL, number, "check", None) for number in numbers]
        lines.append((RETURN, ALLOW, None, None))
        places[f"not {arch}"] = len(lines)
    lines.append((RETURN, ALLOW, None, None))
    places["check"] = len(lines)
    lines += [
        (LOAD, _PID, None, None),
        (JUMP_IF_EQUAL, 0, "allow", None),  # one's own limits
        (LOAD, _NEW_LIMIT_LOW, None, None),
        (JUMP_IF_EQUAL, 0, None, "refuse"),  # a new limit is given
        (LOAD, _NEW_LIMIT_HIGH, None, None),
        (JUMP_IF_EQUAL, 0, "allow", "refuse"),
    ]
    places["refuse"], places["allow"] = len(lines), len(lines) + 1
    lines += [(RETURN, REFUSE, None, None), (RETURN, ALLOW, None, None)]
    return assembled(lines, places)
