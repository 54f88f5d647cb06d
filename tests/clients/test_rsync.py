"""rsync over ssh: its own protocol on a command's pipes, both sides sending at once."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import require
from tests.support.installed import DEADLINE_SECONDS, Result, until
from tests.support.server import Server

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
SMALL_FILE_COUNT = 2000
LIMIT_KIB = 4096  # a second: so that there is a middle to be interrupted in
# As root our files' owners differ from the workspace's; everything else must be equal.
ARCHIVE = ("-a", "--no-owner", "--no-group")
ODD_NAMES = (b"with space", b"caf\xe9 latin-1", "naïve ☃".encode(), b"it's $HOME; `id` *?", b"-n", b"new\nline")


@pytest.fixture(scope="module", autouse=True)
def _rsync() -> None:
    require("rsync")


@pytest.fixture
def there(server: Server) -> Iterator[str]:
    """A folder of the tree, seen from here."""
    server.ssh("mkdir synced")
    yield "server:synced/"
    server.ssh("rm -rf synced")


def rsync_command(server: Server, *words: str | bytes | Path) -> list[str | bytes]:
    plain = [word if isinstance(word, str | bytes) else str(word) for word in words]
    return ["rsync", "-e", " ".join(["ssh", *server.ssh_options]), *plain]


def rsync(server: Server, *words: str | bytes | Path) -> Result:
    done = server.run(rsync_command(server, *words))
    assert (done.returncode, done.stderr) == (0, b""), done
    return done


def make_folder(folder: Path, count: int) -> Path:
    for number in range(count):
        path = folder / f"d{number % 31}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"file {number}\n" * (number % 50))
    return folder


def contents(folder: Path) -> dict[bytes, bytes]:
    paths = (os.path.join(top, name) for top, _, names in os.walk(os.fsencode(folder)) for name in names)
    return {os.path.relpath(path, os.fsencode(folder)): Path(os.fsdecode(path)).read_bytes() for path in paths}


@pytest.mark.parametrize("compressed", [(), ("-z",)], ids=["plain", "z"])
def test_2000_small_files_go_up_and_come_back_and_then_nothing_is_left_to_do(
    server: Server, there: str, tmp_path: Path, compressed: tuple[str, ...]
) -> None:
    here = make_folder(tmp_path / "here", SMALL_FILE_COUNT)
    pushed = rsync(server, *ARCHIVE, *compressed, "-i", f"{here}/", there)
    assert pushed.stdout.count(b"<f") == SMALL_FILE_COUNT
    assert rsync(server, *ARCHIVE, *compressed, "-i", "--checksum", f"{here}/", there).stdout == b""
    rsync(server, *ARCHIVE, *compressed, there, f"{tmp_path}/back/")
    assert contents(tmp_path / "back") == contents(here)


def test_delete_removes_what_is_no_longer_there_and_nothing_else(server: Server, there: str, tmp_path: Path) -> None:
    here = make_folder(tmp_path / "here", 40)
    rsync(server, *ARCHIVE, f"{here}/", there)
    server.ssh("cd synced; touch d0/stray; mkdir -p gone/deep; touch gone/deep/x kept; rm d1/f1")
    done = rsync(server, *ARCHIVE, "-i", "--delete", "--exclude=kept", f"{here}/", there)
    deleted = sorted(line.split()[1] for line in done.stdout.splitlines() if line.startswith(b"*deleting"))
    assert deleted == [b"d0/stray", b"gone/", b"gone/deep/", b"gone/deep/x"]
    assert (b"d1/f1" in done.stdout, server.ssh("test -e synced/kept").returncode) == (True, 0)


def test_odd_names_are_carried_both_ways(server: Server, there: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ODD_NAMES:
        Path(os.fsdecode(os.path.join(os.fsencode(here), name))).write_bytes(name)
    rsync(server, *ARCHIVE, f"{here}/", there)
    rsync(server, *ARCHIVE, there, f"{tmp_path}/back/")
    assert contents(tmp_path / "back") == {name: name for name in ODD_NAMES}


@pytest.mark.parametrize("name", [name for name in ODD_NAMES if name[:1] != b"-"])
def test_odd_name_on_the_command_line_names_that_file(server: Server, there: str, tmp_path: Path, name: bytes) -> None:
    """Not by way of a list of files but in the command itself, which a shell inside reads (-s: rsync(1))."""
    (tmp_path / "content").write_bytes(name)
    rsync(server, "-s", tmp_path / "content", b"server:synced/" + name)
    rsync(server, "-s", b"server:synced/" + name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == name


def test_links_modes_and_times_are_kept(server: Server, there: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "file").write_text("x")
    (here / "file").chmod(0o640)
    os.utime(here / "file", (1_000_000_000, 1_000_000_000))
    os.link(here / "file", here / "hard")
    (here / "soft").symlink_to("nowhere/at all")
    rsync(server, *ARCHIVE, "-H", f"{here}/", there)
    told = server.ssh("cd synced; stat -c '%a %Y %h' file; stat -c %i file hard | uniq | wc -l; readlink soft")
    assert told.stdout == b"640 1000000000 2\n1\nnowhere/at all\n"


# --------------------------------------------------------------------------------------- refused and interrupted


def test_missing_folder_is_told_with_rsync_s_own_code(server: Server, tmp_path: Path) -> None:
    done = server.run(rsync_command(server, "-a", "server:nothing-here/", f"{tmp_path}/x"))
    assert (done.returncode, b"No such file or directory" in done.stderr) == (23, True), done.stderr


def test_rsync_that_is_missing_inside_is_told(server: Server, tmp_path: Path) -> None:
    done = server.run(rsync_command(server, "--rsync-path=no-such-rsync", "-a", "server:.", f"{tmp_path}/x"))
    # 12 (protocol error) if rsync reads the closed stream before it hears of ssh's end.
    assert (done.returncode in (12, 127), b"command not found" in done.stderr) == (True, True), done


@pytest.mark.parametrize("way", ["up", "down"])
def test_interrupted_file_goes_on_where_it_was(server: Server, there: str, tmp_path: Path, way: str) -> None:
    size_bytes, enough_bytes = 12 * MIB, 2 * MIB
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(size_bytes))
    if way == "up":
        words = [str(noise), there]
    else:
        rsync(server, str(noise), there)
        words = [f"{there}noise", f"{tmp_path}/back/"]
        (tmp_path / "back").mkdir()

    def arrived_bytes(pattern: str) -> int:
        if way == "up":
            return int(server.ssh(f"stat -c %s synced/{pattern} 2>/dev/null || echo 0").stdout.split()[0])
        return sum(path.stat().st_size for path in (tmp_path / "back").glob(pattern))

    with server.start(rsync_command(server, "--partial", f"--bwlimit={LIMIT_KIB}", *words)) as client:
        until(lambda: arrived_bytes(".noise.*") > enough_bytes, "a good part has arrived")
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=DEADLINE_SECONDS)
        assert client.returncode == 20, "rsync(1): received SIGINT"
    until(lambda: arrived_bytes("noise") > enough_bytes, "the other side has kept the part")
    done = rsync(server, "--partial", "--stats", *words)
    matched = re.search(rb"Matched data: ([\d,]+) bytes", done.stdout)
    assert matched is not None
    assert int(matched[1].replace(b",", b"")) > enough_bytes / 2, done.stdout
    server_has = server.ssh("cat synced/noise").stdout
    assert (server_has if way == "up" else (tmp_path / "back/noise").read_bytes()) == noise.read_bytes()


def test_client_killed_in_the_middle_leaves_no_program_behind(server: Server, there: str, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(12 * MIB))
    with server.start(rsync_command(server, f"--bwlimit={LIMIT_KIB}", str(tmp_path / "noise"), there),
                      start_new_session=True) as client:  # fmt: skip
        until(lambda: server.ssh("ls -A synced").stdout, "the transfer has begun")
        os.killpg(client.pid, signal.SIGKILL)
    until(lambda: server.ssh("pgrep -f '^[r]sync --server'").returncode == 1, "rsync inside has ended")
