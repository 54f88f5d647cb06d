"""Jobs by the clock: what aiocron lacks is here, so it is tested here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from gateway.errors import BackupFailed, CommandRefused, ConfigInvalid
from gateway.events import Event
from gateway.log import subscribe
from gateway.upkeep import schedule as module
from gateway.upkeep.schedule import Job, JobOutcome, JobReport, Schedule, check_cron

NEVER = "0 0 1 1 *"
EACH_SECOND = "* * * * * *"


class Work:
    """A job that waits to be let go, and counts."""

    def __init__(self, *, is_held: bool = True) -> None:
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self.start_count = self.end_count = 0
        self.failure: Exception | None = None
        if not is_held:
            self.gate.set()

    async def __call__(self) -> str:
        self.start_count += 1
        self.started.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.end_count += 1
        return "done"


@contextlib.asynccontextmanager
async def running(*jobs: Job, **options: float) -> AsyncIterator[Schedule]:
    """Started, and afterwards stopped without a task left."""
    schedule = Schedule(jobs, **{"catch_up_delay_seconds": 0, **options})
    schedule.start()
    try:
        async with asyncio.timeout(10):
            yield schedule
    finally:
        await schedule.stop(deadline_seconds=0)
        await asyncio.sleep(0)
    assert [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def job(work: Work, *, cron: str = NEVER, seconds_max: float = 60) -> Job:
    return Job("backup", cron, work, seconds_max)


def report(schedule: Schedule) -> JobReport:
    return schedule.reports()[0]


async def test_a_job_runs_when_its_time_comes() -> None:
    """aiocron's import-time decorator never fires under asyncio.run, and says nothing."""
    work = Work(is_held=False)
    async with running(job(work, cron=EACH_SECOND)) as schedule:
        await work.started.wait()
        while not report(schedule).run_count:
            await asyncio.sleep(0)
        assert (report(schedule).last_outcome, report(schedule).last_result) == (JobOutcome.SUCCEEDED, "done")


async def test_a_run_that_is_not_over_is_not_joined_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare aiocron ran five copies at once, and three after a stall."""
    work, seen = Work(), []
    unsubscribe = subscribe(lambda event, keys: seen.append(event))
    async with running(job(work)) as schedule:
        for _ in range(3):
            schedule._due(schedule._jobs["backup"])
        await work.started.wait()
        schedule._due(schedule._jobs["backup"])
        assert (work.start_count, report(schedule).skipped_count, report(schedule).is_running) == (1, 3, True)
        work.gate.set()
    unsubscribe()
    assert seen.count(Event.JOB_SKIPPED) == 3


async def test_a_job_that_hangs_is_ended_at_its_deadline() -> None:
    work = Work()
    async with running(job(work, seconds_max=0.01)) as schedule:
        with pytest.raises(CommandRefused, match=r"did not end within 0\.01 s"):
            await schedule.run_now("backup")
        assert report(schedule).last_outcome is JobOutcome.TIMED_OUT
        assert not report(schedule).is_running


async def test_a_failure_is_kept_logged_and_told_to_the_one_who_asked(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(is_held=False)
    work.failure = BackupFailed("no room", detail="/secret")
    async with running(job(work)) as schedule:
        with pytest.raises(BackupFailed):
            await schedule.run_now("backup")
        assert (report(schedule).last_outcome, report(schedule).last_error) == (JobOutcome.FAILED, "no room")
    assert [record.getMessage() for record in caplog.records] == ["job.failed"]


async def test_health_is_told_after_two_failures_and_no_more_after_a_success() -> None:
    work = Work(is_held=False)
    work.failure = RuntimeError("/secret")
    async with running(job(work)) as schedule:
        for warnings in ([], ["backup job failed 2 times in a row"]):
            with pytest.raises(RuntimeError):
                await schedule.run_now("backup")
            assert schedule.warnings() == warnings
        work.failure = None
        await schedule.run_now("backup")
        assert schedule.warnings() == []


async def test_whoever_asks_during_a_run_gets_its_result() -> None:
    work = Work()
    async with running(job(work)) as schedule:
        asked = [asyncio.create_task(schedule.run_now("backup")) for _ in range(3)]
        await work.started.wait()
        work.gate.set()
        assert await asyncio.gather(*asked) == ["done"] * 3
    assert work.start_count == 1


async def test_a_run_goes_on_when_the_one_who_asked_goes_away() -> None:
    work = Work()
    async with running(job(work)) as schedule:
        asked = asyncio.create_task(schedule.run_now("backup"))
        await work.started.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert report(schedule).is_running
        work.gate.set()
        while report(schedule).is_running:
            await asyncio.sleep(0)
    assert work.end_count == 1


async def test_stopping_waits_for_a_run_that_ends_in_time() -> None:
    """aiocron's stop leaves runs behind: a backup would go on while the database closes."""
    work = Work()
    async with running(job(work)) as schedule:
        schedule._due(schedule._jobs["backup"])
        await work.started.wait()
        stopping = asyncio.create_task(schedule.stop(deadline_seconds=5))
        await asyncio.sleep(0)
        work.gate.set()
        await stopping
    assert work.end_count == 1


async def test_stopping_cancels_a_run_that_does_not_end_and_starts_no_more() -> None:
    work = Work()
    async with running(job(work)) as schedule:
        schedule._due(schedule._jobs["backup"])
        await work.started.wait()
        await schedule.stop(deadline_seconds=0.01)
        assert report(schedule).last_outcome is JobOutcome.CANCELLED
        schedule._due(schedule._jobs["backup"])
        with pytest.raises(CommandRefused):
            await schedule.run_now("backup")
    assert (work.start_count, work.end_count) == (1, 0)


async def test_a_run_that_was_missed_is_caught_up_in_the_background() -> None:
    work = Work(is_held=False)

    async def is_overdue() -> bool:
        return True

    async with running(Job("backup", NEVER, work, 60, is_overdue=is_overdue)):
        await work.started.wait()


async def test_a_question_that_fails_does_not_keep_the_clock_from_running(caplog: pytest.LogCaptureFixture) -> None:
    work, asked = Work(is_held=False), asyncio.Event()

    async def broken() -> bool:
        asked.set()
        raise OSError("gone")

    async with running(Job("metrics", NEVER, work, 60, is_overdue=broken), job(work, cron=EACH_SECOND)):
        await asked.wait()
        await work.started.wait()
    assert caplog.records[0].getMessage() == "job.failed"


async def test_a_set_clock_or_a_long_sleep_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiocron counts on from its start by the monotonic clock: after a suspend it would be hours late for ever."""
    work, overdue, asked = Work(is_held=False), False, asyncio.Event()

    async def is_overdue() -> bool:
        asked.set()
        return overdue

    class Clock:
        offset = 0.0
        monotonic = staticmethod(time.monotonic)

        @classmethod
        def time(cls) -> float:
            return time.time() + cls.offset

    monkeypatch.setattr(module, "time", Clock)
    async with running(Job("backup", NEVER, work, 60, is_overdue=is_overdue), clock_check_seconds=0.001) as schedule:
        first = schedule._crons
        await asked.wait()
        overdue, Clock.offset = True, 9 * 3600.0
        await work.started.wait()
        assert schedule._crons is not first


@pytest.mark.parametrize("expression", ["", "daily", "0 25 * * *", "* * * *", "* * * * * * *"])
def test_a_wrong_expression_is_refused_with_a_right_one(expression: str) -> None:
    with pytest.raises(ConfigInvalid, match=r'\[schedule\] backup = .* "0 2 \* \* \*"'):
        Schedule([Job("backup", expression, Work(), 60)])


@pytest.mark.parametrize("expression", ["* * * * *", "0 2 * * *", "*/5 1-3 * * MON", EACH_SECOND])
def test_usual_expressions_are_accepted(expression: str) -> None:
    check_cron("backup", expression)
