"""Our own sftp-server, spoken to as a client does, and by OpenSSH's own client where there is one."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.keeper import sftp_fallback
from gateway.keeper.sftp_fallback import Server

OPEN, CLOSE, READ, WRITE, LSTAT, SETSTAT, OPENDIR, READDIR = 3, 4, 5, 6, 7, 9, 11, 12
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK, EXTENDED = 13, 14, 15, 16, 17, 18, 19, 20, 200


def text(value: bytes | str | Path) -> bytes:
    data = os.fsencode(value)
    return struct.pack(">I", len(data)) + data


class Talk:
    """A server without streams: one request, one answer."""

    def __init__(self) -> None:
        self.sent = b""
        self.server = Server(lambda count: b"", self._take)

    def _take(self, data: bytes) -> None:
        self.sent = data

    def ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        self.server._answer(kind, b"\0\0\0\7" + body)
        size, answer_kind = struct.unpack(">IB", self.sent[:5])
        assert (size, self.sent[5:9]) == (len(self.sent) - 4, b"\0\0\0\7")
        return answer_kind, self.sent[9:]

    def status(self, kind: int, body: bytes) -> int:
        answer_kind, answer = self.ask(kind, body)
        assert answer_kind == sftp_fallback.STATUS
        return int.from_bytes(answer[:4], "big")

    def handle(self, kind: int, body: bytes) -> bytes:
        answer_kind, answer = self.ask(kind, body)
        assert answer_kind == sftp_fallback.HANDLE
        return answer


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Talk]:
    monkeypatch.chdir(tmp_path)
    talk = Talk()
    yield talk
    for opened in talk.server._handles.values():
        if isinstance(opened, int):
            os.close(opened)


def test_a_file_is_written_and_read_at_offsets(talk: Talk) -> None:
    handle = talk.handle(OPEN, text("f") + struct.pack(">II", 2 | 8 | 16, 4) + struct.pack(">I", 0o640))
    assert talk.status(WRITE, handle + struct.pack(">Q", 3) + text("world")) == 0
    assert talk.status(WRITE, handle + struct.pack(">Q", 0) + text("abc")) == 0
    assert talk.status(CLOSE, handle) == 0
    assert Path("f").read_bytes() == b"abcworld"
    assert Path("f").stat().st_mode & 0o777 == 0o640
    handle = talk.handle(OPEN, text("f") + struct.pack(">II", 1, 0))
    assert talk.ask(READ, handle + struct.pack(">QI", 3, 100)) == (sftp_fallback.DATA, text("world"))
    assert talk.status(READ, handle + struct.pack(">QI", 8, 100)) == sftp_fallback.EOF


def test_a_directory_is_listed_in_portions_with_names_that_are_not_utf_8(talk: Talk) -> None:
    names = {b"\xff%d" % number for number in range(250)}
    for name in names:
        Path(os.fsdecode(name)).touch()
    handle = talk.handle(OPENDIR, text("."))
    found = 0
    while True:
        kind, answer = talk.ask(READDIR, handle)
        if kind == sftp_fallback.STATUS:
            break
        found += int.from_bytes(answer[:4], "big")
    assert (found, int.from_bytes(answer[:4], "big")) == (252, sftp_fallback.EOF)


def test_rename_does_not_overwrite_but_posix_rename_does(talk: Talk) -> None:
    Path("a").write_text("a")
    Path("b").write_text("b")
    assert talk.status(RENAME, text("a") + text("b")) == sftp_fallback.FAILURE
    assert talk.status(EXTENDED, text("posix-rename@openssh.com") + text("a") + text("b")) == 0
    assert Path("b").read_text() == "a"
    assert talk.status(RENAME, text("b") + text("c")) == 0
    assert os.listdir() == ["c"]


def test_links_times_sizes_and_modes(talk: Talk) -> None:
    Path("f").write_text("abcdef")
    assert talk.status(SYMLINK, text("f") + text("link")) == 0
    assert os.readlink("link") == "f"
    assert talk.ask(READLINK, text("link"))[1][4:9] == text("f")
    changes = struct.pack(">I", 1 | 4 | 8) + struct.pack(">QIII", 3, 0o600, 1000, 2000)
    assert talk.status(SETSTAT, text("f") + changes) == 0
    found = Path("f").stat()
    assert (found.st_size, found.st_mode & 0o777, found.st_mtime) == (3, 0o600, 2000)
    assert talk.status(EXTENDED, text("hardlink@openssh.com") + text("f") + text("g")) == 0
    assert Path("g").stat().st_nlink == 2
    assert talk.ask(REALPATH, text("."))[1][4:].startswith(text(Path.cwd()))


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        (OPEN, text("none") + struct.pack(">II", 1, 0), sftp_fallback.NO_SUCH_FILE),
        (OPEN, text("x") + struct.pack(">II", 0, 0), sftp_fallback.BAD_MESSAGE),
        (LSTAT, text("none"), sftp_fallback.NO_SUCH_FILE),
        (LSTAT, text(b"a\0b"), sftp_fallback.BAD_MESSAGE),
        (RMDIR, text("/proc"), sftp_fallback.FAILURE),
        (READ, text("77") + struct.pack(">QI", 0, 1), sftp_fallback.FAILURE),
        (WRITE, b"\xff\xff\xff\xff", sftp_fallback.BAD_MESSAGE),
        (MKDIR, b"", sftp_fallback.BAD_MESSAGE),
        (EXTENDED, text("statvfs@openssh.com") + text("/"), sftp_fallback.OP_UNSUPPORTED),
        (99, b"", sftp_fallback.OP_UNSUPPORTED),
    ],
)
def test_what_cannot_be_done_is_answered_with_its_status(talk: Talk, kind: int, body: bytes, status: int) -> None:
    assert talk.status(kind, body) == status


@pytest.mark.parametrize(
    "data", [b"", b"\0\0", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\5\1\0", b"GET / HTTP/1.0\r\n\r\n"]
)
def test_what_is_no_packet_ends_the_server(data: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", sftp_fallback.__file__], input=data, capture_output=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(shutil.which("sftp") is None, reason="no sftp client here")
def test_the_stock_client_works_with_it(tmp_path: Path) -> None:
    """-D runs a server without ssh."""
    source, target = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(3_000_000))
    batch = f"mkdir {tmp_path}/d\ncd {tmp_path}/d\nput -p {source} x\nrename x y\nls -l\nget -p y {target}\nrm y\n"
    batch += "cd ..\nrmdir d\n"
    done = subprocess.run(
        ["sftp", "-b", "-", "-D", f"{sys.executable} -I -S {sftp_fallback.__file__}"],
        input=batch.encode(), capture_output=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == source.read_bytes()
    assert b" y" in done.stdout
    assert not (tmp_path / "d").exists()
