"""git inside by stock ssh, against a GitHub on loopback: it just works, through a crash, a reload and a revocation."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.fake_github import FakeGithub, FakeRepository
from tests.support.installed import InstalledGateway, Result, until
from tests.support.token_search import FOUND_NOTHING, search_for
from tests.support.walls import walls
from tests.system.conftest import running, skip_without_walls

COMMIT = "git commit -q --allow-empty -m"
USES = "SELECT success, details FROM auth_logs WHERE action = 'credential_use' ORDER BY created_at"


@dataclass
class Site:
    gateway: InstalledGateway
    github: FakeGithub
    token: str

    def run(self, script: str, *, status: int = 0) -> str:
        """In the workspace of octocat/hello; what it printed on both streams."""
        done = self.gateway.ssh(f"exec 2>&1; set -e; {script}", workspace="hello")
        assert done.returncode == status, done
        return done.stdout.decode()

    def pushed(self) -> str:
        """The newest commit on main over there: subject, name, address."""
        path = self.github.git_root / "octocat/hello.git"  # type: ignore[operator]
        return _git("-c", "safe.directory=*", "-C", str(path), "log", "-1", "--format=%s|%an|%ae", "main")

    def uses(self) -> list[tuple[bool, dict[str, object]]]:
        return [(bool(row["success"]), json.loads(str(row["details"]))) for row in self.gateway.rows(USES)]

    def log_in(self) -> Result:
        return self.gateway.homeport("github", "login", "--with-token", input=f"{self.token}\n".encode())


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], check=True, capture_output=True, text=True, timeout=20)
    return done.stdout.strip()


def _far_side(root: Path) -> None:
    """octocat/hello and evil/hello, private, with a commit each."""
    for name in ("octocat/hello", "evil/hello"):
        bare = root / f"{name}.git"
        _git("init", "-q", "--bare", "-b", "main", str(bare))
        tree = _git("-C", str(bare), "hash-object", "-t", "tree", "-w", "/dev/null")
        who = ("-c", "user.name=far", "-c", "user.email=far@example.com")
        first = _git("-C", str(bare), *who, "commit-tree", "-m", "first", tree)
        _git("-C", str(bare), "update-ref", "refs/heads/main", first)


def _site(isolation: str, directory: Path, **settings: object) -> Iterator[Site]:
    skip_without_walls(isolation)
    _far_side(directory)
    repositories = [FakeRepository(1, "octocat/hello", private=True), FakeRepository(2, "evil/hello", private=True)]
    with ExitStack() as stack:
        github = stack.enter_context(FakeGithub.in_thread(git_root=directory, repositories=repositories))
        for gateway in running(InstalledGateway(isolation, **github.settings, **settings)):
            yield Site(gateway, github, github.new_token())


@pytest.fixture(scope="module", params=walls())
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Logged in, with the clone `hello`."""
    directory = tmp_path_factory.mktemp("far")
    for site in _site(request.param, directory, github_credentials_without_walls=True):
        site.log_in()
        site.gateway.homeport("new", "octocat/hello")
        yield site


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """One that a test may kill."""
    for site in _site("bubblewrap", tmp_path):
        site.log_in()
        site.gateway.homeport("new", "octocat/hello")
        yield site


def test_private_clone_push_and_pull_just_work_and_are_on_record(site: Site) -> None:
    before = len(site.uses())
    site.run(f"git pull -q; {COMMIT} second; git push -q; git fetch -q")
    subject, name, address = site.pushed().split("|")
    assert (subject, name) == ("second", "The Octocat")
    assert "octocat@users.noreply." in address
    uses = until(lambda: len(site.uses()) >= before + 3 and site.uses()[before:], "the uses are written down")
    assert {(success, use["workspace"], use["path"]) for success, use in uses} == {(True, "hello", "octocat/hello")}
    assert site.token not in json.dumps(uses)


def test_exec_streams_carry_nothing_of_ours(site: Site) -> None:
    done = site.gateway.ssh("git ls-remote -q origin main | cut -f2", workspace="hello")
    assert (done.stdout, done.stderr) == (b"refs/heads/main\n", b"")


def test_another_owner_s_repository_gets_nothing_and_git_ends_at_once(site: Site) -> None:
    said = site.run(f"timeout 10 git ls-remote {site.github.web_url}/evil/hello", status=128)
    assert "homeport: this workspace gets the token for repositories of octocat alone" in said


def test_a_workspace_that_was_made_empty_gets_nothing(site: Site) -> None:
    done = site.gateway.ssh(f"timeout 10 git ls-remote {site.github.web_url}/octocat/hello")
    assert (done.returncode, b"homeport: this workspace was not made from a repository" in done.stderr) == (128, True)


def test_token_is_in_no_file_and_no_process_of_the_workspace(site: Site) -> None:
    """Also where the user has git keep what worked."""
    site.run("git config --global credential.helper store; git pull -q; git push -q")
    assert site.run(search_for(site.token, has_walls=site.gateway.isolation != "none")) == f"{FOUND_NOTHING}\n"


@pytest.mark.slow
def test_a_hundred_gits_at_once_are_all_served(site: Site) -> None:
    ask = f"printf 'url={site.github.web_url}/octocat/hello\\n\\n' | git credential fill | grep -c ^password="
    script = f"for i in $(seq 100); do ({ask}) & done; wait"
    assert site.run(script).split() == ["1"] * 100


@pytest.mark.slow
def test_next_push_works_after_a_crash_and_after_a_reload(own_site: Site) -> None:
    """Of a shell that has been there since before."""
    site = own_site
    pushing = (
        "while [ ! -e stop ]; do sleep 0.05; if [ -e go ]; then"
        " rm go; git commit -q --allow-empty -m $(cat name); git push -q; fi; done"
    )
    site.run(f"nohup sh -c '{pushing}' >said 2>&1 </dev/null &")
    for name, happen in (("crash", site.gateway.kill), ("reload", None)):
        if happen is not None:
            happen()
            site.gateway.start()
        else:
            site.gateway.reload()
        site.run(f"echo {name} >name; touch go")
        until(
            lambda name=name: site.pushed().startswith(f"{name}|"), f"the push after the {name}: {site.run('cat said')}"
        )
    site.run("touch stop")


@pytest.mark.slow
def test_revoked_token_is_explained_in_one_line_and_a_new_login_counts_at_once(own_site: Site) -> None:
    site = own_site
    site.github.revoke(site.token)
    site.run("git fetch -q", status=128)  # git tells that the server refused it, and GitHub is asked
    until(lambda: "revoked" in (said := site.run("git fetch -q || true")) and said, "the reason is said")
    said = site.run("git fetch -q", status=128)
    assert [line for line in said.splitlines() if line.startswith("homeport: ")] != []
    site.token = site.github.new_token()
    site.log_in()
    assert site.run("git fetch -q") == ""


@pytest.mark.slow
def test_without_walls_nothing_is_given_and_the_login_and_git_say_why(tmp_path: Path) -> None:
    for site in _site("none", tmp_path):
        why = b"homeport: workspaces have no walls here (isolation none), so git gets no GitHub token"
        assert why in site.log_in().stderr
        done = site.gateway.ssh(f"timeout 10 git ls-remote {site.github.web_url}/octocat/hello")
        assert (why in done.stderr, done.returncode) == (True, 128)


@pytest.mark.slow
def test_a_private_clone_says_why_it_failed_and_needs_no_gateway(tmp_path: Path) -> None:
    for site in _site("bubblewrap", tmp_path):
        done = site.gateway.homeport("new", "octocat/hello", check=False)
        assert (done.returncode, b"nobody is logged in to GitHub" in done.stderr) == (1, True), done
        site.log_in()
        site.gateway.terminate()
        site.gateway.homeport("new", "octocat/hello")
        site.gateway.start()
        assert site.run("git pull -q; ls -a") == ".\n..\n.git\n"
