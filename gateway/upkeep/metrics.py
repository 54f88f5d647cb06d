"""The figures behind /metrics: counted from events, or sampled when somebody asks.

Parts of the gateway do not know of metrics: they log events (gateway/log.py), and this counts them. What is a state
rather than an event (connections open, sessions by kind) is read at the scrape, from callables the app gives.
Names end in their unit; labels come from small fixed sets, and whatever is not in its set becomes `other`, so that no
stranger can make series.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)
from prometheus_client.openmetrics import exposition as openmetrics

from gateway.events import Event
from gateway.forwarding.record import ForwardKind
from gateway.interfaces import EndReason, SessionKind
from gateway.log import log_failure

KINDS = frozenset(kind.value for kind in SessionKind)
END_REASONS = frozenset(reason.value for reason in EndReason)
FORWARD_KINDS = frozenset(kind.value for kind in ForwardKind)
JOBS = frozenset({"metrics", "maintenance", "backup", "github"})
LOGIN_REFUSALS = frozenset({"unknown_key", "bad_signature", "no_key"})
CONNECTION_REFUSALS = frozenset(
    {"connections_max", "connections_unauthenticated_max", "connections_unauthenticated_per_address_max"}
)

API_STATUSES = frozenset(str(status) for status in (200, 201, 400, 401, 403, 404, 405, 409, 413, 415, 429, 500, 503))

_LOGIN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DURATION_BUCKETS = (0.1, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600)
_JOB_BUCKETS = (0.01, 0.1, 1, 10, 60, 600, 3600)
_PAINTING_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1)
_LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

Keys = Mapping[str, object]
Reading = float | Mapping[tuple[str, str], float] | Mapping[tuple[str], float] | None  # numbers by label values
Read = Callable[[], Reading | Awaitable[Reading]]


class Where(StrEnum):
    """Where a sampled figure is read."""

    LOOP = "loop"  # in memory: the gateway's own state, which only the event loop may touch
    THREAD = "thread"  # may block: files, /proc


@dataclass(frozen=True, slots=True)
class _Sampled:
    name: str
    gauge: Gauge
    has_labels: bool
    read: Read
    where: Where


class Metrics:
    """One gateway's metrics, in a registry of their own (a process may run several gateways, as the tests do).

    Give `count` to `log.subscribe`. It never raises and is safe in any thread.
    """

    def __init__(self, *, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one extra series per series, which nothing we know reads
        self.registry = CollectorRegistry()
        self._sampled: list[_Sampled] = []
        self._failed_names: set[str] = set()
        self._rendering = asyncio.Lock()
        ProcessCollector(registry=self.registry)
        self._counters = _Counters(self.registry)
        self._build = Gauge("homeport_build_info", "The version that runs.", ["version"], registry=self.registry)
        self._build.labels(version).set(1)
        self._loop_lag = self._counters.loop_lag

    def count(self, event: Event, keys: Keys) -> None:
        """Take note of one event."""
        self._counters.count(event, keys)

    def observe_loop_lag(self, seconds: float) -> None:
        self._loop_lag.observe(seconds)

    def sample(
        self,
        name: str,
        documentation: str,
        read: Read,
        *,
        labels: Sequence[str] = (),
        where: Where = Where.LOOP,
    ) -> None:
        """Have `read` called at each scrape. It returns a number, or numbers by label values, or None: no figure now.

        A reading that raises leaves its gauge out of that scrape, never the whole page.
        """
        gauge = Gauge(f"homeport_{name}", documentation, labels, registry=self.registry)
        self._sampled.append(_Sampled(name, gauge, bool(labels), read, where))

    async def page(self, *, is_openmetrics: bool) -> bytes:
        """Read every sampled figure, then write all of it as text. One at a time, however many ask."""
        async with self._rendering:
            for sampled in self._sampled:
                if sampled.where is Where.LOOP:
                    await self._take_on_loop(sampled)
            return await asyncio.to_thread(self._render, is_openmetrics)

    def _render(self, is_openmetrics: bool) -> bytes:
        for sampled in self._sampled:
            if sampled.where is Where.THREAD:
                self._take_in_thread(sampled)
        if is_openmetrics:
            page: bytes = openmetrics.generate_latest(self.registry, version="1.0.0")  # type: ignore[no-untyped-call]
            return page
        return exposition.generate_latest(self.registry)

    async def _take_on_loop(self, sampled: _Sampled) -> None:
        try:
            reading = sampled.read()
            _put(sampled, await reading if isinstance(reading, Awaitable) else reading)
        except Exception:
            self._could_not_take(sampled)

    def _take_in_thread(self, sampled: _Sampled) -> None:
        try:
            reading = sampled.read()
            assert not isinstance(reading, Awaitable)
            _put(sampled, reading)
        except Exception:
            self._could_not_take(sampled)

    def _could_not_take(self, sampled: _Sampled) -> None:
        self._counters.sample_failures.inc()
        if sampled.name not in self._failed_names:  # once: scrapes come for ever
            self._failed_names.add(sampled.name)
            log_failure(Event.METRIC_FAILED, metric=sampled.name)
        _put(sampled, None)


def _put(sampled: _Sampled, reading: Reading) -> None:
    if sampled.has_labels:
        sampled.gauge.clear()
        for labels, value in reading.items() if isinstance(reading, Mapping) else ():
            sampled.gauge.labels(*labels).set(value)
    else:
        # A gauge without labels cannot be left out; NaN is the format's own word for "no figure".
        sampled.gauge.set(reading if isinstance(reading, int | float) else float("nan"))


class _Counters:
    """The metrics that follow from events, and the one place that says how."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(f"homeport_{name}", documentation, labels, registry=registry)

        def histogram(name: str, documentation: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"homeport_{name}", documentation, labels, buckets=buckets, registry=registry)

        self.connections = counter("connections_total", "SSH connections accepted.")
        self.connections_refused = counter("connections_refused_total", "SSH connections refused by a limit.", "reason")
        self.connection_duration = histogram(
            "connection_duration_seconds", "How long SSH connections lasted.", _DURATION_BUCKETS
        )
        self.logins = counter("logins_total", "Logins by outcome: accepted, or why refused.", "result")
        self.handshake = histogram(
            "login_handshake_seconds", "From the TCP connection to the accepted login.", _LOGIN_BUCKETS
        )
        self.sessions = counter("sessions_opened_total", "Sessions opened.", "kind", "terminal")
        self.session_open = histogram(
            "session_open_seconds", "From the request to the running program.", _LOGIN_BUCKETS
        )
        self.sessions_failed = counter("sessions_failed_total", "Sessions that failed in us.")
        self.sessions_refused = counter("sessions_refused_total", "Sessions that policy or a limit refused.")
        self.sessions_ended = counter("sessions_ended_total", "Sessions ended, by how.", "kind", "reason")
        self.session_duration = histogram(
            "session_duration_seconds", "How long sessions lasted.", _DURATION_BUCKETS, "kind"
        )
        self.session_bytes = counter("session_bytes_total", "Bytes of ended sessions.", "direction")
        self.sessions_detached = counter("sessions_detached_total", "Sessions left running by their connection.")
        self.sessions_adopted = counter("sessions_adopted_total", "Sessions taken over from an earlier gateway.")
        self.forwards = counter("forwards_total", "Forwarded streams, and refused forwards.", "kind", "result")
        self.forward_bytes = counter("forward_bytes_total", "Bytes of ended forwarded streams.", "direction")
        self.forward_listeners = counter("forward_listeners_total", "Listeners opened for clients.", "kind")
        self.credentials = counter(
            "credentials_total", "Questions of git in workspaces for the GitHub token.", "result"
        )
        self.keepers = counter("keeper_starts_total", "Keepers started.")
        self.keepers_ended = counter("keeper_ends_total", "Keepers that ended.")
        self.keepers_misbehaved = counter("keeper_misbehaviours_total", "Answers of keepers that were not accepted.")
        self.gaps = counter("recording_gaps_total", "Gaps in recordings.")
        self.gap_bytes = counter("recording_gap_bytes_total", "Output that is missing from recordings.")
        self.recording_failures = counter("recording_failures_total", "Recordings that could not be written.")
        self.screen_paintings = histogram(
            "screen_painting_seconds", "From an attach to the bytes of its screen.", _PAINTING_BUCKETS
        )
        self.screen_approximations = counter("screen_approximations_total", "Attaches shown plain lines instead.")
        self.screens_ended = counter("screens_process_ends_total", "Ends of the process that paints, unasked.")
        self.store_slow = counter("store_slow_queries_total", "Database queries that took too long.")
        self.store_failures = counter("store_failures_total", "Database operations that failed.")
        self.jobs = counter("job_runs_total", "Runs of scheduled jobs by outcome.", "job", "result")
        self.job_duration = histogram("job_duration_seconds", "How long scheduled jobs took.", _JOB_BUCKETS, "job")
        self.job_success = Gauge(
            "homeport_job_last_success_timestamp_seconds", "When a job last succeeded.", ["job"], registry=registry
        )
        self.commands = counter("commands_total", "Commands of the lobby by outcome.", "result")
        self.http_failures = counter("http_failures_total", "HTTP requests that failed in us.")
        self.api_calls = counter("api_calls_total", "Calls of the HTTP API by the status of their answer.", "status")
        self.sample_failures = counter("metric_sample_failures_total", "Figures that could not be read at a scrape.")
        self.loop_lag = histogram("event_loop_lag_seconds", "How late the event loop ran a timer.", _LAG_BUCKETS)
        self._by_event: dict[Event, Callable[[Keys], None]] = self._table()
        self._start_at_zero()

    def count(self, event: Event, keys: Keys) -> None:
        note = self._by_event.get(event)
        if note is not None:
            note(keys)

    def _table(self) -> dict[Event, Callable[[Keys], None]]:
        return {
            Event.CONNECTION_OPENED: lambda keys: self.connections.inc(),
            Event.CONNECTION_REFUSED: lambda keys: self.connections_refused.labels(
                _one_of(CONNECTION_REFUSALS, keys.get("reason"))
            ).inc(),
            Event.CONNECTION_ENDED: lambda keys: self.connection_duration.observe(_seconds(keys, "duration_ms")),
            Event.LOGIN_ACCEPTED: self._login_accepted,
            Event.LOGIN_REFUSED: lambda keys: self.logins.labels(_one_of(LOGIN_REFUSALS, keys.get("reason"))).inc(),
            Event.SESSION_OPENED: self._session_opened,
            Event.SESSION_FAILED: lambda keys: self.sessions_failed.inc(),
            Event.SESSION_REFUSED: lambda keys: self.sessions_refused.inc(),
            Event.SESSION_ENDED: self._session_ended,
            Event.SESSION_DETACHED: lambda keys: self.sessions_detached.inc(),
            Event.SESSION_ADOPTED: lambda keys: self.sessions_adopted.inc(),
            Event.FORWARD_OPENED: lambda keys: self.forwards.labels(_forward_kind(keys), "opened").inc(),
            Event.FORWARD_REFUSED: lambda keys: self.forwards.labels(_forward_kind(keys), "refused").inc(),
            Event.FORWARD_ENDED: self._forward_ended,
            Event.LISTENER_OPENED: lambda keys: self.forward_listeners.labels(_forward_kind(keys)).inc(),
            Event.CREDENTIAL_GIVEN: lambda keys: self.credentials.labels("given").inc(),
            Event.CREDENTIAL_REFUSED: lambda keys: self.credentials.labels("refused").inc(),
            Event.KEEPER_STARTED: lambda keys: self.keepers.inc(),
            Event.KEEPER_ENDED: lambda keys: self.keepers_ended.inc(),
            Event.KEEPER_MISBEHAVED: lambda keys: self.keepers_misbehaved.inc(),
            Event.RECORDING_GAP: self._recording_gap,
            Event.RECORDING_FAILED: lambda keys: self.recording_failures.inc(),
            Event.SCREEN_PAINTED: lambda keys: self.screen_paintings.observe(_seconds(keys, "duration_ms")),
            Event.SCREEN_APPROXIMATED: lambda keys: self.screen_approximations.inc(),
            Event.SCREENS_ENDED: lambda keys: self.screens_ended.inc(),
            Event.STORE_SLOW: lambda keys: self.store_slow.inc(),
            Event.STORE_FAILED: lambda keys: self.store_failures.inc(),
            Event.JOB_ENDED: self._job_ended,
            Event.JOB_FAILED: lambda keys: self.jobs.labels(_one_of(JOBS, keys.get("job")), "failed").inc(),
            Event.JOB_SKIPPED: lambda keys: self.jobs.labels(_one_of(JOBS, keys.get("job")), "skipped").inc(),
            Event.COMMAND_RUN: lambda keys: self.commands.labels("run").inc(),
            Event.COMMAND_REFUSED: lambda keys: self.commands.labels("refused").inc(),
            Event.HTTP_FAILED: lambda keys: self.http_failures.inc(),
            Event.API_CALLED: lambda keys: self.api_calls.labels(_one_of(API_STATUSES, keys.get("status"))).inc(),
        }

    def _start_at_zero(self) -> None:
        """Series that exist before their first event: a rate over a series that appears with 1 misses that one."""
        for result in ("accepted", *LOGIN_REFUSALS, "other"):
            self.logins.labels(result)
        for status in API_STATUSES:
            self.api_calls.labels(status)
        for kind in KINDS:
            for terminal in ("yes", "no"):
                self.sessions.labels(kind, terminal)
        for job in JOBS:
            for result in ("succeeded", "failed", "skipped"):
                self.jobs.labels(job, result)
        for kind in FORWARD_KINDS:
            for result in ("opened", "refused"):
                self.forwards.labels(kind, result)
        for direction in ("in", "out"):
            self.session_bytes.labels(direction)
            self.forward_bytes.labels(direction)

    def _login_accepted(self, keys: Keys) -> None:
        self.logins.labels("accepted").inc()
        if "handshake_ms" in keys:
            self.handshake.observe(_seconds(keys, "handshake_ms"))

    def _session_opened(self, keys: Keys) -> None:
        self.sessions.labels(_one_of(KINDS, keys.get("kind")), "yes" if keys.get("pty") else "no").inc()
        if "open_ms" in keys:
            self.session_open.observe(_seconds(keys, "open_ms"))

    def _session_ended(self, keys: Keys) -> None:
        kind = _one_of(KINDS, keys.get("kind"))
        self.sessions_ended.labels(kind, _one_of(END_REASONS, keys.get("reason"))).inc()
        self.session_duration.labels(kind).observe(_seconds(keys, "duration_ms"))
        self.session_bytes.labels("in").inc(_number(keys, "bytes_in"))
        self.session_bytes.labels("out").inc(_number(keys, "bytes_out"))

    def _forward_ended(self, keys: Keys) -> None:
        self.forward_bytes.labels("in").inc(_number(keys, "bytes_in"))
        self.forward_bytes.labels("out").inc(_number(keys, "bytes_out"))

    def _recording_gap(self, keys: Keys) -> None:
        self.gaps.inc()
        self.gap_bytes.inc(_number(keys, "lost_bytes"))

    def _job_ended(self, keys: Keys) -> None:
        job = _one_of(JOBS, keys.get("job"))
        self.jobs.labels(job, "succeeded").inc()
        self.job_duration.labels(job).observe(_seconds(keys, "duration_ms"))
        self.job_success.labels(job).set_to_current_time()


def _one_of(known: frozenset[str], value: object) -> str:
    text = str(value)
    return text if text in known else "other"


def _forward_kind(keys: Keys) -> str:
    return _one_of(FORWARD_KINDS, keys.get("kind"))


def _number(keys: Keys, name: str) -> float:
    """A count from an event; a missing or senseless one is 0, as counters must never go down or raise."""
    value = keys.get(name)
    return max(0.0, float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _seconds(keys: Keys, name: str) -> float:
    return _number(keys, name) / 1000
