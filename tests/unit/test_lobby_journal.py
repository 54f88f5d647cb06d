"""`log`: which rows are asked for, and how one reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.journal import JournalAction, JournalRow
from gateway.lobby.journal import what
from tests.support.lobby import NOW, FakeLobby


def row(action: JournalAction, *, success: bool = True, **details: Any) -> JournalRow:
    return JournalRow("0193", action, success, "192.0.2.7", "SSH-2.0-OpenSSH_9.2", details, NOW)


async def test_rows_stand_newest_last_with_who_and_where():
    lobby = FakeLobby()
    lobby.store.journal_rows = [
        row(JournalAction.KEY_ADDED, by="operator", key="ana"),
        row(JournalAction.LOGIN, principal="ana", login_name="my-app", fingerprint="SHA256:x"),
    ]
    assert await lobby("log") == 0
    header, login, added = [line.split() for line in lobby.stdout.text.splitlines()]
    assert header == ["TIME", "(UTC)", "ACTION", "WHO", "FROM", "WORKSPACE", "WHAT"]
    assert login == ["2030-01-02", "03:04:05", "login", "ana", "192.0.2.7", "my-app", "fingerprint=SHA256:x"]
    assert added == ["2030-01-02", "03:04:05", "key_added", "operator", "192.0.2.7", "-", "key=ana"]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            row(JournalAction.FILE, operation="write", path="src/a.py", flags="WRITE,CREATE", bytes_read=0,
                bytes_written=4200, workspace="my-app", principal="ana", session_id="s", connection_id="c"),
            "write src/a.py, flags=WRITE,CREATE, 0 B read, 4.2 kB written",
        ),
        (row(JournalAction.FILE, operation="rename", path="a", new_path="b"), "rename a → b"),
        (
            row(JournalAction.FILE, success=False, operation="remove", path="a", status="Permission denied"),
            "failed: remove a, status=Permission denied",
        ),
        (row(JournalAction.FILE, operation="more", count=7), "more, count=7"),
        (
            row(JournalAction.FORWARD, kind="direct-tcpip", target="127.0.0.1:80", result="ended", bytes_in=912,
                bytes_out=1_300_000, duration_ms=12.5),
            "direct-tcpip 127.0.0.1:80, 912 B in, 1.3 MB out, duration_ms=12.5",
        ),
        (
            row(JournalAction.FORWARD, success=False, kind="direct-tcpip", target="10.0.0.1:80", result="refused",
                reason="policy"),
            "direct-tcpip 10.0.0.1:80, refused, reason=policy",
        ),
        (
            row(JournalAction.FORWARD, success=False, reason="journal_full", dropped_count=3),
            "failed: reason=journal_full, dropped_count=3",
        ),
        (
            row(JournalAction.LOGIN, success=False, reason="unknown_key", fingerprints=["SHA256:a", "SHA256:b"]),
            "failed: reason=unknown_key, fingerprints=SHA256:a SHA256:b",
        ),
        (row(JournalAction.LOGOUT), "-"),
    ],
)  # fmt: skip
def test_a_row_reads_as_one_line(seen: JournalRow, said: str):
    assert what(seen) == said


async def test_nothing_of_a_row_reaches_the_terminal_as_more_than_text():
    """Paths, versions, login names: whoever connects chooses them, and an operator reads them."""
    evil = "\x1b]0;gotcha\x07\nlogin ok"
    lobby = FakeLobby()
    lobby.store.journal_rows = [
        row(action, operation=evil, path=evil, kind=evil, target=evil, login_name=evil, principal=evil, other=evil,
            many=[evil], result=evil)
        for action in (JournalAction.FILE, JournalAction.FORWARD, JournalAction.LOGIN)
    ]  # fmt: skip
    await lobby("log")
    assert "\x1b" not in lobby.stdout.text
    assert "\x07" not in lobby.stdout.text
    assert len(lobby.stdout.text.splitlines()) == 4
    await lobby("log", "--json")
    assert "\x1b" not in lobby.stdout.text


async def test_the_filters_are_handed_to_the_journal():
    lobby = FakeLobby()
    words = ("--action", "forward", "--workspace", "my-app", "--principal", "ana", "--since", "1h", "--limit", "7")
    assert await lobby("log", *words) == 0
    since = lobby.store.asked["since"]
    assert isinstance(since, datetime)
    assert timedelta(minutes=59) < datetime.now(UTC) - since < timedelta(minutes=61)
    assert {name: value for name, value in lobby.store.asked.items() if name != "since"} == {
        "action": JournalAction.FORWARD, "workspace": "my-app", "principal": "ana", "limit": 7,
    }  # fmt: skip
    assert "nothing of that kind" in lobby.stderr.text


async def test_json_has_the_documented_fields_newest_last():
    lobby = FakeLobby()
    lobby.store.journal_rows = [row(JournalAction.LOGOUT), row(JournalAction.LOGIN, principal="ana")]
    await lobby("log", "--json")
    login, logout = json.loads(lobby.stdout.text)
    assert set(login) == {"id", "action", "success", "client_ip", "user_agent", "details", "created_at"}
    assert (login["action"], login["details"], logout["action"]) == ("login", {"principal": "ana"}, "logout")
    lobby.store.journal_rows = []
    await lobby("log", "--json")
    assert json.loads(lobby.stdout.text) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--action", "forwards"), "did you mean forward?"),
        (("--action", "xyzzy"), "there are: login, logout"),
        (("--since", "2999-01-01"), "lies in the future"),
        (("--since", "yesterday"), "is not a time; write for example 12h"),
        (("--limit", "0"), "write a number from 1 to 2000"),
        (("--limit", "2001"), "write a number from 1 to 2000"),
        (("--limit", "²"), "write a number from 1 to 2000"),
        (("--limit", "-1"), "write a number from 1 to 2000"),
        (("--limit", "00000000009999"), "write a number from 1 to 2000"),
        (("--limit", "9" * 5000), "write a number from 1 to 2000"),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_what_can(words: tuple[str, ...], said: str):
    lobby = FakeLobby()
    assert await lobby("log", *words) == 2
    assert said in lobby.stderr.text
