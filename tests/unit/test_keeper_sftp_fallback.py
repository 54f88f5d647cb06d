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
from gateway.sessions.sftp_audit import SftpAudit

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
        if isinstance(opened, sftp_fallback.File):
            os.close(opened.fd)


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


def test_openssh_s_extensions_that_it_has(talk: Talk) -> None:
    Path("f").write_text("abcdef")
    Path("link").symlink_to("f")
    kind, answer = talk.ask(EXTENDED, text("statvfs@openssh.com") + text("."))
    block, total = struct.unpack(">8xQQ", answer[:24])
    assert (kind, len(answer)) == (sftp_fallback.EXTENDED_ANSWER, 88)
    assert block * total == os.statvfs(".").f_frsize * os.statvfs(".").f_blocks
    handle = talk.handle(OPEN, text("f") + struct.pack(">II", 1, 0))
    assert talk.ask(EXTENDED, text("fstatvfs@openssh.com") + handle)[1][:24] == answer[:24]
    assert talk.status(EXTENDED, text("fsync@openssh.com") + handle) == 0
    times = struct.pack(">III", 8, 1000, 2000)
    assert talk.status(EXTENDED, text("lsetstat@openssh.com") + text("link") + times) == 0
    assert (Path("link").lstat().st_mtime, Path("f").stat().st_mtime > 2000) == (2000, True)
    mode = struct.pack(">II", 4, 0o600)
    assert talk.status(EXTENDED, text("lsetstat@openssh.com") + text("link") + mode) == sftp_fallback.FAILURE
    kind, answer = talk.ask(EXTENDED, text("limits@openssh.com"))
    assert struct.unpack(">QQQQ", answer)[1] == sftp_fallback.READ_MAX_BYTES


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
        (EXTENDED, text("copy-data"), sftp_fallback.OP_UNSUPPORTED),
        (EXTENDED, text("statvfs@openssh.com") + text("none"), sftp_fallback.NO_SUCH_FILE),
        (EXTENDED, text("lsetstat@openssh.com") + text("/") + struct.pack(">IQ", 1, 0), sftp_fallback.BAD_MESSAGE),
        (EXTENDED, text("fsync@openssh.com") + text("77"), sftp_fallback.FAILURE),
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


SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
NAMES = ["plain", "with space", 'with"quote', "with\\back\\303", "café", "two\nlines", "tab\t"]


def rows_of(server: list[str], folder: Path) -> list[tuple[dict[str, object], bool]]:
    """What the journal gets when a server with this command line serves a client that does everything twice."""
    folder.mkdir()
    rows: list[tuple[dict[str, object], bool]] = []
    audit = SftpAudit(
        lambda details, *, success: rows.append((dict(details), success)), session_id="s", has_messages=False
    )
    requests = [struct.pack(">BI", 1, 3)]
    for number, name in enumerate(NAMES):
        handle = text(struct.pack(">I", 0))
        opening = text(name) + struct.pack(">II", 2 | 8 | 16, 0)
        ours = handle if server[0] == str(SFTP_SERVER) else text(str(number + 1))
        requests += [
            bytes([OPEN]) + struct.pack(">I", 1) + opening,
            bytes([WRITE]) + struct.pack(">I", 2) + ours + struct.pack(">Q", 0) + text("abc"),
            bytes([CLOSE]) + struct.pack(">I", 3) + ours,
            bytes([SETSTAT]) + struct.pack(">I", 4) + text(name) + struct.pack(">II", 4, 0o600),
            bytes([LSTAT]) + struct.pack(">I", 5) + text("none"),
        ]
        for kind in (RENAME, SYMLINK):
            body = text(name) + text(f"{name} {kind}")
            requests += [bytes([kind]) + struct.pack(">I", 6) + body] * 2
        for extension in ("hardlink@openssh.com", "posix-rename@openssh.com"):
            body = text(extension) + text(f"{name} {RENAME}") + text(f"{name} {extension}")
            requests += [bytes([EXTENDED]) + struct.pack(">I", 7) + body] * 2
        for kind, body in ((MKDIR, text(f"{name} d") + bytes(4)), (RMDIR, text(f"{name} d")), (REMOVE, text(name))):
            requests += [bytes([kind]) + struct.pack(">I", 8) + body] * 2
    requests += [bytes([OPEN]) + struct.pack(">I", 9) + text("left open") + struct.pack(">II", 2 | 8, 0)]
    with (folder.parent / f"{folder.name}.log").open("w+b") as log:
        process = subprocess.Popen(
            [*server, "-e", "-l", "VERBOSE"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=folder
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin, process.stdout:
            for request in requests:  # one at a time: at the end of its input sftp-server drops what still waits
                process.stdin.write(struct.pack(">I", len(request)) + request)
                process.stdin.flush()
                process.stdout.read(int.from_bytes(process.stdout.read(4), "big"))
        assert process.wait(20) == 0
        log.seek(0)
        audit.feed(log.read())
    audit.feed(b"")
    return rows


@pytest.mark.skipif(not SFTP_SERVER.exists(), reason="no sftp-server here")
def test_its_log_gives_the_journal_the_same_rows_as_openssh_s(tmp_path: Path) -> None:
    ours = rows_of([sys.executable, "-I", "-S", sftp_fallback.__file__], tmp_path / "ours")
    assert ours == rows_of([str(SFTP_SERVER)], tmp_path / "theirs")
    assert [row["path"] for row, _ in ours if row["operation"] == "write"] == [*NAMES, "left open"]
    assert ours[-1] == (
        {"operation": "write", "path": "left open", "flags": "WRITE,CREATE", "bytes_read": 0, "bytes_written": 0,
         "status": "interrupted"},
        False,
    )  # fmt: skip
    assert [(row["operation"], done) for row, done in ours[1 : 1 + 14]] == [
        (operation, done)
        for operation, outcomes in (
            ("rename", (True, False)), ("symlink", (True, False)), ("hardlink", (True, False)),
            ("posix-rename", (True, False)), ("mkdir", (True, False)), ("rmdir", (True, False)),
            ("remove", (False, False)),
        )
        for done in outcomes
    ]  # fmt: skip


def test_without_the_option_it_logs_nothing_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-I", "-S", sftp_fallback.__file__, *options]
        request = struct.pack(">IBI", 5, 1, 3) + struct.pack(">IBI", 9, REMOVE, 1) + text("")
        return subprocess.run(command, input=request, capture_output=True, timeout=20, cwd=tmp_path)

    assert (run().stderr, run("-e").stderr, run("-l", "VERBOSE").stderr) == (b"", b"", b"")
    assert run("-e", "-l", "INFO").stderr.startswith(b'remove name "."\r\nsent status ')
    assert (run("-z").returncode, b"usage" in run("-z").stderr) == (1, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_logged_with_the_file_s_name(talk: Talk) -> None:
    log: list[bytes] = []
    talk.server._log_message = log.append
    handle = talk.handle(OPEN, text("/dev/full") + struct.pack(">II", 2, 0))
    assert talk.status(WRITE, handle + struct.pack(">Q", 0) + text("abc")) == sftp_fallback.FAILURE
    assert talk.status(CLOSE, handle) == 0
    assert log[1:] == [b'process_write: write "/dev/full": No space left on device', b"sent status Failure",
                       b'close "/dev/full" bytes read 0 written 0']  # fmt: skip


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
