"""Which session a client gets, by the table at the head of gateway/attaching.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from gateway.interfaces import Keeper, Principal, SessionKind, SessionRequest, Terminal, WindowSize, Workspace
from gateway.login_name import parse_login_name
from gateway.sessions.attaching import PROBE_SECONDS, Attaching, Wish, attach_notice
from gateway.sessions.live import Live
from gateway.sessions.terminal_session import TerminalSession

NOW = datetime(2026, 11, 24, 7, 12, tzinfo=UTC)
WORKSPACE = Workspace("w1", "my-app", Path("/h"), Path("/t"))


class Line:
    """A client's channel that answers or does not."""

    def __init__(self, *, is_alive: bool = True) -> None:
        self.is_alive = is_alive
        self.asked: list[float] = []

    async def is_answering(self, within_seconds: float) -> bool:
        self.asked.append(within_seconds)
        await asyncio.sleep(0)
        return self.is_alive


@dataclass
class Watcher:
    channel: Line
    connection_id: str = "c-old"
    is_gone: bool = False

    __hash__ = object.__hash__


@dataclass
class ShownSession:
    """What attaching sees of a terminal session."""

    session_id: str
    viewers: list[Watcher] = field(default_factory=list)
    dismissed: list[Watcher] = field(default_factory=list)
    last_activity_at: datetime = NOW

    @property
    def is_attached(self) -> bool:
        return bool(self.viewers)

    def dismiss(self, viewer: Watcher, text: str) -> None:
        self.viewers.remove(viewer)
        self.dismissed.append(viewer)


class OneSession(Live):
    """A live session that is only what a test says it is."""

    @property
    def terminal(self) -> TerminalSession | None:
        return cast(TerminalSession, self.session)

    @property
    def has_ended(self) -> bool:
        return False


def session(
    session_id: str,
    *viewers: Watcher,
    name: str | None = None,
    owner: str = "SHA256:ada",
    workspace: Workspace = WORKSPACE,
    kind: SessionKind = SessionKind.SHELL,
    is_kept: bool = True,
    left: timedelta | None = None,
) -> OneSession:
    shown = ShownSession(session_id, list(viewers))
    return OneSession(
        cast(TerminalSession, shown), cast(Keeper, None), workspace, kind, None, 0.0, owner, name=name, is_kept=is_kept,
        detached_at=None if left is None else NOW - left,
    )  # fmt: skip


def request(
    login: str = "my-app",
    *,
    kind: SessionKind = SessionKind.SHELL,
    term: str | None = "xterm",
    fingerprint: str = "SHA256:ada",
) -> SessionRequest:
    return SessionRequest(
        session_id="new", connection_id="c-new", principal=Principal("k", "ada", fingerprint), login_name=login,
        kind=kind, client_address=("", 0), server_address=("", 0),
        terminal=None if term is None else Terminal(term, WindowSize(80, 24), {}),
    )  # fmt: skip


def wish(asked: SessionRequest) -> Wish:
    return Wish.of(asked, parse_login_name(asked.login_name))


async def found(asked: SessionRequest, live: Sequence[Live]) -> tuple[str | None, bool]:
    """Which session it gets (None: a new one), and whether from a dead connection."""
    answer = await Attaching(lambda: list(live)).find("w1", wish(asked), asked)
    return (None, False) if answer is None else (answer.live.session_id, answer.was_taken)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request(), Wish(True)),
        (request("my-app+logs"), Wish(True, "logs")),
        (request("my-app+LOGS"), Wish(True, "logs")),
        (request("my-app+main"), Wish(True)),  # as the line on coming back calls it
        (request("my-app+main", kind=SessionKind.EXEC), Wish(False)),
        (request("my-app+agent", kind=SessionKind.EXEC), Wish(True, "agent")),
        (request("my-app+new"), Wish(False)),
        (request("my-app+new", kind=SessionKind.EXEC), Wish(False)),
        (request(kind=SessionKind.EXEC), Wish(False)),
        (request("my-app+logs", kind=SessionKind.EXEC, term=None), Wish(False)),
        (request("my-app+logs", kind=SessionKind.SUBSYSTEM, term=None), Wish(False)),
        (request("my-app+logs", term=None), Wish(False)),
        (request(term="dumb"), Wish(False)),
        (request("my-app+logs", term="dumb"), Wish(False)),
        (request(term=""), Wish(False)),
    ],
)
def test_what_a_request_asks_for(asked: SessionRequest, expected: Wish) -> None:
    assert wish(asked) == expected


async def test_the_session_left_last_is_the_one_to_come_back_to() -> None:
    hours = [session(f"s{hour}", left=timedelta(hours=hour)) for hour in (5, 1, 3)]
    assert await found(request(), hours) == ("s1", False)


@pytest.mark.parametrize(
    "other",
    [
        session("s", owner="SHA256:eve", left=timedelta(0)),
        session("s", name="logs", left=timedelta(0)),
        session("s", workspace=Workspace("w2", "other", Path("/h"), Path("/t")), left=timedelta(0)),
        session("s", kind=SessionKind.EXEC, left=timedelta(0)),
        session("s", is_kept=False),
    ],
    ids=["of-another-key", "with-a-name", "elsewhere", "a-command", "of-its-own-connection"],
)
async def test_nobody_is_given_what_is_not_his(other: Live) -> None:
    assert await found(request(), [other]) == (None, False)


async def test_who_still_has_a_living_client_gets_a_second_shell() -> None:
    alive = Watcher(Line())
    assert await found(request(), [session("s", alive)]) == (None, False)
    assert alive.channel.asked == [PROBE_SECONDS]


async def test_a_dead_connection_loses_its_session() -> None:
    dead, alive = Watcher(Line(is_alive=False)), Watcher(Line())
    lost, kept = session("lost", dead), session("kept", alive)
    assert await found(request(), [kept, lost]) == ("lost", True)
    assert cast(ShownSession, lost.session).dismissed == [dead]
    assert cast(ShownSession, kept.session).dismissed == []


async def test_one_that_waits_is_taken_without_asking_anybody() -> None:
    watcher = Watcher(Line(is_alive=False))
    assert await found(request(), [session("busy", watcher), session("waits", left=timedelta(0))]) == ("waits", False)
    assert watcher.channel.asked == []


async def test_the_connection_that_asks_is_alive() -> None:
    """A second shell over one connection (ControlMaster) needs no answer from it."""
    own = Watcher(Line(is_alive=False), connection_id="c-new")
    assert await found(request(), [session("s", own)]) == (None, False)
    assert own.channel.asked == []


async def test_a_named_one_is_shared_by_every_key_that_may_enter() -> None:
    watcher = Watcher(Line())
    live = [session("s", watcher, name="logs", owner="SHA256:ada")]
    assert await found(request("my-app+logs", fingerprint="SHA256:eve"), live) == ("s", False)
    assert watcher in cast(ShownSession, live[0].session).viewers


async def test_all_the_dead_leave_a_shared_session_and_the_living_stay() -> None:
    dead = [Watcher(Line(is_alive=False)) for _ in range(3)]
    alive = Watcher(Line())
    live = session("s", dead[0], alive, *dead[1:], name="logs")
    assert await found(request("my-app+logs"), [live]) == ("s", False)
    assert cast(ShownSession, live.session).dismissed == dead
    assert cast(ShownSession, live.session).viewers == [alive]


async def test_a_named_one_taken_from_a_dead_connection_alone_is_said_to_be() -> None:
    live = session("s", Watcher(Line(is_alive=False)), name="logs")
    assert await found(request("my-app+logs"), [live]) == ("s", True)


async def test_a_session_that_ends_while_we_ask_is_not_handed_out() -> None:
    live = [session("s", Watcher(Line(is_alive=False)))]

    class Ending(Line):
        async def is_answering(self, within_seconds: float) -> bool:
            live.clear()
            return False

    live[0] = session("s", Watcher(Ending(is_alive=False)))
    asked = request()
    assert await Attaching(lambda: list(live)).find("w1", wish(asked), asked) is None


async def test_those_who_ask_for_the_same_take_turns_and_others_do_not_wait() -> None:
    attaching = Attaching(list)
    logs = attaching.turn("w1", Wish(True, "logs"), "SHA256:ada")
    assert attaching.turn("w1", Wish(True, "logs"), "SHA256:eve") is logs
    assert attaching.turn("w1", Wish(True, "build"), "SHA256:ada") is not logs
    mine = attaching.turn("w1", Wish(True), "SHA256:ada")
    assert attaching.turn("w1", Wish(True), "SHA256:ada") is mine
    assert attaching.turn("w1", Wish(True), "SHA256:eve") is not mine
    assert attaching.turn("w2", Wish(True), "SHA256:ada") is not mine


def test_the_line_says_where_one_is_since_when_and_how_to_get_a_fresh_shell() -> None:
    live = session("s", left=timedelta(hours=7, minutes=12))
    assert attach_notice(live, was_taken=False, now=NOW) == (
        "homeport: back in main, detached 7 h 12 min ago; fresh shell: ssh my-app+new@host"
    )


def test_the_line_says_what_ended_meanwhile() -> None:
    live = session("s", name="agent", left=timedelta(hours=8))
    live.job, live.job_ended_at = "claude", NOW - timedelta(hours=2)
    assert "back in agent, detached 8 h ago; claude ended 2 h ago;" in attach_notice(live, was_taken=False, now=NOW)


def test_the_line_says_who_else_is_there() -> None:
    viewers = [Watcher(Line()), Watcher(Line())]
    assert "in logs, together with 2 others;" in attach_notice(session("s", *viewers, name="logs"), was_taken=False)


def test_the_line_says_that_a_connection_had_died() -> None:
    line = attach_notice(session("s", left=timedelta(0)), was_taken=True)
    assert "back in main, taken over from a connection that stopped answering;" in line
