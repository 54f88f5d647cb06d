"""Limits that understand work: who is warned and ended when, and who never is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from gateway.config import SessionSettings
from gateway.errors import KeeperGone
from gateway.interfaces import EndReason, SessionKind
from gateway.sessions import idle
from gateway.sessions.idle import IdleLimits, IdleWatch, Step, Use, judge
from gateway.sessions.jobs import Foreground

NOW = datetime(2030, 1, 8, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SHELL, EXEC, SUBSYSTEM = SessionKind.SHELL, SessionKind.EXEC, SessionKind.SUBSYSTEM
DEFAULT = IdleLimits.of(SessionSettings())
STRICT = IdleLimits.of(
    SessionSettings(idle_detached_days=1, idle_shell_minutes=60, idle_exec_minutes=120, idle_subsystem_minutes=30)
)


def use(kind: SessionKind, silent: timedelta, *, is_attached: bool = True, is_busy: bool = False) -> Use:
    return Use(kind, is_attached, is_busy, NOW - silent)


@pytest.mark.parametrize(
    ("limits", "of", "step"),
    [
        (DEFAULT, use(SHELL, 6.9 * DAY, is_attached=False), Step.NOTHING),
        (DEFAULT, use(SHELL, 7 * DAY - 10 * MINUTE, is_attached=False), Step.WARN),
        (DEFAULT, use(SHELL, 7 * DAY - 11 * MINUTE, is_attached=False), Step.NOTHING),
        (DEFAULT, use(SHELL, 300 * DAY, is_attached=False), Step.WARN),  # first the warning, also after a long stop
        (DEFAULT, use(SHELL, 300 * DAY, is_attached=False, is_busy=True), Step.NOTHING),
        (DEFAULT, use(EXEC, 300 * DAY, is_attached=False, is_busy=True), Step.NOTHING),  # its program is the job
        (DEFAULT, use(EXEC, 300 * DAY, is_attached=False), Step.WARN),  # ssh -t ws+x bash, at its prompt
        (DEFAULT, use(SHELL, 300 * DAY), Step.NOTHING),
        (DEFAULT, use(EXEC, 300 * DAY), Step.NOTHING),
        (DEFAULT, use(SUBSYSTEM, 300 * DAY), Step.NOTHING),
        (STRICT, use(SHELL, 49 * MINUTE), Step.NOTHING),
        (STRICT, use(SHELL, 50 * MINUTE), Step.WARN),
        (STRICT, use(SHELL, 300 * DAY, is_busy=True), Step.NOTHING),  # an editor, a build
        (STRICT, use(EXEC, 2 * HOUR, is_busy=True), Step.WARN),  # a command counts by its silence
        (STRICT, use(SUBSYSTEM, 20 * MINUTE), Step.WARN),
        (STRICT, use(SHELL, timedelta()), Step.NOTHING),
        (STRICT, use(SHELL, -2 * HOUR), Step.NOTHING),  # the clock was set back
    ],
)
def test_silence_beyond_the_limit_is_idle_and_work_is_not(limits: IdleLimits, of: Use, step: Step) -> None:
    assert judge(of, limits, warned_at=None, now=NOW).step is step


@pytest.mark.parametrize(
    ("silent", "warned", "step"),
    [
        (60 * MINUTE, 10 * MINUTE, Step.END),
        (60 * MINUTE, 9 * MINUTE, Step.NOTHING),  # its last minute
        (59 * MINUTE, 9 * MINUTE, Step.NOTHING),
        (300 * DAY, 9 * MINUTE, Step.NOTHING),  # the whole warning, however long it was idle before
        (300 * DAY, 10 * MINUTE, Step.END),
        (5 * MINUTE, 8 * MINUTE, Step.NOTHING),  # a key was pressed after the warning
        (55 * MINUTE, 70 * MINUTE, Step.WARN),  # a key was pressed, and then nothing: a warning of its own
    ],
)
def test_the_end_comes_a_whole_warning_after_the_warning_unless_there_is_use(
    silent: timedelta, warned: timedelta, step: Step
) -> None:
    assert judge(use(SHELL, silent), STRICT, warned_at=NOW - warned, now=NOW).step is step


def test_a_limit_shorter_than_the_warning_is_not_one_long_warning() -> None:
    limits = IdleLimits.of(SessionSettings(idle_shell_minutes=4))
    assert judge(use(SHELL, MINUTE), limits, warned_at=None, now=NOW).step is Step.NOTHING
    assert judge(use(SHELL, 2 * MINUTE), limits, warned_at=None, now=NOW).step is Step.WARN
    assert judge(use(SHELL, 4 * MINUTE), limits, warned_at=NOW - 2 * MINUTE, now=NOW).step is Step.END


def test_zero_is_no_limit_and_no_warning_is_possible() -> None:
    never = IdleLimits.of(SessionSettings(idle_detached_days=0))
    assert judge(use(SHELL, 9000 * DAY, is_attached=False), never, warned_at=None, now=NOW).ends_at is None
    abrupt = IdleLimits.of(SessionSettings(idle_warning_minutes=0, idle_shell_minutes=60))
    assert judge(use(SHELL, 59 * MINUTE), abrupt, warned_at=None, now=NOW).step is Step.NOTHING
    assert judge(use(SHELL, 60 * MINUTE), abrupt, warned_at=None, now=NOW).step is Step.WARN
    assert judge(use(SHELL, 61 * MINUTE), abrupt, warned_at=NOW - MINUTE, now=NOW).step is Step.END


# ---------------------------------------------------------------------------------------------- all sessions


@dataclass
class Quiet:
    session_id: str = "s1"
    kind: SessionKind = SHELL
    is_attached: bool = False
    terminal_fd: int | None = 7
    workspace_name: str = "demo"
    detached_at: datetime | None = NOW
    last_activity_at: datetime = NOW - DAY
    has_ended: bool = False
    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *sessions: Quiet) -> None:
        self.sessions = list(sessions)
        self.now = NOW
        self.ended: list[tuple[str, EndReason]] = []
        self.busy: set[int] = set()
        self.asked: list[int] = []
        self.watch = IdleWatch(lambda: self.sessions, DEFAULT, end=self._end, now=lambda: self.now)
        monkeypatch.setattr(idle, "foreground", self._foreground)

    def _foreground(self, fd: int, kind: SessionKind) -> Foreground:
        self.asked.append(fd)
        return Foreground("make" if fd in self.busy else None)

    async def _end(self, session_id: str, reason: EndReason) -> None:
        if session_id == "stuck":
            raise KeeperGone("its keeper has ended")
        self.ended.append((session_id, reason))

    async def check_after(self, span: timedelta) -> None:
        self.now += span
        await self.watch.check()


async def test_a_forgotten_shell_is_warned_of_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, Quiet())
    await rig.check_after(6 * DAY)
    assert rig.watch.ends_at() == {"s1": NOW + 7 * DAY}
    await rig.check_after(DAY - 5 * MINUTE)
    assert rig.ended == []
    assert rig.watch.ends_at() == {"s1": NOW + 7 * DAY + 5 * MINUTE}
    await rig.check_after(9 * MINUTE)
    assert rig.ended == []
    await rig.check_after(MINUTE)
    assert rig.ended == [("s1", EndReason.IDLE)]


async def test_its_clients_read_when_and_how_to_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Quiet(is_attached=True, detached_at=None, last_activity_at=NOW)
    rig = Rig(monkeypatch, session)
    rig.watch._limits = STRICT
    await rig.check_after(50 * MINUTE + timedelta(seconds=20))
    assert session.said == ["this session ends in 10 min for want of use; press a key to keep it"]
    await rig.check_after(MINUTE)
    session.last_activity_at = rig.now
    await rig.check_after(10 * MINUTE)
    assert (len(session.said), rig.ended) == (1, [])
    await rig.check_after(40 * MINUTE)
    await rig.check_after(11 * MINUTE)
    assert session.said[2:] == ["this session ends for want of use"]
    assert rig.ended == [("s1", EndReason.IDLE)]


async def test_a_job_that_begins_after_the_warning_keeps_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, Quiet())
    await rig.check_after(7 * DAY)
    rig.busy.add(7)
    await rig.check_after(HOUR)
    assert (rig.ended, rig.watch.ends_at()) == ([], {})
    rig.busy.clear()
    await rig.check_after(HOUR)
    assert rig.ended == []  # warned again first


async def test_one_that_cannot_be_ended_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, Quiet("stuck"), Quiet("s2"))
    await rig.check_after(8 * DAY)
    await rig.check_after(DAY)
    assert rig.ended == [("s2", EndReason.IDLE)]
    await rig.check_after(MINUTE)
    assert rig.ended.count(("s2", EndReason.IDLE)) == 2  # still there: asked again


async def test_who_has_no_limit_is_not_even_asked_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, Quiet(is_attached=True, detached_at=None))
    await rig.check_after(DAY)
    assert rig.asked == []


async def test_a_session_that_is_being_written_down_or_that_nobody_can_come_to_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The latter: a background program of a command whose client has gone."""
    rig = Rig(monkeypatch, Quiet(has_ended=True), Quiet("s2", kind=EXEC, detached_at=None, terminal_fd=None))
    await rig.check_after(8 * DAY)
    await rig.check_after(DAY)
    assert (rig.ended, rig.watch.ends_at()) == ([], {})


async def test_what_is_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, Quiet())
    await rig.check_after(7 * DAY)
    rig.sessions.clear()
    await rig.check_after(MINUTE)
    assert rig.watch._warned_at == {}
