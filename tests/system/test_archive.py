"""Workspaces put away and brought back by the installed gateway, behind both kinds of wall, and killed on the way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.archive_rig import snapshot
from tests.support.installed import HOMEPORT, InstalledGateway, until
from tests.system.conftest import running, skip_without_walls

SCRIPT = """
set -e
git config user.name ada; git config user.email ada@example.com
echo one > file; git add file; git commit -qm one
echo two > file; git stash -q
echo three > file; git add file; echo four > file; echo new > untracked
mkdir -p ~/.config; echo mine > ~/.config/app; ln -s ../tree ~/link; mkfifo fifo
mkdir closed; echo x > closed/x; chmod 0500 closed
"""


class Place:
    """One workspace of an installed gateway, looked at from outside."""

    def __init__(self, gateway: InstalledGateway, name: str) -> None:
        self.gateway, self.name = gateway, name
        gateway.homeport("new", name)
        self.id = str(gateway.rows("SELECT id FROM workspaces WHERE slug = ?", name)[0]["id"])
        self.files = gateway.state_dir / "workspaces" / self.id
        self.archive_dir = gateway.state_dir / "archive"

    def ssh(self, script: str) -> bytes:
        done = self.gateway.ssh(script, workspace=self.name)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def snapshot(self) -> dict[str, object]:
        return snapshot(self.files / "home", self.files / "tree")

    @property
    def archives(self) -> list[str]:
        return [path.name for path in self.archive_dir.glob(f"*{self.id}*")]

    @property
    def is_active(self) -> bool:
        return bool(self.gateway.rows("SELECT is_active FROM workspaces WHERE id = ?", self.id)[0]["is_active"])


@pytest.fixture
def place(gateway: InstalledGateway, request: pytest.FixtureRequest) -> Iterator[Place]:
    place = Place(gateway, f"arch-{abs(hash(request.node.name)) % 100_000}")
    yield place
    if gateway.rows("SELECT id FROM workspaces WHERE id = ?", place.id):
        gateway.homeport("rm", place.name, "--purge", "--yes", "--discard-unsaved", "--end")
    assert (place.files.exists(), place.archives) == (False, [])


def test_everything_comes_back(place: Place) -> None:
    place.ssh(SCRIPT)
    before = place.snapshot()
    done = place.gateway.homeport("archive", place.name, "--end", "--json")
    assert json.loads(done.stdout)["has_bundle"] is True
    assert not place.files.exists()
    refused = place.gateway.ssh("true", workspace=place.name)
    assert (refused.returncode, b"is archived" in refused.stderr) == (255, True)
    listed = json.loads(place.gateway.homeport("archives", "--json").stdout)
    assert [row["is_clean"] for row in listed if row["name"] == place.name] == [False]
    place.gateway.homeport("unarchive", place.name)
    assert place.snapshot() == before
    seen = place.ssh("git status --porcelain; git stash list --format=%s; cat ~/.config/app; cat closed/x")
    assert seen == b"MM file\n?? closed/\n?? untracked\nWIP on main: " + seen.split()[9] + b" one\nmine\nx\n"


def test_an_unfriendly_repository_runs_its_programs_inside(place: Place) -> None:
    """Whatever its configuration has git run, it finds nothing there but the workspace."""
    if place.gateway.isolation == "none":
        pytest.skip("without walls there is no inside")
    outside = place.gateway.state_dir / "workspaces" / "seen"
    evil = f"sh -c 'ls {place.gateway.state_dir} > /workspaces/{place.name}/seen 2>&1; touch {outside}; cat'"
    place.ssh(f"echo '* filter=evil' > .gitattributes; git config filter.evil.clean {json.dumps(evil)}; echo x > x")
    place.ssh("git config core.fsmonitor '/bin/false'; git config core.hooksPath hooks; git add x")
    place.gateway.homeport("archive", place.name, "--end")
    assert not outside.exists()
    place.gateway.homeport("unarchive", place.name)
    assert b"No such file" in place.ssh("cat seen")


def test_while_a_shell_runs_it_is_refused_until_it_is_ended(place: Place) -> None:
    session = subprocess.Popen(
        place.gateway.ssh_command("echo up; sleep 1000", workspace=place.name), stdout=subprocess.PIPE
    )
    assert session.stdout is not None
    with session, session.stdout:
        assert session.stdout.readline() == b"up\n"
        done = place.gateway.homeport("rm", place.name, check=False)
        assert (done.returncode, b"1 session running" in done.stderr) == (1, True)
        assert place.is_active
        place.gateway.homeport("rm", place.name, "--end")
        assert session.wait(20) != 0
    assert place.archives == [f"{place.name}-{place.id}"]


def test_what_only_its_owner_may_open_is_named_and_nothing_changes(place: Place) -> None:
    place.ssh("mkdir shut; echo x > shut/x; echo y > unreadable; chmod 0 shut unreadable")
    done = place.gateway.homeport("archive", place.name, "--end", check=False)
    assert done.returncode == 1
    assert b"tree/shut, tree/unreadable; make them readable inside" in done.stderr
    assert (place.is_active, place.archives) == (True, [])
    place.ssh("chmod u+rwX shut unreadable")


def test_purge_says_what_is_unsaved_and_deletes_only_when_told(place: Place) -> None:
    place.ssh(SCRIPT)
    done = place.gateway.homeport("rm", place.name, "--purge", "--yes", "--end", check=False)
    assert done.returncode == 1
    assert b"1 staged file, 1 modified file, 2 untracked files, 1 stash, 1 commit that was not pushed" in done.stderr
    assert place.is_active
    session_count = len(place.gateway.rows("SELECT id FROM sessions WHERE workspace_id = ?", place.id))
    assert session_count > 0
    place.gateway.homeport("rm", place.name, "--purge", "--yes", "--discard-unsaved", "--end")
    assert not place.gateway.rows("SELECT id FROM workspaces WHERE id = ?", place.id)
    assert not place.gateway.rows("SELECT id FROM sessions WHERE workspace_id = ?", place.id)
    log = json.loads(place.gateway.homeport("log", "--workspace", place.name, "--json").stdout)
    assert "workspace_deleted" in [row["action"] for row in log]


@pytest.mark.slow  # a gateway of its own, twice
def test_without_a_gateway_the_commands_do_the_same(isolated: InstalledGateway) -> None:
    place = Place(isolated, "away")
    place.ssh(SCRIPT)
    before = place.snapshot()
    isolated.homeport("stop", "--all")
    assert isolated.process is not None
    isolated.process.wait(20)
    isolated.homeport("archive", "away")
    assert not place.files.exists()
    isolated.homeport("unarchive", "away")
    assert place.snapshot() == before
    isolated.start()


# ------------------------------------------------------------------------------------------------ killed


@pytest.fixture(scope="module", params=["none", "bubblewrap"])
def isolated(request: pytest.FixtureRequest) -> Iterator[InstalledGateway]:
    """One that may be killed."""
    skip_without_walls(request.param)
    yield from running(InstalledGateway(request.param, session_pipe_linger_seconds=1))


MOMENTS: dict[str, Callable[[Place], object]] = {
    "begun": lambda place: place.archives,
    "packing": lambda place: _size(place.archive_dir / f".making-{place.id}" / "archive.tar.zst") > 5_000_000,
    "packed": lambda place: (
        (place.archive_dir / f".making-{place.id}" / "manifest.json").exists()
        or f"{place.name}-{place.id}" in place.archives
    ),
    "removing": lambda place: f"{place.name}-{place.id}" in place.archives,
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_gateway_that_is_killed_while_it_archives_loses_nothing(isolated: InstalledGateway, moment: str) -> None:
    place = Place(isolated, f"kill-{moment}")
    place.ssh(SCRIPT + "head -c 60000000 /dev/urandom > large")
    before = place.snapshot()
    _killed_at(isolated, ["archive", place.name, "--end"], lambda: MOMENTS[moment](place))
    _hold_to_wholeness(place, before)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["begun", "unpacking", "opened"])
def test_a_gateway_that_is_killed_while_it_brings_back_loses_nothing(isolated: InstalledGateway, moment: str) -> None:
    place = Place(isolated, f"back-{moment}")
    place.ssh(SCRIPT + "head -c 60000000 /dev/urandom > large")
    before = place.snapshot()
    isolated.homeport("archive", place.name, "--end")
    half_made = place.files.with_name(f".new-{place.id}")
    moments: dict[str, Callable[[], object]] = {
        "begun": half_made.exists,
        "unpacking": lambda: _size(half_made / "tree" / "large") > 5_000_000,
        "opened": place.files.exists,
    }
    _killed_at(isolated, ["unarchive", place.name], moments[moment], ends_keepers=moment != "unpacking")
    _hold_to_wholeness(place, before)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _killed_at(
    gateway: InstalledGateway, words: list[str], is_there: Callable[[], object], *, ends_keepers: bool = True
) -> None:
    command = subprocess.Popen([str(HOMEPORT), *words], env=gateway.environment, stderr=subprocess.DEVNULL)
    with command:
        until(lambda: is_there() or command.poll() is not None, "the moment to kill it")
        gateway.kill()
        command.wait(20)
    if ends_keepers:
        _end_keepers(gateway)
    gateway.start()


def _end_keepers(gateway: InstalledGateway) -> None:
    """As by a machine that loses its power."""
    for pid in gateway.keeper_pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _hold_to_wholeness(place: Place, before: dict[str, object]) -> None:
    """It is there or archived, and whole either way; and nothing else is left."""
    until(lambda: not [name for name in place.archives if name.startswith(".")], "the remains are removed")
    if not place.is_active:
        assert place.archives == [f"{place.name}-{place.id}"]
        until(lambda: not place.files.exists(), "the files of an archived workspace are removed")
        place.gateway.homeport("unarchive", place.name)
    assert place.snapshot() == before
    left = sorted(path.name for path in place.files.parent.glob(".*"))
    until(lambda: not list(place.files.parent.glob(".*")), f"removed: {left}")
    place.gateway.homeport("archive", place.name)
    place.gateway.homeport("rm", place.name, "--purge", "--yes", "--discard-unsaved")
