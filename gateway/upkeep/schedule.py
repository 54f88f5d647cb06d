"""Jobs by the clock: aiocron behind what it lacks.

aiocron 2.1 has no overlap guard, fires once per missed time after a stall, follows the monotonic clock (so it drifts
when the wall clock is set or the machine sleeps), and leaves runs behind at `stop`. So a Cron here only says "due";
the runs are tasks of ours, one per job at most, each with a deadline and a result that is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from aiocron import Cron  # type: ignore[import-untyped]
from cronsim import CronSim, CronSimError

from gateway.errors import CommandRefused, ConfigInvalid, GatewayError
from gateway.events import Event
from gateway.log import log_event, log_failure, log_warning

CLOCK_CHECK_SECONDS = 30.0
# Missed runs wait for this long, so that the start and the first logins have the machine to themselves.
CATCH_UP_DELAY_SECONDS = 60.0
# NTP slews smaller differences; a job that is two seconds off is on time.
CLOCK_STEP_MIN_SECONDS = 2.0
# A job that failed this often in a row makes the gateway's health `degraded`.
FAILURES_DEGRADED_MIN = 2


class JobOutcome(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do by the clock. `run`'s result is kept and shown; `is_overdue` says whether a run was missed."""

    name: str
    cron: str
    run: Callable[[], Awaitable[object]]
    seconds_max: float
    is_overdue: Callable[[], Awaitable[bool]] | None = None


@dataclass(frozen=True, slots=True)
class JobReport:
    """What is known of a job since the start of the gateway."""

    name: str
    cron: str
    is_running: bool = False
    last_outcome: JobOutcome | None = None
    last_started_at: datetime | None = None
    last_success_at: datetime | None = None
    last_duration_ms: float | None = None
    last_error: str | None = None
    last_result: object = None
    run_count: int = 0
    skipped_count: int = 0
    failures_in_a_row: int = 0


class Schedule:
    """Runs jobs between `start` and `stop`. Make it anywhere; start it on the loop it shall run on."""

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        clock_check_seconds: float = CLOCK_CHECK_SECONDS,
        catch_up_delay_seconds: float = CATCH_UP_DELAY_SECONDS,
    ) -> None:
        for job in jobs:
            check_cron(job.name, job.cron)
        self._jobs = {job.name: job for job in jobs}
        self._reports = {job.name: JobReport(job.name, job.cron) for job in jobs}
        self._running: dict[str, asyncio.Task[object]] = {}
        self._crons: list[Cron] = []
        self._clock_check_seconds = clock_check_seconds
        self._catch_up_delay_seconds = catch_up_delay_seconds
        self._clock_watch: asyncio.Task[None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Begin, or begin again after `stop`. What was missed meanwhile is caught up in the background."""
        self._is_stopping = False
        self._set_crons()
        self._clock_watch = asyncio.create_task(self._watch_clock(), name="schedule:clock")

    async def stop(self, deadline_seconds: float) -> None:
        """No new runs; wait for running ones until the deadline, then cancel them and wait for that."""
        self._is_stopping = True
        self._stop_crons()
        if self._clock_watch is not None:
            self._clock_watch.cancel()
            await asyncio.gather(self._clock_watch, return_exceptions=True)
        running = set(self._running.values())
        if running:
            _, late = await asyncio.wait(running, timeout=deadline_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def run_now(self, name: str) -> object:
        """Run a job and return its result; join the run if there is one. Raises what the job raised.

        The run goes on if the caller is cancelled.
        """
        if self._is_stopping:
            raise CommandRefused("the gateway is stopping; try again when it is back")
        return await asyncio.shield(self._running.get(name) or self._begin(self._jobs[name]))

    def reports(self) -> list[JobReport]:
        return [replace(report, is_running=name in self._running) for name, report in self._reports.items()]

    def warnings(self) -> list[str]:
        """Jobs that keep failing, in words fit for strangers."""
        return [
            f"{report.name} job failed {report.failures_in_a_row} times in a row"
            for report in self._reports.values()
            if report.failures_in_a_row >= FAILURES_DEGRADED_MIN
        ]

    # ------------------------------------------------------------------------------------------------ the clock

    def _set_crons(self) -> None:
        loop = asyncio.get_running_loop()
        self._crons = [
            Cron(job.cron, lambda job=job: self._due(job), start=False, loop=loop, tz=UTC)
            for job in self._jobs.values()
        ]
        for cron in self._crons:
            cron.start()

    def _stop_crons(self) -> None:
        for cron in self._crons:
            cron.stop()
        self._crons = []

    async def _watch_clock(self) -> None:
        """Catch up, then look from time to time whether wall clock and loop clock still agree."""
        loop = asyncio.get_running_loop()
        offset = time.time() - loop.time()
        await asyncio.sleep(self._catch_up_delay_seconds)
        await self._catch_up()
        while True:
            await asyncio.sleep(self._clock_check_seconds)
            now = time.time() - loop.time()
            if abs(now - offset) >= CLOCK_STEP_MIN_SECONDS:
                offset = now
                self._stop_crons()
                self._set_crons()
                await self._catch_up()

    async def _catch_up(self) -> None:
        for job in self._jobs.values():
            try:
                if job.is_overdue is not None and await job.is_overdue():
                    self._due(job)
            except Exception:
                log_failure(Event.JOB_FAILED, job=job.name, reason="could not tell whether a run was missed")

    # ------------------------------------------------------------------------------------------------- the runs

    def _due(self, job: Job) -> None:
        if self._is_stopping:
            return
        if job.name in self._running:
            report = self._reports[job.name]
            self._reports[job.name] = replace(report, skipped_count=report.skipped_count + 1)
            log_warning(Event.JOB_SKIPPED, job=job.name, reason="the run before has not ended")
            return
        self._begin(job)

    def _begin(self, job: Job) -> asyncio.Task[object]:
        task = asyncio.create_task(self._run(job), name=f"job:{job.name}")
        self._running[job.name] = task
        task.add_done_callback(lambda done: self._ended(job.name, done))
        return task

    def _ended(self, name: str, task: asyncio.Task[object]) -> None:
        del self._running[name]
        if not task.cancelled():
            task.exception()  # looked at: nobody may be waiting for it, and it was logged in `_run`

    async def _run(self, job: Job) -> object:
        started_at, started = datetime.now(UTC), time.monotonic()
        log_event(Event.JOB_STARTED, job=job.name)
        outcome, words, result = JobOutcome.CANCELLED, "the gateway stopped", None
        try:
            async with asyncio.timeout(job.seconds_max):
                result = await job.run()
            outcome, words = JobOutcome.SUCCEEDED, ""
            return result
        except TimeoutError as error:
            outcome, words = JobOutcome.TIMED_OUT, f"did not end within {job.seconds_max:g} s"
            raise CommandRefused(f"the {job.name} job {words}") from error
        except Exception as error:
            outcome = JobOutcome.FAILED
            words = error.user_message if isinstance(error, GatewayError) else type(error).__name__
            raise
        finally:
            duration_ms = round((time.monotonic() - started) * 1000, 1)
            self._note(job, outcome, words, result, started_at, duration_ms)
            if outcome is JobOutcome.SUCCEEDED:
                log_event(Event.JOB_ENDED, job=job.name, duration_ms=duration_ms, result=str(result))
            else:
                log_failure(Event.JOB_FAILED, job=job.name, duration_ms=duration_ms, outcome=outcome, reason=words)

    def _note(
        self, job: Job, outcome: JobOutcome, words: str, result: object, started_at: datetime, duration_ms: float
    ) -> None:
        before = self._reports[job.name]
        has_succeeded = outcome is JobOutcome.SUCCEEDED
        self._reports[job.name] = replace(
            before,
            last_outcome=outcome,
            last_started_at=started_at,
            last_success_at=datetime.now(UTC) if has_succeeded else before.last_success_at,
            last_duration_ms=duration_ms,
            last_error=words or None,
            last_result=result,
            run_count=before.run_count + 1,
            failures_in_a_row=0 if has_succeeded else before.failures_in_a_row + 1,
        )


def check_cron(name: str, expression: str) -> None:
    """Raises ConfigInvalid when the expression is not one."""
    try:
        CronSim(expression, datetime.now(UTC))
    except CronSimError as error:
        raise ConfigInvalid(
            f"config: [schedule] {name} = {expression!r} is not a cron expression ({error}); "
            'write for example "0 2 * * *", which is 02:00 UTC every day'
        ) from None
