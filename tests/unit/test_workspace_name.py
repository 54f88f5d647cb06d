"""What a workspace may be called and where it may come from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import NameRefused
from gateway.workspace_name import (
    RESERVED_NAMES,
    clean_description,
    parse_branch,
    parse_github_repo,
    parse_repository_url,
    parse_workspace_name,
)


@pytest.mark.parametrize("text", ["a", "my-app", "My_App", "0day", "a" * 50, "a--b", "a-"])
def test_usual_names_are_accepted_and_folded(text: str) -> None:
    name = parse_workspace_name(text)
    assert (name.display, name.slug) == (text, text.lower())


@pytest.mark.parametrize(
    "text",
    ["", "-x", "_x", "--help", "a b", "a/b", "..", "a.b", "a+b", "a\n", "a\x00", "ä", "\u0130", "\u212a", "a" * 51,
     "Lobby", *sorted(RESERVED_NAMES)],
)  # fmt: skip
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(NameRefused):
        parse_workspace_name(text)


@given(st.text(max_size=60))
def test_a_name_is_either_safe_everywhere_or_refused(text: str) -> None:
    try:
        slug = parse_workspace_name(text).slug
    except NameRefused:
        return
    assert slug.isascii()
    assert slug[0].isalnum()
    assert not set(slug) & set("/\\.:+#@ \n\t'\"$;")
    assert len(slug) <= 50


@pytest.mark.parametrize("text", ["octocat/hello", "a/b", "Octo-Cat/He.llo_1-x", "o/.github"])
def test_github_repositories_are_accepted(text: str) -> None:
    assert parse_github_repo(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "octocat", "../..", "a/..", "a/.", "-x/y", "a-/b", "a--b/c", "a/x.git", "a/.git", "a/b/c", "a/b\n", "a/b c"],
)
def test_tricks_with_repositories_are_refused(text: str) -> None:
    with pytest.raises(NameRefused):
        parse_github_repo(text)


@pytest.mark.parametrize(
    ("url", "repo"),
    [
        ("https://github.com/octocat/hello", "octocat/hello"),
        ("https://github.com/octocat/hello.git", "octocat/hello"),
        ("https://GitHub.com/octocat/hello/", "octocat/hello"),
        ("git@github.com:octocat/hello.git", "octocat/hello"),
        ("ssh://git@github.com/octocat/hello.git", "octocat/hello"),
        ("https://github.com.attacker.example/octocat/hello", None),
        ("https://git.example.org/group/sub/project.git", None),
        ("https://git.example.org:8443/x", None),
        ("me@host.example:repositories/x.git", None),
    ],
)
def test_the_usual_urls_are_accepted_and_github_known_by_its_exact_host(url: str, repo: str | None) -> None:
    parsed = parse_repository_url(url)
    assert (parsed.url, parsed.github_repo) == (url, repo)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ext::sh -c id",
        "ext::id",
        "file:///etc",
        "/etc",
        "../x",
        "http://github.com/a/b",
        "http://user:hunter2@github.com/a/b",
        "https://user:hunter2@github.com:x/a/b",
        "git://github.com/a/b",
        "https://token@github.com/a/b",
        "https://user:hunter2@github.com/a/b",
        "ssh://git:hunter2@host/x",
        "ssh://-oProxyCommand=id/x",
        "-oProxyCommand=id@host:x",
        "git@-oProxyCommand=id:x",
        "git@host:-x",
        "git@host:../x",
        "https://github.com/",
        "https://github.com/../x",
        "https:///a/b",
        "https://github.com/a/b?x=1",
        "https://github.com/a/b#x",
        "https://github.com/a/b\n",
        "https://github.com/a b",
        "https://github.com:x/a/b",
        "https://[::1/a/b",
        "https://gïthub.com/a/b",
        "https://github.com/a/" + "b" * 2000,
    ],
)
def test_urls_that_run_read_or_tell_things_are_refused(url: str) -> None:
    with pytest.raises(NameRefused) as refusal:
        parse_repository_url(url)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("text", ["main", "feature/x", "v1.2", "a@b", "ünïcode"])
def test_branches_are_accepted(text: str) -> None:
    assert parse_branch(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "-x", "--upload-pack=x", "a..b", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "a.lock", "a.lock/b",
     "/a", "a/", "a//b", ".a", "a/.b", "a.", "@", "a@{1}", "a\n", "a" * 256],
)  # fmt: skip
def test_what_git_would_not_take_for_a_branch_is_refused(text: str) -> None:
    with pytest.raises(NameRefused):
        parse_branch(text)


def test_descriptions_lose_what_could_play_tricks_on_a_terminal() -> None:
    assert clean_description(None) is None
    assert clean_description(" \n ") is None
    assert clean_description("a\x1b[31m\nb\u202ec\u200d  d") == "a [31m bc d"
    with pytest.raises(NameRefused, match="201 characters"):
        clean_description("x" * 201)
