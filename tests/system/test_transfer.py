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
@pytest.mark.parametrize("missing", ["nothing-here", "nothing-*"])
def test_scp_of_a_missing_file_fails_with_words(
    gateway: InstalledGateway, tmp_path: Path, protocol: tuple[str, ...], missing: str
) -> None:
    done = gateway.client("scp", *protocol, "-q", f"demo@gateway:{missing}", tmp_path / "x")
    assert (done.returncode, b"No such file" in done.stderr) == (1, True)


@SCP
def test_scp_into_a_missing_folder_fails_with_words(
    gateway: InstalledGateway, noise: Path, protocol: tuple[str, ...]
) -> None:
    done = gateway.client("scp", *protocol, "-q", noise, "demo@gateway:nothing-here/x")
    assert (done.returncode, b"No such file" in done.stderr) == (1, True)


@SCP
@pytest.mark.parametrize(
    "name", [b"sp ace", b'qu"ote', b"ap'os", b"caf\xe9", b"$dollar", b"st*r", b"back\\slash", b"-dash"]
)
def test_scp_takes_every_name_both_ways(
    gateway: InstalledGateway, tmp_path: Path, protocol: tuple[str, ...], name: bytes
) -> None:
    """The old protocol passes the name through the remote shell, where it has to be quoted."""
    near = os.fsencode(tmp_path) + b"/" + name
    Path(os.fsdecode(near)).write_bytes(name)
    assert gateway.ssh("rm -rf named; mkdir named").returncode == 0
    up = gateway.client("scp", *protocol, "-q", near, "demo@gateway:named")
    assert (up.returncode, gateway.ssh("cat named/*").stdout) == (0, name)
    # With -O only the shell unquotes; otherwise the client does, as a pattern (glob(7)).
    special = b" \"'$*\\" if protocol else b"*\\"
    quoted = b"".join(b"\\%c" % c if c in special else b"%c" % c for c in name)
    check = ["-T"] if protocol else []  # the client would compare the answer with the name as it was quoted
    down = gateway.client("scp", *protocol, *check, "-q", b"demo@gateway:named/" + quoted, tmp_path / "back")
    assert (down.returncode, down.stderr, (tmp_path / "back").read_bytes()) == (0, b"", name)
    gateway.ssh("rm -r named")


def test_scp_takes_a_name_of_two_lines(gateway: InstalledGateway, tmp_path: Path) -> None:
    """The old protocol cannot carry it."""
    (tmp_path / "two\nlines").write_text("x")
    assert gateway.client("scp", "-q", tmp_path / "two\nlines", "demo@gateway:").returncode == 0
    assert gateway.client("scp", "-q", "demo@gateway:two\nlines", tmp_path / "back").returncode == 0
    assert (gateway.ssh("cat two*; rm two*").stdout, (tmp_path / "back").read_text()) == (b"x", "x")


@SCP
def test_scp_takes_patterns(gateway: InstalledGateway, tmp_path: Path, protocol: tuple[str, ...]) -> None:
    gateway.ssh("mkdir some; cd some; for x in a.1 b.1 c.2; do echo $x > $x; done")
    done = gateway.client("scp", *protocol, "-q", "demo@gateway:some/*.1", tmp_path)
    assert (done.returncode, sorted(path.name for path in tmp_path.iterdir())) == (0, ["a.1", "b.1"])
    gateway.ssh("rm -r some")


@SCP
def test_scp_of_a_folder_keeps_modes_and_times_if_asked_to(
    gateway: InstalledGateway, tmp_path: Path, protocol: tuple[str, ...]
) -> None:
    make_tree(tmp_path / "a")
    os.utime(tmp_path / "a/d1/f1", (1_000_000_000, 1_000_000_000))
    assert gateway.client("scp", *protocol, "-qrp", tmp_path / "a", "demo@gateway:").returncode == 0
    assert gateway.ssh("stat -c '%a %Y' a/d0/f0 a/d1/f1").stdout.split()[::3] == [b"750", b"1000000000"]
    assert gateway.client("scp", *protocol, "-qrp", "demo@gateway:a", tmp_path / "b").returncode == 0
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    gateway.ssh("rm -r a")


@SCP
def test_a_new_file_s_mode_is_that_of_the_client_s_under_the_usual_mask(
    gateway: InstalledGateway, tmp_path: Path, protocol: tuple[str, ...]
) -> None:
    assert gateway.ssh("umask").stdout == b"0022\n"
    for mode in (0o600, 0o666, 0o775):
        (tmp_path / "f").write_text("")
        (tmp_path / "f").chmod(mode)
        gateway.client("scp", *protocol, "-q", tmp_path / "f", "demo@gateway:moded")
        assert int(gateway.ssh("stat -c %a moded; rm moded").stdout, 8) == mode & ~0o022


def test_a_tilde_means_the_tree_by_sftp_and_the_home_by_the_old_protocol(
    gateway: InstalledGateway, noise: Path
) -> None:
    """scp in SFTP mode sends `~/x` as a path relative to where the server starts."""
    gateway.client("scp", "-q", noise, "demo@gateway:~/by-sftp")
    gateway.client("scp", "-O", "-q", noise, "demo@gateway:~/by-scp")
    home = gateway.ssh("ls by-sftp && cd && ls by-scp && pwd").stdout.decode().splitlines()
    assert home[:2] == ["by-sftp", "by-scp"]
    gateway.client("scp", "-q", noise, f"demo@gateway:{home[2]}/by-path")
    assert gateway.ssh("rm by-sftp && cd && rm by-scp by-path").returncode == 0


def contents(folder: Path) -> dict[str, str]:
    """Every file by its name below the folder; links are followed, as scp does."""
    return {str(path.relative_to(folder)): digest(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


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
