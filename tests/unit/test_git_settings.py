"""How git finds us, asked of a real git: whose helper answers, who is told what was given, whose identity wins."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gateway.credentials.decision import CredentialScope, Origin
from gateway.credentials.git_settings import (
    CREDENTIALS_FILE,
    SYSTEM_FILE,
    GitIdentity,
    credentials_file,
    git_variables,
    identity_of,
    system_file,
)

ORIGIN = Origin("https", "github.com")
OURS = "username=x-access-token\npassword=ours\n"


class Home:
    """A home with a git whose helper is a script that answers as ours would, and writes down what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked = directory / "asked"
        self._helper = directory / "our helper"  # a blank in the path
        self._helper.write_text(
            f'#!/bin/sh\necho "$@" >>"{self.asked}"; cat >>"{self.asked}"\n'
            f'[ "$1 $2" = "get get" ] && printf "{OURS}" || echo "homeport: no" >&2\n'
        )
        self._helper.chmod(0o755)

    def tell(self, *, scope: str = "owner", github_repo: str | None = "Octocat/Hello", has_token: bool = True) -> None:
        text = credentials_file(
            origin=ORIGIN, scope=CredentialScope(scope), github_repo=github_repo, helper=[str(self._helper)],
            has_token=has_token,
        )  # fmt: skip
        (self.directory / CREDENTIALS_FILE).write_text(text or "")

    def git(self, *words: str, text: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": "/usr/bin:/bin", "HOME": str(self.directory), "GIT_TERMINAL_PROMPT": "0",
            **git_variables(str(self.directory)), **more,
        }  # fmt: skip
        return subprocess.run(
            ["git", *words], input=text, env=environment, cwd=self.directory, capture_output=True, text=True, timeout=10
        )

    def fill(self, url: str, **more: str) -> str:
        return self.git("credential", "fill", text=f"url={url}\n\n", **more).stdout


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.mark.parametrize(
    ("scope", "url", "expected"),
    [
        ("owner", "https://github.com/Octocat/Hello.git", True),
        ("owner", "https://github.com/octocat/other", True),
        ("owner", "https://GITHUB.com:443/Octocat/Hello.git", True),
        ("owner", "https://github.com/octocatx/hello", False),
        ("owner", "https://github.com/other/hello", False),
        ("owner", "https://github.com.attacker.example/Octocat/Hello", False),
        ("owner", "https://github.com:444/Octocat/Hello", False),
        ("owner", "http://github.com/Octocat/Hello", False),
        ("owner", "https://gitlab.com/Octocat/Hello", False),
        ("repository", "https://github.com/Octocat/Hello.git", True),
        ("repository", "https://github.com/octocat/hello", True),
        ("repository", "https://github.com/octocat/hello.wiki.git", True),
        ("repository", "https://github.com/octocat/hello.git/info/lfs", True),
        ("repository", "https://github.com/octocat/other", False),
        ("any", "https://github.com/other/hello", True),
        ("any", "https://gitlab.com/other/hello", False),
        ("off", "https://github.com/Octocat/Hello.git", False),
    ],
)
def test_git_asks_us_for_our_urls_alone(home: Home, scope: str, url: str, expected: bool) -> None:
    home.tell(scope=scope)
    assert ("password=ours" in home.fill(url)) is expected
    if expected:
        assert "path=" in home.asked.read_text()


def test_no_helper_of_the_user_is_told_what_we_gave(home: Home) -> None:
    """git has every helper that is configured keep what worked; `store` would write the token into the home."""
    (home.directory / ".gitconfig").write_text("[credential]\n\thelper = store\n\tuseHttpPath = true\n")
    home.tell()
    answer = home.fill("https://github.com/Octocat/Hello.git")
    assert "password=ours" in answer
    home.git("credential", "approve", text=answer)
    assert not (home.directory / ".git-credentials").exists()
    assert "store" not in home.asked.read_text()  # nor is the interpreter started for it


def test_the_user_s_own_credentials_serve_what_is_not_ours(home: Home) -> None:
    (home.directory / ".gitconfig").write_text("[credential]\n\thelper = store\n")
    (home.directory / ".git-credentials").write_text("https://me:mine@github.com\nhttps://me:lab@gitlab.com\n")
    home.tell()
    assert "password=mine" in home.fill("https://github.com/somebody/else.git")
    assert "password=lab" in home.fill("https://gitlab.com/x/y.git")
    assert not home.asked.exists()
    home.tell(has_token=False)
    assert "password=mine" in home.fill("https://github.com/Octocat/Hello.git")
    assert not home.asked.exists()


def test_without_a_token_we_are_asked_last_and_only_for_the_reason(home: Home) -> None:
    home.tell(has_token=False)
    done = home.git("credential", "fill", text="url=https://github.com/Octocat/Hello.git\n\n")
    assert ("homeport: no" in done.stderr, done.stdout) == (True, "")
    assert home.asked.read_text().startswith("explain get\n")


def test_the_user_s_own_settings_by_environment_and_option_go_on_working(home: Home) -> None:
    home.tell()
    own = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "ada"}
    both = {**own, **git_variables(str(home.directory), own)}
    assert home.git("config", "user.name", **both).stdout == "ada\n"
    assert "password=ours" in home.fill("https://github.com/Octocat/Hello.git", **both)
    assert home.git("-c", "user.name=eve", "config", "user.name", **both).stdout == "eve\n"
    for odd in ("x", "-1", "99999999999", "²"):
        assert git_variables("/d", {"GIT_CONFIG_COUNT": odd})["GIT_CONFIG_COUNT"] == "1"


def test_missing_files_change_nothing(home: Home) -> None:
    assert home.git("config", "--list").returncode == 0


def test_submodules_are_served_as_well(home: Home) -> None:
    """git takes some of its variables away before it goes into a submodule."""
    home.tell()
    make = "git init -q %s && git -C %s -c user.name=a -c user.email=a@b commit -q --allow-empty -m x"
    subprocess.run(["sh", "-ec", f"{make % ('sub', 'sub')}; {make % ('top', 'top')}"], cwd=home.directory, check=True)
    script = (
        "git -C top -c protocol.file.allow=always submodule --quiet add ../sub m &&"
        " git -C top submodule --quiet foreach"
        " 'printf \"url=https://github.com/octocat/m.git\\n\\n\" | git credential fill'"
    )
    done = subprocess.run(
        ["sh", "-ec", script], cwd=home.directory, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home.directory), **git_variables(str(home.directory))},
    )  # fmt: skip
    assert "password=ours" in done.stdout, done


def test_identity_is_the_weakest_of_all_settings(home: Home) -> None:
    (home.directory / SYSTEM_FILE).write_text(system_file(GitIdentity("Ada Lovelace", "ada@example.com")))
    assert home.git("config", "user.name").stdout == "Ada Lovelace\n"
    assert home.git("config", "user.email").stdout == "ada@example.com\n"
    (home.directory / ".gitconfig").write_text("[user]\n\tname = me\n")
    assert home.git("config", "user.name").stdout == "me\n"
    home.git("config", "--global", "user.name", "also me")  # the file stays the user's own
    assert home.git("config", "user.name").stdout == "also me\n"


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb = c\n[core]\n\tpager = evil", "a;b", "#a", " a ", "é\u202eb"])
def test_no_name_ends_its_line(home: Home, name: str) -> None:
    (home.directory / SYSTEM_FILE).write_text(system_file(GitIdentity(name, "a@b")))
    expected = "".join(letter for letter in name if letter.isprintable())
    assert home.git("config", "user.name").stdout == f"{expected}\n"
    assert home.git("config", "core.pager").stdout == ""


def test_the_machine_s_own_settings_are_read_still() -> None:
    assert "path = /etc/gitconfig" in system_file(None)
    assert git_variables(None) == {}


def test_identity_is_the_profile_s_or_the_address_that_github_has_for_the_shy() -> None:
    profile = {"login": "octocat", "id": 583231, "name": "The Octocat", "email": "o@example.com"}
    assert identity_of(profile, ORIGIN) == GitIdentity("The Octocat", "o@example.com")
    shy = {"login": "octocat", "id": 583231, "name": " ", "email": None}
    assert identity_of(shy, ORIGIN) == GitIdentity("octocat", "583231+octocat@users.noreply.github.com")
    assert identity_of({}, ORIGIN) is identity_of({"login": "octocat", "ended": "revoked"}, ORIGIN) is None
