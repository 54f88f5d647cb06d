"""What the machine says about itself. Everything here may block on a slow disk: call it in a thread."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_PROC_PTY = Path("/proc/sys/kernel/pty")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Usage:
    used: int
    limit: int

    @property
    def left(self) -> int:
        return self.limit - self.used

    @property
    def percent(self) -> float:
        return 100 * self.used / self.limit if self.limit else 0.0


def descriptors() -> Usage:
    """Descriptors of this process, against its soft limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1  # listing opens one itself
    return Usage(used, soft if soft != resource.RLIM_INFINITY else 1 << 30)


def ptys(proc_pty: Path = _PROC_PTY) -> Usage:
    """Pseudo-terminals of the whole machine. The reserve is kept for the machine's own devpts (pty(4)), and a
    sandboxed workspace has a devpts of its own, so it does not count as available."""

    def number(name: str) -> int:
        return int((proc_pty / name).read_text())

    return Usage(number("nr"), number("max") - number("reserve"))


def disk(path: Path) -> Usage:
    """Bytes of the file system that holds `path`, as an unprivileged account may use them."""
    found = os.statvfs(path)
    free, used = found.f_bavail * found.f_frsize, (found.f_blocks - found.f_bfree) * found.f_frsize
    return Usage(used, used + free)


def memory(cgroups: Path = _CGROUPS) -> tuple[Usage, str]:
    """Memory in bytes and whose: that of our control group if it has a limit, else the machine's."""
    machine = psutil.virtual_memory()
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
        limit = (cgroups / own / "memory.max").read_text().strip()
        if limit != "max" and int(limit) < machine.total:
            return Usage(int((cgroups / own / "memory.current").read_text()), int(limit)), "cgroup"
    except (OSError, ValueError):
        # No version 2 hierarchy here, or one we may not read: the machine's figures are then the true ones.
        return Usage(machine.total - machine.available, machine.total), "machine"
    return Usage(machine.total - machine.available, machine.total), "machine"


def cpu_percent() -> float:
    """Since the last call, over all processors; the first call of a process gives 0."""
    return float(psutil.cpu_percent(interval=None))


def cpu_count() -> int:
    return psutil.cpu_count() or 1


def file_bytes(path: Path) -> int:
    """The size of a file, 0 while there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def wal_of(database_file: Path) -> Path:
    """SQLite's write-ahead log beside a database."""
    return database_file.with_name(database_file.name + "-wal")
