"""Who gets the token: what is asked is hostile, and only what is exactly ours is answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.credentials.decision import (
    ASK_MAX_BYTES,
    AskKind,
    CredentialAsk,
    CredentialScope,
    Origin,
    may_have_token,
    repository_of,
)
from gateway.errors import CredentialRefused, GatewayError
from gateway.interfaces import Decision

GITHUB = Origin("https", "github.com")


def asked(
    url: str = "https://github.com/octocat/hello.git",
    *,
    origin: Origin = GITHUB,
    scope: CredentialScope = CredentialScope.OWNER,
    github_repo: str | None = "octocat/hello",
    username: str = "",
) -> Decision:
    protocol, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    ask = CredentialAsk(AskKind.GET, protocol, host, path, username)
    return may_have_token(ask, origin=origin, scope=scope, github_repo=github_repo, username="x-access-token")


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/octocat/hello.git",
        "https://github.com/octocat/hello",
        "https://github.com/octocat/hello/",
        "https://github.com:443/octocat/hello.git",
        "https://GitHub.COM/Octocat/Hello.git",
        "https://github.com/octocat/another",
        "https://github.com/octocat/hello.git/info/lfs",
    ],
)
def test_repositories_of_the_workspace_s_owner_get_it(url: str) -> None:
    assert asked(url).is_allowed


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com.attacker.example/octocat/hello.git",
        "https://attacker.example/github.com/octocat/hello.git",
        "https://agithub.com/octocat/hello.git",
        "https://github.com./octocat/hello.git",
        "https://github.com:444/octocat/hello.git",
        "https://github.com:0443/octocat/hello.git",
        "https://github.com:443:443/octocat/hello.git",
        "https://github.com:/octocat/hello.git",
        "https://github.com@attacker.example/octocat/hello.git",
        "https://attacker.example@github.com/octocat/hello.git",
        "https://github.com%2eattacker.example/octocat/hello.git",
        "https://github.com\t/octocat/hello.git",
        "https://github.com\r/octocat/hello.git",
        "https://github.com\\attacker.example/octocat/hello.git",
        "https://github\u3002com/octocat/hello.git",
        "https://g\u0131thub.com/octocat/hello.git",
        "https://github.com\u212a/octocat/hello.git",
        "https://[github.com]/octocat/hello.git",
        "https://api.github.com/octocat/hello.git",
        "http://github.com/octocat/hello.git",
        "HTTPS://github.com/octocat/hello.git",
        "ssh://github.com/octocat/hello.git",
        "://github.com/octocat/hello.git",
        "https:///octocat/hello.git",
    ],
)
def test_every_other_host_gets_nothing(url: str) -> None:
    for scope in CredentialScope:
        decision = asked(url, scope=scope)
        assert (decision.is_allowed, bool(decision.reason)) == (False, True), (url, scope)


@pytest.mark.parametrize(
    "path",
    [
        "evil/hello.git",
        "octocat-evil/hello.git",
        "octocat",
        "octocat/",
        "",
        "octocat/../evil/hello.git",
        "octocat/./hello.git",
        "octocat//evil/hello.git",
        "/octocat/hello.git/../../evil/x",
        "octocat/%2e%2e/evil/hello",
        "octocat%2f..%2fevil/hello",
        "octocat/hello.git?x=/evil/hello",
        "octocat/hello.git\r",
        "octocat\\..\\evil/hello",
        "octocat/.git",
        "octocat/hello;evil",
        "octocat/" + "a" * 2000,
    ],
)
def test_other_owners_and_odd_paths_get_nothing(path: str) -> None:
    decision = asked(f"https://github.com/{path}")
    assert (decision.is_allowed, bool(decision.reason)) == (False, True)


@pytest.mark.parametrize(
    ("scope", "path", "expected"),
    [
        (CredentialScope.REPOSITORY, "octocat/hello.git", True),
        (CredentialScope.REPOSITORY, "Octocat/HELLO", True),
        (CredentialScope.REPOSITORY, "octocat/hello.wiki.git", True),
        (CredentialScope.REPOSITORY, "octocat/hello-2.git", False),
        (CredentialScope.REPOSITORY, "octocat/hello.git.git", False),
        (CredentialScope.REPOSITORY, "evil/hello.git", False),
        (CredentialScope.ANY, "evil/hello.git", True),
        (CredentialScope.ANY, "", True),
        (CredentialScope.OFF, "octocat/hello.git", False),
    ],
)
def test_scope_narrows_and_widens(scope: CredentialScope, path: str, expected: bool) -> None:
    assert asked(f"https://github.com/{path}", scope=scope).is_allowed is expected


def test_workspace_without_a_repository_gets_it_for_nothing_or_for_all() -> None:
    assert [asked(scope=scope, github_repo=None).is_allowed for scope in CredentialScope] == [False, False, False, True]


def test_a_user_in_the_url_gets_nothing_unless_it_is_the_token_s_own() -> None:
    assert not asked(username="mallory").is_allowed
    assert asked(username="x-access-token").is_allowed


def test_other_ports_are_other_servers() -> None:
    origin = Origin.of_url("http://127.0.0.1:8080")
    assert asked("http://127.0.0.1:8080/octocat/hello", origin=origin).is_allowed
    for host in ("127.0.0.1", "127.0.0.1:80", "127.0.0.1:8081", "localhost:8080"):
        assert not asked(f"http://{host}/octocat/hello", origin=origin).is_allowed
    assert Origin.of_url("https://GitHub.example.com:443") == Origin("https", "github.example.com")
    assert Origin.of_url("http://[::1]:9") == Origin("http", "[::1]:9")


def test_question_is_parsed_as_git_writes_it() -> None:
    data = b"get\ncapability[]=authtype\nprotocol=https\nhost=github.com\npath=o/r.git\nwwwauth[]=Basic\n\n"
    assert CredentialAsk.parse(data) == CredentialAsk(AskKind.GET, "https", "github.com", "o/r.git")
    assert "secret" not in repr(CredentialAsk.parse(b"erase\npassword=secret\n"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"store\nhost=github.com\n",
        b"get",
        b"get\nprotocol=https\nhost=github.com\nhost=evil.example\n",
        b"get\nhost=\xff\n",
        b"get\n" + b"x" * ASK_MAX_BYTES,
    ],
)
def test_what_is_no_question_is_refused_or_names_no_host(data: bytes) -> None:
    try:
        ask = CredentialAsk.parse(data)
    except CredentialRefused:
        return
    assert not may_have_token(ask, origin=GITHUB, scope=CredentialScope.ANY, github_repo=None, username="x").is_allowed


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    try:
        CredentialAsk.parse(b"get\n" + data)
    except GatewayError:
        return


@given(st.text(max_size=60))
def test_no_host_but_ours_is_ours(host: str) -> None:
    decision = asked(f"https://{host.replace('/', '')}/octocat/hello.git", scope=CredentialScope.ANY)
    assert decision.is_allowed == (host.replace("/", "").lower() in ("github.com", "github.com:443"))


@given(st.text(alphabet="octa/.%\\-_?#@~\n é", max_size=40))
def test_a_path_that_is_taken_for_a_repository_s_begins_with_its_owner(path: str) -> None:
    found = repository_of(path)
    if found is not None:
        owner, _, repository = found.partition("/")
        assert path.lstrip("/").startswith(f"{owner}/{repository}")
        assert not {"", ".", ".."} & {owner, repository}
