"""Brings home and tree back from stdin, into empty directories, and checks each file against the archive's sums; or
only checks them.

Everything is reached through descriptors, step by step, and nothing that exists is ever written to: whatever an archive
claims, it stays within the two directories.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from . import tarstream
from .refusal import Refused
from .tarstream import Damaged, Member, TarReader

PIECE_BYTES = 256 * 1024
MANIFEST_MAX_BYTES = 4 * 1024 * 1024
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(home: str, tree: str) -> None:
    """Raises Refused: damaged."""
    # A directory or file is made with the mode it gets in the end, or a narrower one; never wider.
    os.umask(0o077)
    try:
        _unpack({tarstream.HOME: home, tarstream.TREE: tree})
    except Damaged as error:
        raise Refused("damaged", [str(error)]) from None


def check(home: str, tree: str) -> None:
    """Read all of it, and print its manifest. Raises Refused: damaged."""
    try:
        manifest = _each_member(_summed)
    except Damaged as error:
        raise Refused("damaged", [str(error)]) from None
    sys.stdout.buffer.write(manifest)
    sys.stdout.buffer.flush()


def _unpack(roots: dict[bytes, str]) -> None:
    with _Place(roots) as place:
        _each_member(place.add)


def _each_member(take: Callable[[Member, TarReader, hashlib._Hash], None]) -> bytes:
    """Have `take` see all members but the two last, and add the files' sums; returns the manifest."""
    reader = TarReader(sys.stdin.buffer.read)
    sums, told, manifest = hashlib.sha256(), None, None
    for member in reader:
        if member.name == tarstream.MANIFEST_NAME:
            manifest = reader.take(min(member.size, MANIFEST_MAX_BYTES))
        elif member.name == tarstream.SUMS_NAME:
            told = _digest_of(reader).digest()
        elif told is not None:
            raise Damaged("more after the end")
        else:
            take(member, reader, sums)
    if manifest is None or told is None or sys.stdin.buffer.read(1):
        raise Damaged("its end is missing, or not the end")
    if told != sums.digest():
        raise Damaged("a file is not what was packed")
    return manifest


def _summed(member: Member, reader: TarReader, sums: hashlib._Hash) -> None:
    digest = _digest_of(reader)
    if member.kind == tarstream.FILE:
        sums.update(tarstream.sum_line(digest.hexdigest(), member.name))


def _digest_of(reader: TarReader) -> hashlib._Hash:
    digest = hashlib.sha256()
    for piece in reader.data(PIECE_BYTES):
        digest.update(piece)
    return digest


@dataclass
class _Level:
    """A directory that is being filled; its own mode and times come last."""

    name: bytes
    fd: int
    member: Member


class _Place:
    def __init__(self, roots: dict[bytes, str]) -> None:
        self._roots = roots
        self._levels: list[_Level] = []

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        while self._levels:
            self._leave(is_whole=kind is None)

    def add(self, member: Member, reader: TarReader, sums: hashlib._Hash) -> None:
        parent, _, leaf = member.name.rpartition(b"/")
        while self._levels and self._levels[-1].name != parent:
            self._leave(is_whole=True)
        if not parent:
            return self._enter_root(member)
        if not self._levels or leaf in (b"", b".", b".."):
            raise Damaged("a member without its directory")
        fd = self._levels[-1].fd
        if member.kind == tarstream.DIRECTORY:
            os.mkdir(leaf, 0o700, dir_fd=fd)
            self._levels.append(_Level(member.name, os.open(leaf, _OPEN_DIRECTORY, dir_fd=fd), member))
        elif member.kind == tarstream.FILE:
            self._file(member, leaf, fd, reader, sums)
        elif member.kind == tarstream.HARD_LINK:
            self._hard_link(member, leaf, fd)
        elif member.kind == tarstream.SYMLINK:
            os.symlink(member.target, leaf, dir_fd=fd)
            os.utime(leaf, ns=(member.mtime_ns, member.mtime_ns), dir_fd=fd, follow_symlinks=False)
        else:
            os.mkfifo(leaf, 0o600, dir_fd=fd)
            os.chmod(leaf, member.mode, dir_fd=fd)  # it was made just now, by us, and links come from us alone
            os.utime(leaf, ns=(member.mtime_ns, member.mtime_ns), dir_fd=fd)
        return None

    def _enter_root(self, member: Member) -> None:
        path = self._roots.pop(member.name, None)  # each of them once
        if path is None or member.kind != tarstream.DIRECTORY:
            raise Damaged("a member outside home and tree")
        fd = os.open(path, _OPEN_DIRECTORY)
        self._levels.append(_Level(member.name, fd, member))
        if os.listdir(fd):  # noqa: PTH208  (a descriptor)
            raise Refused("not_empty", [os.fsdecode(member.name)])

    def _leave(self, *, is_whole: bool) -> None:
        level = self._levels.pop()
        try:
            if is_whole:
                _dress(level.fd, level.member)
        finally:
            os.close(level.fd)

    def _file(self, member: Member, leaf: bytes, parent: int, reader: TarReader, sums: hashlib._Hash) -> None:
        fd = os.open(leaf, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            digest = hashlib.sha256()
            if member.sparse_bytes is None:
                for piece in reader.data(PIECE_BYTES):
                    digest.update(piece)
                    _write(fd, piece)
            else:
                segments = reader.segments(member.sparse_bytes)
                digest.update(tarstream.sparse_map(segments))
                for offset, length in segments:
                    os.lseek(fd, offset, os.SEEK_SET)
                    _copy(fd, length, reader, digest)
                os.ftruncate(fd, member.sparse_bytes)
            _dress(fd, member)
            sums.update(tarstream.sum_line(digest.hexdigest(), member.name))
        finally:
            os.close(fd)

    def _hard_link(self, member: Member, leaf: bytes, parent: int) -> None:
        """To an earlier member of the same root, found from there step by step."""
        root, *steps = member.target.split(b"/")
        if root != self._levels[0].name or not steps or any(step in (b"", b".", b"..") for step in steps):
            raise Damaged("a link to somewhere else")
        fd = os.dup(self._levels[0].fd)
        try:
            for step in steps[:-1]:
                below = os.open(step, _OPEN_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
            os.link(steps[-1], leaf, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(fd)


def _dress(fd: int, member: Member) -> None:
    """Attributes first: once the mode forbids writing, they could not be set."""
    for name, value in member.xattrs.items():
        os.setxattr(fd, name, value)
    os.fchmod(fd, member.mode)
    os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))


def _copy(fd: int, length: int, reader: TarReader, digest: hashlib._Hash) -> None:
    while length:
        piece = reader.take(min(length, PIECE_BYTES))
        digest.update(piece)
        _write(fd, piece)
        length -= len(piece)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
