"""Clones over a network that fails, and workspaces that are cloned at their first login: a real git, a real server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.errors import CommandRefused, GitFailed, LoginRefused, NameTaken, UsageWrong, WorkspaceMissing
from gateway.interfaces import CloneWatcher, Workspace
from tests.support.git_server import GitServer, git_server
from tests.support.yard import Rig, git, opened_rig

DEADLINE_SECONDS = 20
BIG = 1_000_000  # random bytes: many pieces of a pack


@pytest.fixture
def far(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "far", token=None) as server:
        server.make("octo/hello", branch="trunk")
        yield server


@pytest.fixture
async def rig(tmp_path: Path, far: GitServer) -> AsyncIterator[Rig]:
    async with opened_rig(tmp_path, far.url) as rig:
        yield rig


async def holds(far: GitServer) -> None:
    """A pack stands still in the middle."""
    assert await asyncio.to_thread(far.holds.wait, DEADLINE_SECONDS)


# ------------------------------------------------------------------------------------------ what is asked for


async def test_owner_and_repository_are_cloned_from_the_configured_github(rig: Rig, far: GitServer):
    made = await rig.create(None, "octo/hello", description=" the  first ")
    assert (made.name, made.branch, made.github_repo) == ("hello", "trunk", "octo/hello")
    assert (made.github_url, made.description) == (f"{far.url}/octo/hello", "the first")
    assert git(made.tree, "remote", "get-url", "origin") == made.github_url
    with pytest.raises(NameTaken, match='octo/hello is cloned already: it is the workspace "hello"'):
        await rig.create("other", f"{far.url}/octo/hello.git")


async def test_a_branch_is_cloned_if_the_repository_has_it(rig: Rig, far: GitServer):
    far.commit("octo/hello", "news", "x", branch="next")
    made = await rig.create("app", "octo/hello", branch="next")
    assert (made.branch, (made.tree / "news").read_text()) == ("next", "x")
    far.make("octo/other")
    with pytest.raises(GitFailed, match='the repository has no branch "gone"; leave --branch out'):
        await rig.create("other", "octo/other", branch="gone")


async def test_no_more_than_are_allowed_is_said_before_the_clone(rig: Rig, far: GitServer):
    rig.rows.rows_max = 0
    with pytest.raises(CommandRefused, match="no more"):
        await rig.create("app", "octo/hello")
    assert far.served == []
    rig.assert_nothing_left()


@pytest.mark.parametrize("options", [{"branch": "x"}, {"is_declared": True}])
async def test_an_empty_workspace_has_no_branch_to_choose_and_nothing_to_wait_for(rig: Rig, options: dict[str, object]):
    with pytest.raises(UsageWrong):
        await rig.create("app", None, **options)
    rig.assert_nothing_left()


# ------------------------------------------------------------------------------------------ what goes wrong


async def test_a_pack_that_breaks_off_is_fetched_again(rig: Rig, far: GitServer):
    far.make("octo/big", random_bytes=BIG)
    far.cut_count = 2
    made = await rig.create("app", "octo/big")
    assert (made.tree / "data").stat().st_size == BIG
    assert rig.progress.text.count("trying again in") == 2
    assert rig.left_on_disk == [made.id]


async def test_a_server_that_is_busy_for_a_moment_is_asked_again(rig: Rig, far: GitServer):
    far.failing_count = 1
    await rig.create("app", "octo/hello")
    assert "returned error: 503; trying again in 0 s" in rig.progress.text


async def test_a_network_that_does_not_come_back_is_given_up_with_gits_words(rig: Rig, far: GitServer):
    far.failing_count = 100
    with pytest.raises(GitFailed, match="returned error: 503"):
        await rig.create("app", "octo/hello")
    assert rig.progress.text.count("trying again in") == 3
    rig.assert_nothing_left()
    far.failing_count = 0
    await rig.create("app", "octo/hello")


async def test_a_repository_that_is_not_there_is_not_asked_for_again(rig: Rig):
    with pytest.raises(GitFailed, match="not found"):
        await rig.create("app", "octo/nothing")
    assert "trying again" not in rig.progress.text
    rig.assert_nothing_left()


async def test_a_repository_that_asks_for_a_login_is_refused_in_one_line(tmp_path: Path):
    """GitHub asks for one where there is nothing as well."""
    (tmp_path / "other").mkdir()
    with git_server(tmp_path / "private") as private:
        async with opened_rig(tmp_path / "other", private.url) as other:
            with pytest.raises(GitFailed) as refused:
                await other.create("app", "octo/nothing")
    said = refused.value.user_message
    assert said.startswith(f"git failed: {private.url} has no such repository, or not for everybody; "), said
    assert "\n" not in said
    other.assert_nothing_left()


async def test_nobody_listens_and_nobody_is_known_by_that_name(rig: Rig):
    for url in ("https://127.0.0.1:1/x", "https://nowhere.invalid/x"):
        with pytest.raises(GitFailed) as refused:
            await rig.create("app", url)
        assert refused.value.is_network
    rig.assert_nothing_left()


async def test_a_clone_that_is_cancelled_in_the_middle_leaves_nothing_and_works_the_next_time(rig: Rig, far: GitServer):
    far.make("octo/big", random_bytes=BIG)
    far.is_holding = True
    cloning = asyncio.create_task(rig.create("app", "octo/big"), name="cloning")
    await holds(far)
    cloning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cloning
    rig.assert_nothing_left()
    far.is_holding = False
    far.go_on.set()
    assert (await rig.create("app", "octo/big")).name == "app"


async def test_a_clone_is_one_line_on_a_terminal(rig: Rig, far: GitServer):
    far.make("octo/big", random_bytes=BIG)
    await rig.create("app", "octo/big", is_terminal=True, columns=60)
    assert "receiving" in rig.progress.text
    assert "\n" not in rig.progress.text
    assert max(map(len, rig.progress.text.split("\r"))) < 60


# ------------------------------------------------------------------------------------------ declared first


class Watching:
    """A client's terminal."""

    def __init__(self) -> None:
        self.data = b""
        self.watcher = CloneWatcher(self.write, 80)

    def write(self, data: bytes) -> None:
        self.data += data


async def declared(rig: Rig, source: str = "octo/hello", **options: object) -> Workspace:
    return await rig.create("app", source, is_declared=True, **options)


async def test_a_declared_workspace_is_cloned_by_the_first_who_comes(rig: Rig, far: GitServer):
    workspace = await declared(rig)
    assert (workspace.is_cloned, rig.left_on_disk, far.served) == (False, [], [])
    terminal = Watching()
    ready = await rig.yard.declared.ready(workspace, terminal.watcher)
    assert (ready.is_cloned, ready.branch, ready.id) == (True, "trunk", workspace.id)
    assert (ready.tree / "README").read_text() == "hello\n"
    assert terminal.data.startswith(f"homeport: cloning {far.url}/octo/hello; this happens once\r\n".encode())
    assert rig.rows.journal == [("workspace_sync_clone", True, {"workspace": "app", "how": "first login"})]
    assert await rig.yard.declared.ready(ready) is ready
    assert rig.left_on_disk == [workspace.id]


async def test_the_branch_that_was_declared_is_the_one_that_is_cloned(rig: Rig, far: GitServer):
    far.commit("octo/hello", "news", "x", branch="next")
    workspace = await declared(rig, branch="next")
    assert (await rig.yard.declared.ready(workspace)).branch == "next"


async def test_all_who_come_at_once_wait_for_one_clone(rig: Rig, far: GitServer):
    far.make("octo/big", random_bytes=BIG)
    workspace = await declared(rig, "octo/big")
    far.is_holding = True
    terminals = [Watching() for _ in range(5)]
    waiting = [asyncio.create_task(rig.yard.declared.ready(workspace, one.watcher), name="x") for one in terminals]
    await holds(far)
    waiting[0].cancel()  # one who leaves takes nothing away from the others
    far.go_on.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(result, Workspace) for result in results] == [False, True, True, True, True]
    assert sum(path.endswith("git-upload-pack") for path in far.served) == 2  # what there is, and one pack
    assert all(b"this happens once" in one.data for one in terminals)


async def test_a_clone_goes_on_when_everybody_has_left(rig: Rig, far: GitServer):
    far.make("octo/big", random_bytes=BIG)
    workspace = await declared(rig, "octo/big")
    far.is_holding = True
    waiting = asyncio.create_task(rig.yard.declared.ready(workspace), name="waiting")
    await holds(far)
    clone = rig.yard.declared._running[workspace.id].task
    assert clone is not None
    waiting.cancel()
    await asyncio.wait({waiting})
    far.go_on.set()
    assert (await clone).is_cloned


async def test_a_failure_leaves_it_declared_and_the_next_login_tries_again(rig: Rig, far: GitServer):
    workspace = await declared(rig)
    far.failing_count = 100
    with pytest.raises(GitFailed, match="503"):
        await rig.yard.declared.ready(workspace)
    assert (rig.left_on_disk, rig.rows.rows[0].is_cloned) == ([], False)
    assert rig.rows.journal[0][:2] == ("workspace_sync_clone", False)
    far.failing_count = 0
    assert (await rig.yard.declared.ready(workspace)).is_cloned


async def test_a_gateway_that_stops_undoes_the_clone_and_takes_no_new_one(rig: Rig, far: GitServer):
    far.make("octo/big", random_bytes=BIG)
    workspace = await declared(rig, "octo/big")
    far.is_holding = True
    waiting = asyncio.create_task(rig.yard.declared.ready(workspace), name="waiting")
    await holds(far)
    await rig.yard.declared.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (rig.left_on_disk, rig.keepers.running()) == ([], [])
    with pytest.raises(LoginRefused):
        await rig.yard.declared.ready(workspace)


async def test_what_a_crash_left_whole_is_taken_as_it_is(rig: Rig, far: GitServer):
    """Killed between the rename and the row: everything is there, and only the row does not know."""
    workspace = await declared(rig)
    await rig.yard.declared.ready(workspace)
    (workspace.tree / "mark").write_text("kept")
    rig.rows.change(workspace.id, is_cloned=False)
    far.served.clear()
    ready = await rig.yard.declared.ready(workspace)
    assert ((ready.tree / "mark").read_text(), ready.branch, far.served) == ("kept", "trunk", [])


async def test_a_home_that_was_there_before_is_kept(rig: Rig):
    """A keeper that was started for any reason makes both folders."""
    workspace = await declared(rig)
    for folder in (workspace.home, workspace.tree):
        folder.mkdir(parents=True)
    (workspace.home / "notes").write_text("mine")
    ready = await rig.yard.declared.ready(workspace)
    assert ((ready.home / "notes").read_text(), (ready.tree / "README").exists()) == ("mine", True)
    assert rig.left_on_disk == [workspace.id]


async def test_files_that_lie_where_the_tree_belongs_are_not_overwritten(rig: Rig):
    workspace = await declared(rig)
    workspace.tree.mkdir(parents=True)
    (workspace.tree / "work").write_text("mine")
    with pytest.raises(CommandRefused, match="could not be put into its place"):
        await rig.yard.declared.ready(workspace)
    assert ((workspace.tree / "work").read_text(), rig.left_on_disk) == ("mine", [workspace.id])


async def test_one_that_was_archived_meanwhile_is_not_filled(rig: Rig, far: GitServer):
    far.make("octo/big", random_bytes=BIG)
    workspace = await declared(rig, "octo/big")
    far.is_holding = True
    waiting = asyncio.create_task(rig.yard.declared.ready(workspace), name="waiting")
    await holds(far)
    rig.rows.change(workspace.id, is_active=False)
    far.go_on.set()
    with pytest.raises(WorkspaceMissing):
        await waiting
    assert rig.left_on_disk == []


# ----------------------------------------------------------------------------------------- the server is killed


KILLED_SERVER = """
import sys
from pathlib import Path
from tests.support.git_server import git_server
with git_server(Path(sys.argv[1]), token=None) as server:
    server.is_holding = True
    print(server.port, flush=True)
    server.holds.wait()
    print("holds", flush=True)
    sys.stdin.read()
"""


async def test_a_server_that_is_killed_in_the_middle_is_said_and_leaves_nothing(rig: Rig, far: GitServer):
    """Nobody listens afterwards, so every further try fails as well."""
    far.make("octo/big", random_bytes=BIG)
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED_SERVER, str(far.root), cwd=Path(__file__).parents[2],
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    async with asyncio.timeout(DEADLINE_SECONDS):
        port = int(await server.stdout.readline())
        (rig.directory / "second").mkdir()
        async with opened_rig(rig.directory / "second", f"http://127.0.0.1:{port}") as second:
            cloning = asyncio.create_task(second.create("app", "octo/big"), name="cloning")
            assert await server.stdout.readline() == b"holds\n"
            server.kill()
            with pytest.raises(GitFailed, match="git failed: ") as failed:
                await cloning
            assert failed.value.is_network
            second.assert_nothing_left()
        await server.wait()
