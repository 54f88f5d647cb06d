"""What is written down of a forward: once, whatever became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from gateway import log
from gateway.errors import KeeperGone, LoginRefused
from gateway.events import Event
from gateway.forwarding.forwards import TcpTarget, UnixTarget
from gateway.forwarding.record import ForwardKind, ForwardRecord
from gateway.interfaces import Principal
from gateway.journal import JournalAction

TARGET = TcpTarget("127.0.0.1", 3000)


@dataclass
class Facts:
    connection_id: str = "c1"
    client_ip: str = "192.0.2.7"
    client_version: str = "SSH-2.0-test"
    login_name: str = "Demo"
    principal: Principal | None = field(default_factory=lambda: Principal("k1", "ada", "SHA256:a"))


class Journal:
    def __init__(self) -> None:
        self.rows: list[tuple[bool, Mapping[str, object]]] = []

    def note(
        self,
        action: JournalAction,
        *,
        success: bool,
        client_ip: str | None = None,
        user_agent: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        assert (action, client_ip, user_agent) == (JournalAction.FORWARD, "192.0.2.7", "SSH-2.0-test")
        self.rows.append((success, details or {}))


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def events() -> Iterator[list[tuple[Event, dict[str, object]]]]:
    seen: list[tuple[Event, dict[str, object]]] = []
    stop = log.subscribe(lambda event, keys: seen.append((event, keys)))
    yield seen
    stop()


def record(journal: Journal, kind: ForwardKind = ForwardKind.DIRECT_TCPIP) -> ForwardRecord:
    made = ForwardRecord(journal, Facts(), kind, TARGET)
    made.workspace = "demo"
    return made


def test_a_stream_is_one_row_at_its_end(journal: Journal, events: list[tuple[Event, dict[str, object]]]) -> None:
    one = record(journal)
    with one:
        one.opened()
    assert journal.rows == []
    one.ended(5, 7)
    one.ended(5, 7)
    one.refused("client_refused")
    ((success, details),) = journal.rows
    assert success
    assert details["duration_ms"] is not None
    wanted = {"kind": "direct-tcpip", "result": "ended", "target": "127.0.0.1:3000", "workspace": "demo",
              "principal": "ada", "connection_id": "c1", "bytes_in": 5, "bytes_out": 7}  # fmt: skip
    assert wanted.items() <= details.items()
    assert [event for event, _ in events] == [Event.FORWARD_OPENED, Event.FORWARD_ENDED]


def test_a_listener_is_a_row_when_it_opens_and_one_when_it_closes(
    journal: Journal, events: list[tuple[Event, dict[str, object]]]
) -> None:
    one = record(journal, ForwardKind.TCPIP_FORWARD)
    with one:
        one.found(4000)
        one.opened()
    one.ended()
    assert [(row["result"], row["target"]) for _, row in journal.rows] == [
        ("opened", "127.0.0.1:4000"),
        ("closed", "127.0.0.1:4000"),
    ]
    assert [event for event, _ in events] == [Event.LISTENER_OPENED, Event.LISTENER_CLOSED]


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (LoginRefused("only loopback"), "policy", "only loopback"),
        (KeeperGone("gone"), "keeper_gone", "gone"),
        (ConnectionRefusedError(111, "Connection refused"), "connect_failed", "Connection refused"),
        (TimeoutError(), "connect_failed", ""),
        (asyncio.CancelledError(), "connection_lost", ""),
    ],
)
def test_what_fails_while_opening_is_its_refusal(
    journal: Journal, events: list[tuple[Event, dict[str, object]]], error: BaseException, reason: str, words: str
) -> None:
    with pytest.raises(type(error)), record(journal):
        raise error
    ((success, details),) = journal.rows
    assert (success, details["result"], details["reason"]) == (False, "refused", reason)
    assert details.get("message", "") == words
    assert [(event, keys["reason"]) for event, keys in events] == [(Event.FORWARD_REFUSED, reason)]


def test_our_own_mistake_is_logged_as_one(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError), record(journal):
        _ = 1 / 0
    assert journal.rows[0][1]["reason"] == "internal"
    assert "ZeroDivisionError" in caplog.text


def test_targets_are_in_the_journal_and_not_in_the_log(
    journal: Journal, events: list[tuple[Event, dict[str, object]]]
) -> None:
    """A path may name what a person works on; the log is read by more people."""
    one = ForwardRecord(journal, Facts(), ForwardKind.DIRECT_STREAMLOCAL, UnixTarget(b"/home/demo/secret-project"))
    with one:
        one.opened()
    one.ended(1, 2)
    assert "secret" in str(journal.rows)
    assert "secret" not in str(events)


def test_before_the_workspace_is_found_the_row_has_the_login_name(journal: Journal) -> None:
    one = ForwardRecord(journal, Facts(), ForwardKind.DIRECT_TCPIP, TARGET)
    one.refused(LoginRefused("no such workspace"))
    assert (journal.rows[0][1]["login_name"], "workspace" in journal.rows[0][1]) == ("Demo", False)
