"""sshfs: the tree mounted here through FUSE, and used as a file system by everything that asks it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import require
from tests.support.installed import DEADLINE_SECONDS, until
from tests.support.server import Client, Server

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
SMALL_FILE_COUNT = 500


@contextlib.contextmanager
def mounted(server: Server, *options: str) -> Iterator[Path]:
    """The tree as a folder of this machine."""
    require("sshfs", "fusermount3")
    folder = Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp"))
    words = ["sshfs", "-f", *server.ssh_options, *options, "server:", str(folder)]
    with server.start([*words], start_new_session=True) as client:
        try:
            until(lambda: os.path.ismount(folder) or client.poll() is not None, "sshfs has mounted or ended")
            if client.poll() is not None:
                skip_without_fuse(client)
            yield folder
        finally:
            server.run(["fusermount3", "-u", "-z", str(folder)])
            # By itself it would go on for as long as any mount namespace made in between has a copy of the mount.
            client.terminate()
            client.communicate(timeout=DEADLINE_SECONDS)
            folder.rmdir()


def skip_without_fuse(client: Client) -> None:
    """Machines differ in whether they have FUSE at all: in a container it is seldom there, whatever is installed."""
    said = client.communicate(timeout=DEADLINE_SECONDS)[1].decode(errors="replace").strip()
    if said.startswith("fuse"):  # also fusermount3
        pytest.skip(f"nothing can be mounted through FUSE here: {said}")
    pytest.fail(f"sshfs ended with {client.returncode}: {said}")


@pytest.fixture(scope="module")
def mount(server: Server) -> Iterator[Path]:
    with mounted(server) as folder:
        yield folder


@pytest.fixture
def folder(server: Server, mount: Path) -> Iterator[Path]:
    """An empty folder for each test."""
    folder = mount / f"f-{secrets.token_hex(4)}"
    folder.mkdir()
    yield folder
    server.ssh(f"rm -rf {folder.name}")


def inside(server: Server, folder: Path, command: str) -> bytes:
    return server.ssh(f"cd {folder.name} && {command}").stdout


def test_what_is_written_here_is_read_there_and_the_other_way_round(server: Server, folder: Path) -> None:
    noise = os.urandom(8 * MIB + 1)
    (folder / "here").write_bytes(noise)
    assert inside(server, folder, "sha256sum < here").split()[0].decode() == hashlib.sha256(noise).hexdigest()
    inside(server, folder, "head -c 5000001 here > there")
    assert (folder / "there").read_bytes() == noise[:5_000_001]


def test_parts_of_a_file_are_read_written_and_cut(server: Server, folder: Path) -> None:
    (folder / "file").write_bytes(b"0123456789")
    with open(folder / "file", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"abc", 3)
        assert os.pread(file.fileno(), 4, 5) == b"c678"[:1] + b"678"
        os.ftruncate(file.fileno(), 8)
        file.seek(0, os.SEEK_END)
        file.write(b"end")
        os.fsync(file.fileno())
        assert inside(server, folder, "cat file") == b"012abc67end"
    with open(folder / "file", "ab") as file:
        file.write(b"!")
    with open(folder / "file", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        assert memory[:] == b"012abc67end!"


def test_file_is_renamed_over_another_as_editors_save(server: Server, folder: Path) -> None:
    """posix-rename@openssh.com: SFTP's own rename refuses a name that is taken."""
    (folder / "file").write_text("old")
    (folder / "file.new").write_text("new")
    os.rename(folder / "file.new", folder / "file")
    assert inside(server, folder, "ls; cat file") == b"file\nnew"


def test_modes_times_and_links_are_the_file_s(server: Server, folder: Path) -> None:
    (folder / "file").write_text("x")
    (folder / "file").chmod(0o705)
    os.utime(folder / "file", (1_000_000_000, 1_000_000_000))
    (folder / "soft").symlink_to("nowhere/at all")
    os.link(folder / "file", folder / "hard")
    told = inside(server, folder, "stat -c '%a %Y %h' file; readlink soft")
    assert told == b"705 1000000000 2\nnowhere/at all\n"
    assert os.readlink(folder / "soft") == "nowhere/at all"


def test_room_that_is_left_is_the_server_s(server: Server, mount: Path) -> None:
    total = int(server.ssh("stat -f -c '%b %S' .").stdout.split()[0])
    told = os.statvfs(mount)
    assert (told.f_blocks, told.f_bavail > 0) == (total, True)


def test_500_files_are_made_listed_read_and_removed(server: Server, folder: Path) -> None:
    for number in range(SMALL_FILE_COUNT):
        (folder / f"file {number} é").write_text(f"{number}\n" * number)
    assert int(inside(server, folder, "ls | wc -l")) == SMALL_FILE_COUNT
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        f"file {number} é": f"{number}\n" * number for number in range(SMALL_FILE_COUNT)
    }
    shutil.rmtree(folder)
    assert server.ssh(f"ls -d {folder.name}").returncode == 2


def test_git_works_on_the_mount(server: Server, folder: Path) -> None:
    """Renames, locks made by exclusive creation, mapped packs: what a program asks of a real file system."""
    # Nothing in the background, which would stay on the mount: gc.autoDetach.
    person = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "safe.directory=*", "-c",
              "gc.autoDetach=false", "-c", "gc.auto=0"]  # fmt: skip
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"], ["gc", "-q"], ["fsck", "--full"]):
        (folder / "file").write_text("x")
        done = server.run(["git", *person, *words], cwd=folder)
        assert done.returncode == 0, done.stderr
    assert inside(server, folder, "git -c safe.directory='*' status --porcelain; ls .git/objects/pack").count(b"\n") > 1


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        (lambda folder: (folder / "missing").read_bytes(), errno.ENOENT),
        (lambda folder: (folder / "there").touch(exist_ok=False), errno.EEXIST),
        (lambda folder: (folder / "closed").read_bytes(), errno.EACCES),
        (lambda folder: os.rename(folder / "missing", folder / "other"), errno.ENOENT),
    ],
    ids=["missing", "exclusive", "closed", "rename"],
)
def test_failure_is_told_by_its_reason(server: Server, folder: Path, attempt: object, reason: int) -> None:
    inside(server, folder, "touch there closed; chmod 0 closed")
    with pytest.raises(OSError) as failure:
        attempt(folder)  # type: ignore[operator]
    assert failure.value.errno == reason


def test_mount_comes_back_after_its_ssh_was_killed(server: Server, tmp_path: Path) -> None:
    """-o reconnect: a new connection. Files that were open are lost to sshfs, whatever the server."""
    transport, pid = tmp_path / "transport", tmp_path / "pid"
    transport.write_text(f'#!/bin/sh\necho $$ > {pid}\nexec ssh "$@"\n')
    transport.chmod(0o755)
    with mounted(server, "-o", "reconnect", "-o", f"ssh_command={transport}") as folder:
        (folder / "before").write_text("before")
        first = pid.read_text()
        os.kill(int(first), signal.SIGKILL)
        until(lambda: is_answering(folder / "before"), "the mount answers again")
        assert pid.read_text() != first
        (folder / "before").unlink()


def is_answering(path: Path) -> bool:
    try:
        return path.read_text() == "before"
    except OSError:
        return False
