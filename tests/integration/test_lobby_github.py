"""`github login|logout|status`, `repos`, `keys import-github`, `vault rotate`: what people read and are asked."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gateway.errors import CommandRefused
from gateway.github.values import GithubRepository
from gateway.interfaces import Principal
from tests.support.fake_github import FakeRepository
from tests.support.github_account import AccountRig, account_rig
from tests.support.lobby import FakeLobby, workspace

OWNER = Principal("k", "ana", "SHA256:ana")
GUEST = Principal("g", "guest", "SHA256:g", workspaces=frozenset({"my-app"}))


@dataclass
class Answers:
    """A person who says what was prepared, and remembers what was asked."""

    answer: str
    asked: list[tuple[str, bool]] = field(default_factory=list)

    async def ask(self, question: str, *, is_secret: bool = False) -> str:
        self.asked.append((question, is_secret))
        return self.answer


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[AccountRig]:
    async with account_rig(tmp_path) as rig:
        yield rig


@pytest.fixture
def lobby(rig: AccountRig) -> FakeLobby:
    return FakeLobby(github=rig.account)


def key_line(number: int) -> str:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes([number]) * 32
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


async def approve_when_asked(rig: AccountRig) -> None:
    while not rig.github.devices:
        await asyncio.sleep(0.001)
    rig.github.approve()


async def log_in(lobby: FakeLobby, rig: AccountRig, **options: bool) -> int:
    status, _ = await asyncio.gather(lobby("github", "login", **options), approve_when_asked(rig))
    return status


# ------------------------------------------------------------------------------------------------------- login


async def test_a_device_login_says_what_it_asks_for_then_the_code_then_who_it_is(lobby: FakeLobby, rig: AccountRig):
    assert await log_in(lobby, rig) == 0
    said = lobby.stderr.text
    assert said.index("repo ") < said.index("/login/device") < said.index("and enter ")
    assert "read and write all your repositories, private ones too" in said
    assert lobby.stdout.text == "logged in to GitHub as octocat (The Octocat)\n"
    assert lobby.store.journal == [("github_login", {"by": "operator", "login": "octocat", "how": "device"})]
    assert await rig.account.has_token()


async def test_a_terminal_sees_that_something_is_awaited_and_nothing_of_it_stays(lobby: FakeLobby, rig: AccountRig):
    assert await log_in(lobby, rig, is_terminal=True) == 0
    shown = lobby.stderr.text
    assert "\r| waiting for GitHub (Ctrl-C gives up)" in shown
    assert shown.rpartition("\r")[2] == ""
    assert shown.split("\r")[-2].strip() == ""


async def test_a_login_that_is_interrupted_leaves_nothing(lobby: FakeLobby, rig: AccountRig):
    waiting = asyncio.ensure_future(lobby("github", "login", is_terminal=True))
    while not rig.slept:
        await asyncio.sleep(0.001)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert not await rig.account.has_token()
    assert lobby.store.journal == []
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "lobby:spinner"] == []


async def test_whoever_declines_is_told_so(lobby: FakeLobby, rig: AccountRig):
    async def decline() -> None:
        while not rig.github.devices:
            await asyncio.sleep(0.001)
        rig.github.deny()

    status, _ = await asyncio.gather(lobby("github", "login"), decline())
    assert (status, lobby.stderr.text.splitlines()[-1]) == (
        1,
        "homeport: the login was declined on GitHub; nothing has changed",
    )


async def test_a_code_that_expired_is_told_with_the_command_to_begin_again(lobby: FakeLobby, rig: AccountRig):
    async def expire() -> None:
        while not rig.github.devices:
            await asyncio.sleep(0.001)
        rig.github.expire_devices()

    status, _ = await asyncio.gather(lobby("github", "login"), expire())
    assert (status, "the code has expired; begin again with: homeport github login" in lobby.stderr.text) == (1, True)


async def test_asking_too_soon_makes_the_waits_longer(rig: AccountRig):
    """RFC 8628 §3.5: a client that goes on at its pace is refused in the end."""
    rig.github.is_impatient = True
    code = await rig.account.begin_device_login()
    waiting = asyncio.ensure_future(rig.account.finish_device_login(code))
    while len(rig.slept) < 4:
        await asyncio.sleep(0.001)
    rig.github.is_impatient = False
    rig.github.approve()
    await waiting
    assert rig.slept[:4] == [5, 5, 10, 15]


async def test_a_github_that_is_away_for_a_moment_does_not_end_the_login(rig: AccountRig):
    code = await rig.account.begin_device_login()
    rig.github.is_down = True
    waiting = asyncio.ensure_future(rig.account.finish_device_login(code))
    while len(rig.slept) < 6:
        await asyncio.sleep(0.001)
    rig.github.is_down = False
    rig.github.approve()
    assert (await waiting).login == "octocat"
    assert rig.slept[:6] == [5, 10, 20, 40, 60, 60]


async def test_nobody_waits_longer_than_the_code_lives(rig: AccountRig):
    code = replace(await rig.account.begin_device_login(), expires_seconds=0)
    with pytest.raises(CommandRefused, match="nobody entered the code in time"):
        await rig.account.finish_device_login(code)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"client_id": "another"}, "knows no app with the client_id"),
        ({"is_device_flow_enabled": False}, "the device flow is switched off for this app"),
        ({"is_down": True}, "HTTP 502"),
    ],
)
async def test_a_login_that_cannot_begin_says_what_to_set_right(
    lobby: FakeLobby, rig: AccountRig, changes: dict[str, object], said: str
):
    for name, value in changes.items():
        setattr(rig.github, name, value)
    assert await lobby("github", "login") == 1
    assert said in lobby.stderr.text


async def test_without_a_client_id_the_way_by_personal_token_is_said(lobby: FakeLobby, rig: AccountRig):
    rig.account._settings = rig.settings.model_copy(update={"client_id": ""})
    assert await lobby("github", "login") == 1
    assert "homeport github login --with-token" in lobby.stderr.text


# ------------------------------------------------------------------------------------------------ by a token


async def test_a_personal_token_comes_through_a_pipe(lobby: FakeLobby, rig: AccountRig):
    secret = rig.github.new_token()
    assert await lobby("github", "login", "--with-token", stdin=f"{secret}\n".encode()) == 0
    assert (await rig.account.git_token()).secret == secret
    assert lobby.store.journal[0][1]["how"] == "personal token"
    assert secret not in lobby.stdout.text + lobby.stderr.text + repr(lobby.store.journal)


async def test_at_a_terminal_it_is_asked_for_and_not_shown(lobby: FakeLobby, rig: AccountRig):
    lobby.person = person = Answers(rig.github.new_token())
    assert await lobby("github", "login", "--with-token", is_terminal=True) == 0
    assert person.asked == [("personal token (not shown): ", True)]


@pytest.mark.parametrize(
    ("text", "status"), [(b"", 2), (b" \n", 2), (b"two words", 1), (b"ghp_\xff", 1), (b"x" * 5000, 1), (b"ghp_no", 1)]
)
async def test_what_is_no_token_is_refused_and_not_repeated(
    lobby: FakeLobby, rig: AccountRig, text: bytes, status: int
):
    assert await lobby("github", "login", "--with-token", stdin=text) == status
    assert not await rig.account.has_token()
    assert "xxx" not in lobby.stderr.text
    assert "ghp_no" not in lobby.stderr.text


async def test_a_token_that_opens_no_private_repository_is_taken_with_a_word(lobby: FakeLobby, rig: AccountRig):
    secret = rig.github.new_token(scopes="read:user")
    assert await lobby("github", "login", "--with-token", stdin=secret.encode()) == 0
    assert "scopes read:user: without repo it opens no private repository" in lobby.stderr.text


# ---------------------------------------------------------------------------------------------- status, logout


async def test_status_of_a_login_by_device_in_lines_and_as_json(tmp_path: Path):
    async with account_rig(tmp_path, is_github_app=True) as rig:
        lobby = FakeLobby(github=rig.account)
        await log_in(lobby, rig)
        assert await lobby("github", "status") == 0
        lines = dict(line.split("  ", 1) for line in lobby.stdout.text.splitlines())
        assert lines["token"].strip() == "device login, expires in 8 h, renewed by itself"
        assert lines["check"].strip() == "GitHub knows the token"
        assert await lobby("github", "status", "--json") == 0
        shape = json.loads(lobby.stdout.text)
        assert {name: shape[name] for name in ("logged_in", "login", "kind", "renewable", "scopes", "check")} == {
            "logged_in": True, "login": "octocat", "kind": "device", "renewable": True, "scopes": None,
            "check": "valid",
        }  # fmt: skip


async def test_a_classic_token_is_shown_with_its_scopes_and_without_an_expiry(lobby: FakeLobby, rig: AccountRig):
    await lobby("github", "login", "--with-token", stdin=rig.github.new_token(scopes="repo, gist").encode())
    await lobby("github", "status")
    assert "personal token, no expiry" in lobby.stdout.text
    assert "repo, gist" in lobby.stdout.text


async def test_a_revoked_token_is_explained_in_one_line(lobby: FakeLobby, rig: AccountRig):
    secret = rig.github.new_token()
    await lobby("github", "login", "--with-token", stdin=secret.encode())
    rig.github.revoke(secret)
    assert await lobby("github", "status") == 1
    assert lobby.stderr.text == (
        "homeport: nobody is logged in to GitHub; octocat was: GitHub has revoked the token; "
        "log in with: homeport github login\n"
    )
    assert await lobby("repos") == 1
    assert lobby.stderr.text.startswith("homeport: GitHub has revoked the token; log in with")


async def test_status_does_not_need_github_to_answer(lobby: FakeLobby, rig: AccountRig):
    await lobby("github", "login", "--with-token", stdin=rig.github.new_token().encode())
    rig.github.is_down = True
    assert await lobby("github", "status") == 0
    assert "check      127.0.0.1" in lobby.stdout.text


async def test_logout_of_a_device_login_has_github_revoke_it(lobby: FakeLobby, rig: AccountRig):
    await log_in(lobby, rig)
    secret = (await rig.account.git_token()).secret
    assert await lobby("github", "logout") == 0
    assert lobby.stdout.text == "logged out octocat; GitHub has revoked the token\n"
    assert not rig.github.tokens[secret].is_valid
    assert lobby.store.journal[-1] == ("github_logout", {"by": "operator", "login": "octocat", "revoked": True})


@pytest.mark.parametrize(("trouble", "said"), [("can_revoke", "does not let tokens be revoked"), ("is_down", "502")])
async def test_a_token_is_forgotten_even_if_github_does_not_revoke_it(
    lobby: FakeLobby, rig: AccountRig, trouble: str, said: str
):
    await log_in(lobby, rig)
    setattr(rig.github, trouble, trouble == "is_down")
    assert await lobby("github", "logout") == 0
    assert said in lobby.stderr.text
    assert f"do it by hand at {rig.github.web_url}/settings/applications" in lobby.stderr.text
    assert not await rig.account.has_token()


async def test_a_personal_token_is_forgotten_and_not_revoked(lobby: FakeLobby, rig: AccountRig):
    secret = rig.github.new_token()
    await lobby("github", "login", "--with-token", stdin=secret.encode())
    assert await lobby("github", "logout") == 0
    assert rig.github.tokens[secret].is_valid
    assert f"delete it at {rig.github.web_url}/settings/tokens" in lobby.stderr.text


async def test_a_login_whose_key_is_lost_can_still_be_forgotten(lobby: FakeLobby, rig: AccountRig):
    await log_in(lobby, rig)
    for key in rig.keys_dir.iterdir():
        key.unlink()
    assert await lobby("repos") == 1
    assert "is not in the state's keys folder; log in again with: homeport github login" in lobby.stderr.text
    assert await lobby("github", "logout") == 0
    assert "it was not revoked: the secret kept in" in lobby.stderr.text
    assert not await rig.account.has_token()


async def test_logging_out_twice_is_harmless(lobby: FakeLobby):
    assert await lobby("github", "logout") == 0
    assert lobby.stdout.text == "nobody was logged in to GitHub\n"
    assert lobby.store.journal == []


# ------------------------------------------------------------------------------------------------------- repos


async def test_repos_shows_which_have_a_workspace_and_how_to_see_more(lobby: FakeLobby, rig: AccountRig):
    await log_in(lobby, rig)
    rig.github.repositories = [
        FakeRepository(1, "octocat/Hello", description="\x1b[31mred\n"),
        FakeRepository(2, "octocat/old", private=True, archived=True, default_branch="trunk"),
        FakeRepository(3, "octocat/third"),
    ]
    lobby.store.workspaces = [replace(workspace("hello"), github_repo="octocat/hello")]
    assert await lobby("repos", "--limit", "2") == 0
    rows = [line.split() for line in lobby.stdout.text.splitlines()]
    assert rows[1][:4] == ["octocat/Hello", "hello", "main", "public"]
    assert rows[2][:5] == ["octocat/old", "-", "trunk", "private,", "archived"]
    assert "\x1b" not in lobby.stdout.text
    assert lobby.stderr.text == "homeport: there are more: homeport repos --limit 2 --page 2\n"


async def test_repos_as_json_has_the_page_and_whether_there_is_another(lobby: FakeLobby, rig: AccountRig):
    await log_in(lobby, rig)
    rig.github.repositories = [FakeRepository(number, f"octocat/r{number}") for number in range(1, 4)]
    await lobby("repos", "--json", "--page", "2", "--limit", "2")
    page = json.loads(lobby.stdout.text)
    assert (page["page"], page["has_more"], [each["full_name"] for each in page["repositories"]]) == (
        2, False, ["octocat/r3"],
    )  # fmt: skip


async def test_a_search_goes_through_all_pages_by_name_and_description(rig: AccountRig):
    await rig.log_in()
    names = {number: "find" if number in (3, 150) else "other" for number in range(1, 250)}
    rig.github.repositories = [FakeRepository(number, f"octocat/{name}-{number}") for number, name in names.items()]
    rig.github.repositories[120] = FakeRepository(121, "octocat/x", description="here: FIND it")

    async def found(page: int, limit: int) -> list[GithubRepository]:
        return list((await rig.account.repositories(search="find", page=page, limit=limit)).repositories)

    assert [each.id for each in await found(1, 2)] == [3, 121]
    assert [each.id for each in await found(2, 2)] == [150]
    assert rig.github.count("GET /api/v3/user/repos") < 2 * 10


@pytest.mark.parametrize("words", [("--page", "0"), ("--limit", "101"), ("--limit", "0"), ("--page", "x")])
async def test_a_page_that_cannot_be_is_a_wrong_usage(lobby: FakeLobby, words: tuple[str, str]):
    assert await lobby("repos", *words) == 2


async def test_repos_without_a_login_says_how_to_log_in(lobby: FakeLobby):
    assert await lobby("repos") == 1
    assert "nobody is logged in to GitHub; log in with: homeport github login" in lobby.stderr.text


# ------------------------------------------------------------------------------------------ keys import-github


async def test_fingerprints_are_shown_before_a_key_is_trusted(lobby: FakeLobby, rig: AccountRig):
    rig.github.keys["ana"] = [key_line(1), key_line(2)]
    lobby.person = person = Answers("y")
    assert await lobby("keys", "import-github", "ana", is_terminal=True) == 0
    assert [key.name for key in lobby.store.keys] == ["ana", "ana-2"]
    assert all(key.fingerprint in lobby.stderr.text for key in lobby.store.keys)
    assert person.asked == [("let 2 keys of ana into every workspace? [y/N] ", False)]


@pytest.mark.parametrize("answer", ["", "n", "yess", "Y e s"])
async def test_anything_but_yes_adds_nothing(lobby: FakeLobby, rig: AccountRig, answer: str):
    rig.github.keys["ana"] = [key_line(1)]
    lobby.person = Answers(answer)
    assert await lobby("keys", "import-github", "ana") == 1
    assert lobby.store.keys == []


async def test_where_nobody_can_be_asked_yes_has_to_be_said_before(lobby: FakeLobby, rig: AccountRig):
    rig.github.keys["ana"] = [key_line(1)]
    assert await lobby("keys", "import-github", "ana") == 1
    assert "add: --yes" in lobby.stderr.text
    assert lobby.store.keys == []
    assert await lobby("keys", "import-github", "ana", "--yes") == 0


async def test_imported_keys_are_limited_as_keys_add_would(lobby: FakeLobby, rig: AccountRig):
    rig.github.keys["ana"] = [key_line(1)]
    lobby.store.workspaces = [workspace("my-app")]
    words = ("--yes", "--workspaces", "my-app", "--forwarding", "off", "--expires", "30d", "--name", "a", "--json")
    assert await lobby("keys", "import-github", "ana", *words) == 0
    [key] = lobby.store.keys
    assert (key.name, key.workspaces, key.options) == ("a", frozenset({"my-app"}), {"forwarding": "off"})
    assert key.expires_at is not None
    assert json.loads(lobby.stdout.text)[0]["fingerprint"] == key.fingerprint


async def test_a_wrong_limit_is_refused_before_github_is_asked(lobby: FakeLobby, rig: AccountRig):
    assert await lobby("keys", "import-github", "ana", "--workspaces", "nosuch") == 1
    assert await lobby("keys", "import-github", "ana", "--expires", "never") == 2
    assert await lobby("keys", "import-github", "../x") == 2
    assert rig.github.asked == []


async def test_keys_that_may_not_log_in_are_named_and_left_out(lobby: FakeLobby, rig: AccountRig):
    rig.github.keys["ana"] = ["ssh-dss AAAAB3NzaC1kc3M=", key_line(1), f'command="x" {key_line(2)}', "nonsense"]
    assert await lobby("keys", "import-github", "ana", "--yes") == 0
    assert len(lobby.store.keys) == 1
    assert lobby.stderr.text.count("left out") == 3


async def test_somebody_without_keys_gets_nobody_in(lobby: FakeLobby, rig: AccountRig):
    rig.github.keys["ana"] = []
    assert await lobby("keys", "import-github", "ana", "--yes") == 1
    assert "ana has no key on GitHub that could be added" in lobby.stderr.text


async def test_importing_again_asks_nothing_and_changes_nothing(lobby: FakeLobby, rig: AccountRig):
    rig.github.keys["ana"] = [key_line(1)]
    await lobby("keys", "import-github", "ana", "--yes")
    assert await lobby("keys", "import-github", "ana") == 0
    assert len(lobby.store.keys) == 1
    assert "already there as ana" in lobby.stderr.text


# ------------------------------------------------------------------------------------------------ who may, vault


@pytest.mark.parametrize(
    "words",
    [("github", "login"), ("github", "logout"), ("github", "status"), ("repos",), ("keys", "import-github", "ana"),
     ("vault", "rotate")],
)  # fmt: skip
async def test_the_account_is_the_owner_s_alone(lobby: FakeLobby, rig: AccountRig, words: tuple[str, ...]):
    assert await lobby(*words, principal=GUEST) != 0
    assert rig.github.asked == []


async def test_rotation_is_written_down_with_who_did_it(lobby: FakeLobby, rig: AccountRig):
    await log_in(lobby, rig)
    assert await lobby("vault", "rotate", principal=OWNER) == 0
    assert lobby.stdout.text == "every secret is sealed under a new key; 1 key removed\n"
    assert lobby.store.journal[-1] == ("vault_rotated", {"by": "ana", "old_keys": 1})
