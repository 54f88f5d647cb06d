"""What /metrics says, and that it says it in Prometheus' own grammar."""

from __future__ import annotations

import math
import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.events import Event
from gateway.upkeep.metrics import Metrics, Where

UNITS = ("_total", "_seconds", "_bytes", "_info", "_count", "_sum", "_bucket")
# States that count things have no unit; these are the ones there are.
PLAIN_COUNTS = {
    "process_open_fds",
    "process_max_fds",
    "homeport_sessions",
    "homeport_broken",
    "homeport_connections_open",
}


async def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    page = (await metrics.page(is_openmetrics=False)).decode()
    for family in parse_text(page):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def a_busy_day(metrics: Metrics) -> None:
    """One of each event, some with keys that a hostile or careless sender could choose."""
    for event in Event:
        metrics.count(event, {})
    metrics.count(Event.LOGIN_REFUSED, {"reason": "so\nmany{words}"})
    metrics.count(Event.SESSION_OPENED, {"kind": "shell", "pty": True, "open_ms": 12.5})
    metrics.count(
        Event.SESSION_ENDED,
        {"kind": "shell", "reason": "exit", "bytes_in": 10, "bytes_out": 2000, "duration_ms": 61_000},
    )
    metrics.count(Event.LOGIN_ACCEPTED, {"method": "publickey", "handshake_ms": 40})
    metrics.sample("sessions", "Sessions.", lambda: {("shell", "active"): 2}, labels=("kind", "status"))


@pytest.mark.parametrize("is_openmetrics", [False, True])
async def test_the_page_parses_in_both_formats_and_names_end_in_their_unit(is_openmetrics: bool) -> None:
    metrics = Metrics(version="1.2.3")
    a_busy_day(metrics)
    page = (await metrics.page(is_openmetrics=is_openmetrics)).decode()
    families = list((parse_openmetrics if is_openmetrics else parse_text)(page))
    samples = [sample for family in families for sample in family.samples]
    assert len(samples) > 100
    assert [s.name for s in samples if not s.name.endswith(UNITS) and s.name not in PLAIN_COUNTS] == []
    assert [family.name for family in families if not family.documentation] == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_has_nothing_to_say() -> None:
    metrics = Metrics(version="1.2.3")
    a_busy_day(metrics)
    page = await metrics.page(is_openmetrics=False)
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_events_become_counts() -> None:
    metrics = Metrics(version="1")
    metrics.count(Event.CONNECTION_OPENED, {"client_ip": "192.0.2.7"})
    metrics.count(Event.LOGIN_ACCEPTED, {"method": "publickey", "handshake_ms": 40})
    metrics.count(Event.LOGIN_REFUSED, {"reason": "unknown_key"})
    metrics.count(Event.SESSION_OPENED, {"kind": "exec", "pty": False})
    metrics.count(Event.SESSION_ENDED, {"kind": "exec", "reason": "exit", "bytes_in": 5, "bytes_out": 7})
    metrics.count(Event.FORWARD_OPENED, {"kind": "direct-tcpip"})
    metrics.count(Event.FORWARD_REFUSED, {"kind": 'whatever\na client"s'})
    metrics.count(Event.FORWARD_ENDED, {"kind": "direct-tcpip", "bytes_in": 3, "bytes_out": 4})
    metrics.count(Event.LISTENER_OPENED, {"kind": "tcpip-forward"})
    metrics.count(Event.RECORDING_GAP, {"lost_bytes": 4096})
    metrics.count(Event.CREDENTIAL_GIVEN, {"workspace": "my-app"})
    metrics.count(Event.JOB_ENDED, {"job": "backup", "duration_ms": 250})
    assert await value(metrics, "homeport_connections_total") == 1
    assert await value(metrics, "homeport_forwards_total", kind="direct-tcpip", result="opened") == 1
    assert await value(metrics, "homeport_forwards_total", kind="other", result="refused") == 1
    assert await value(metrics, "homeport_forward_bytes_total", direction="out") == 4
    assert await value(metrics, "homeport_forward_listeners_total", kind="tcpip-forward") == 1
    assert await value(metrics, "homeport_credentials_total", result="given") == 1
    assert await value(metrics, "homeport_logins_total", result="accepted") == 1
    assert await value(metrics, "homeport_logins_total", result="unknown_key") == 1
    assert await value(metrics, "homeport_login_handshake_seconds_sum") == pytest.approx(0.04)
    assert await value(metrics, "homeport_sessions_opened_total", kind="exec", terminal="no") == 1
    assert await value(metrics, "homeport_sessions_ended_total", kind="exec", reason="exit") == 1
    assert await value(metrics, "homeport_session_bytes_total", direction="out") == 7
    assert await value(metrics, "homeport_recording_gap_bytes_total") == 4096
    assert await value(metrics, "homeport_job_runs_total", job="backup", result="succeeded") == 1


async def test_a_stranger_cannot_make_series() -> None:
    """Labels come from fixed sets: a thousand made-up reasons are one series, called other."""
    metrics = Metrics(version="1")
    before = (await metrics.page(is_openmetrics=False)).count(b"\nhomeport_")
    for number in range(1000):
        metrics.count(Event.LOGIN_REFUSED, {"reason": f"made-up-{number}"})
        metrics.count(Event.CONNECTION_REFUSED, {"reason": f"192.0.2.{number}"})
        metrics.count(Event.SESSION_ENDED, {"kind": str(number), "reason": str(number)})
    after = (await metrics.page(is_openmetrics=False)).count(b"\nhomeport_")
    assert await value(metrics, "homeport_logins_total", result="other") == 1000
    assert after - before < 20


@pytest.mark.parametrize("odd", [None, "many", -5, True, float("nan"), [], object()])
async def test_senseless_keys_neither_raise_nor_lower_a_count(odd: object) -> None:
    """A counter that raised would break whatever logged the event."""
    metrics = Metrics(version="1")
    for event in Event:
        metrics.count(
            event, dict.fromkeys(["kind", "reason", "bytes_in", "bytes_out", "duration_ms", "job", "pty"], odd)
        )
    assert await value(metrics, "homeport_session_bytes_total", direction="in") == 0


async def test_a_figure_that_cannot_be_read_costs_only_itself() -> None:
    metrics = Metrics(version="1")

    def broken() -> float:
        raise OSError("/secret/path")

    metrics.sample("broken", "Cannot be read.", broken, where=Where.THREAD)
    metrics.sample("sessions", "Sessions.", lambda: {("shell", "active"): 3}, labels=("kind", "status"))
    for _ in range(2):
        page = (await metrics.page(is_openmetrics=False)).decode()
    assert "secret" not in page
    assert math.isnan(await value(metrics, "homeport_broken") or 0)
    assert await value(metrics, "homeport_sessions", kind="shell", status="active") == 3
    assert (await value(metrics, "homeport_metric_sample_failures_total") or 0) >= 2


async def test_a_series_that_is_gone_is_not_shown_any_more() -> None:
    metrics, counts = Metrics(version="1"), {("shell", "active"): 1}
    metrics.sample("sessions", "Sessions.", lambda: counts, labels=("kind", "status"))
    assert await value(metrics, "homeport_sessions", kind="shell", status="active") == 1
    counts.clear()
    assert await value(metrics, "homeport_sessions", kind="shell", status="active") is None


async def test_the_gateways_own_process_is_measured() -> None:
    metrics = Metrics(version="1.2.3")
    assert (await value(metrics, "process_resident_memory_bytes") or 0) > 1_000_000
    assert (await value(metrics, "process_open_fds") or 0) > 2
    assert await value(metrics, "process_cpu_seconds_total") is not None
    assert await value(metrics, "homeport_build_info", version="1.2.3") == 1


async def test_two_gateways_in_one_process_count_apart() -> None:
    one, two = Metrics(version="1"), Metrics(version="1")
    one.count(Event.CONNECTION_OPENED, {})
    assert (await value(one, "homeport_connections_total"), await value(two, "homeport_connections_total")) == (1, 0)
