"""Would a login work now? Each thing a login needs is probed: bounded in time, cached, one probe at a time.

The answers are shown to strangers: fixed sentences without a name, a path or the text of an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import GatewayError
from gateway.events import Event
from gateway.log import log_failure
from gateway.upkeep import host

# A login takes a socket and, per session, up to four descriptors; VS Code opens several of both at once.
DESCRIPTORS_LEFT_MIN = 64
PTYS_LEFT_MIN = 4
# Load balancers commonly give up after 5 s; the answer must come before, with the reason in it.
PROBE_SECONDS_MAX = 3.0
# Starting a keeper takes 23 ms and a process: once a minute is enough to notice that it no longer works.
KEEPER_CACHE_SECONDS = 60.0

Check = Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing a login needs. `check` returns the reason it would fail, or None; raising counts as `failed`."""

    name: str
    check: Check
    failed: str  # the sentence when the check itself fails
    cache_seconds: float
    seconds_max: float = PROBE_SECONDS_MAX


@dataclass(slots=True)
class _State:
    """What is known of one probe."""

    task: asyncio.Task[str | None] | None = None
    reason: str | None = None
    checked_at: float = field(default=float("-inf"))
    has_failed: bool = False


class Readiness:
    """Asks the probes. `close` ends what still runs."""

    def __init__(self, probes: Sequence[Probe], *, is_serving: Callable[[], bool]) -> None:
        self._probes = {probe.name: probe for probe in probes}
        self._states = {probe.name: _State() for probe in probes}
        self._is_serving = is_serving

    async def reasons(self) -> tuple[str, ...]:
        """Every reason a login would fail, in the probes' order. Never raises."""
        if not self._is_serving():
            # Not cached, and first: a load balancer must hear at once that the gateway drains.
            return ("not accepting logins: starting or draining",)
        found = await asyncio.gather(*(self._reason(probe) for probe in self._probes.values()))
        return tuple(reason for reason in found if reason is not None)

    async def close(self) -> None:
        tasks = [state.task for state in self._states.values() if state.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _reason(self, probe: Probe) -> str | None:
        state = self._states[probe.name]
        now = asyncio.get_running_loop().time()
        if state.task is None:
            if now - state.checked_at < probe.cache_seconds:
                return state.reason
            state.task = asyncio.create_task(self._check(probe, state), name=f"probe:{probe.name}")
        # Shielded: the caller may go away, and others wait for the same answer. A check that hangs (a dead disk) stays
        # the only one of its kind, or a prober would fill the thread pool with hanging ones.
        done, _ = await asyncio.wait({state.task}, timeout=probe.seconds_max)
        return state.reason if done else f"{probe.failed}: no answer in {probe.seconds_max:g} s"

    async def _check(self, probe: Probe, state: _State) -> str | None:
        try:
            state.reason = await probe.check()
            state.has_failed = False
        except GatewayError:
            state.reason = probe.failed
        except Exception:
            state.reason = probe.failed
            if not state.has_failed:  # once per row of failures: probes come for ever
                log_failure(Event.PROBE_FAILED, probe=probe.name)
            state.has_failed = True
        finally:
            state.checked_at = asyncio.get_running_loop().time()
            state.task = None
        return state.reason


def probes_of_a_login(
    *,
    state_dir: Path,
    cache_seconds: float,
    disk_free_min_bytes: int,
    probe_writable: Callable[[], Awaitable[object]],
    probe_keeper: Callable[[], Awaitable[object]],
) -> list[Probe]:
    """Everything a login needs. `probe_writable` and `probe_keeper` raise when it does not work."""

    async def database() -> str | None:
        await probe_writable()
        return None

    async def disk() -> str | None:
        space = await asyncio.to_thread(host.disk, state_dir)
        return None if space.left >= disk_free_min_bytes else "disk is full"

    async def descriptors() -> str | None:
        usage = await asyncio.to_thread(host.descriptors)
        return None if usage.left >= DESCRIPTORS_LEFT_MIN else "no file descriptors left"

    async def ptys() -> str | None:
        usage = await asyncio.to_thread(host.ptys)
        return None if usage.left >= PTYS_LEFT_MIN else "no pseudo-terminals left"

    async def keeper() -> str | None:
        await probe_keeper()
        return None

    return [
        Probe("database", database, "database is not writable", cache_seconds),
        Probe("disk", disk, "free disk space is unknown", cache_seconds),
        Probe("descriptors", descriptors, "file descriptors left are unknown", cache_seconds),
        Probe("ptys", ptys, "pseudo-terminals left are unknown", cache_seconds),
        Probe("keeper", keeper, "programs cannot be started", max(cache_seconds, KEEPER_CACHE_SECONDS), 5.0),
    ]
