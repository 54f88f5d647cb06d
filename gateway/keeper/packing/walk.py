"""Walks home and tree, by descriptors: no path is too long, and no link leads anywhere else."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from .refusal import Refused

# What programs fetch again by themselves, below the home. Only whole folders that nobody keeps work in: see
# docs/archives.md, which lists them.
CACHES = frozenset(
    (
        "home/.cache",
        "home/.npm/_cacache",
        "home/.cargo/registry/cache",
        "home/.cargo/registry/src",
        "home/.gradle/caches",
        "home/go/pkg/mod",
        "home/.vscode-server/bin",
        "home/.vscode-server/cli/servers",
        "home/.vscode-server/extensionsCache",
        "home/.vscode-server/data/CachedExtensionVSIXs",
    )
)
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Entry:
    """Something in home or tree. `parent_fd` is open only until the next entry is asked for."""

    name: str  # home/…, tree/…; bytes that are no UTF-8 as surrogates (os.fsdecode)
    leaf: str
    parent_fd: int
    stat: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.stat.st_mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.stat.st_mode)

    @property
    def is_packed(self) -> bool:
        """Whether it has a place in an archive: not sockets, which mean nothing without their program, nor devices."""
        mode = self.stat.st_mode
        return self.is_directory or self.is_file or stat.S_ISLNK(mode) or stat.S_ISFIFO(mode)


def walk(home: str, tree: str, unreadable: list[str]) -> Iterator[Entry]:
    """Every entry in a fixed order, a directory before what is in it. What cannot be read is named in `unreadable`.

    Caches of the home are entries, without what is in them. Raises Refused("changed") if a directory is replaced under
    our feet.
    """
    for root, path in (("home", home), ("tree", tree)):
        fd = os.open(path, _OPEN_DIRECTORY)
        try:
            yield Entry(root, ".", fd, os.fstat(fd))
            yield from _below(fd, root, unreadable)
        finally:
            os.close(fd)


def _below(root_fd: int, root: str, unreadable: list[str]) -> Iterator[Entry]:
    """Not recursive: nesting may go deeper than Python's stack."""
    levels: list[tuple[int, str, Iterator[str]]] = [(root_fd, root, iter(_names(root_fd)))]
    try:
        while levels:
            fd, folder, names = levels[-1]
            leaf = next(names, None)
            if leaf is None:
                levels.pop()
                if fd != root_fd:
                    os.close(fd)
                continue
            entry = Entry(f"{folder}/{leaf}", leaf, fd, _lstat(leaf, fd))
            yield entry
            if entry.is_directory and entry.name not in CACHES:
                below = _opened(entry, unreadable)
                if below is not None:
                    levels.append((below, entry.name, iter(_names(below))))
    finally:
        for fd, _, _ in levels[1:]:
            os.close(fd)


def _names(fd: int) -> list[str]:
    return sorted(os.listdir(fd))


def _lstat(leaf: str, parent_fd: int) -> os.stat_result:
    return os.stat(leaf, dir_fd=parent_fd, follow_symlinks=False)


def _opened(entry: Entry, unreadable: list[str]) -> int | None:
    try:
        fd = os.open(entry.leaf, _OPEN_DIRECTORY, dir_fd=entry.parent_fd)
    except PermissionError:
        unreadable.append(entry.name)
        return None
    found = os.fstat(fd)
    if (found.st_ino, found.st_dev) != (entry.stat.st_ino, entry.stat.st_dev):
        os.close(fd)
        raise Refused("changed", [entry.name])
    if not os.access(fd_path(fd), os.X_OK):
        os.close(fd)
        unreadable.append(entry.name)
        return None
    return fd


def fd_path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


@dataclass
class Scan:
    """What there is, by one walk that reads no contents."""

    digest: str = ""  # equal for two scans only if nothing was changed between them: times of change are in it
    file_count: int = 0
    directory_count: int = 0
    link_count: int = 0
    fifo_count: int = 0
    content_bytes: int = 0
    newest_ns: int = 0  # when something was changed last
    skipped: list[str] = field(default_factory=list)  # sockets, devices
    unreadable: list[str] = field(default_factory=list)


def scan(home: str, tree: str) -> Scan:
    found = Scan()
    digest = hashlib.sha256()
    for entry in walk(home, tree, found.unreadable):
        status = entry.stat
        digest.update(os.fsencode(entry.name) + b"\0")
        facts = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(repr(facts).encode())
        found.newest_ns = max(found.newest_ns, status.st_ctime_ns)
        if not entry.is_packed:
            found.skipped.append(entry.name)
        elif entry.is_directory:
            found.directory_count += 1
        elif entry.is_file:
            found.file_count += 1
            found.content_bytes += status.st_size
            if not os.access(entry.leaf, os.R_OK, dir_fd=entry.parent_fd):
                found.unreadable.append(entry.name)
        elif stat.S_ISLNK(status.st_mode):
            found.link_count += 1
        else:
            found.fifo_count += 1
    found.digest = digest.hexdigest()
    return found
