"""Would a login work? Told truly, soon, and without asking too often."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import pytest

from gateway.errors import StoreUnavailable
from gateway.upkeep import host, readiness
from gateway.upkeep.readiness import Probe, Readiness, probes_of_a_login


class Scripted:
    """A check that counts its calls and answers what it is told."""

    def __init__(self, answer: str | Exception | None = None) -> None:
        self.answer, self.call_count = answer, 0
        self.gate: asyncio.Event | None = None

    async def __call__(self) -> str | None:
        self.call_count += 1
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def ready_by(*checks: Scripted, cache_seconds: float = 60, seconds_max: float = 5, serving: bool = True) -> Readiness:
    probes = [
        Probe(f"p{number}", check, f"p{number} failed", cache_seconds, seconds_max)
        for number, check in enumerate(checks)
    ]
    return Readiness(probes, is_serving=lambda: serving)


async def test_nothing_wrong_is_no_reason() -> None:
    assert await ready_by(Scripted(), Scripted()).reasons() == ()


async def test_all_reasons_are_told_in_order() -> None:
    found = await ready_by(Scripted("disk is full"), Scripted(), Scripted(OSError("/secret"))).reasons()
    assert found == ("disk is full", "p2 failed")


async def test_a_draining_gateway_says_so_at_once_and_probes_nothing() -> None:
    check = Scripted()
    assert await ready_by(check, serving=False).reasons() == ("not accepting logins: starting or draining",)
    assert check.call_count == 0


async def test_a_storm_of_probers_is_one_check() -> None:
    """The probe writes to the database: a hundred probers must not."""
    check = Scripted()
    check.gate = asyncio.Event()
    ready = ready_by(check)
    askers = [asyncio.create_task(ready.reasons()) for _ in range(100)]
    async with asyncio.timeout(5):
        while check.call_count == 0:
            await asyncio.sleep(0)
    check.gate.set()
    assert set(await asyncio.gather(*askers)) == {()}
    await ready.reasons()
    assert check.call_count == 1


async def test_an_old_answer_is_asked_for_again() -> None:
    check = Scripted("disk is full")
    ready = ready_by(check, cache_seconds=0)
    assert await ready.reasons() == ("disk is full",)
    check.answer = None
    assert await ready.reasons() == ()


async def test_a_check_that_hangs_is_a_reason_and_is_not_started_twice() -> None:
    """A dead disk: each further check would hang in one more thread."""
    check = Scripted()
    check.gate = asyncio.Event()
    ready = ready_by(check, seconds_max=0.01)
    for _ in range(3):
        assert await ready.reasons() == ("p0 failed: no answer in 0.01 s",)
    assert check.call_count == 1
    check.gate.set()
    async with asyncio.timeout(5):
        while await ready.reasons():
            await asyncio.sleep(0)
    await ready.close()


async def test_a_prober_that_goes_away_takes_no_answer_from_the_others() -> None:
    check = Scripted()
    check.gate = asyncio.Event()
    ready = ready_by(check)
    impatient, patient = (asyncio.create_task(ready.reasons()) for _ in range(2))
    async with asyncio.timeout(5):
        while check.call_count == 0:
            await asyncio.sleep(0)
    impatient.cancel()
    check.gate.set()
    assert await patient == ()


async def test_closing_ends_what_still_runs() -> None:
    check = Scripted()
    check.gate = asyncio.Event()
    ready = ready_by(check, seconds_max=0.001)
    await ready.reasons()
    await ready.close()
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("probe:")] == []


async def test_a_failure_of_ours_is_logged_once_however_often_it_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    ready = ready_by(Scripted(ValueError("bug")), cache_seconds=0)
    for _ in range(5):
        await ready.reasons()
    assert [record.getMessage() for record in caplog.records] == ["probe.failed"]


# ---------------------------------------------------------------------------------------- what a login needs


async def works() -> None:
    return None


def of_a_login(tmp_path: Path, **changed: object) -> Readiness:
    options: dict[str, object] = {
        "state_dir": tmp_path,
        "cache_seconds": 0.0,
        "disk_free_min_bytes": 0,
        "probe_writable": works,
        "probe_keeper": works,
    }
    return Readiness(probes_of_a_login(**{**options, **changed}), is_serving=lambda: True)  # type: ignore[arg-type]


async def test_this_machine_is_ready(tmp_path: Path) -> None:
    assert await of_a_login(tmp_path).reasons() == ()


async def test_a_database_that_cannot_be_written_is_a_reason(tmp_path: Path) -> None:
    async def read_only() -> None:
        raise StoreUnavailable("attempt to write a readonly database", detail="/secret/homeport.db")

    assert await of_a_login(tmp_path, probe_writable=read_only).reasons() == ("database is not writable",)


async def test_a_full_disk_is_a_reason(tmp_path: Path) -> None:
    assert await of_a_login(tmp_path, disk_free_min_bytes=1 << 62).reasons() == ("disk is full",)


async def test_a_vanished_state_directory_is_a_reason_without_its_path(tmp_path: Path) -> None:
    assert await of_a_login(tmp_path / "gone").reasons() == ("free disk space is unknown",)


async def test_a_keeper_that_cannot_start_is_a_reason(tmp_path: Path) -> None:
    async def no_namespaces() -> None:
        raise RuntimeError("bwrap: /secret")

    assert await of_a_login(tmp_path, probe_keeper=no_namespaces).reasons() == ("programs cannot be started",)


async def test_exhausted_descriptors_are_a_reason(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (host.descriptors().used + readiness.DESCRIPTORS_LEFT_MIN - 1, hard))
    try:
        assert await of_a_login(tmp_path).reasons() == ("no file descriptors left",)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_exhausted_pseudo_terminals_are_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "ptys", lambda: host.Usage(4090, 4093))
    assert await of_a_login(tmp_path).reasons() == ("no pseudo-terminals left",)


def test_the_reserve_of_pseudo_terminals_is_not_available(tmp_path: Path) -> None:
    """A sandbox has a devpts of its own, for which the kernel keeps the reserve back."""
    for name, number in {"nr": 10, "max": 4096, "reserve": 1024}.items():
        (tmp_path / name).write_text(f"{number}\n")
    assert host.ptys(tmp_path).left == 4096 - 1024 - 10


def test_the_memory_figure_is_that_of_the_control_group_when_it_has_a_limit(tmp_path: Path) -> None:
    """In a container the machine's figure would say nothing."""
    own = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    (tmp_path / own).mkdir(parents=True, exist_ok=True)
    (tmp_path / own / "memory.max").write_text("1000000\n")
    (tmp_path / own / "memory.current").write_text("250000\n")
    usage, scope = host.memory(tmp_path)
    assert (usage.percent, scope) == (25.0, "cgroup")
    (tmp_path / own / "memory.max").write_text("max\n")
    assert host.memory(tmp_path)[1] == "machine"
    assert host.memory(tmp_path / "no-cgroups")[1] == "machine"
