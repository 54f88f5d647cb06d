"""What a workspace may be called and where it may come from."""

from __future__ import annotations

import re
import subprocess
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import NameRefused
from gateway.workspace_name import (
    RESERVED_NAMES,
    GitHosts,
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
    parsed = GitHosts(others=("*",)).parse(url)
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


# ------------------------------------------------------------------------------- which hosts, and whose they are

GITHUB = GitHosts(others=("gitlab.com", "git.example.org"))
ENTERPRISE = GitHosts("https://github.example.com:8443/git")
LOOPBACK = GitHosts("http://127.0.0.1:3000")


@pytest.mark.parametrize(
    ("hosts", "text", "url", "repo"),
    [
        (GITHUB, "octocat/hello", "https://github.com/octocat/hello", "octocat/hello"),
        (GITHUB, "octocat/hello.git", "https://github.com/octocat/hello", "octocat/hello"),
        (GITHUB, "git@ssh.github.com:o/r.git", "git@ssh.github.com:o/r.git", "o/r"),
        (GITHUB, "https://GitLab.com/o/r", "https://GitLab.com/o/r", None),
        (GITHUB, "https://github.com:8443/o/r", "https://github.com:8443/o/r", None),
        (ENTERPRISE, "o/r", "https://github.example.com:8443/git/o/r", "o/r"),
        (ENTERPRISE, "git@github.example.com:git/o/r.git", "git@github.example.com:git/o/r.git", "o/r"),
        (ENTERPRISE, "https://github.example.com/o/r", "https://github.example.com/o/r", None),
        (LOOPBACK, "o/r", "http://127.0.0.1:3000/o/r", "o/r"),
        (LOOPBACK, "http://127.0.0.1:3000/o/r.git", "http://127.0.0.1:3000/o/r.git", "o/r"),
    ],
)
def test_a_repository_is_known_by_the_host_and_port_of_the_one_github(
    hosts: GitHosts, text: str, url: str, repo: str | None
) -> None:
    parsed = hosts.parse(text)
    assert (parsed.url, parsed.github_repo) == (url, repo)


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        (GITHUB, "https://github.com.attacker.example/o/r"),
        (GITHUB, "git@attacker.example:o/r"),
        (GITHUB, "ssh://git@gitlab.com.attacker.example/o/r"),
        (GITHUB, "https://xgitlab.com/o/r"),
        (ENTERPRISE, "https://github.com/o/r"),
        (LOOPBACK, "https://localhost/o/r"),
    ],
)
def test_other_hosts_are_refused_with_the_setting_that_allows_them(hosts: GitHosts, text: str) -> None:
    with pytest.raises(NameRefused, match=r"add it to the setting hosts in \[git\]"):
        hosts.parse(text)


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        (GITHUB, "http://github.com/o/r"),
        (LOOPBACK, "http://127.0.0.1:3001/o/r"),
        (LOOPBACK, "http://127.0.0.1/o/r"),
        (LOOPBACK, "http://example.org/o/r"),
        (GitHosts("http://127.0.0.1:3000", ("*",)), "http://example.org/o/r"),
    ],
)
def test_plain_http_is_for_the_one_listener_that_was_configured(hosts: GitHosts, text: str) -> None:
    with pytest.raises(NameRefused):
        hosts.parse(text)


def test_any_host_may_be_allowed_but_never_another_protocol() -> None:
    anywhere = GitHosts(others=("*",))
    assert anywhere.parse("https://git.attacker.example/x").host == "git.attacker.example"
    for text in ("ext::sh -c id", "file:///etc", "git://host/x", "HTTPS://host/x", "https://h/a%2f..%2f..%2fb"):
        with pytest.raises(NameRefused):
            anywhere.parse(text)


FUZZ_EXAMPLES = 10_000

# What tricks are made of, so that random text comes near them.
PIECES = st.sampled_from(
    ["https", "ssh", "http", "ext", "file", "::", "://", "/", "//", "..", ".", "-", "--upload-pack=id", "@", ":", "git",
     "github.com", "attacker.example", "%2e", "%00", "\n", "\0", " ", "\\", ".git", ".lock", "~", "^", "{", "main",
     "o", "r", "user:secret@", "[::1]", "127.0.0.1", ":22", "?x", "#x", "\u202e", "é", "$(id)", "`id`", ";", "'"]
)  # fmt: skip
TRICKS = st.one_of(st.lists(PIECES, max_size=8).map("".join), st.text(max_size=40))
SAFE_URL = re.compile(
    r"(?:https://[A-Za-z0-9.-]+(?::\d+)?/|ssh://(?:[A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*(?::\d+)?/"
    r"|[A-Za-z0-9_][\w.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:)[^\x00-\x20\x7f-\U0010ffff]+",
    re.ASCII,
)


@pytest.mark.slow
@settings(max_examples=FUZZ_EXAMPLES, deadline=None, database=None)
@given(TRICKS)
def test_no_source_gets_past_its_protocol_host_or_path(text: str) -> None:
    try:
        found = GitHosts(others=("*",)).parse(text)
    except NameRefused:
        return
    assert SAFE_URL.fullmatch(found.url), found
    assert ".." not in unquote(found.url).replace("\\", "/").split("/")
    assert not found.path.startswith("-")
    assert "secret" not in found.url
    if found.github_repo is not None:
        assert re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", found.github_repo)
        assert found.host in ("github.com", "www.github.com", "ssh.github.com")


@pytest.mark.slow
@settings(max_examples=FUZZ_EXAMPLES, deadline=None, database=None)
@given(TRICKS)
def test_no_name_becomes_a_path_or_an_option(text: str) -> None:
    try:
        slug = parse_workspace_name(text).slug
    except NameRefused:
        return
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,49}", slug, re.ASCII)


@pytest.mark.slow
@settings(max_examples=FUZZ_EXAMPLES, deadline=None, database=None)
@given(TRICKS)
def test_no_branch_is_an_option_a_path_or_a_revision(text: str) -> None:
    try:
        branch = parse_branch(text)
    except NameRefused:
        return
    assert not branch.startswith(("-", "/", "."))
    assert ".." not in branch
    assert not any(letter in branch for letter in " ~^:?*[\\\x7f\0\n")


@pytest.mark.slow
@settings(max_examples=200, deadline=None, database=None)
@given(TRICKS)
def test_what_is_taken_for_a_branch_git_takes_as_well(text: str) -> None:
    try:
        branch = parse_branch(text)
    except NameRefused:
        return
    subprocess.run(["git", "check-ref-format", "--branch", branch], check=True, capture_output=True)
