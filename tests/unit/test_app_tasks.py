"""The gateway's own tasks: one that fails is a line in the log, never the end of the others."""

from __future__ import annotations

import asyncio
import logging
import resource
from pathlib import Path

import pytest

from gateway import app
from gateway.app import Gateway
from gateway.config import Config
from gateway.events import Event
from gateway.state import Places


async def test_a_task_that_fails_ends_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A task group ends all its tasks when one fails: a single odd request was the end of every session."""
    go_on = asyncio.Event()

    async def fail() -> None:
        raise ValueError("unforeseen")

    async def work() -> None:
        await go_on.wait()

    with caplog.at_level(logging.ERROR, logger="homeport"):
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            gateway = Gateway(Config(), Places(tmp_path, tmp_path), tasks)
            other = gateway.spawn(work(), "other")
            await gateway.spawn(fail(), "odd")
            go_on.set()
            await other
    assert [record.getMessage() for record in caplog.records] == [Event.TASK_FAILED.value]


async def test_a_task_that_waits_for_ever_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """A session whose keeper does not answer never hears of its program's end, and SIGTERM never came to an end."""
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        gateway = Gateway(Config(), Places(tmp_path, tmp_path), tasks)
        waiting = gateway.spawn(_never(), "waiting")
        await asyncio.sleep(0)
        not_begun = gateway.spawn(_never(), "not begun")
        await gateway._stop()
    assert waiting.cancelled()
    assert not_begun.cancelled()


def test_the_gateway_takes_all_descriptors_it_may_have() -> None:
    """Under a shell's soft limit of 1024, two connections full of forwards left none for anybody's login."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        app._take_all_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _never() -> None:
    await asyncio.Event().wait()
