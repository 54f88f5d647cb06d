"""curl's sftp:// and scp://, that is libssh2, which PHP, Rust and many backup programs use as well."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.clients import require, unavailable
from tests.support.installed import Result
from tests.support.server import Server

pytestmark = pytest.mark.slow

SIZE_BYTES = 4 * 1024 * 1024 + 1
SCHEME = pytest.mark.parametrize("scheme", ["sftp", "scp"])


@dataclass(frozen=True)
class Curl:
    server: Server
    home: Path

    def run(self, scheme: str, name: str, *words: str | Path) -> Result:
        """One transfer from or to `name` in the tree."""
        server = self.server
        url = f"{scheme}://{server.host}:{server.port}{server.tree}/{name}"
        login = ["-u", f"{server.user}:", "--key", str(server.key), "--pubkey", f"{server.key}.pub"]
        command: list[str | bytes] = ["curl", "-sS", *login, *map(str, words), url]
        return server.run(command, env={**server.environment, "HOME": str(self.home)})


@pytest.fixture(scope="module")
def curl(server: Server) -> Curl:
    """With the host keys in the one place curl looks for them."""
    require("curl")
    protocols = server.run(["curl", "-V"]).stdout.decode()
    if " sftp " not in protocols:
        unavailable("this curl has no sftp: it was built without libssh2 and libssh")
    home = server.scratch / "curl"
    (home / ".ssh").mkdir(parents=True, exist_ok=True)
    (home / ".ssh/known_hosts").write_bytes(server.known_hosts.read_bytes())
    return Curl(server, home)


@SCHEME
def test_file_goes_up_and_comes_back(curl: Curl, tmp_path: Path, scheme: str) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(SIZE_BYTES))
    up = curl.run(scheme, "carried", "-T", noise)
    assert (up.returncode, up.stderr) == (0, b"")
    assert curl.server.ssh("stat -c %s carried").stdout == b"%d\n" % SIZE_BYTES
    down = curl.run(scheme, "carried", "-o", tmp_path / "back")
    assert (down.returncode, (tmp_path / "back").read_bytes() == noise.read_bytes()) == (0, True), down.stderr
    curl.server.ssh("rm carried")


@SCHEME
def test_missing_file_fails_with_curl_s_own_code(curl: Curl, scheme: str) -> None:
    done = curl.run(scheme, "nothing-here")
    assert done.returncode in (78, 79), "CURLE_REMOTE_FILE_NOT_FOUND, or CURLE_SSH for scp"


def test_part_of_a_file_is_read_and_an_upload_goes_on(curl: Curl, tmp_path: Path) -> None:
    (tmp_path / "digits").write_bytes(b"0123456789")
    curl.server.ssh("printf 01234 > digits")
    resumed = curl.run("sftp", "digits", "-C", "5", "-T", tmp_path / "digits")
    assert resumed.returncode == 0, resumed.stderr
    assert curl.run("sftp", "digits", "-r", "3-6").stdout == b"3456"
    assert curl.run("sftp", "digits").stdout == b"0123456789"
    curl.server.ssh("rm digits")


def test_folder_is_listed_and_quoted_commands_are_done(curl: Curl) -> None:
    tree = curl.server.tree
    curl.server.ssh("mkdir listed; touch listed/one; chmod 640 listed/one")
    quoted = [f"rename {tree}/listed/one {tree}/listed/two", f"mkdir {tree}/listed/sub", f"chmod 600 {tree}/listed/two",
              f"symlink two {tree}/listed/link", f"*rm {tree}/listed/nothing-here"]  # fmt: skip
    done = curl.run("sftp", "listed/", *(word for line in quoted for word in ("-Q", line)))
    listed = {line.split()[8]: line.split()[0] for line in done.stdout.decode().splitlines()}
    assert (done.returncode, listed["two"], listed["sub"][0]) == (0, "-rw-------", "d"), done
    # sftp-server takes the arguments of SYMLINK in an order of its own, which libssh2 keeps to.
    assert curl.server.ssh("readlink listed/link two; rm -r listed").stdout == b"two\n"
