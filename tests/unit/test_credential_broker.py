"""The broker at its sockets, asked by the helper that git runs inside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.credentials import broker as broker_module
from gateway.credentials import desk as desk_module
from gateway.credentials.broker import BrokerSettings, CredentialBroker
from gateway.credentials.decision import ASK_MAX_BYTES, CredentialScope, Origin
from gateway.credentials.desk import ASKS_AT_ONCE_MAX
from gateway.credentials.git_settings import CREDENTIALS_FILE, SYSTEM_FILE, GitIdentity
from gateway.errors import CommandRefused, StoreUnavailable
from gateway.interfaces import GitToken, Inside, Workspace
from gateway.journal import JournalAction
from gateway.launchers.git_directory import GitDirectory
from tests.support.git_account import FakeAccount

HELPER = Path(broker_module.__file__).parents[1] / "keeper/git_credential.py"
HELLO = "protocol=https\nhost=github.com\npath=octocat/hello.git\n\n"
SETTINGS = BrokerSettings(Origin("https", "github.com"), CredentialScope.OWNER, is_allowed_without_walls=False)


class Launcher:
    name = "bubblewrap"

    def __init__(self, root: Path) -> None:
        self._root = root

    def inside(self, workspace: Workspace) -> Inside:
        directory = str(self._root / workspace.id)
        return Inside("/home/x", "/x", "x", None, "/bin/sh", (), git_directory=directory, credential_helper=("helper",))


class Rows:
    """Implements BrokerStore."""

    def __init__(self, *workspaces: Workspace) -> None:
        self.workspaces = {workspace.id: workspace for workspace in workspaces}
        self.notes: list[tuple[bool, Mapping[str, object]]] = []
        self.is_broken = False

    async def workspace(self, workspace_id: str) -> Workspace | None:
        if self.is_broken:
            raise StoreUnavailable("the database cannot be read")
        return self.workspaces.get(workspace_id)

    def note(self, action: JournalAction, *, success: bool, details: Mapping[str, object] | None = None) -> None:
        assert action is JournalAction.CREDENTIAL_USE
        self.notes.append((success, details or {}))


class Site:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.account = FakeAccount()
        self.app = Workspace("w1", "app", root / "h", root / "t", github_repo="octocat/hello")
        self.rows = Rows(self.app)
        self.launcher = Launcher(root)
        self.tasks: set[asyncio.Task[None]] = set()
        self.brokers: list[CredentialBroker] = []

    def broker(self, settings: BrokerSettings = SETTINGS) -> CredentialBroker:
        made = CredentialBroker(
            settings, account=self.account, store=self.rows, launcher=self.launcher,
            place_for=lambda workspace_id: GitDirectory(self.root / workspace_id), spawn=self.spawn,
        )  # fmt: skip
        self.brokers.append(made)
        return made

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def file(self, name: str) -> str:
        return (self.root / "w1" / name).read_text()

    async def helper(self, text: str = HELLO, *, kind: str = "get", operation: str = "get") -> tuple[str, str]:
        """What git reads from it, and what it says."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", HELPER, self.root / "w1", kind, operation,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={},
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(text.encode()), 20)
        assert process.returncode == 0
        return out.decode(), err.decode()

    def connect(self) -> socket.socket:
        program = socket.socket(socket.AF_UNIX)
        fd = os.open(self.root / "w1", os.O_PATH)
        try:
            program.connect(f"/proc/self/fd/{fd}/sock")
        finally:
            os.close(fd)
        program.setblocking(False)
        return program

    async def close(self) -> None:
        for broker in self.brokers:
            broker.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    yield site
    await site.close()


async def test_git_gets_the_token_and_the_use_is_on_record(site: Site) -> None:
    site.account.token = GitToken("github.com", "https", "s3cret", expires_at=datetime(2030, 1, 1, tzinfo=UTC))
    await site.broker().keeper_up("w1", None)
    assert await site.helper() == (
        "username=x-access-token\npassword=s3cret\npassword_expiry_utc=1893456000\n", "",
    )  # fmt: skip
    told = {"workspace": "app", "result": "given", "host": "github.com", "path": "octocat/hello"}
    assert site.rows.notes == [(True, told)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HELLO.replace("github.com", "github.com.attacker.example"), "the token is for https://github.com alone"),
        (HELLO.replace("octocat", "evil"), "for repositories of octocat alone"),
        (HELLO.replace("\n\n", "\nusername=eve\n\n"), "take the user name out"),
        (HELLO + "x" * ASK_MAX_BYTES, "more than 8192 bytes"),
        ("", "is for https://github.com alone"),
    ],
)
async def test_a_refusal_is_one_line_with_the_reason_and_on_record(site: Site, text: str, words: str) -> None:
    await site.broker().keeper_up("w1", None)
    out, err = await site.helper(text)
    assert (out, err.count("\n"), words in err, err.startswith("homeport: ")) == ("", 1, True, True), err
    [(success, details)] = site.rows.notes
    assert (success, details["workspace"], words in str(details["reason"])) == (False, "app", True)
    assert "s3cret" not in str(details)


async def test_without_a_login_git_is_told_how_to(site: Site) -> None:
    site.account.token = None
    broker = site.broker()
    await broker.keeper_up("w1", None)
    assert "useHttpPath" not in site.file(CREDENTIALS_FILE)
    said = await site.helper(kind="explain")
    assert said == ("", "homeport: no GitHub token; log in with: ssh lobby@host github login\n")
    site.account.token = GitToken("github.com", "https", "new")
    site.account.identity = GitIdentity("Ada", "a@b")
    await broker.account_changed()
    assert ("useHttpPath" in site.file(CREDENTIALS_FILE), "Ada" in site.file(SYSTEM_FILE)) == (True, True)
    assert "password=new" in (await site.helper())[0]


async def test_an_explanation_never_has_the_token(site: Site) -> None:
    """It may be asked for beside helpers of the user that would keep what was given."""
    await site.broker(replace(SETTINGS, scope=CredentialScope.ANY)).keeper_up("w1", None)
    out, err = await site.helper(kind="explain")
    assert (out, "homeport: " in err) == ("", True)


async def test_without_walls_nothing_is_given_unless_it_is_asked_for(site: Site) -> None:
    site.launcher.name = "none"
    closed = site.broker()
    await closed.keeper_up("w1", None)
    out, err = await site.helper()
    assert (out, "credentials_without_walls = true" in err) == ("", True)
    assert "useHttpPath" not in site.file(CREDENTIALS_FILE)
    closed.close()
    opened = site.broker(replace(SETTINGS, is_allowed_without_walls=True))
    assert (closed.why_closed != "", opened.why_closed) == (True, "")
    await opened.keeper_up("w1", None)
    assert "password=gho_secret" in (await site.helper())[0]


async def test_scope_off_leaves_git_alone(site: Site) -> None:
    await site.broker(replace(SETTINGS, scope=CredentialScope.OFF)).keeper_up("w1", None)
    assert not (site.root / "w1" / CREDENTIALS_FILE).exists()
    assert "credential_scope" in (await site.helper())[1]


async def test_workspace_in_the_making_is_known_by_what_its_keeper_was_started_for(site: Site) -> None:
    site.rows.workspaces.clear()
    broker = site.broker()
    await broker.keeper_up("w1", site.app)
    assert "password=gho_secret" in (await site.helper())[0]
    await broker.keeper_up("w1", None)
    assert "password=gho_secret" in (await site.helper())[0]


async def test_repository_with_another_name_by_now_is_told_to_git_at_its_next_question(site: Site) -> None:
    await site.broker().keeper_up("w1", None)
    site.rows.workspaces["w1"] = replace(site.app, github_repo="the-team/hello")
    assert "for repositories of the-team alone" in (await site.helper(kind="explain"))[1]
    assert 'https://github.com/the-team"' in site.file(CREDENTIALS_FILE)


async def test_archived_and_unknown_workspaces_get_nothing(site: Site) -> None:
    await site.broker().keeper_up("w1", None)
    site.rows.workspaces["w1"] = replace(site.app, is_active=False)
    assert (await site.helper())[0] == ""
    site.rows.workspaces.clear()
    assert (await site.helper())[0] == ""


async def test_database_and_disk_that_fail_stop_no_keeper(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = site.broker()
    site.rows.is_broken = True
    await broker.keeper_up("w1", None)
    assert await site.helper() == ("", "homeport: the database cannot be read\n")

    def fail(self: object, name: str, text: str | None) -> None:
        raise OSError(28, "No space left on device")

    site.rows.is_broken = False
    monkeypatch.setattr(GitDirectory, "write", fail)
    await broker.keeper_up("w1", None)
    assert "password=gho_secret" in (await site.helper())[0]


async def test_token_for_another_host_or_with_a_line_s_end_is_never_given(site: Site) -> None:
    await site.broker().keeper_up("w1", None)
    for token in (
        GitToken("github.example.com", "https", "x"),
        GitToken("github.com", "http", "x"),
        GitToken("github.com", "https", "x\nquit=1"),
        GitToken("github.com", "https", "x", username="a\rb"),
    ):
        site.account.token = token
        out, err = await site.helper()
        assert (out, "log in again" in err) == ("", True)


async def test_refused_token_is_suspected_once_and_only_if_it_is_ours(site: Site) -> None:
    broker = site.broker()
    await broker.keeper_up("w1", None)
    ours = HELLO.replace("\n\n", "\nusername=x-access-token\npassword=gho_secret\n\n")
    await site.helper(ours, operation="erase")
    assert site.account.suspicion_count == 0  # it got none yet
    await site.helper()
    await site.helper(ours.replace("gho_secret", "other"), operation="erase")
    assert site.account.suspicion_count == 0
    for _ in range(3):
        assert await site.helper(ours, operation="erase") == ("", "")
    assert site.account.suspicion_count == 1


async def test_what_git_stores_is_not_even_sent(site: Site) -> None:
    await site.broker().keeper_up("w1", None)
    assert await site.helper(operation="store") == ("", "")
    assert await site.helper(kind="explain", operation="erase") == ("", "")
    assert site.rows.notes == []


async def test_newer_gateway_answers_and_the_older_takes_nothing_away(site: Site) -> None:
    old, new = site.broker(), site.broker()
    await old.keeper_up("w1", None)
    await new.keeper_up("w1", None)
    old.close()
    assert "password=" in (await site.helper())[0]


async def test_socket_of_a_killed_gateway_is_taken_over(site: Site) -> None:
    dead = GitDirectory(site.root / "w1")
    old = site.broker()
    await old.keeper_up("w1", None)
    dead.publish().close()  # another one came, and was killed
    out, err = await site.helper()
    assert (out, "the gateway does not answer" in err) == ("", True)
    old.reclaim()
    assert "password=" in (await site.helper())[0]


async def test_keeper_that_is_gone_leaves_no_socket(site: Site) -> None:
    broker = site.broker()
    await broker.keeper_up("w1", None)
    broker.keeper_gone("w1")
    broker.keeper_gone("w1")
    assert "the gateway does not answer" in (await site.helper())[1]


async def test_a_hundred_at_once_are_all_served(site: Site) -> None:
    await site.broker().keeper_up("w1", None)
    answers = await asyncio.gather(*(raw(site, b"get\n" + HELLO.encode()) for _ in range(100)))
    assert [answer.startswith(b"ok\n") for answer in answers] == [True] * 100


async def test_idle_connections_hold_up_nobody_for_long(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "ASK_SECONDS", 0.2)
    await site.broker().keeper_up("w1", None)
    with contextlib.ExitStack() as stack:
        for _ in range(3 * ASKS_AT_ONCE_MAX):
            stack.enter_context(site.connect())
        assert "password=" in (await site.helper())[0]
    assert len(site.tasks) < ASKS_AT_ONCE_MAX


@pytest.mark.slow
async def test_a_workspace_that_asks_without_end_is_slowed_down(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its rows in the journal are counted, not written, from a number on."""
    monkeypatch.setattr(desk_module, "ASKS_PER_SECOND_MAX", 5)
    monkeypatch.setattr(desk_module, "NOTES_PER_MINUTE_MAX", 7)
    broker = site.broker()
    await broker.keeper_up("w1", None)
    started = time.monotonic()
    answers = await asyncio.gather(*(raw(site, b"get\n" + HELLO.encode()) for _ in range(11)))
    assert [answer.startswith(b"ok\n") for answer in answers] == [True] * 11
    assert (time.monotonic() - started > 1.5, len(site.rows.notes)) == (True, 7)
    broker._desks["w1"].notes._begun_at -= 60
    await site.helper()
    assert site.rows.notes[-1][1]["left_out_before"] == 4


async def test_renewal_that_hangs_ends_in_a_sentence(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang() -> GitToken:
        await asyncio.Event().wait()
        raise CommandRefused("never")

    monkeypatch.setattr(broker_module, "TOKEN_SECONDS", 0.05)
    monkeypatch.setattr(site.account, "git_token", hang)
    await site.broker().keeper_up("w1", None)
    assert "GitHub does not answer" in (await site.helper())[1]


async def test_other_accounts_are_not_even_listened_to(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.broker().keeper_up("w1", None)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert await raw(site, b"get\n" + HELLO.encode()) == b""


async def test_helper_is_quick(site: Site) -> None:
    """30 ms on an idle machine; more is allowed here, where other tests run beside it."""
    await site.broker().keeper_up("w1", None)
    times = []
    for _ in range(5):
        started = time.monotonic()
        await site.helper()
        times.append(time.monotonic() - started)
    assert min(times) < 0.1


async def raw(site: Site, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with await asyncio.to_thread(site.connect) as program:  # it waits where the queue is full
        try:
            await loop.sock_sendall(program, data)
            program.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := await asyncio.wait_for(loop.sock_recv(program, 4096), 20):
                answer += piece
        except OSError:
            return b""
        return answer
