"""git inside a workspace against a private repository: it just works, and the token is nowhere to be found."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.credentials.broker import BrokerSettings, CredentialBroker
from gateway.credentials.decision import CredentialScope, Origin
from gateway.credentials.git_settings import GitIdentity, git_variables
from gateway.interfaces import GitToken, Workspace
from gateway.journal import JournalAction
from gateway.launchers import WorkspaceKeepers
from gateway.launchers.link import KeeperLink
from tests.support.git_account import FakeAccount
from tests.support.git_server import GitServer, git_server
from tests.support.keeper_site import Site
from tests.support.token_search import FOUND_NOTHING, search_for

AS_ADA = "git -c user.name=ada -c user.email=ada@example.com commit -q --allow-empty -m"


class Rows:
    """Implements BrokerStore."""

    def __init__(self) -> None:
        self.workspaces: dict[str, Workspace] = {}
        self.notes: list[tuple[bool, Mapping[str, object]]] = []

    async def workspace(self, workspace_id: str) -> Workspace | None:
        return self.workspaces.get(workspace_id)

    def note(self, action: JournalAction, *, success: bool, details: Mapping[str, object] | None = None) -> None:
        self.notes.append((success, details or {}))


class Git:
    """A site whose workspace was made from octocat/hello of a server on loopback."""

    def __init__(self, site: Site, server: GitServer) -> None:
        self.site, self.server = site, server
        site.workspace = replace(site.workspace, github_repo="octocat/hello")
        # `none` has a place for git only where it knows the runtime directory.
        if site.launcher.name == "none":
            site.launcher._runtime_dir = site.runtime_dir  # type: ignore[attr-defined]
        self.account = FakeAccount(GitToken(f"127.0.0.1:{server.port}", "http", server.token))
        self.rows = Rows()
        self.rows.workspaces[site.workspace.id] = site.workspace
        self.tasks: set[asyncio.Task[None]] = set()
        self.brokers: list[CredentialBroker] = []

    def gateway(self, scope: CredentialScope = CredentialScope.OWNER) -> WorkspaceKeepers:
        keepers = self.site.gateway()
        settings = BrokerSettings(Origin.of_url(self.server.url), scope, is_allowed_without_walls=True)
        keepers.watch = CredentialBroker(
            settings, account=self.account, store=self.rows, launcher=self.site.launcher,
            place_for=keepers.git_place, spawn=self._spawn,
        )  # fmt: skip
        self.brokers.append(keepers.watch)
        return keepers

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def keeper(self, scope: CredentialScope = CredentialScope.OWNER) -> KeeperLink:
        return await self.site.keeper(self.gateway(scope))

    async def run(self, keeper: KeeperLink, script: str, *, status: int = 0) -> str:
        """A line for sh in the tree; what it printed on both streams."""
        variables = git_variables(self.site.launcher.inside(self.site.workspace).git_directory)
        exports = "".join(f"export {name}='{value}'; " for name, value in variables.items())
        return await self.site.output(
            keeper, f"exec 2>&1; export GIT_TERMINAL_PROMPT=0 U={self.server.url}; {exports}{script}", status=status
        )

    async def close(self) -> None:
        for broker in self.brokers:
            broker.close()
        await asyncio.gather(*self.tasks)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "far") as server:
        server.make("octocat/hello")
        yield server


@pytest.fixture
async def git(site: Site, server: GitServer) -> AsyncIterator[Git]:
    git = Git(site, server)
    yield git
    await git.close()


async def test_clone_pull_and_push_just_work(git: Git) -> None:
    keeper = await git.keeper()
    await git.run(keeper, f"set -e; git clone -q $U/octocat/hello . && {AS_ADA} second && git push -q && git pull -q")
    assert git.server.heads("octocat/hello").split("\n")[0] == "second|ada|ada@example.com"
    given = [(success, details["path"]) for success, details in git.rows.notes]
    assert set(given) == {(True, "octocat/hello")}
    assert git.server.refused == []


async def test_token_is_nowhere_in_the_workspace(git: Git) -> None:
    """Looked for in all files and all of /proc, while a push is under way and after it."""
    hook = git.server.root / "octocat/hello.git/hooks/pre-receive"
    held, go = git.server.root / "held", git.server.root / "go"
    hook.write_text(f"#!/bin/sh\ntouch {held}\ntimeout 10 sh -c 'until [ -e {go} ]; do sleep 0.05; done'")
    hook.chmod(0o755)
    keeper = await git.keeper()
    await git.run(keeper, "printf '[credential]\\n\\thelper = store\\n' >~/.gitconfig; git clone -q $U/octocat/hello .")
    await git.run(keeper, f"{AS_ADA} x")
    token = git.server.token
    search = search_for(token, has_walls=git.site.launcher.name != "none")
    async with asyncio.TaskGroup() as group:
        push = group.create_task(git.run(keeper, "git push -q"))
        async with asyncio.timeout(15):
            while not held.exists():
                await asyncio.sleep(0.02)
        assert await git.run(keeper, search) == f"{FOUND_NOTHING}\nunder way"
        go.touch()
        await push
    assert git.server.heads("octocat/hello").startswith("x|")
    assert await git.run(keeper, search) == FOUND_NOTHING
    found = await git.run(keeper, f"t={token[:5]}; echo ${{t}}{token[5:]} >~/note; {search}")
    assert "/note\n" in found  # it would have been seen


async def test_other_owners_get_nothing_and_git_does_not_hang(git: Git) -> None:
    git.server.make("evil/hello")
    keeper = await git.keeper()
    said = await git.run(keeper, "git clone -q $U/evil/hello other", status=128)
    assert "homeport: this workspace gets the token for repositories of octocat alone" in said
    tricks = (
        f"http://localhost:{git.server.port}/octocat/hello",
        f"http://127.0.0.1:{git.server.port}/octocat/../evil/hello",
        f"http://eve@127.0.0.1:{git.server.port}/octocat/hello",
        f"http://127.0.0.1.:{git.server.port}/octocat/hello",
    )
    for url in tricks:
        await git.run(keeper, f"timeout 10 git clone -q {url} other", status=128)
    assert git.server.served == []
    assert all(not success for success, _ in git.rows.notes)


@pytest.mark.slow
async def test_submodules_of_the_owner_come_along(git: Git) -> None:
    far = git.server.make("octocat/part")
    await asyncio.to_thread(_add_submodule, git.server, far)
    keeper = await git.keeper()
    await git.run(keeper, "set -e; git clone -q --recurse-submodules $U/octocat/hello . && test -e part/README")


def _add_submodule(server: GitServer, part: Path) -> None:
    script = (
        f"git clone -q {server.root}/octocat/hello.git w && cd w &&"
        " git config user.name f && git config user.email f@x &&"
        f" git -c protocol.file.allow=always submodule --quiet add {part} part &&"
        " git config -f .gitmodules submodule.part.url ../part.git && git add . && git commit -q -m part && git push -q"
    )
    subprocess.run(["sh", "-ec", script], cwd=server.root, check=True, capture_output=True)


async def test_identity_is_the_profile_s_until_the_user_has_one(git: Git) -> None:
    git.account.identity = GitIdentity("Ada Lovelace", "ada@users.noreply.example.com")
    keeper = await git.keeper()
    assert await git.run(keeper, "git config user.name; git config user.email") == (
        "Ada Lovelace\nada@users.noreply.example.com"
    )
    assert await git.run(keeper, "git config --global user.name me; git config user.name") == "me"
    git.account.identity = GitIdentity("Grace Hopper", "grace@example.com")
    await git.brokers[0].account_changed()
    assert await git.run(keeper, "git config user.email") == "grace@example.com"


@pytest.mark.slow
async def test_logged_in_meanwhile_counts_in_what_runs(git: Git) -> None:
    token, git.account.token = git.account.token, None
    keeper = await git.keeper()
    said = await git.run(keeper, "git clone -q $U/octocat/hello a", status=128)
    assert "homeport: no GitHub token; log in with: ssh lobby@host github login" in said
    git.account.token = token
    await git.brokers[0].account_changed()
    assert await git.run(keeper, "git clone -q $U/octocat/hello a") == ""


@pytest.mark.slow
async def test_next_gateway_serves_the_keeper_it_found(git: Git) -> None:
    first = git.gateway()
    keeper = await git.site.keeper(first)
    await git.run(keeper, "git clone -q $U/octocat/hello .")
    # Gone without a word: its socket stays, and nobody answers there.
    dead = git.brokers[0]._desks[git.site.workspace.id]
    assert dead._acceptor is not None
    dead._acceptor.close()
    said = await git.run(keeper, "git fetch", status=128)
    assert "homeport: the gateway does not answer" in said
    second = git.gateway()
    assert [found.workspace_id for found in await second.find()] == [git.site.workspace.id]
    assert await git.run(keeper, "git fetch -q") == ""
    git.brokers[0].close()  # an old one that ends takes nothing away
    assert await git.run(keeper, "git fetch -q") == ""


async def test_keeper_s_end_leaves_no_file(git: Git) -> None:
    gateway = git.gateway()
    keeper = await git.site.keeper(gateway)
    place = git.site.place()
    assert (place.git_directory / "sock").exists()
    await keeper.terminate()
    await asyncio.wait_for(keeper.closed.wait(), 15)
    assert not (place.git_directory / "sock").exists()
    await git.site.gateway().find()
    assert not place.git_directory.exists()


async def test_programs_can_neither_change_nor_replace_what_git_is_told(walled: Site, server: GitServer) -> None:
    git = Git(walled, server)
    keeper = await git.keeper()
    attack = (
        "cd /.homeport/git && for f in sock credentials system; do rm -f $f; mv $f /tmp/; echo >>$f; chmod 0 $f;"
        " ln -sfn /tmp/x $f; done >/dev/null 2>&1; touch new 2>/dev/null; mv /.homeport/git /tmp 2>/dev/null; ls"
    )
    assert await git.run(keeper, attack) == "credentials\nsock\nsystem"
    assert await git.run(keeper, "git clone -q $U/octocat/hello .") == ""
    await git.close()
