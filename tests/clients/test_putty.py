"""PuTTY's command line: plink, pscp and psftp, with a key of its own format."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.clients import require
from tests.support.installed import Result, free_port
from tests.support.server import Server
from tests.support.streams import asked_inside, awaited, shout, shouting, shouting_inside, through_socks

pytestmark = pytest.mark.slow

SIZE_BYTES = 8 * 1024 * 1024 + 1
PROTOCOL = pytest.mark.parametrize("protocol", ["-sftp", "-scp"])


@dataclass(frozen=True)
class Putty:
    """The three programs with one key; PuTTY trusts the host keys whose fingerprints it is told."""

    server: Server
    options: tuple[str, ...]

    @property
    def host(self) -> str:
        return f"{self.server.user}@{self.server.host}"

    def plink(self, *words: str, **options: object) -> Result:
        """Options first; the command, if any, stands after a `--`."""
        split = words.index("--") if "--" in words else len(words)
        return self.server.run(["plink", *self.options, *words[:split], self.host, *words[split + 1 :]], **options)

    def pscp(self, *words: str | Path) -> Result:
        return self.server.run(["pscp", *self.options, *map(str, words)])

    def psftp(self, batch: str) -> Result:
        script = self.server.scratch / "psftp.batch"
        script.write_text(batch)
        return self.server.run(["psftp", *self.options, "-b", str(script), "-be", self.host])


@pytest.fixture(scope="module")
def putty(server: Server) -> Putty:
    require("plink", "pscp", "psftp", "puttygen")
    return with_key(server, server.key)


def with_key(server: Server, key: Path) -> Putty:
    own = server.scratch / f"{key.name}.ppk"
    converted = server.run(["puttygen", str(key), "-O", "private", "-o", str(own)])
    assert converted.returncode == 0, converted.stderr
    listed = server.run(["ssh-keygen", "-lf", str(server.known_hosts)]).stdout.decode().splitlines()
    trusted = [word for line in listed for word in ("-hostkey", line.split()[1])]
    return Putty(server, ("-batch", *trusted, "-P", str(server.port), "-i", str(own)))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_command_has_its_streams_apart_and_its_exit_code(putty: Putty) -> None:
    done = putty.plink("--", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_rsa_key_signs_with_sha2(putty: Putty) -> None:
    """PuTTY does so only if the server names the algorithm in its extension message (RFC 8308)."""
    assert with_key(putty.server, putty.server.rsa_key).plink("--", "echo in").stdout == b"in\n"


def test_stranger_s_key_is_refused_in_one_try(putty: Putty, tmp_path: Path) -> None:
    putty.server.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")])
    putty.server.run(["puttygen", str(tmp_path / "other"), "-O", "private", "-o", str(tmp_path / "other.ppk")])
    done = putty.plink("-i", str(tmp_path / "other.ppk"), "--", "echo in")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"No supported authentication methods available" in done.stderr, done.stderr


def test_megabytes_pass_both_ways(putty: Putty) -> None:
    """PuTTY measures its channel window with winadj@putty requests, whose right answer is a failure."""
    noise = os.urandom(SIZE_BYTES)
    assert putty.plink("--", "cat", input=noise).stdout == noise


def test_terminal_has_a_size_a_name_and_the_shell_s_exit_code(putty: Putty) -> None:
    done = putty.plink("-t", input=b"tty; stty size; echo $TERM; exit 4\n")
    lines = done.stdout.replace(b"\r", b"").split(b"\n")
    assert (done.returncode, b"24 80" in lines, b"xterm" in lines) == (4, True, True), done.stdout
    assert any(line.endswith(b"/dev/pts/0") or b"/dev/pts/" in line for line in lines), done.stdout


@PROTOCOL
def test_pscp_carries_a_file_both_ways(putty: Putty, tmp_path: Path, protocol: str) -> None:
    noise = tmp_path / "noise with space.bin"
    noise.write_bytes(os.urandom(SIZE_BYTES))
    up = putty.pscp("-q", protocol, noise, f"{putty.host}:carried")
    assert (up.returncode, up.stderr) == (0, b"")
    assert putty.server.ssh("sha256sum < carried").stdout.split()[0].decode() == digest(noise)
    down = putty.pscp("-q", protocol, f"{putty.host}:carried", tmp_path / "back")
    assert (down.returncode, down.stderr, digest(tmp_path / "back")) == (0, b"", digest(noise))
    putty.server.ssh("rm carried")


@PROTOCOL
def test_pscp_carries_a_folder_with_its_times(putty: Putty, tmp_path: Path, protocol: str) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/old").write_text("old")
    os.utime(folder / "sub/old", (1_000_000_000, 1_000_000_000))
    up = putty.pscp("-q", "-r", "-p", protocol, folder, f"{putty.host}:")
    assert (up.returncode, up.stderr) == (0, b"")
    assert putty.server.ssh("stat -c %Y folder/sub/old; rm -r folder").stdout == b"1000000000\n"


@PROTOCOL
def test_pscp_of_a_missing_file_fails_with_words(putty: Putty, tmp_path: Path, protocol: str) -> None:
    done = putty.pscp(protocol, f"{putty.host}:nothing-here", tmp_path / "x")
    assert (done.returncode, b"no such file" in done.stderr.lower()) == (1, True), done.stderr


def test_psftp_starts_in_the_tree_and_does_what_a_person_does(putty: Putty, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(os.urandom(SIZE_BYTES))
    done = putty.psftp(
        f"pwd\nput {tmp_path}/one one\nmkdir d\nmv one d/two\nchmod 600 d/two\ncd d\nls\n"
        f"get two {tmp_path}/back\nrm two\ncd ..\nrmdir d\nrmdir d\n"
    )
    assert f"Remote directory is {putty.server.tree}".encode() in done.stdout, done.stdout
    assert (b"-rw-------" in done.stdout, digest(tmp_path / "back")) == (True, digest(tmp_path / "one"))
    assert b"rmdir d: no such file or directory" in done.stdout.replace(f"{putty.server.tree}/".encode(), b"")


@contextmanager
def tunnel(putty: Putty, *forward: str) -> Iterator[None]:
    """plink with nothing but a forward."""
    with putty.server.start(["plink", *putty.options, "-N", *forward, putty.host]) as client:
        try:
            yield
        finally:
            client.kill()


def test_local_forward_reaches_a_server_inside(putty: Putty) -> None:
    local = free_port()
    with shouting_inside(putty.server) as port, tunnel(putty, "-L", f"127.0.0.1:{local}:127.0.0.1:{port}"):
        assert shout(awaited(local), b"hello" * 99_999) == b"HELLO" * 99_999


def test_dynamic_forward_reaches_a_server_inside(putty: Putty) -> None:
    dynamic = free_port()
    with shouting_inside(putty.server) as port, tunnel(putty, "-D", f"127.0.0.1:{dynamic}"):
        assert shout(through_socks(awaited(dynamic), "localhost", port), b"hello") == b"HELLO"


def test_netcat_mode_joins_standard_streams_to_a_port_inside(putty: Putty) -> None:
    with shouting_inside(putty.server) as port:
        done = putty.plink("-nc", f"127.0.0.1:{port}", input=b"hello")
        assert (done.returncode, done.stdout) == (0, b"HELLO"), done.stderr


def test_remote_forward_reaches_a_server_of_the_client(putty: Putty) -> None:
    remote = free_port()
    with shouting() as port, tunnel(putty, "-R", f"127.0.0.1:{remote}:127.0.0.1:{port}"):
        awaited(remote).close()
        assert asked_inside(putty.server, "127.0.0.1", remote, data=b"hello") == b"HELLO"
