"""git over ssh, from and to repositories in a workspace: whole, in protocol version 2, and refused with words."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.installed import DEADLINE_SECONDS, Result, until
from tests.support.server import Client, Server

pytestmark = pytest.mark.slow

BLOB_BYTES = 20 * 1024 * 1024
HOOK = """#!/bin/sh
cat >/dev/null
echo 'no pushes on Fridays' >&2
printf 'caf\\351\\n' >&2
exit 3
"""


@dataclass(frozen=True)
class Git:
    """git here, with its ssh led to the server, and a bare repository there."""

    server: Server
    here: Path  # where clones are made
    there: str  # the repository's name in the tree

    @property
    def url(self) -> str:
        return f"server:{self.there}"

    def run(self, *words: str | Path, at: str = ".", check: bool = True, **more: str) -> Result:
        done = self.server.run(["git", *map(str, words)], cwd=self.here / at, env=self._environment(more))
        assert not check or done.returncode == 0, done.stderr
        return done

    def start(self, *words: str, **more: str) -> Client:
        return self.server.start(["git", *words], cwd=self.here, env=self._environment(more), start_new_session=True)

    def text(self, *words: str, at: str = ".") -> str:
        return self.run(*words, at=at).stdout.decode().strip()

    def commit(self, at: str, name: str, content: bytes) -> str:
        """A commit with one file; its number."""
        (self.here / at / name).write_bytes(content)
        self.run("add", name, at=at)
        self.run("commit", "-q", "-m", f"add {name}", at=at)
        return self.text("rev-parse", "HEAD", at=at)

    def inside(self, *words: str) -> str:
        """git in the repository itself."""
        return self.server.ssh(f"git -C {self.there} {' '.join(words)}").stdout.decode().strip()

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        person = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
                  for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))}  # fmt: skip
        return {
            **self.server.environment, **person, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
            "LC_ALL": "C", "GIT_SSH_COMMAND": " ".join(["ssh", *self.server.ssh_options]), **more,
        }  # fmt: skip


@pytest.fixture
def git(server: Server, tmp_path: Path) -> Iterator[Git]:
    """With an empty repository there, and a clone of it with one commit, pushed, in `one`."""
    git = Git(server, tmp_path, f"project-{secrets.token_hex(4)}.git")
    made = server.ssh(f"git init -q --bare -b main {git.there}")
    assert made.returncode == 0, made.stderr
    git.run("init", "-q", "-b", "main", "one")
    git.run("remote", "add", "origin", git.url, at="one")
    git.commit("one", "first", b"first\n")
    git.run("push", "-q", "-u", "origin", "main", at="one")
    yield git
    server.ssh(f"rm -rf {git.there}")


def test_commits_and_tags_go_from_one_clone_to_another(git: Git) -> None:
    git.run("clone", "-q", git.url, "two")
    second = git.commit("one", "second", b"second\n")
    git.run("tag", "-a", "v1", "-m", "one", at="one")
    assert b"main -> main" in git.run("push", "--follow-tags", at="one").stderr
    assert git.inside("rev-parse", "main") == second
    git.run("fetch", "-q", at="two")
    assert git.text("rev-parse", "origin/main", at="two") == second
    assert git.text("tag", at="two") == "v1"
    git.run("pull", "-q", "--ff-only", at="two")
    assert (git.here / "two/second").read_bytes() == b"second\n"


def test_protocol_version_2_is_spoken(git: Git) -> None:
    """GIT_PROTOCOL comes as an environment variable of the client's, and passes (protocol-v2(5))."""
    done = git.run("clone", git.url, "two", GIT_TRACE_PACKET="1")
    assert (b"clone< version 2" in done.stderr, b"clone> command=ls-refs" in done.stderr) == (True, True), done.stderr
    older = git.run("-c", "protocol.version=0", "ls-remote", git.url, GIT_TRACE_PACKET="1")
    assert (b"version 2" in older.stderr, b"refs/heads/main" in older.stdout) == (False, True)


def test_20_megabytes_go_up_and_come_back(git: Git) -> None:
    blob = os.urandom(BLOB_BYTES)
    head = git.commit("one", "blob", blob)
    git.run("push", "-q", at="one")
    assert git.inside("fsck", "--full") == ""
    git.run("clone", "-q", git.url, "two")
    assert (git.text("rev-parse", "HEAD", at="two"), (git.here / "two/blob").read_bytes() == blob) == (head, True)


def test_shallow_and_partial_clones_fetch_the_rest_when_asked(git: Git) -> None:
    git.inside("config", "uploadpack.allowFilter", "true")
    for number in range(5):
        git.commit("one", f"f{number}", b"x" * number)
    git.run("push", "-q", at="one")
    git.run("clone", "-q", "--depth", "1", git.url, "shallow")
    assert git.text("rev-list", "--count", "HEAD", at="shallow") == "1"
    git.run("fetch", "-q", "--unshallow", at="shallow")
    assert git.text("rev-list", "--count", "HEAD", at="shallow") == "6"
    git.run("clone", "-q", "--filter=blob:none", "--no-checkout", git.url, "partial")
    assert git.text("cat-file", "-p", "HEAD:f4", at="partial") == "xxxx", "fetched on a connection of its own"


def test_archive_is_made_there(git: Git) -> None:
    done = git.run("archive", f"--remote={git.url}", "main", "first")
    assert b"first\n" in done.stdout


def test_names_with_spaces_and_quotes_and_absolute_paths_are_repositories_too(git: Git) -> None:
    odd = "it's a repository.git"
    git.server.ssh(f'cp -r {git.there} "{odd}"')
    for number, url in enumerate((f"server:{odd}", f"ssh://server{git.server.tree}/{odd}")):
        git.run("clone", "-q", url, f"odd{number}")
        assert (git.here / f"odd{number}/first").exists()
    git.server.ssh(f'rm -rf "{odd}"')


def test_ten_fetches_at_once_on_connections_of_their_own(git: Git) -> None:
    clients = [git.start("ls-remote", git.url) for _ in range(10)]
    for client in clients:
        said = client.communicate(timeout=DEADLINE_SECONDS)
        assert (client.returncode, b"refs/heads/main" in said[0]) == (0, True), said[1]


# --------------------------------------------------------------------------------------- refused and interrupted


def test_push_that_a_hook_rejects_says_the_hook_s_words_and_changes_nothing(git: Git) -> None:
    before = git.inside("rev-parse", "main")
    hook = f"{git.there}/hooks/pre-receive"
    assert git.server.ssh(f"cat > {hook}; chmod +x {hook}", input=HOOK.encode()).returncode == 0
    git.commit("one", "second", b"second\n")
    done = git.run("push", "origin", "main", at="one", check=False)
    assert (done.returncode, git.inside("rev-parse", "main")) == (1, before)
    lines = [line.rstrip() for line in done.stderr.splitlines()]
    assert b"remote: no pushes on Fridays" in lines
    assert b"remote: caf\xe9" in lines
    assert b"[remote rejected] main -> main (pre-receive hook declined)" in done.stderr


def test_push_that_would_lose_commits_is_rejected_unless_forced(git: Git) -> None:
    git.run("clone", "-q", git.url, "two")
    git.commit("one", "second", b"of one\n")
    git.run("push", "-q", at="one")
    head = git.commit("two", "second", b"of two\n")
    done = git.run("push", "origin", "main", at="two", check=False)
    assert (done.returncode, b"(fetch first)" in done.stderr) == (1, True), done.stderr
    git.run("push", "-q", "--force", "origin", "main", at="two")
    assert git.inside("rev-parse", "main") == head


def test_missing_repository_is_told(git: Git) -> None:
    done = git.run("clone", "server:no-such.git", "x", check=False)
    assert (done.returncode, b"'no-such.git' does not appear to be a git repository" in done.stderr) == (128, True)


def test_clone_killed_in_the_middle_leaves_nothing_that_runs(git: Git) -> None:
    git.commit("one", "blob", os.urandom(BLOB_BYTES))
    git.run("push", "-q", at="one")
    with git.start("clone", "--progress", git.url, "two") as client:
        assert client.stderr is not None
        said = b""
        while b"Receiving objects" not in said and (more := client.stderr.read1(4096)):  # type: ignore[union-attr]
            said += more
        assert b"Receiving objects" in said, said
        os.killpg(client.pid, signal.SIGKILL)
    until(lambda: git.server.ssh("pgrep -f '[g]it-upload-pack|[g]it upload-pack'").returncode == 1, "it has ended")
    git.run("clone", "-q", git.url, "three")
