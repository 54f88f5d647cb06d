"""What a gateway costs its machine: processor time and memory, of it and all that is its own, without the shells."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from tests.support.installed import InstalledGateway

_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def own_pids(gateway: InstalledGateway) -> list[int]:
    """The gateway, what it started for itself (its model of screens), and the keepers with their sandboxes."""
    assert gateway.process is not None
    keepers = gateway.keeper_pids()
    sandboxes = [pid for pid, line in gateway.processes() if "bwrap" in line.split(" ")[0]]
    return sorted({gateway.process.pid, *_children(gateway.process.pid), *keepers, *sandboxes})


def cpu_ticks(pids: list[int]) -> int:
    """Spent so far, of USER_HZ a second (proc(5), `stat`); children that have ended do not count."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks


def memory_bytes(pids: list[int]) -> int:
    """Proportional: what several share counts once for all of them (proc(5), `smaps_rollup`)."""
    kilobytes = 0
    for pid in pids:
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
        assert found is not None
        kilobytes += int(found[1])
    return kilobytes * 1024


def ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    """Of all threads, without keepers' families: those have left."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in path.read_text().split()]
    return [*found, *(below for child in found for below in _children(child) if _is_python(below))]


def _is_python(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    return False
