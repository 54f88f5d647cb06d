"""The gateway that is replaced: when the new one fails, when nobody waits for the answer, and at a stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway import replacement
from gateway.app import Gateway
from gateway.errors import CommandRefused, StoreUnavailable
from gateway.gateway_state import GatewayState
from gateway.replacement import Replacement

DEADLINE_SECONDS = 5


class Door:
    def __init__(self) -> None:
        self.is_open = True
        self.left, self.may_leave = asyncio.Event(), asyncio.Event()

    def doors(self) -> list[object]:
        return []

    async def shut(self) -> None:
        self.is_open = False

    async def open_again(self) -> None:
        self.is_open = True

    async def leave(self) -> None:
        self.left.set()
        await self.may_leave.wait()


class Part:
    """Of the gateway: whatever it is asked, it does at once."""

    control = SimpleNamespace(caller_count=0)

    pid = 4711
    connection_count = 0

    def __init__(self) -> None:
        self.adoption_fails = False
        self.asked_to_stop = False

    def fileno(self) -> int:
        return -1

    def nothing(self) -> None: ...

    async def soon(self, *_: object) -> None: ...

    sign = start = begin = pause = release = let_go = nothing
    stop = release_detached = go = abandon = soon

    async def adopt_all(self) -> None:
        if self.adoption_fails:
            raise StoreUnavailable("the database is locked by another program")

    def ask_others_to_stop(self) -> None:
        self.asked_to_stop = True


class Successor(Part):
    """Gets ready when it is let, and then fails, or serves."""

    def __init__(self, *, serves: bool) -> None:
        super().__init__()
        self.may_be_ready = asyncio.Event()
        self._serves = serves

    async def until(self, word: str, seconds: float) -> dict[str, object]:
        await self.may_be_ready.wait()
        if word == "serving" and not self._serves:
            raise CommandRefused("it died")
        return {}


class FakeGateway:
    why_no_reload = ""

    def __init__(self) -> None:
        self.state = GatewayState.SERVING
        self.doors = Door()
        self.handover = self.processes = self.lock = self.upkeep = self.elsewhere = self.ssh = Part()
        self.agents = self.sessions = self.store = Part()
        self.config = SimpleNamespace(session=SimpleNamespace(reload_drain_seconds=0))
        self.long_lived: list[None] = []

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        coroutine.close()


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gateway = FakeGateway()
        self.replacement = Replacement(cast(Gateway, self.gateway))
        self.successor = Successor(serves=False)
        self.said: list[str] = []
        monkeypatch.setattr(replacement.Successor, "start", self._start)

    async def _start(self, doors: object, *, lock_fd: int) -> Successor:
        return self.successor

    async def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    yield Rig(monkeypatch)


async def test_doors_open_again_also_when_nothing_can_be_adopted(rig: Rig) -> None:
    """A database that somebody has locked stops the new one, and the old one was deaf from then on."""
    rig.successor.may_be_ready.set()
    rig.gateway.handover.adoption_fails = True
    with pytest.raises(CommandRefused, match="it died"):
        await rig.replacement.reload(rig.say)
    assert rig.gateway.doors.is_open


async def test_a_reload_that_fails_when_nobody_waits_for_it_any_more_leaves_the_way_free_for_another(rig: Rig) -> None:
    """Ctrl-C, and every later reload heard that one was under way."""
    asking = asyncio.create_task(rig.replacement.reload(rig.say))
    await asyncio.sleep(0)
    with pytest.raises(CommandRefused, match="already"):
        await rig.replacement.reload(rig.say)
    asking.cancel()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.wait({asking})
        rig.successor.may_be_ready.set()
        while rig.replacement.is_under_way:
            await asyncio.sleep(0)
    with pytest.raises(CommandRefused, match="it died"):
        await rig.replacement.reload(rig.say)


async def test_a_stop_before_the_new_one_serves_ends_the_reload(rig: Rig) -> None:
    asking = asyncio.create_task(rig.replacement.reload(rig.say))
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await rig.replacement.give_up()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert not rig.gateway.processes.asked_to_stop


async def test_a_stop_that_finds_the_new_one_serving_is_passed_on_to_it(rig: Rig) -> None:
    """Until the service manager is told of the new one, its SIGTERM comes to the old one."""
    rig.successor = Successor(serves=True)
    rig.successor.may_be_ready.set()
    asking = asyncio.create_task(rig.replacement.reload(rig.say))
    async with asyncio.timeout(DEADLINE_SECONDS):
        await rig.gateway.doors.left.wait()
        stopping = asyncio.create_task(rig.replacement.give_up())
        await asyncio.sleep(0)
        rig.gateway.doors.may_leave.set()
        await stopping
    assert rig.gateway.state is GatewayState.RETIRED
    assert rig.gateway.processes.asked_to_stop
    await asking


async def test_nothing_is_said_to_begin_where_it_is_refused(rig: Rig) -> None:
    rig.gateway.why_no_reload = "this is a trial"
    with pytest.raises(CommandRefused, match="this is a trial"):
        await rig.replacement.reload(rig.say)
    assert rig.said == []
