"""Make paths reachable for an account that may not search the directories above them, such as /root (0700).

The whole process moves into a mount namespace of its own. There, each closed directory on the way is covered by an
empty file system that everybody may search, and only the paths that are needed are bound into it: code read-only,
state writable. Nothing changes for the rest of the machine, and nothing else of the closed directory becomes visible.
Needs root with CAP_SYS_ADMIN. Standard library and three system calls only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import StartRefused
from gateway.state import Owner

_CLONE_NEWNS = 0x00020000  # sched.h
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT = 1, 2, 4, 32  # sys/mount.h
_MS_BIND, _MS_REC, _MS_SLAVE = 4096, 16384, 1 << 19
_LINKS_MAX = 40  # what the kernel follows (path_resolution(7))


@dataclass(frozen=True, slots=True)
class Need:
    """A path that the account must reach."""

    path: Path
    is_writable: bool = False


@dataclass(frozen=True, slots=True)
class Cover:
    """A closed directory, and what of it the account shall see."""

    directory: Path
    needs: tuple[Need, ...]


def plan(needs: Iterable[Need], account: Owner) -> list[Cover]:
    """Which directories must be covered, topmost only, and what is bound into each. Empty: all is reachable."""
    covers: dict[Path, list[Need]] = {}
    for need in _resolved(needs):
        closed = _topmost_closed(need.path, account)
        if closed is None:
            continue
        # A needed directory that is closed itself: its permissions would come along, so its entries are bound instead.
        inner = [Need(path, need.is_writable) for path in need.path.iterdir()] if closed == need.path else [need]
        covers.setdefault(closed, []).extend(inner)
    return [Cover(directory, tuple(inner)) for directory, inner in sorted(covers.items())]


def enter(covers: list[Cover]) -> None:
    """Move this process into a mount namespace in which the plan holds. Raises StartRefused where that is impossible.

    Call it with a single thread: the others would stay outside.
    """
    with ExitStack() as opened:
        try:
            _unshare()
            # Opened after the move (descriptors of the old namespace cannot be bound) and before anything is covered
            # (then the names lead nowhere).
            sources: dict[Path, int] = {}
            for need in (need for cover in covers for need in cover.needs):
                sources[need.path] = os.open(need.path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
                opened.callback(os.close, sources[need.path])
            for cover in covers:
                _mount("tmpfs", cover.directory, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
                # Outer paths first, so that a state inside the clone lands on top of it.
                for need in sorted(cover.needs, key=lambda need: len(need.path.parts)):
                    _bind(sources[need.path], need)
        except OSError as error:
            raise StartRefused(_explain(covers, error)) from None


def may_search(directory: Path, account: Owner) -> bool:
    return _allows(directory.stat(), account, stat.S_IXOTH)


def may_read(path: Path, account: Owner) -> bool:
    found = path.stat()
    return _allows(found, account, stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else 0))


def _allows(found: os.stat_result, account: Owner, bits: int) -> bool:
    """What the mode bits say. Access lists may grant more; then a directory is covered without need, no harm done."""
    shift = 6 if found.st_uid == account.uid else 3 if found.st_gid == account.gid else 0
    return found.st_mode & bits << shift == bits << shift


def _resolved(needs: Iterable[Need]) -> list[Need]:
    """Existing paths, each once and none inside another, and the links on the way to them."""
    wanted: dict[Path, bool] = {}
    for need in needs:
        if need.path.exists():
            for path in (*_links_towards(need.path), Path(os.path.realpath(need.path))):
                wanted[path] = wanted.get(path, False) or need.is_writable
    return [
        Need(path, is_writable)
        for path, is_writable in sorted(wanted.items())
        if not any(parent in wanted and wanted[parent] >= is_writable for parent in path.parents)
    ]


def _links_towards(path: Path) -> Iterator[Path]:
    """Every symbolic link that is followed when `path` is opened, by its own real place. An interpreter is often
    reached through several: .venv/bin/python, then a versionless folder."""
    for _ in range(_LINKS_MAX):
        link = next((part for part in (*reversed(path.parents), path) if part.is_symlink()), None)
        if link is None:
            return
        yield link
        target = link.parent / link.readlink()
        path = Path(os.path.normpath(target)) / path.relative_to(link)


def _topmost_closed(path: Path, account: Owner) -> Path | None:
    is_directory = path.is_dir() and not path.is_symlink()
    directories = [*reversed(path.parents), path] if is_directory else list(reversed(path.parents))
    return next((directory for directory in directories if not may_search(directory, account)), None)


# ---------------------------------------------------------------------------------------------- system calls

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare() -> None:
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    # Slave, not private: a disk that is mounted later on the machine appears here as well; nothing goes back.
    _mount("none", Path("/"), None, _MS_REC | _MS_SLAVE)


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _check(_libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]), f"mounting on {target}")


def _bind(source_fd: int, need: Need) -> None:
    mode = os.fstat(source_fd).st_mode
    need.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if stat.S_ISLNK(mode):
        if not need.path.is_symlink():  # it may lie in something bound before
            need.path.symlink_to(os.readlink("", dir_fd=source_fd))
        return
    if stat.S_ISDIR(mode):
        need.path.mkdir(mode=0o755, exist_ok=True)
    elif not need.path.exists():
        need.path.touch(mode=0o644)
    _mount(f"/proc/self/fd/{source_fd}", need.path, None, _MS_BIND | _MS_REC)
    if not need.is_writable:
        _mount("none", need.path, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _explain(covers: list[Cover], error: OSError) -> str:
    closed = covers[0].directory
    why = "this container may not mount (no CAP_SYS_ADMIN)" if error.errno == errno.EPERM else str(error.strerror)
    return (
        f"the gateway gives up root, and then {covers[0].needs[0].path} is out of reach below {closed}; a private view"
        f" of it could not be made: {why}. Put clone, Python and state outside of {closed} (/opt and /var/lib, say), or"
        f" start as an ordinary user, or open the way: chmod o+x {closed}"
    )
