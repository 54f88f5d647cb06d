"""rclone's sftp backend: Go's x/crypto/ssh and pkg/sftp, as restic, Terraform and many daemons use them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.clients import require
from tests.support.installed import Result
from tests.support.server import Server

pytestmark = pytest.mark.slow

FILE_COUNT = 300


@dataclass(frozen=True)
class Rclone:
    server: Server
    config: Path

    def run(self, *words: str | Path, check: bool = True) -> Result:
        command: list[str | bytes] = ["rclone", "--config", str(self.config), "--retries", "1", *map(str, words)]
        done = self.server.run(command)
        assert not check or done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def rclone(server: Server) -> Rclone:
    require("rclone")
    config = server.scratch / "rclone.conf"
    config.write_text(
        f"[server]\ntype = sftp\nhost = {server.host}\nport = {server.port}\nuser = {server.user}\n"
        f"key_file = {server.key}\nknown_hosts_file = {server.known_hosts}\n"
    )
    return Rclone(server, config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    for number in range(FILE_COUNT):
        path = folder / f"d{number % 9}" / f"file {number} é"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * number)
    return folder


def test_folder_is_synced_checked_by_hash_and_deleted(rclone: Rclone, folder: Path) -> None:
    """The hashes are computed by commands inside: rclone finds out what shell and which md5sum there is."""
    rclone.run("sync", folder, "server:synced", "--transfers", "8", "--checkers", "16")
    checked = rclone.run("check", folder, "server:synced", "-v")
    assert f"{FILE_COUNT} matching files".encode() in checked.stderr, checked.stderr
    assert b"0 differences found" in checked.stderr
    assert b"hashes could not be checked" not in checked.stderr
    (folder / "d0/file 0 é").unlink()
    (folder / "d1/file 1 é").write_text("changed")
    rclone.run("sync", folder, "server:synced")
    assert rclone.run("cat", "server:synced/d1/file 1 é").stdout == b"changed"
    listed = rclone.run("lsf", "-R", "--files-only", "server:synced").stdout.splitlines()
    assert len(listed) == FILE_COUNT - 1
    rclone.run("purge", "server:synced")
    assert rclone.server.ssh("ls -d synced").returncode == 2


def test_moving_and_the_room_left_are_asked_of_the_server(rclone: Rclone) -> None:
    rclone.server.ssh("mkdir there; echo hello > there/a")
    rclone.run("moveto", "server:there/a", "server:there/sub/b")
    assert rclone.run("cat", "server:there/sub/b").stdout == b"hello\n"
    assert b"Free:" in rclone.run("about", "server:").stdout
    rclone.server.ssh("rm -r there")


def test_missing_folder_is_told(rclone: Rclone) -> None:
    done = rclone.run("lsf", "server:nothing-here", check=False)
    assert (done.returncode, b"directory not found" in done.stderr) == (3, True), done.stderr
