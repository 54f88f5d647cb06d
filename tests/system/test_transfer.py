"""Files by stock sftp, scp (both protocols), rsync and git: into the tree, whole, and with true exit codes."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from tests.support.installed import InstalledGateway, Result, run

SIZE_BYTES = 3 * 1024 * 1024 + 17
SCP = pytest.mark.parametrize("protocol", [(), ("-O",)], ids=["sftp", "scp1"])


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    path = tmp_path / "noise é.bin"
    path.write_bytes(os.urandom(SIZE_BYTES))
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_sftp_starts_in_the_tree_and_carries_files_both_ways(
    gateway: InstalledGateway, noise: Path, tmp_path: Path
) -> None:
    tree = gateway.ssh("pwd").stdout.decode().strip()
    batch = f'pwd\nput "{noise}" there.bin\nrename there.bin moved.bin\nsymlink moved.bin link\nls -1\n'
    batch += f'get moved.bin "{tmp_path}/back"\nrm link\nrm moved.bin\n'
    done = gateway.client("sftp", "-b", "-", "demo@gateway", input=batch.encode())
    assert done.returncode == 0, done.stderr
    assert f"Remote working directory: {tree}".encode() in done.stdout
    assert (b"\nlink" in done.stdout, digest((tmp_path / "back").read_bytes())) == (True, digest(noise.read_bytes()))


@SCP
def test_scp_starts_in_the_tree_and_carries_files_both_ways(
    gateway: InstalledGateway, noise: Path, tmp_path: Path, protocol: tuple[str, ...]
) -> None:
    up = gateway.client("scp", *protocol, "-q", noise, "demo@gateway:up.bin")
    assert (up.returncode, up.stderr) == (0, b"")
    assert gateway.ssh("sha256sum ./up.bin").stdout.split()[0].decode() == digest(noise.read_bytes())
    down = gateway.client("scp", *protocol, "-q", "demo@gateway:up.bin", tmp_path / "down")
    assert (down.returncode, digest((tmp_path / "down").read_bytes())) == (0, digest(noise.read_bytes()))
    gateway.ssh("rm up.bin")


@SCP
def test_scp_of_a_missing_file_fails_with_words(
    gateway: InstalledGateway, tmp_path: Path, protocol: tuple[str, ...]
) -> None:
    done = gateway.client("scp", *protocol, "-q", "demo@gateway:nothing-here", tmp_path / "x")
    assert (done.returncode, b"No such file" in done.stderr) == (1, True)


def test_scp_protocol_one_takes_names_that_are_not_utf8(gateway: InstalledGateway, tmp_path: Path) -> None:
    gateway.ssh(b"echo latin > caf\xe9.txt")
    done = gateway.client("scp", "-O", "-q", b"demo@gateway:caf\xe9.txt", tmp_path / "x")
    assert (done.returncode, (tmp_path / "x").read_bytes()) == (0, b"latin\n")
    gateway.ssh(b"rm caf\xe9.txt")


def make_tree(folder: Path) -> None:
    for number in range(100):
        path = folder / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"file {number}\n" * number)
    (folder / "big").write_bytes(os.urandom(SIZE_BYTES))
    (folder / "link").symlink_to("big")
    (folder / "d0/f0").chmod(0o750)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync_both_ways_leaves_nothing_to_do_the_second_time(gateway: InstalledGateway, tmp_path: Path) -> None:
    make_tree(tmp_path / "a")

    def rsync(*words: str) -> Result:
        done = run(["rsync", "-e", " ".join(["ssh", *gateway.ssh_options]), "-a", "-i", *words])
        assert (done.returncode, done.stderr) == (0, b"")
        return done

    # As root our files' owners differ from the workspace's; everything else must be equal.
    own = "--no-owner", "--no-group"
    assert rsync(*own, f"{tmp_path}/a/", "demo@gateway:synced/").stdout.count(b"<f") == 101
    assert rsync(*own, f"{tmp_path}/a/", "demo@gateway:synced/").stdout == b""
    rsync(*own, "demo@gateway:synced/", f"{tmp_path}/b/")
    assert rsync(*own, "--delete", "--checksum", f"{tmp_path}/b/", f"{tmp_path}/a/").stdout == b""
    gateway.ssh("rm -r synced")


def git(gateway: InstalledGateway, *words: str, directory: Path, **more: str) -> Result:
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_GLOBAL": "/dev/null", "LC_ALL": "C",
        "GIT_SSH_COMMAND": " ".join(["ssh", *gateway.ssh_options]),
        "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.org", **more,
    }  # fmt: skip
    done = run(["git", *words], cwd=directory, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def test_git_clones_and_pushes_a_repository_of_the_workspace(gateway: InstalledGateway, tmp_path: Path) -> None:
    gateway.ssh("git init -q --bare -b main project.git")
    git(gateway, "clone", "-q", "demo@gateway:project.git", "one", directory=tmp_path)
    one = tmp_path / "one"
    make_tree(one)
    git(gateway, "add", ".", directory=one)
    git(gateway, "commit", "-q", "-m", "everything", directory=one)
    git(gateway, "push", "-q", "origin", "HEAD:main", directory=one)
    trace = git(gateway, "clone", "-q", "demo@gateway:project.git", "two", directory=tmp_path, GIT_TRACE_PACKET="1")
    assert b"< version 2" in trace.stderr, "GIT_PROTOCOL passes the allow-list"
    assert (tmp_path / "two/big").read_bytes() == (one / "big").read_bytes()
    heads = {git(gateway, "rev-parse", "HEAD", directory=tmp_path / name).stdout for name in ("one", "two")}
    heads.add(gateway.ssh("git -C project.git rev-parse main").stdout)
    assert len(heads) == 1
    gateway.ssh("rm -rf project.git")


def test_git_push_into_the_workspace_s_own_tree_makes_a_branch(gateway: InstalledGateway, tmp_path: Path) -> None:
    """The tree that `homeport new` makes is a git repository: the colleague's first push goes there."""
    git(gateway, "init", "-q", "-b", "main", "mine", directory=tmp_path)
    git(gateway, "commit", "-q", "--allow-empty", "-m", "first", directory=tmp_path / "mine")
    git(gateway, "push", "-q", "demo@gateway:.", "HEAD:refs/heads/feature", directory=tmp_path / "mine")
    assert gateway.ssh("git log -1 --format=%s feature").stdout == b"first\n"


def test_transfers_have_rows_of_their_own(gateway: InstalledGateway) -> None:
    gateway.client("sftp", "-b", "-", "demo@gateway", input=b"pwd\n")
    row = gateway.until_row("SELECT * FROM sessions WHERE kind = 'subsystem' AND status = 'terminated'")
    assert (row["command"], row["end_reason"], row["recording"]) == ("sftp", "exit", None)
