"""500 detached sessions in five workspaces: what each of them costs, and how soon a new gateway has them all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from tests.support.costs import cpu_ticks, memory_bytes, own_pids
from tests.support.installed import InstalledGateway, until
from tests.support.shell import Shell, until_detached
from tests.support.walls import walls
from tests.system.conftest import running, skip_without_walls

WORKSPACES = 5
SESSIONS_PER_WORKSPACE = 100
SESSIONS = WORKSPACES * SESSIONS_PER_WORKSPACE
AT_ONCE = 4  # begun at a time, in each workspace
MEMORY_PER_SESSION_BYTES_MAX = 200 * 1024
ADOPTED_SECONDS_MAX = 6.0  # under three where nothing else runs
IDLE_SECONDS = 5.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(params=walls())
def gateway(request: pytest.FixtureRequest) -> Iterator[InstalledGateway]:
    skip_without_walls(request.param)
    yield from running(InstalledGateway(request.param))


async def leave_shells(gateway: InstalledGateway, workspace: str) -> None:
    """Begin shells on one connection, each to its prompt, and close it."""
    async with asyncssh.connect("127.0.0.1", gateway.ssh_port, username=workspace, known_hosts=None, config=None,
                                client_keys=[str(gateway.key)], agent_path=None) as connection:  # fmt: skip
        turns = asyncio.Semaphore(AT_ONCE)

        async def begin() -> None:
            async with turns:
                shell = await connection.create_process(term_type="xterm", encoding=None)
                shell.stdin.write(b"echo rea''dy\n")
                await shell.stdout.readuntil(b"ready\r\n")

        await asyncio.gather(*(begin() for _ in range(SESSIONS_PER_WORKSPACE)))


async def leave_all(gateway: InstalledGateway, workspaces: list[str]) -> None:
    await asyncio.gather(*(leave_shells(gateway, name) for name in workspaces))


def test_500_detached_sessions_are_small_quiet_and_soon_adopted(gateway: InstalledGateway) -> None:
    workspaces = [f"ws{number}" for number in range(WORKSPACES)]
    for name in workspaces:
        gateway.homeport("new", name)
        assert gateway.ssh("-tt", "--", "true", workspace=name).returncode == 0
    gateway.until_no_live_row()
    before = settled_costs(gateway)
    started = time.monotonic()
    asyncio.run(leave_all(gateway, workspaces))
    until_detached(gateway, SESSIONS)
    print(f"{SESSIONS} shells begun and left in {time.monotonic() - started:.1f} s")
    each = (settled_costs(gateway) - before) / SESSIONS
    print(f"{each} for each, beside the shell itself")
    pids = own_pids(gateway)
    ticks = cpu_ticks(pids)
    time.sleep(IDLE_SECONDS)  # not a wait: the time is what is measured
    print(f"{cpu_ticks(pids) - ticks} ticks of processor in {IDLE_SECONDS:g} s")
    shells = set(gateway.programs("-bash"))
    gateway.kill()
    started = time.monotonic()
    gateway.start()
    seconds = time.monotonic() - started
    adopted = sum(event["event"] == "session.adopted" for event in gateway.log.events)
    print(f"{adopted} adopted {seconds:.2f} s after the start of the new process")
    assert adopted == SESSIONS
    assert set(gateway.programs("-bash")) == shells
    later = (settled_costs(gateway) - before) / SESSIONS
    print(f"{later} for each after the adoption")
    with Shell(gateway, login="ws3") as shell:
        assert shell.ask("echo here") == "here"
    for name in workspaces:
        gateway.homeport("kill", "--workspace", name)
    gateway.until_no_live_row()
    assert max(each.all_bytes, later.all_bytes) < MEMORY_PER_SESSION_BYTES_MAX
    assert seconds < ADOPTED_SECONDS_MAX


@dataclass(frozen=True)
class Costs:
    memory_bytes: float
    runtime_bytes: float  # files in the runtime directory: memory as well, if that is a tmpfs, as /run is

    @property
    def all_bytes(self) -> float:
        """Too much, rather: of what is mapped and in use, the pages are in both."""
        return self.memory_bytes + self.runtime_bytes

    def __sub__(self, other: Costs) -> Costs:
        return Costs(self.memory_bytes - other.memory_bytes, self.runtime_bytes - other.runtime_bytes)

    def __truediv__(self, count: int) -> Costs:
        return Costs(self.memory_bytes / count, self.runtime_bytes / count)

    def __str__(self) -> str:
        return f"{self.memory_bytes / 1024:.0f} KiB of memory and {self.runtime_bytes / 1024:.0f} KiB of files"


def settled_costs(gateway: InstalledGateway) -> Costs:
    """Once what goes on in the background (screens of who has just left) is done."""
    last = 0

    def is_settled() -> bool:
        nonlocal last
        before, last = last, cpu_ticks(own_pids(gateway))
        time.sleep(0.5)  # not a wait for something: a look at whether it is quiet
        return last - before <= 1

    until(is_settled, "quiet", seconds=60)
    files = Path(gateway.environment["HOMEPORT_RUNTIME_DIR"]).rglob("*")
    return Costs(memory_bytes(own_pids(gateway)), sum(path.lstat().st_blocks * 512 for path in files))
