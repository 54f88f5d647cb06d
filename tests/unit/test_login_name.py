"""What stands before the @."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import LoginRefused
from gateway.login_name import LoginName, is_lobby, parse_login_name


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("app", LoginName("app")),
        ("My-App", LoginName("my-app")),
        ("app+logs", LoginName("app", "logs")),
        ("a" * 50, LoginName("a" * 50)),
    ],
)
def test_a_workspace_with_or_without_a_session(text: str, parsed: LoginName) -> None:
    assert parse_login_name(text) == parsed


@pytest.mark.parametrize(
    "text", ["", "-app", "app\n", "a" * 51, "../etc", "app+", "app+a/b", "app:x", "a b", "+x", "ä"]
)
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(LoginRefused) as refused:
        parse_login_name(text)
    assert not text or text not in refused.value.user_message


@given(st.text(max_size=80))
def test_no_text_does_worse_than_a_refusal(text: str) -> None:
    try:
        parsed = parse_login_name(text)
    except LoginRefused:
        return
    assert parsed.workspace == parsed.workspace.lower()
    assert not set(parsed.workspace) & set("/.\0\n ")


def test_the_lobby_has_no_sessions() -> None:
    assert is_lobby("Lobby")
    assert not is_lobby("lobby+x")
    with pytest.raises(LoginRefused, match="the lobby has no sessions"):
        parse_login_name("lobby+x")
