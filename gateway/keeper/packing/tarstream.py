"""The format of an archive: a tar file of the kind POSIX calls pax, and of it only what we write ourselves.

GNU tar, bsdtar and Python read it. Not Python's tarfile here: it works by paths, which have a greatest length, knows no
times below a microsecond, no extended attributes and no writing of sparse files, and believes lengths that a hostile
archive names. Names are bytes. Each member has a pax header (POSIX.1-2017, pax, "pax Header Block").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

BLOCK = 512
FILE, HARD_LINK, SYMLINK, DIRECTORY, FIFO = b"0", b"1", b"2", b"5", b"6"
TYPES = (FILE, HARD_LINK, SYMLINK, DIRECTORY, FIFO)
HEADER_MAX_BYTES = 4 * 1024 * 1024  # of one member's pax header: a very long path, and its extended attributes
SIZE_MAX = 1 << 62
END = bytes(2 * BLOCK)

SUMS_NAME = b"homeport/sha256sums"  # `HASH  NAME\0` for each file, in their order, as sha256sum -z has it
MANIFEST_NAME = b"homeport/manifest.json"
HOME, TREE = b"home", b"tree"

_XATTR, _XATTR_QUOTED = b"SCHILY.xattr.", b"HOMEPORT.xattr."  # the second: names that have an equals sign
_LONG = b"long-name"


class Damaged(Exception):
    """Not what we write: cut off, changed, or made by somebody else."""


@dataclass(frozen=True)
class Member:
    """One entry. `name` is relative: home/…, tree/…. `size` counts what follows the header in the archive."""

    name: bytes
    kind: bytes
    mode: int = 0o600
    size: int = 0
    mtime_ns: int = 0
    target: bytes = b""  # of a symlink; of a hard link the name of an earlier member
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    sparse_bytes: int | None = None  # the file's whole length; what follows is a map, then the data (GNU sparse 1.0)


def header(member: Member) -> bytes:
    """The blocks before the data. Raises ValueError if they would be longer than a reader takes."""
    records = [(b"path", member.name), (b"mtime", _decimal(member.mtime_ns))]
    if member.target:
        records.append((b"linkpath", member.target))
    if member.sparse_bytes is not None:
        records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", member.name)]
        records.append((b"GNU.sparse.realsize", b"%d" % member.sparse_bytes))
    if member.size >= 8**11:
        records.append((b"size", b"%d" % member.size))
    records += [(_xattr_key(name), value) for name, value in member.xattrs.items()]
    if not all(_is_utf8(value) for _, value in records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    extended = b"".join(_record(key, value) for key, value in records)
    if len(extended) > HEADER_MAX_BYTES:
        raise ValueError("the header is too long")
    size = member.size if member.size < 8**11 else 0
    return (
        _block(b"pax-header", b"x", 0o600, len(extended), b"")
        + extended
        + padding(len(extended))
        + _block(_short(member.name), member.kind, member.mode, size, _short(member.target))
    )


def padding(size: int) -> bytes:
    """What fills the last block of `size` bytes."""
    return bytes(-size % BLOCK)


def sparse_map(segments: list[tuple[int, int]]) -> bytes:
    """The map before a sparse file's data: how many pieces, then offset and length of each; fills whole blocks."""
    lines = [len(segments), *(number for segment in segments for number in segment)]
    text = b"".join(b"%d\n" % number for number in lines)
    return text + padding(len(text))


def sum_line(sha256_hex: str, name: bytes) -> bytes:
    return sha256_hex.encode() + b"  " + name + b"\0"


class TarReader:
    """Reads members one after the other; the data of one is skipped if it was not read. `read(n)` gives exactly `n`
    bytes, or fewer at the end. Raises Damaged."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._left = 0  # of the member's data
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            yield member

    def data(self, piece_bytes: int) -> Iterator[bytes]:
        """The present member's data, in pieces."""
        while self._left:
            yield self.take(min(piece_bytes, self._left))

    def take(self, count: int) -> bytes:
        """Exactly so much of the present member's data."""
        if count > self._left:
            raise Damaged("a member ends early")
        self._left -= count
        return self._exactly(count)

    def _next(self) -> Member | None:
        for _ in self.data(1 << 20):
            pass
        self._exactly(self._padding)
        self._padding = 0
        block = self._exactly(BLOCK)
        if block == bytes(BLOCK):
            if self._exactly(BLOCK) != bytes(BLOCK):
                raise Damaged("no end")
            return None
        kind, _, size = _parsed(block)
        if kind != b"x" or not 0 < size <= HEADER_MAX_BYTES:
            raise Damaged("no header where one should be")
        values = _records(self._exactly(size))
        self._exactly(-size % BLOCK)
        return self._member(values, self._exactly(BLOCK))

    def _member(self, values: dict[bytes, bytes], block: bytes) -> Member:
        kind, mode, size = _parsed(block)
        if kind not in TYPES or b"path" not in values or b"mtime" not in values:
            raise Damaged("an unknown kind of member")
        if b"size" in values:
            size = _number(values[b"size"])
        if size and kind != FILE:
            raise Damaged("data where there can be none")
        self._left, self._padding = size, -size % BLOCK
        sparse = values.get(b"GNU.sparse.realsize")
        return Member(
            name=values[b"path"],
            kind=kind,
            mode=mode,
            size=size,
            mtime_ns=_nanoseconds(values[b"mtime"]),
            target=values.get(b"linkpath", b""),
            xattrs=dict(_xattrs(values)),
            sparse_bytes=None if sparse is None else _number(sparse),
        )

    def segments(self, sparse_bytes: int) -> list[tuple[int, int]]:
        """The map of the present member, which is sparse, checked: in order, within the file, and all the data."""
        taken = bytearray()
        count, numbers = None, 2
        while count is None or taken.count(b"\n") < 1 + 2 * count:
            taken += self.take(BLOCK)
            if count is None and b"\n" in taken:
                count = _number(bytes(taken[: taken.index(b"\n")]))
                numbers = 1 + 2 * count
            if len(taken) > HEADER_MAX_BYTES:
                raise Damaged("a map that does not end")
        values = [_number(text) for text in bytes(taken).split(b"\n")[1:numbers]]
        pieces = [(values[at], values[at + 1]) for at in range(0, 2 * count, 2)]
        end = 0
        for offset, length in pieces:
            if offset < end or offset + length > sparse_bytes:
                raise Damaged("a map that does not fit its file")
            end = offset + length
        if sum(length for _, length in pieces) != self._left:
            raise Damaged("a map that does not fit its data")
        return pieces

    def _exactly(self, count: int) -> bytes:
        data = self._read(count) if count else b""
        if len(data) != count:
            raise Damaged("it is cut off")
        return data


def _block(name: bytes, kind: bytes, mode: int, size: int, target: bytes) -> bytes:
    fields = [
        (name, 100), (b"%07o\0" % mode, 8), (b"0000000\0", 8), (b"0000000\0", 8), (b"%011o\0" % size, 12),
        (b"00000000000\0", 12), (b" " * 8, 8), (kind, 1), (target, 100), (b"ustar\x0000", 8),
    ]  # fmt: skip
    block = b"".join(value.ljust(length, b"\0") for value, length in fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _parsed(block: bytes) -> tuple[bytes, int, int]:
    """(kind, mode, size) of a header block whose sum is right."""
    plain = block[:148] + b" " * 8 + block[156:]
    if block[257:263] != b"ustar\0" or _octal(block[148:154]) != sum(plain):
        raise Damaged("a header's sum is wrong")
    return block[156:157], _octal(block[100:107]) & 0o7777, _octal(block[124:135])


def _records(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = _number(data[at:space]) if space > at else 0
        key, equals, value = data[space + 1 : at + length].partition(b"=")
        if not equals or not length or at + length > len(data) or not value.endswith(b"\n"):
            raise Damaged("a header that makes no sense")
        found[key] = value[:-1]
        at += length
    return found


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _xattr_key(name: bytes) -> bytes:
    if b"=" not in name:
        return _XATTR + name
    return _XATTR_QUOTED + name.hex().encode()


def _xattrs(values: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    for key, value in values.items():
        if key.startswith(_XATTR):
            yield key[len(_XATTR) :], value
        elif key.startswith(_XATTR_QUOTED):
            try:
                yield bytes.fromhex(key[len(_XATTR_QUOTED) :].decode()), value
            except ValueError:
                raise Damaged("an attribute's name makes no sense") from None


def _short(name: bytes) -> bytes:
    """For readers that know no pax header; ours and all common ones do."""
    return name if len(name) < 100 else _LONG


def _decimal(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    return sign + b"%d.%09d" % divmod(abs(nanoseconds), 10**9)


def _nanoseconds(text: bytes) -> int:
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    total = _number(seconds) * 10**9 + _number(fraction.ljust(9, b"0")[:9])
    return -total if text.startswith(b"-") else total


def _octal(text: bytes) -> int:
    if text.strip(b"01234567"):
        raise Damaged("a number that is none")
    return int(text, 8)


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) > SIZE_MAX:
        raise Damaged("a number that is none")
    return int(text)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
