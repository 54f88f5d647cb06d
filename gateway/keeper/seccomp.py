"""A small system call filter for everything in a sandbox: no program may change the limits of another process.

prlimit(2) asks for equal user ids only, not for the right to trace. A program of the workspace could lower its
keeper's RLIMIT_CPU, and the kernel would kill the keeper with every session. Changing one's own limits (pid 0, as
ulimit and setrlimit do) and reading anybody's stay allowed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
# From linux/bpf_common.h and linux/seccomp.h.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
# Offsets in struct seccomp_data: number, architecture, then arguments of 8 bytes, little end first on these machines.
_NR, _ARCH, _PID, _NEW_LIMIT_LOW, _NEW_LIMIT_HIGH = 0, 4, 16, 32, 36
_X32_BIT = 0x40000000
# machine → (its AUDIT_ARCH, prlimit64's numbers), and the same for the 32-bit programs its kernel may run.
_KNOWN = {
    "x86_64": ((0xC000003E, (302, 302 | _X32_BIT)), (0x40000003, (340,))),
    "aarch64": ((0xC00000B7, (261,)), (0x40000028, (369,))),
}


def forbid_foreign_limits() -> bool:
    """Install the filter for this process and all that it will start.

    False where the machine is not known or its kernel was built without filters. Needs no_new_privs, which bubblewrap
    sets. Raises OSError.
    """
    known = _KNOWN.get(os.uname().machine)
    if known is None:
        return False
    code = _program(known)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a count, padding, a pointer.
    program = ctypes.create_string_buffer(struct.pack("H6xQ", len(code) // 8, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        if ctypes.get_errno() == errno.EINVAL:
            return False
        raise OSError(ctypes.get_errno(), "prctl PR_SET_SECCOMP failed")
    return True


def _program(known: tuple[tuple[int, tuple[int, ...]], ...]) -> bytes:
    """The filter in classic BPF: (code, value, where to if equal, where to if not), None being the next line."""
    lines: list[tuple[int, int, str | None, str | None]] = []
    places: dict[str, int] = {}
    for arch, numbers in known:
        lines += [(_LOAD, _ARCH, None, None), (_JUMP_IF_EQUAL, arch, None, f"not {arch}"), (_LOAD, _NR, None, None)]
        lines += [(_JUMP_IF_EQUAL, number, "check", None) for number in numbers]
        lines.append((_RETURN, _ALLOW, None, None))
        places[f"not {arch}"] = len(lines)
    lines.append((_RETURN, _ALLOW, None, None))
    places["check"] = len(lines)
    lines += [
        (_LOAD, _PID, None, None),
        (_JUMP_IF_EQUAL, 0, "allow", None),  # one's own limits
        (_LOAD, _NEW_LIMIT_LOW, None, None),
        (_JUMP_IF_EQUAL, 0, None, "refuse"),  # a new limit is given
        (_LOAD, _NEW_LIMIT_HIGH, None, None),
        (_JUMP_IF_EQUAL, 0, "allow", "refuse"),
    ]
    places["refuse"], places["allow"] = len(lines), len(lines) + 1
    lines += [(_RETURN, _ERRNO | errno.EPERM, None, None), (_RETURN, _ALLOW, None, None)]

    def skip(place: str | None, index: int) -> int:
        return 0 if place is None else places[place] - index - 1

    return b"".join(
        # struct sock_filter
        struct.pack("HBBI", code, skip(if_equal, index), skip(if_not, index), value)
        for index, (code, value, if_equal, if_not) in enumerate(lines)
    )
