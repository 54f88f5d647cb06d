"""Writes home and tree to stdout as one tar file, and at its end the sums of all files and a manifest.

Whatever cannot be read whole ends it: half a workspace is no archive. Two scans, before and after, tell whether
anything was changed meanwhile.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
import tempfile
from dataclasses import asdict, replace
from typing import IO

from . import tarstream
from .refusal import Refused
from .tarstream import Member
from .walk import CACHES, Entry, fd_path, scan, walk

PIECE_BYTES = 256 * 1024
SEGMENTS_MAX = 10_000  # of a sparse file; with more holes than that it is packed as if it had none
NAMES_LISTED_MAX = 1000  # of what is left out, in the manifest
NAME_SHOWN_MAX = 200
_BORROWS = "/objects/info/alternates"  # what a repository made with `git clone --shared` or `--reference` has
# What an owner may give back. The rest (security.…) is the system's to set.
XATTR_PREFIXES = ("user.", "system.posix_acl_")


def pack(home: str, tree: str) -> None:
    """Raises Refused: unreadable, changed, attributes, borrowed."""
    before = scan(home, tree)
    if before.unreadable:
        raise Refused("unreadable", before.unreadable)
    with tempfile.TemporaryFile() as sums:
        packer = _Packer(sys.stdout.buffer, sums)
        for entry in walk(home, tree, before.unreadable):
            if entry.is_file and entry.name.endswith(_BORROWS):
                _refuse_borrowed(entry, home, tree)
            packer.add(entry)
        after = scan(home, tree)
        if after.digest != before.digest or before.unreadable:
            raise Refused("changed")
        found = asdict(before)
        found["skipped_count"] = len(before.skipped)
        found["skipped"] = [name[:NAME_SHOWN_MAX] for name in before.skipped[:NAMES_LISTED_MAX]]
        del found["unreadable"]
        packer.finish(json.dumps(found).encode())


def _refuse_borrowed(entry: Entry, home: str, tree: str) -> None:
    """A repository whose objects are in a cache, which is left out, would come back without them."""
    fd = _opened(entry)
    try:
        text = os.pread(fd, PIECE_BYTES, 0)
    finally:
        os.close(fd)
    root, _, rest = entry.name.removesuffix("/info/alternates").partition("/")
    objects = f"{home if root == 'home' else tree}/{rest}"
    for line in filter(None, text.replace(b"\0", b"\n").split(b"\n")):
        lender = os.path.realpath(os.path.join(objects, os.fsdecode(line)))  # noqa: PTH118
        for cache in CACHES:
            left_out = os.path.realpath(f"{home}/{cache.removeprefix('home/')}")
            if f"{lender}/".startswith(f"{left_out}/"):
                raise Refused("borrowed", [entry.name.removesuffix(_BORROWS)])


def look(home: str, tree: str) -> None:
    """Prints the digest that the manifest has if nothing was changed since."""
    sys.stdout.write(json.dumps({"digest": scan(home, tree).digest}))
    sys.stdout.flush()


class _Packer:
    def __init__(self, out: IO[bytes], sums: IO[bytes]) -> None:
        self._out = out
        self._sums = sums
        self._names: dict[tuple[str, int, int], bytes] = {}  # of files with several names, by root, device and number

    def add(self, entry: Entry) -> None:
        if not entry.is_packed:
            return
        member = _member(entry)
        if not entry.is_directory and entry.stat.st_nlink > 1:
            # By root: home and tree are two file systems to programs inside, which no hard link joins.
            key = (entry.name.partition("/")[0], entry.stat.st_dev, entry.stat.st_ino)
            first = self._names.setdefault(key, member.name)
            if first != member.name:
                self._out.write(_header(replace(member, kind=tarstream.HARD_LINK, target=first, xattrs={})))
                return
        if entry.is_file:
            self._add_file(entry, member)
        else:
            self._out.write(_header(member))

    def finish(self, manifest: bytes) -> None:
        """The two last members, and the end."""
        size = self._sums.tell()
        self._sums.seek(0)
        self._out.write(_header(Member(tarstream.SUMS_NAME, tarstream.FILE, size=size)))
        while piece := self._sums.read(PIECE_BYTES):
            self._out.write(piece)
        self._out.write(tarstream.padding(size))
        self._out.write(_header(Member(tarstream.MANIFEST_NAME, tarstream.FILE, size=len(manifest))))
        self._out.write(manifest + tarstream.padding(len(manifest)) + tarstream.END)
        self._out.flush()

    def _add_file(self, entry: Entry, member: Member) -> None:
        fd = _opened(entry)
        try:
            found = os.fstat(fd)
            if (found.st_ino, found.st_dev, found.st_size) != (
                entry.stat.st_ino,
                entry.stat.st_dev,
                entry.stat.st_size,
            ):
                raise Refused("changed", [entry.name])
            segments = _segments(fd, found)
            head = b"" if segments is None else tarstream.sparse_map(segments)
            pieces = [(0, found.st_size)] if segments is None else segments
            size = len(head) + sum(length for _, length in pieces)
            sparse_bytes = None if segments is None else found.st_size
            member = replace(member, size=size, sparse_bytes=sparse_bytes, xattrs=_xattrs(fd_path(fd), entry))
            self._out.write(_header(member))
            digest = hashlib.sha256(head)
            self._out.write(head)
            for offset, length in pieces:
                self._copy(fd, offset, length, digest, entry)
            self._out.write(tarstream.padding(size))
            self._sums.write(tarstream.sum_line(digest.hexdigest(), member.name))
        finally:
            os.close(fd)

    def _copy(self, fd: int, offset: int, length: int, digest: hashlib._Hash, entry: Entry) -> None:
        while length:
            piece = os.pread(fd, min(length, PIECE_BYTES), offset)
            if not piece:
                raise Refused("changed", [entry.name])
            digest.update(piece)
            self._out.write(piece)
            offset += len(piece)
            length -= len(piece)


def _member(entry: Entry) -> Member:
    status = entry.stat
    mode = status.st_mode
    kind, target = tarstream.FILE, b""
    if stat.S_ISDIR(mode):
        kind = tarstream.DIRECTORY
    elif stat.S_ISFIFO(mode):
        kind = tarstream.FIFO
    elif stat.S_ISLNK(mode):
        kind, target = tarstream.SYMLINK, os.fsencode(os.readlink(entry.leaf, dir_fd=entry.parent_fd))
    path = f"{fd_path(entry.parent_fd)}/{entry.leaf}"
    return Member(
        name=os.fsencode(entry.name),
        kind=kind,
        mode=stat.S_IMODE(mode),
        mtime_ns=status.st_mtime_ns,
        target=target,
        xattrs=_xattrs(path, entry) if entry.is_directory else {},
    )


def _header(member: Member) -> bytes:
    try:
        return tarstream.header(member)
    except ValueError:
        raise Refused("attributes", [os.fsdecode(member.name)]) from None


def _opened(entry: Entry) -> int:
    # Not blocking: something else may have taken a file's place, a pipe without a writer for one.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(entry.leaf, flags, dir_fd=entry.parent_fd)
    except PermissionError:
        raise Refused("unreadable", [entry.name]) from None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise Refused("changed", [entry.name]) from None
        raise


def _segments(fd: int, found: os.stat_result) -> list[tuple[int, int]] | None:
    """Where a file with holes has data, as (offset, length). None: it has no holes worth the name."""
    if found.st_blocks * 512 >= found.st_size:
        return None
    segments: list[tuple[int, int]] = []
    at = 0
    while at < found.st_size and len(segments) <= SEGMENTS_MAX:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            return None
        at = min(os.lseek(fd, begin, os.SEEK_HOLE), found.st_size)
        segments.append((begin, at - begin))
    return segments if len(segments) <= SEGMENTS_MAX else None


def _xattrs(path: str, entry: Entry) -> dict[bytes, bytes]:
    try:
        names = os.listxattr(path)
        return {os.fsencode(name): os.getxattr(path, name) for name in sorted(names) if name.startswith(XATTR_PREFIXES)}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return {}
        raise Refused("attributes", [entry.name]) from None
