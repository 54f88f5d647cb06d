"""Programs inside a workspace and the bytes to and from them: real pipes, real programs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.interfaces import Inside, ProgramExit
from gateway.workspaces.inside import InsideProgram, run_inside
from tests.support.local_keepers import LocalKeeper

SECONDS_MAX = 20


@pytest.fixture
async def keeper() -> AsyncIterator[LocalKeeper]:
    before = set(os.listdir("/proc/self/fd"))
    keeper = LocalKeeper("id", {})
    yield keeper
    await keeper.terminate()
    assert len(keeper.forgotten) == len(keeper.started)
    await asyncio.sleep(0)  # transports close their descriptors in the loop's next turn
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    return Inside(str(tmp_path), str(tmp_path), "ada", None, "/bin/sh", ())


class Kept:
    def __init__(self) -> None:
        self.data = b""

    async def __call__(self, piece: bytes) -> None:
        self.data += piece


def shell(command: str, **values: object) -> InsideProgram:
    options = {"stdout": Kept(), "stderr": Kept(), **values}
    return InsideProgram([b"env", b"sh", b"-c", command.encode()], **options)  # type: ignore[arg-type]


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def test_what_goes_in_comes_out_whole(keeper: LocalKeeper, inside: Inside):
    """More than all pipes together hold, so both directions must move at once."""
    kept = Kept()
    data = os.urandom(1 << 20)
    program = shell("cat; exit 3", stdin=pieces(data, data, data), stdout=kept)
    assert await run_inside(keeper, inside, program, seconds_max=SECONDS_MAX) == ProgramExit(3)
    assert kept.data == data * 3


async def test_a_slow_sink_gets_the_end_of_a_program_that_has_long_ended(keeper: LocalKeeper, inside: Inside):
    taken = 0
    go = asyncio.Event()

    async def slow(piece: bytes) -> None:
        nonlocal taken
        await go.wait()
        taken += len(piece)

    program = shell("head -c 500000 /dev/zero; echo done >&2", stdout=slow, read_bytes=1000)
    running = asyncio.create_task(run_inside(keeper, inside, program, seconds_max=SECONDS_MAX))
    await asyncio.sleep(0)
    go.set()
    assert await running == ProgramExit(0)
    assert taken == 500_000


async def test_a_slow_sink_holds_the_program_back(keeper: LocalKeeper, inside: Inside):
    """A sink that never returns: of an endless output only what pipe and buffers hold is ever read."""
    entered, never = asyncio.Event(), asyncio.Event()

    async def stuck(piece: bytes) -> None:
        entered.set()
        await never.wait()

    running = asyncio.create_task(
        run_inside(keeper, inside, shell("cat /dev/zero", stdout=stuck), seconds_max=SECONDS_MAX)
    )
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_program_that_takes_nothing_in_is_fed_no_more(keeper: LocalKeeper, inside: Inside):
    program = shell("exec <&-; echo gone", stdin=pieces(*[b"x" * 100_000] * 50))
    assert await run_inside(keeper, inside, program, seconds_max=SECONDS_MAX) == ProgramExit(0)


async def test_a_sink_that_fails_ends_the_program_and_its_reason_comes_out(keeper: LocalKeeper, inside: Inside):
    async def full(piece: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await run_inside(keeper, inside, shell("cat /dev/zero", stdout=full), seconds_max=SECONDS_MAX)


async def test_a_source_that_fails_ends_the_program_and_its_reason_comes_out(keeper: LocalKeeper, inside: Inside):
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        await run_inside(keeper, inside, shell("cat", stdin=broken()), seconds_max=SECONDS_MAX)


async def test_a_program_that_hangs_is_ended_in_time(keeper: LocalKeeper, inside: Inside):
    with pytest.raises(TimeoutError):
        await run_inside(keeper, inside, shell("cat", stdin=never_ending()), seconds_max=0.1)


async def never_ending() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""
