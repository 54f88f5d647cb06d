"""A small sftp-server (draft-ietf-secsh-filexfer-02, version 3) for machines that have none: `python3 -I -S …`.

It runs inside the workspace as one of its programs, on its standard streams, so it can do what its shell can and no
more. OpenSSH's extensions posix-rename, hardlink and fsync; statvfs and the rest are left out, as clients do without.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
import time
from collections.abc import Callable

VERSION = 3
PACKET_MAX_BYTES = 256 * 1024 + 1024
READ_MAX_BYTES = 256 * 1024
HANDLES_MAX = 500
NAMES_PER_ANSWER = 100

INIT, VERSION_ANSWER, STATUS, HANDLE, DATA, NAME, ATTRS = 1, 2, 101, 102, 103, 104, 105
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, OP_UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8
WORDS = {OK: b"Success", EOF: b"End of file", NO_SUCH_FILE: b"No such file", PERMISSION_DENIED: b"Permission denied",
         FAILURE: b"Failure", BAD_MESSAGE: b"Bad message", OP_UNSUPPORTED: b"Operation unsupported"}  # fmt: skip
CODES = {errno.ENOENT: NO_SUCH_FILE, errno.ENOTDIR: NO_SUCH_FILE, errno.EBADF: NO_SUCH_FILE, errno.ELOOP: NO_SUCH_FILE,
         errno.EPERM: PERMISSION_DENIED, errno.EACCES: PERMISSION_DENIED, errno.EFAULT: PERMISSION_DENIED,
         errno.ENAMETOOLONG: BAD_MESSAGE, errno.EINVAL: BAD_MESSAGE, errno.ENOSYS: OP_UNSUPPORTED}  # fmt: skip
READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32
ATTR_SIZE, ATTR_OWNER, ATTR_MODE, ATTR_TIMES = 1, 2, 4, 8
EXTENSIONS = ((b"posix-rename@openssh.com", b"1"), (b"hardlink@openssh.com", b"1"), (b"fsync@openssh.com", b"1"))


class Refused(Exception):
    """An answer by status code alone."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Packet:
    """The fields of one request, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def long(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        return self._take(self.number())

    def path(self) -> bytes:
        path = self.string()
        if b"\0" in path:
            raise Refused(BAD_MESSAGE)
        return path or b"."

    def attributes(self) -> dict[str, tuple[int, ...]]:
        flags = self.number()
        found: dict[str, tuple[int, ...]] = {}
        if flags & ATTR_SIZE:
            found["size"] = (self.long(),)
        if flags & ATTR_OWNER:
            found["owner"] = (self.number(), self.number())
        if flags & ATTR_MODE:
            found["mode"] = (self.number(),)
        if flags & ATTR_TIMES:
            found["times"] = (self.number(), self.number())
        return found

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise Refused(BAD_MESSAGE)
        taken, self._at = self._data[self._at : end], end
        return taken


class Directory:
    """An open directory: its names, listed once, handed out in portions."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.names = [b".", b"..", *sorted(os.listdir(path))]  # noqa: PTH208


class Server:
    """One client on two streams. A handle is a file descriptor or a Directory."""

    def __init__(self, read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
        self._read = read
        self._write = write
        self._handles: dict[bytes, int | Directory] = {}
        self._last_handle = 0

    def run(self) -> None:
        """Until the client closes, or sends what is no packet."""
        while True:
            header = self._read(4)
            size = int.from_bytes(header, "big")
            if len(header) < 4 or not 1 <= size <= PACKET_MAX_BYTES:
                return
            data = self._read(size)
            if len(data) < size:
                return
            self._answer(data[0], data[1:])

    def _answer(self, kind: int, data: bytes) -> None:
        if kind == INIT:
            extensions = b"".join(_string(name) + _string(value) for name, value in EXTENSIONS)
            self._send(VERSION_ANSWER, struct.pack(">I", VERSION) + extensions)
            return
        packet = Packet(data)
        request_id = data[:4].ljust(4, b"\0")
        try:
            packet.number()
            answer_kind, body = ACTIONS.get(kind, Server.unsupported)(self, packet)
        except Refused as refused:
            answer_kind, body = _status(refused.code)
        except OSError as error:
            answer_kind, body = _status(CODES.get(error.errno or 0, FAILURE))
        except (ValueError, OverflowError):
            answer_kind, body = _status(BAD_MESSAGE)
        self._send(answer_kind, request_id + body)

    def _send(self, kind: int, body: bytes) -> None:
        self._write(struct.pack(">IB", len(body) + 1, kind) + body)

    # -------------------------------------------------------------------------------------------------- handles

    def _keep(self, opened: int | Directory) -> tuple[int, bytes]:
        self._last_handle += 1
        name = str(self._last_handle).encode()
        self._handles[name] = opened
        return HANDLE, _string(name)

    def _room_for_handle(self) -> None:
        if len(self._handles) >= HANDLES_MAX:
            raise Refused(FAILURE)

    def _file(self, packet: Packet) -> int:
        opened = self._handles.get(packet.string())
        if not isinstance(opened, int):
            raise Refused(FAILURE)
        return opened

    def open(self, packet: Packet) -> tuple[int, bytes]:
        path, wanted, attributes = packet.path(), packet.number(), packet.attributes()
        self._room_for_handle()
        flags = {READ: os.O_RDONLY, WRITE: os.O_WRONLY, READ | WRITE: os.O_RDWR}.get(wanted & (READ | WRITE))
        if flags is None:
            raise Refused(BAD_MESSAGE)
        for bit, flag in ((APPEND, os.O_APPEND), (CREATE, os.O_CREAT), (TRUNCATE, os.O_TRUNC), (EXCLUSIVE, os.O_EXCL)):
            flags |= flag if wanted & bit else 0
        return self._keep(os.open(path, flags, attributes.get("mode", (0o666,))[0] & 0o7777))

    def close(self, packet: Packet) -> tuple[int, bytes]:
        opened = self._handles.pop(packet.string(), None)
        if opened is None:
            raise Refused(FAILURE)
        if isinstance(opened, int):
            os.close(opened)
        return _status(OK)

    def read(self, packet: Packet) -> tuple[int, bytes]:
        fd, offset, count = self._file(packet), packet.long(), packet.number()
        data = os.pread(fd, min(count, READ_MAX_BYTES), offset)
        return (DATA, _string(data)) if data or not count else _status(EOF)

    def write(self, packet: Packet) -> tuple[int, bytes]:
        fd, offset, data = self._file(packet), packet.long(), memoryview(packet.string())
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written
        return _status(OK)

    def opendir(self, packet: Packet) -> tuple[int, bytes]:
        self._room_for_handle()
        return self._keep(Directory(packet.path()))

    def readdir(self, packet: Packet) -> tuple[int, bytes]:
        opened = self._handles.get(packet.string())
        if not isinstance(opened, Directory):
            raise Refused(FAILURE)
        portion, opened.names = opened.names[:NAMES_PER_ANSWER], opened.names[NAMES_PER_ANSWER:]
        entries = [entry for entry in (_entry(opened.path, name) for name in portion) if entry]
        if not portion:
            return _status(EOF)
        return NAME, struct.pack(">I", len(entries)) + b"".join(entries)

    # --------------------------------------------------------------------------------------------------- others

    def unsupported(self, packet: Packet) -> tuple[int, bytes]:
        return _status(OP_UNSUPPORTED)

    def lstat(self, packet: Packet) -> tuple[int, bytes]:
        return ATTRS, _attributes(os.lstat(packet.path()))

    def stat(self, packet: Packet) -> tuple[int, bytes]:
        return ATTRS, _attributes(os.stat(packet.path()))  # noqa: PTH116

    def fstat(self, packet: Packet) -> tuple[int, bytes]:
        return ATTRS, _attributes(os.fstat(self._file(packet)))

    def setstat(self, packet: Packet) -> tuple[int, bytes]:
        return _change(packet.path(), packet.attributes())

    def fsetstat(self, packet: Packet) -> tuple[int, bytes]:
        return _change(self._file(packet), packet.attributes())

    def remove(self, packet: Packet) -> tuple[int, bytes]:
        os.unlink(packet.path())  # noqa: PTH108
        return _status(OK)

    def mkdir(self, packet: Packet) -> tuple[int, bytes]:
        path, attributes = packet.path(), packet.attributes()
        os.mkdir(path, attributes.get("mode", (0o777,))[0] & 0o7777)  # noqa: PTH102
        return _status(OK)

    def rmdir(self, packet: Packet) -> tuple[int, bytes]:
        os.rmdir(packet.path())  # noqa: PTH106
        return _status(OK)

    def realpath(self, packet: Packet) -> tuple[int, bytes]:
        path = os.path.realpath(packet.path())
        return NAME, struct.pack(">I", 1) + _string(path) + _string(path) + struct.pack(">I", 0)

    def rename(self, packet: Packet) -> tuple[int, bytes]:
        """Version 3 may not overwrite; posix-rename may."""
        old, new = packet.path(), packet.path()
        if os.path.lexists(new):
            raise Refused(FAILURE)
        os.rename(old, new)  # noqa: PTH104
        return _status(OK)

    def readlink(self, packet: Packet) -> tuple[int, bytes]:
        target = os.readlink(packet.path())  # noqa: PTH115
        return NAME, struct.pack(">I", 1) + _string(target) + _string(target) + struct.pack(">I", 0)

    def symlink(self, packet: Packet) -> tuple[int, bytes]:
        """Target first, then link: OpenSSH's order, which clients expect of a server that calls itself OpenSSH."""
        target, link = packet.string(), packet.path()
        os.symlink(target, link)  # noqa: PTH211
        return _status(OK)

    def extended(self, packet: Packet) -> tuple[int, bytes]:
        name = packet.string()
        if name == b"posix-rename@openssh.com":
            os.replace(packet.path(), packet.path())  # noqa: PTH105
        elif name == b"hardlink@openssh.com":
            os.link(packet.path(), packet.path(), follow_symlinks=False)
        elif name == b"fsync@openssh.com":
            os.fsync(self._file(packet))
        else:
            raise Refused(OP_UNSUPPORTED)
        return _status(OK)


ACTIONS: dict[int, Callable[[Server, Packet], tuple[int, bytes]]] = {
    3: Server.open, 4: Server.close, 5: Server.read, 6: Server.write, 7: Server.lstat, 8: Server.fstat,
    9: Server.setstat, 10: Server.fsetstat, 11: Server.opendir, 12: Server.readdir, 13: Server.remove,
    14: Server.mkdir, 15: Server.rmdir, 16: Server.realpath, 17: Server.stat, 18: Server.rename,
    19: Server.readlink, 20: Server.symlink, 200: Server.extended,
}  # fmt: skip


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _status(code: int) -> tuple[int, bytes]:
    return STATUS, struct.pack(">I", code) + _string(WORDS[code]) + _string(b"")


def _attributes(found: os.stat_result) -> bytes:
    flags = ATTR_SIZE | ATTR_OWNER | ATTR_MODE | ATTR_TIMES
    times = [min(max(int(moment), 0), 0xFFFFFFFF) for moment in (found.st_atime, found.st_mtime)]
    return struct.pack(">IQIIIII", flags, found.st_size, found.st_uid, found.st_gid, found.st_mode, *times)


def _change(target: bytes | int, attributes: dict[str, tuple[int, ...]]) -> tuple[int, bytes]:
    if "size" in attributes:
        os.truncate(target, attributes["size"][0])
    if "mode" in attributes:
        os.chmod(target, attributes["mode"][0] & 0o7777)  # noqa: PTH101
    if "times" in attributes:
        os.utime(target, attributes["times"][:2])  # type: ignore[arg-type]
    if "owner" in attributes:
        os.chown(target, *attributes["owner"][:2])
    return _status(OK)


def _entry(directory: bytes, name: bytes) -> bytes:
    try:
        found = os.lstat(os.path.join(directory, name))  # noqa: PTH118
    except OSError:
        return b""  # removed meanwhile
    moment = time.strftime("%b %d %H:%M", time.localtime(found.st_mtime))
    mode, owner = stat.filemode(found.st_mode), f"{found.st_uid:<8} {found.st_gid:<8}"
    line = f"{mode} {found.st_nlink:3} {owner} {found.st_size:8} {moment} "
    return _string(name) + _string(line.encode() + name) + _attributes(found)


def main() -> None:
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer

    def write(data: bytes) -> None:
        stdout.write(data)
        stdout.flush()

    try:
        Server(stdin.read, write).run()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)  # the client went; nothing is left to say, nor to flush


if __name__ == "__main__":
    main()
