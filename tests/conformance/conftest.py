"""One suite for every launcher. Programs never run as root, so root runs it as somebody else (see test_as_account)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import StartRefused
from gateway.launchers import KeeperLauncher, choose_launcher
from tests.support.keeper_site import Site, open_descriptors

collect_ignore_glob = ["test_launcher_*.py"] if os.geteuid() == 0 else ["test_as_account.py"]


async def _launcher(name: str, directory: Path) -> KeeperLauncher:
    try:
        launcher, _ = await choose_launcher(name, listeners_are_loopback=True, private_paths=[directory])  # type: ignore[arg-type]
    except StartRefused as error:
        pytest.skip(str(error))
    return launcher


@pytest.fixture(params=["none", "bubblewrap"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """A place with one workspace, for each launcher; afterwards no process, task or descriptor may be left."""
    async for site in _site(request.param, tmp_path):
        yield site


@pytest.fixture
async def walled(tmp_path: Path) -> AsyncIterator[Site]:
    """The same with bubblewrap alone."""
    async for site in _site("bubblewrap", tmp_path):
        yield site


async def _site(name: str, directory: Path) -> AsyncIterator[Site]:
    launcher = await _launcher(name, directory)
    before = open_descriptors()
    site = Site(launcher, directory)
    try:
        yield site
    finally:
        await site.close()
    assert {task.get_name() for task in asyncio.all_tasks()} <= {asyncio.current_task().get_name()}  # type: ignore[union-attr]
    assert open_descriptors() <= before
