"""Upkeep on the real store and the real HTTP server, on a disk that can be filled and made read-only."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from admin_http import AdminServer
from gateway.config import Address, Config, HttpSettings
from gateway.errors import GatewayError
from gateway.events import Event
from gateway.interfaces import Measurement, WindowSize, Workspace
from gateway.log import log_event
from gateway.recording.recordings import FileRecordings
from gateway.store.store import Store
from gateway.upkeep.upkeep import Sources, Upkeep
from tests.support.api import FakeApi


async def works() -> None:
    return None


async def an_hour() -> float:
    return 3600


def sources() -> Sources:
    return Sources(
        is_serving=lambda: True,
        probe_keeper=works,
        session_counts=lambda: {("shell", "active"): 2},
        live_session_ids=list,
        connection_count=lambda: 3,
        warnings=lambda: ["isolation: none"],
        github_expires_seconds=an_hour,
    )


class Running:
    def __init__(self, upkeep: Upkeep, store: Store, recordings: FileRecordings, address: Address) -> None:
        self.upkeep, self.store, self.recordings, self.address = upkeep, store, recordings, address

    async def get(self, path: str) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        async with asyncio.timeout(10):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), body


@contextlib.asynccontextmanager
async def running(state_dir: Path, runtime_dir: Path) -> AsyncIterator[Running]:
    http = {"readiness_cache_seconds": 0, "disk_free_min_bytes": 1024 * 1024}
    config = Config.model_validate({"state_dir": state_dir, "http": http})
    backups_dir, database_file = state_dir / "backups", state_dir / "homeport.db"
    store = await Store.open(
        database_file, backups_dir=backups_dir, workspaces_dir=state_dir / "workspaces", workspaces_max=10
    )
    recordings = FileRecordings(
        recordings_dir=state_dir / "recordings", spools_dir=runtime_dir / "spools", settings=config.recording
    )
    upkeep = Upkeep(
        config,
        version="1.2.3",
        database_file=database_file,
        backups_dir=backups_dir,
        store=store,
        recordings=recordings,
        sources=sources(),
    )
    upkeep.start()
    try:
        async with AdminServer(HttpSettings(listen=Address(host="127.0.0.1", port=0)), upkeep, FakeApi()) as server:
            yield Running(upkeep, store, recordings, server.addresses[0])
    finally:
        await upkeep.stop(deadline_seconds=5)
        await upkeep.stop(deadline_seconds=5)  # twice is harmless
        await recordings.close()
        await store.close()
    left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert [name for name in left if not name.startswith("Task-")] == []


async def test_health_readiness_and_metrics_of_a_gateway_that_works(tmp_path: Path) -> None:
    async with running(tmp_path / "state", tmp_path / "run") as gateway:
        log_event(Event.CONNECTION_OPENED, connection_id="c1", client_ip="192.0.2.7")
        health_status, health = await gateway.get("/healthz")
        assert (health_status, json.loads(health)["warnings"]) == (200, ["isolation: none"])
        assert await gateway.get("/readyz") == (200, '{"status": "ready"}\n')
        status, page = await gateway.get("/metrics")
    assert status == 200
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["homeport_connections_total",] == 1
    assert samples["homeport_connections_open",] == 3
    assert samples["homeport_sessions", "shell", "active"] == 2
    assert samples["homeport_database_size_bytes",] > 10_000
    assert samples["homeport_metric_sample_failures_total",] == 0
    for secret in (str(tmp_path), "192.0.2.7"):
        assert secret not in health + page


async def test_a_sample_and_a_backup_of_the_real_database_hold_what_was_written(tmp_path: Path) -> None:
    async with running(tmp_path / "state", tmp_path / "run") as gateway:
        await gateway.upkeep.schedule.run_now("metrics")
        made = await gateway.upkeep.backup_now()
        rows = await gateway.store.metric_history("memory_usage", since=datetime.now(UTC) - timedelta(minutes=1))
        assert 0 < rows[0][1].value < 100
    (tmp_path / "restored.db").write_bytes(gzip.decompress(made.path.read_bytes()))
    with contextlib.closing(sqlite3.connect(tmp_path / "restored.db")) as restored:
        names = {name for (name,) in restored.execute("SELECT DISTINCT metric FROM system_metrics")}
    assert {"cpu_usage", "memory_usage", "disk_usage", "active_sessions"} <= names


async def test_maintenance_of_the_real_database_removes_the_old_and_keeps_the_new(tmp_path: Path) -> None:
    state, workspace = tmp_path / "state", Workspace(id="w", name="w", home=tmp_path, tree=tmp_path)
    async with running(state, tmp_path / "run") as gateway:
        await gateway.store.add_metrics([Measurement("cpu_usage", 1, "percent")] * 3)
        with contextlib.closing(sqlite3.connect(state / "homeport.db")) as database:
            database.execute("UPDATE system_metrics SET created_at = '2020-01-01 00:00:00+00:00' WHERE id < 3")
            database.commit()
        recorder = gateway.recordings.recorder_for("live", workspace=workspace, size=WindowSize(80, 24), term="xterm")
        for name in ("live", "orphan", "fresh"):
            (state / "recordings" / f"{name}.hpr").write_bytes(b"recorded")
        for name in ("live", "orphan"):
            os.utime(state / "recordings" / f"{name}.hpr", (0, 0))
        done = await gateway.upkeep.schedule.run_now("maintenance")
        left = sorted(path.name for path in (state / "recordings").iterdir())
        await recorder.close(is_final=False)
    assert (done.metric_count, done.recording_count) == (2, 1)  # type: ignore[attr-defined]
    assert left == ["fresh.hpr", "live.hpr"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes, if this machine lets us have one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "homeport-test", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, timeout=10, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], timeout=10, check=True)


async def test_a_full_disk_makes_it_not_ready_and_a_backup_fail_cleanly(small_disk: Path, tmp_path: Path) -> None:
    """And ready again once there is room, without a restart."""
    async with running(small_disk, tmp_path / "run") as gateway:
        assert await gateway.get("/readyz") == (200, '{"status": "ready"}\n')
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        status, body = await gateway.get("/readyz")
        assert (status, "disk is full" in json.loads(body)["reasons"]) == (503, True)
        with pytest.raises(GatewayError, match="free some space"):
            await gateway.upkeep.backup_now()
        assert os.listdir(small_disk / "backups") == []
        assert (await gateway.get("/healthz"))[0] == 200
        filler.unlink()
        assert await gateway.get("/readyz") == (200, '{"status": "ready"}\n')


async def test_a_read_only_database_makes_it_not_ready(small_disk: Path, tmp_path: Path) -> None:
    async with running(small_disk, tmp_path / "run") as gateway:
        # The file is open for writing, so the kernel refuses to make its disk read-only; the database itself can be.
        await gateway.store._database.query("PRAGMA query_only = ON")
        status, body = await gateway.get("/readyz")
        await gateway.store._database.query("PRAGMA query_only = OFF")
    assert status == 503
    assert "database is not writable" in json.loads(body)["reasons"]
