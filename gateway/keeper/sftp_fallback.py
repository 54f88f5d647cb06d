"""A small sftp-server (draft-ietf-secsh-filexfer-02, version 3) for machines that have none: `python3 -I -S …`.

It runs inside the workspace as one of its programs, on its standard streams, so it can do what its shell can and no
more. Of OpenSSH's extensions it has posix-rename, hardlink, fsync, statvfs, fstatvfs, lsetstat and limits; copy-data,
expand-path, home-directory and users-groups-by-id are left out, as clients do without.

With `-e` it writes to standard error what OpenSSH's sftp-server writes there at `-l VERBOSE`, in the same words, which
the gateway makes journal rows of. Of the other options only `-l` is taken.
"""

from __future__ import annotations

import errno
import getopt
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
LOG_LEVELS = ("INFO", "VERBOSE")  # the same for us: all that is said at VERBOSE
LOG_MAX_BYTES = 1021  # as in OpenSSH's log.c

INIT, VERSION_ANSWER, STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_ANSWER = 1, 2, 101, 102, 103, 104, 105, 201
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, OP_UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8
WORDS = {OK: b"Success", EOF: b"End of file", NO_SUCH_FILE: b"No such file", PERMISSION_DENIED: b"Permission denied",
         FAILURE: b"Failure", BAD_MESSAGE: b"Bad message", OP_UNSUPPORTED: b"Operation unsupported"}  # fmt: skip
CODES = {errno.ENOENT: NO_SUCH_FILE, errno.ENOTDIR: NO_SUCH_FILE, errno.EBADF: NO_SUCH_FILE, errno.ELOOP: NO_SUCH_FILE,
         errno.EPERM: PERMISSION_DENIED, errno.EACCES: PERMISSION_DENIED, errno.EFAULT: PERMISSION_DENIED,
         errno.ENAMETOOLONG: BAD_MESSAGE, errno.EINVAL: BAD_MESSAGE, errno.ENOSYS: OP_UNSUPPORTED}  # fmt: skip
READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32
FLAG_WORDS = ((READ, b"READ"), (WRITE, b"WRITE"), (APPEND, b"APPEND"), (CREATE, b"CREATE"), (TRUNCATE, b"TRUNCATE"),
              (EXCLUSIVE, b"EXCL"))  # fmt: skip
ATTR_SIZE, ATTR_OWNER, ATTR_MODE, ATTR_TIMES = 1, 2, 4, 8


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


class File:
    """An open file, and what went through it."""

    def __init__(self, path: bytes, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.bytes_read = 0
        self.bytes_written = 0


class Server:
    """One client on two streams, and a log of what it did, one message a call."""

    def __init__(
        self,
        read: Callable[[int], bytes],
        write: Callable[[bytes], object],
        log: Callable[[bytes], object] = lambda message: None,
    ) -> None:
        self._read = read
        self._write = write
        self._log_message = log
        self._handles: dict[bytes, File | Directory] = {}
        self._last_handle = 0

    def _log(self, words: bytes, *names: bytes) -> None:
        """`words` with its %s filled in, as log.c prints it: escaped and cut."""
        self._log_message(_escaped(words % names)[:LOG_MAX_BYTES])

    def log_interrupted(self) -> None:
        """The client is gone: what it left open."""
        for opened in self._handles.values():
            self._log_close(opened, b"forced ")
        self._handles.clear()

    def _log_close(self, opened: File | Directory, how: bytes = b"") -> None:
        if isinstance(opened, File):
            figures = b" bytes read %d written %d" % (opened.bytes_read, opened.bytes_written)
            self._log(how + b'close "%s"' + figures, opened.path)
        else:
            self._log(how + b'closedir "%s"', opened.path)

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
            extensions = b"".join(_string(name) + _string(version) for name, (version, _) in EXTENSIONS.items())
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
        status = int.from_bytes(body[:4], "big")
        if answer_kind == STATUS and status not in (OK, EOF):
            self._log(b"sent status " + WORDS[status])
        self._send(answer_kind, request_id + body)

    def _send(self, kind: int, body: bytes) -> None:
        self._write(struct.pack(">IB", len(body) + 1, kind) + body)

    # -------------------------------------------------------------------------------------------------- handles

    def _keep(self, opened: File | Directory) -> tuple[int, bytes]:
        self._last_handle += 1
        name = str(self._last_handle).encode()
        self._handles[name] = opened
        return HANDLE, _string(name)

    def _room_for_handle(self) -> None:
        if len(self._handles) >= HANDLES_MAX:
            raise Refused(FAILURE)

    def _file(self, packet: Packet) -> File:
        opened = self._handles.get(packet.string())
        if not isinstance(opened, File):
            raise Refused(FAILURE)
        return opened

    def open(self, packet: Packet) -> tuple[int, bytes]:
        path, wanted, attributes = packet.path(), packet.number(), packet.attributes()
        mode = attributes.get("mode", (0o666,))[0]
        words = b",".join(word for bit, word in FLAG_WORDS if wanted & bit)
        self._log(b'open "%s" flags ' + words + b" mode 0%o" % mode, path)
        self._room_for_handle()
        flags = {READ: os.O_RDONLY, WRITE: os.O_WRONLY, READ | WRITE: os.O_RDWR}.get(wanted & (READ | WRITE))
        if flags is None:
            raise Refused(BAD_MESSAGE)
        for bit, flag in ((APPEND, os.O_APPEND), (CREATE, os.O_CREAT), (TRUNCATE, os.O_TRUNC), (EXCLUSIVE, os.O_EXCL)):
            flags |= flag if wanted & bit else 0
        return self._keep(File(path, os.open(path, flags, mode & 0o7777)))

    def close(self, packet: Packet) -> tuple[int, bytes]:
        opened = self._handles.pop(packet.string(), None)
        if opened is None:
            raise Refused(FAILURE)
        self._log_close(opened)
        if isinstance(opened, File):
            os.close(opened.fd)
        return _status(OK)

    def read(self, packet: Packet) -> tuple[int, bytes]:
        file, offset, count = self._file(packet), packet.long(), packet.number()
        try:
            data = os.pread(file.fd, min(count, READ_MAX_BYTES), offset)
        except OSError as error:
            self._log_trouble(b"read", file, error)
            raise
        file.bytes_read += len(data)
        return (DATA, _string(data)) if data or not count else _status(EOF)

    def write(self, packet: Packet) -> tuple[int, bytes]:
        file, offset, data = self._file(packet), packet.long(), memoryview(packet.string())
        try:
            while data:
                written = os.pwrite(file.fd, data, offset)
                data, offset = data[written:], offset + written
                file.bytes_written += written
        except OSError as error:
            self._log_trouble(b"write", file, error)
            raise
        return _status(OK)

    def _log_trouble(self, what: bytes, file: File, error: OSError) -> None:
        reason = os.strerror(error.errno or 0).encode()
        self._log(b"process_" + what + b": " + what + b' "%s": ' + reason, file.path[:100])

    def opendir(self, packet: Packet) -> tuple[int, bytes]:
        path = packet.path()
        self._log(b'opendir "%s"', path)
        self._room_for_handle()
        return self._keep(Directory(path))

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
        path = packet.path()
        self._log(b'lstat name "%s"', path)
        return ATTRS, _attributes(os.lstat(path))

    def stat(self, packet: Packet) -> tuple[int, bytes]:
        path = packet.path()
        self._log(b'stat name "%s"', path)
        return ATTRS, _attributes(os.stat(path))  # noqa: PTH116

    def fstat(self, packet: Packet) -> tuple[int, bytes]:
        return ATTRS, _attributes(os.fstat(self._file(packet).fd))

    def setstat(self, packet: Packet) -> tuple[int, bytes]:
        path, attributes = packet.path(), packet.attributes()
        self._log(b'set "%s" attributes', path)
        return _change(path, attributes)

    def fsetstat(self, packet: Packet) -> tuple[int, bytes]:
        file, attributes = self._file(packet), packet.attributes()
        self._log(b'set "%s" attributes', file.path)
        return _change(file.fd, attributes)

    def remove(self, packet: Packet) -> tuple[int, bytes]:
        path = packet.path()
        self._log(b'remove name "%s"', path)
        os.unlink(path)  # noqa: PTH108
        return _status(OK)

    def mkdir(self, packet: Packet) -> tuple[int, bytes]:
        path, attributes = packet.path(), packet.attributes()
        mode = attributes.get("mode", (0o777,))[0] & 0o7777
        self._log(b'mkdir name "%s"' + b" mode 0%o" % mode, path)
        os.mkdir(path, mode)  # noqa: PTH102
        return _status(OK)

    def rmdir(self, packet: Packet) -> tuple[int, bytes]:
        path = packet.path()
        self._log(b'rmdir name "%s"', path)
        os.rmdir(path)  # noqa: PTH106
        return _status(OK)

    def realpath(self, packet: Packet) -> tuple[int, bytes]:
        path = packet.path()
        self._log(b'realpath "%s"', path)
        path = os.path.realpath(path)
        return NAME, struct.pack(">I", 1) + _string(path) + _string(path) + struct.pack(">I", 0)

    def rename(self, packet: Packet) -> tuple[int, bytes]:
        """Version 3 may not overwrite; posix-rename may."""
        old, new = packet.path(), packet.path()
        self._log(b'rename old "%s" new "%s"', old, new)
        os.lstat(old)  # a name that is not there is the better answer
        if os.path.lexists(new):
            raise Refused(FAILURE)
        os.rename(old, new)  # noqa: PTH104
        return _status(OK)

    def readlink(self, packet: Packet) -> tuple[int, bytes]:
        path = packet.path()
        self._log(b'readlink "%s"', path)
        target = os.readlink(path)  # noqa: PTH115
        return NAME, struct.pack(">I", 1) + _string(target) + _string(target) + struct.pack(">I", 0)

    def symlink(self, packet: Packet) -> tuple[int, bytes]:
        """Target first, then link: OpenSSH's order, which clients expect of a server that calls itself OpenSSH."""
        target, link = packet.string(), packet.path()
        self._log(b'symlink old "%s" new "%s"', target, link)
        os.symlink(target, link)  # noqa: PTH211
        return _status(OK)

    def extended(self, packet: Packet) -> tuple[int, bytes]:
        name = packet.string()
        if name not in EXTENSIONS:
            self._log(b'Unknown extended request "%s"', name[:100])
            raise Refused(OP_UNSUPPORTED)
        return EXTENSIONS[name][1](self, packet)

    # ---------------------------------------------------------------- OpenSSH's extensions (its PROTOCOL, section 4)

    def posix_rename(self, packet: Packet) -> tuple[int, bytes]:
        old, new = packet.path(), packet.path()
        self._log(b'posix-rename old "%s" new "%s"', old, new)
        os.replace(old, new)  # noqa: PTH105
        return _status(OK)

    def hardlink(self, packet: Packet) -> tuple[int, bytes]:
        old, new = packet.path(), packet.path()
        self._log(b'hardlink old "%s" new "%s"', old, new)
        os.link(old, new, follow_symlinks=False)
        return _status(OK)

    def fsync(self, packet: Packet) -> tuple[int, bytes]:
        file = self._file(packet)
        self._log(b'fsync "%s"', file.path)
        os.fsync(file.fd)
        return _status(OK)

    def statvfs(self, packet: Packet) -> tuple[int, bytes]:
        path = packet.path()
        self._log(b'statvfs "%s"', path)
        return EXTENDED_ANSWER, _filesystem(os.statvfs(path))

    def fstatvfs(self, packet: Packet) -> tuple[int, bytes]:
        return EXTENDED_ANSWER, _filesystem(os.statvfs(self._file(packet).fd))

    def lsetstat(self, packet: Packet) -> tuple[int, bytes]:
        path, attributes = packet.path(), packet.attributes()
        if "size" in attributes:
            raise Refused(BAD_MESSAGE)
        self._log(b'set "%s" attributes', path)
        return _change(path, attributes, follow_symlinks=False)

    def limits(self, packet: Packet) -> tuple[int, bytes]:
        """The largest packet, read and write, and how many handles."""
        sizes = (PACKET_MAX_BYTES, READ_MAX_BYTES, PACKET_MAX_BYTES - 1024, HANDLES_MAX)
        return EXTENDED_ANSWER, struct.pack(">QQQQ", *sizes)


ACTIONS: dict[int, Callable[[Server, Packet], tuple[int, bytes]]] = {
    3: Server.open, 4: Server.close, 5: Server.read, 6: Server.write, 7: Server.lstat, 8: Server.fstat,
    9: Server.setstat, 10: Server.fsetstat, 11: Server.opendir, 12: Server.readdir, 13: Server.remove,
    14: Server.mkdir, 15: Server.rmdir, 16: Server.realpath, 17: Server.stat, 18: Server.rename,
    19: Server.readlink, 20: Server.symlink, 200: Server.extended,
}  # fmt: skip
EXTENSIONS: dict[bytes, tuple[bytes, Callable[[Server, Packet], tuple[int, bytes]]]] = {
    b"posix-rename@openssh.com": (b"1", Server.posix_rename), b"statvfs@openssh.com": (b"2", Server.statvfs),
    b"fstatvfs@openssh.com": (b"2", Server.fstatvfs), b"hardlink@openssh.com": (b"1", Server.hardlink),
    b"fsync@openssh.com": (b"1", Server.fsync), b"lsetstat@openssh.com": (b"1", Server.lsetstat),
    b"limits@openssh.com": (b"1", Server.limits),
}  # fmt: skip


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _status(code: int) -> tuple[int, bytes]:
    return STATUS, struct.pack(">I", code) + _string(WORDS[code]) + _string(b"")


def _attributes(found: os.stat_result) -> bytes:
    flags = ATTR_SIZE | ATTR_OWNER | ATTR_MODE | ATTR_TIMES
    times = [min(max(int(moment), 0), 0xFFFFFFFF) for moment in (found.st_atime, found.st_mtime)]
    return struct.pack(">IQIIIII", flags, found.st_size, found.st_uid, found.st_gid, found.st_mode, *times)


def _change(
    target: bytes | int, attributes: dict[str, tuple[int, ...]], follow_symlinks: bool = True
) -> tuple[int, bytes]:
    how: dict[str, bool] = {} if follow_symlinks else {"follow_symlinks": False}
    if "size" in attributes:
        os.truncate(target, attributes["size"][0])
    try:
        if "mode" in attributes:
            os.chmod(target, attributes["mode"][0] & 0o7777, **how)  # noqa: PTH101
        if "times" in attributes:
            os.utime(target, attributes["times"][:2], **how)  # type: ignore[arg-type]
        if "owner" in attributes:
            os.chown(target, *attributes["owner"][:2], **how)
    except NotImplementedError:  # Python's word for a mode of a link, which Linux does not have
        raise Refused(FAILURE) from None
    return _status(OK)


def _filesystem(found: os.statvfs_result) -> bytes:
    flags = (1 if found.f_flag & os.ST_RDONLY else 0) | (2 if found.f_flag & os.ST_NOSUID else 0)
    return struct.pack(
        ">11Q", found.f_bsize, found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail, found.f_files,
        found.f_ffree, found.f_favail, found.f_fsid & 0xFFFFFFFFFFFFFFFF, flags, found.f_namemax,
    )  # fmt: skip


def _escaped(message: bytes) -> bytes:
    """Backslashes twice, the rest that is not printable ASCII in octal: line ends, too, which log.c leaves alone."""
    if message.isascii() and message.decode().isprintable() and b"\\" not in message:
        return message
    return b"".join(
        b"\\\\" if byte == 0x5C else bytes((byte,)) if 0x20 <= byte < 0x7F else b"\\%03o" % byte for byte in message
    )


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
    try:
        options = dict(getopt.getopt(sys.argv[1:], "el:")[0])
    except getopt.GetoptError as error:
        sys.exit(f"sftp_fallback: {error}\nusage: sftp_fallback [-e] [-l log_level]")
    # One write a message, so that a pipe that keeps messages apart has them one by one.
    is_logging = "-e" in options and options.get("-l", "ERROR").upper() in LOG_LEVELS

    def log(message: bytes) -> None:
        if is_logging:
            os.write(2, message + b"\r\n")

    def write(data: bytes) -> None:
        stdout.write(data)
        stdout.flush()

    server = Server(stdin.read, write, log)
    try:
        try:
            server.run()
        finally:
            server.log_interrupted()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)  # the client went; nothing is left to say, nor to flush


if __name__ == "__main__":
    main()
