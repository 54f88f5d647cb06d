"""SFTP beyond plain transfers: the extensions, links the right way round, and what the journal knows of files."""

from __future__ import annotations

import json
import os
import secrets
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.support.installed import InstalledGateway, until
from tests.support.raw_sftp import (
    CLOSE,
    EXTENDED_ANSWER,
    FSTAT,
    LSTAT,
    NAME,
    REMOVE,
    STATUS,
    WRITE,
    RawSftp,
    text,
    texts_in,
)
from tests.support.walls import walls
from tests.system.conftest import running, skip_without_walls

OPENSSH_EXTENSIONS = {  # of 9.2
    "posix-rename@openssh.com", "statvfs@openssh.com", "fstatvfs@openssh.com", "hardlink@openssh.com",
    "fsync@openssh.com", "lsetstat@openssh.com", "limits@openssh.com", "expand-path@openssh.com", "copy-data",
    "home-directory", "users-groups-by-id@openssh.com",
}  # fmt: skip
FILES = "SELECT success, ip_address, details FROM auth_logs WHERE action = 'file' ORDER BY rowid"
LIMITED_KBIT = "8000"  # scp -l: a megabyte a second, so that there is a middle to be interrupted in


@pytest.fixture
def folder(gateway: InstalledGateway) -> Iterator[str]:
    """A folder of the tree for one test, by which its rows are known, too."""
    name = f"files-{secrets.token_hex(8)}"
    gateway.ssh(f"mkdir {name}")
    yield name
    gateway.ssh(f"rm -rf {name}")


def sftp(gateway: InstalledGateway, batch: str | bytes) -> subprocess.CompletedProcess[bytes]:
    done = gateway.client("sftp", "-b", "-", "demo@gateway", input=batch.encode() if isinstance(batch, str) else batch)
    assert done.returncode == 0, done.stderr
    return done


def files(gateway: InstalledGateway, folder: str, count: int) -> list[tuple[dict[str, object], bool]]:
    """The rows of a folder's files, oldest first, once there are so many."""

    def found() -> list[tuple[dict[str, object], bool]]:
        rows = [(json.loads(str(row["details"])), bool(row["success"])) for row in gateway.rows(FILES)]
        return [row for row in rows if folder in f"{row[0].get('path')} {row[0].get('new_path')}"]

    until(lambda: len(found()) >= count, f"{count} rows of files in {folder}")
    return found()


# -------------------------------------------------------------------------------------------------- extensions


def test_openssh_s_extensions_are_all_there(gateway: InstalledGateway) -> None:
    with RawSftp(gateway) as client:
        assert {name.decode() for name in client.extensions} >= OPENSSH_EXTENSIONS


def test_the_extensions_of_the_stock_client(gateway: InstalledGateway, folder: str) -> None:
    """`df`, `rename`, `ln`, `ln -s`, `cp` and `chmod -h` use statvfs, posix-rename, hardlink, copy-data, lsetstat."""
    gateway.ssh(f"cd {folder}; echo one > a; echo two > b")
    done = sftp(gateway, f"cd {folder}\ndf\nrename a b\nln b hard\nln -s b soft\ncp b copy\n-chmod -h 600 soft\n")
    assert b"%Capacity" in done.stdout
    state = gateway.ssh(f"cd {folder}; ls; cat b copy; stat -c %h b; readlink soft").stdout
    assert state == b"b\ncopy\nhard\nsoft\none\none\n2\nb\n"


def test_the_extensions_that_no_command_of_the_stock_client_has(gateway: InstalledGateway, folder: str) -> None:
    tree, uid, gid = gateway.ssh("pwd; id -u; id -g").stdout.decode().split()
    with RawSftp(gateway) as client:
        handle = client.open(f"{folder}/f", 2 | 8)
        assert client.extended("fsync@openssh.com", handle)[1][:4] == bytes(4)
        assert client.extended("fstatvfs@openssh.com", handle)[0] == EXTENDED_ANSWER
        kind, limits = client.extended("limits@openssh.com")
        assert (kind, struct.unpack(">QQQQ", limits)[3] > 500) == (EXTENDED_ANSWER, True)
        for path, expanded in (("~", tree), (f"~/{folder}", f"{tree}/{folder}"), ("/usr/../usr", "/usr")):
            kind, names = client.extended("expand-path@openssh.com", text(path))
            assert (kind, names[4:].startswith(text(expanded))) == (NAME, True)
        user = client.extended("users-groups-by-id@openssh.com", text(struct.pack(">I", int(uid)))
                               + text(struct.pack(">I", int(gid))))  # fmt: skip
        users, groups = texts_in(user[1])
        assert (user[0], len(texts_in(users)), len(texts_in(groups))) == (EXTENDED_ANSWER, 1, 1)
        assert client.extended("home-directory", text("root"))[0] == NAME
        assert client.extended("no-such@example.org")[1][:4] == struct.pack(">I", 8)
        assert client.status(CLOSE, handle) == 0


# ------------------------------------------------------------------------------------------- links, both ways round


def test_a_link_made_by_the_stock_client_points_where_it_was_told(gateway: InstalledGateway, folder: str) -> None:
    sftp(gateway, f"cd {folder}\nln -s the/target link\n")
    assert gateway.ssh(f"readlink {folder}/link").stdout == b"the/target\n"


async def test_a_link_made_by_a_client_that_goes_by_the_banner_points_where_it_was_told(
    gateway: InstalledGateway, folder: str
) -> None:
    """OpenSSH has the two arguments of SYMLINK the wrong way round; asyncssh and ssh2 look at the server's name, and
    would make the link the other way round if it were not OpenSSH's."""
    async with asyncssh.connect(
        "127.0.0.1", gateway.ssh_port, username="demo", client_keys=[str(gateway.key)], known_hosts=None, config=None
    ) as connection, connection.start_sftp_client() as client:  # fmt: skip
        await client.symlink("the/target", f"{folder}/link")
        assert await client.readlink(f"{folder}/link") == "the/target"
    assert gateway.ssh(f"readlink {folder}/link").stdout == b"the/target\n"


# ------------------------------------------------------------------------------------------------------ the journal


def test_each_file_is_a_row_with_its_bytes_who_and_where(
    gateway: InstalledGateway, folder: str, tmp_path: Path
) -> None:
    (tmp_path / "up").write_bytes(b"x" * 100_000)
    sftp(gateway, f"put {tmp_path}/up {folder}/up\nget {folder}/up {tmp_path}/down\nls {folder}\n")
    (written, _), (read, _) = rows = files(gateway, folder, 2)
    assert [done for _, done in rows] == [True, True]
    assert (written["operation"], written["bytes_written"], read["operation"], read["bytes_read"]) == (
        "write", 100_000, "read", 100_000,
    )  # fmt: skip
    assert (written["workspace"], written["principal"]) == ("demo", "ada")
    session = gateway.until_row("SELECT * FROM sessions WHERE id = ?", written["session_id"])
    assert (session["kind"], bool(written["connection_id"])) == ("subsystem", True)
    assert {row["ip_address"] for row in gateway.rows(FILES)} == {"127.0.0.1"}


def test_each_change_of_names_is_a_row_and_so_is_each_that_failed(gateway: InstalledGateway, folder: str) -> None:
    gateway.ssh(f"echo > {folder}/a")
    batch = "mkdir d\n-mkdir d\nrename a b\nln b c\nln -s b s\n-rm none\nrm s\nrmdir d\n-rmdir /proc\n"
    sftp(gateway, f"cd {folder}\n{batch}")
    assert [(row["operation"], row.get("status"), done) for row, done in files(gateway, folder, 8)] == [
        ("mkdir", None, True), ("mkdir", "Failure", False), ("posix-rename", None, True), ("hardlink", None, True),
        ("symlink", None, True), ("remove", "No such file", False), ("remove", None, True), ("rmdir", None, True),
    ]  # fmt: skip


def test_a_name_cannot_make_up_a_row(gateway: InstalledGateway, folder: str) -> None:
    """sftp-server's log leaves line ends in names as they are."""
    name = f'{folder}/x"\r\nremove name "never-touched'
    with RawSftp(gateway) as client:
        handle = client.open(name, 2 | 8)
        assert client.status(CLOSE, handle) == 0
        assert client.status(REMOVE, text(name)) == 0
    (made, _), (removed, _) = files(gateway, folder, 2)
    assert [made["operation"], removed["operation"]] == ["write", "remove"]
    assert made["path"] == removed["path"] == name.replace("\r\n", "\\r\\n")


def test_a_failure_is_not_taken_for_that_of_the_operation_before(gateway: InstalledGateway, folder: str) -> None:
    with RawSftp(gateway) as client:
        handle = client.open(f"{folder}/f", 2 | 8)
        assert client.status(LSTAT, text(f"{folder}/none")) == 2
        assert client.status(CLOSE, handle) == 0
        assert client.status(REMOVE, text(f"{folder}/f")) == 0
        assert client.status(LSTAT, text(f"{folder}/f")) == 2
        assert client.status(FSTAT, handle) != 0
    assert [(row["operation"], done) for row, done in files(gateway, folder, 2)] == [("write", True), ("remove", True)]


def test_a_long_name_is_cut_and_says_so(gateway: InstalledGateway, folder: str) -> None:
    deep = "/".join([folder, *["d" * 250] * 4])
    gateway.ssh(f"mkdir -p {deep}")
    with RawSftp(gateway) as client:
        handle = client.open(f"{deep}/f", 2 | 8)
        assert client.status(CLOSE, handle) == 0
    ((row, done),) = files(gateway, folder, 1)
    assert (row["is_cut"], row.get("bytes_written"), done) == (True, None, True)


def test_an_unknown_request_does_not_reach_the_client_s_stderr(gateway: InstalledGateway) -> None:
    """RawSftp expects an empty stderr: sftp-server's complaint is the gateway's to hear."""
    with RawSftp(gateway) as client:
        kind, body = client.extended("no-such@example.org")
        assert (kind, int.from_bytes(body[:4], "big")) == (STATUS, 8)


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_a_killed_client_s_transfer_is_an_interruption_and_leaves_nothing_behind(
    gateway: InstalledGateway, folder: str, tmp_path: Path, direction: str
) -> None:
    far, near = f"{folder}/big", tmp_path / "near"
    if direction == "upload":
        near.write_bytes(bytes(50_000_000))
    else:
        gateway.ssh(f"head -c 50000000 /dev/zero > {far}")
    ends = [str(near), f"demo@gateway:{far}"]
    command = ["scp", *gateway.ssh_options, "-q", "-l", LIMITED_KBIT, *(ends if direction == "upload" else ends[::-1])]
    scp = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def has_begun() -> bool:
        if direction == "download":
            return near.exists() and near.stat().st_size > 0
        return gateway.ssh(f"test -s {far}").returncode == 0

    try:
        until(has_begun, "the first bytes arrived")
    finally:
        os.killpg(scp.pid, signal.SIGKILL)
        scp.wait()
    ((row, done),) = files(gateway, folder, 1)
    moved = row["bytes_written" if direction == "upload" else "bytes_read"]
    assert (row["status"], done, isinstance(moved, int) and 0 < moved < 50_000_000) == ("interrupted", False, True)
    until(lambda: not gateway.programs("sftp-server"), "no sftp-server left")


def test_a_broken_off_transfer_is_resumed_where_it_stopped(
    gateway: InstalledGateway, folder: str, tmp_path: Path
) -> None:
    whole = os.urandom(1_000_000)
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "part").write_bytes(whole[:300_000])
    sftp(gateway, f"put {tmp_path}/part {folder}/f\nreput {tmp_path}/whole {folder}/f\n"
                  f"get {folder}/f {tmp_path}/whole-back\nreget {folder}/f {tmp_path}/part\n")  # fmt: skip
    assert (tmp_path / "whole-back").read_bytes() == whole == (tmp_path / "part").read_bytes()
    rows = files(gateway, folder, 4)
    assert [row["bytes_written"] or row["bytes_read"] for row, _ in rows] == [300_000, 700_000, 1_000_000, 700_000]


@pytest.mark.slow
@pytest.mark.parametrize("isolation", walls())
def test_without_audit_there_are_no_rows_and_files_go_through(isolation: str, tmp_path: Path) -> None:
    skip_without_walls(isolation)
    for gateway in running(InstalledGateway(isolation, sftp_audit=False)):
        with RawSftp(gateway) as client:
            handle = client.open("f", 2 | 8)
            assert client.status(WRITE, handle + struct.pack(">Q", 0) + text("abc")) == 0
            assert client.status(CLOSE, handle) == 0
        assert gateway.ssh("cat f").stdout == b"abc"
        gateway.homeport("stop")
        assert gateway.rows(FILES) == []
