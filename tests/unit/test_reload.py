"""The two processes of a reload: what each hears when the other is well, refuses, dies, or says nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from gateway import reload
from gateway.errors import CommandRefused
from gateway.reload import Door, Successor
from tests.support.keeper_site import open_descriptors

# The new program, whatever it is asked to be: `python FILE` stands for `python -m gateway`.
PREAMBLE = """
import asyncio, os, sys
from gateway.errors import StartRefused
from gateway.reload import Predecessor, replacing
"""
WELL = """
async def main():
    with replacing() as predecessor:
        (listener,) = predecessor.sockets("ssh", "127.0.0.1:22")
        assert predecessor.sockets("http", "another address by now") == []
        await predecessor.ready("9.9")
        predecessor.serving()
    listener.accept()[0].sendall(b"new")
    print("served", file=sys.stderr)
asyncio.run(main())
"""
REFUSES = """
with replacing() as predecessor:
    raise StartRefused("port 80 is taken; choose another")
"""
BROKEN = "print('not a word of ours', file=sys.stderr)\nraise RuntimeError('no such module')\n"
SILENT = "import time; time.sleep(60)\n"
DIES_WHEN_TOLD = """
async def main():
    predecessor = Predecessor.from_environment()
    await predecessor.ready("9.9")
    os._exit(3)
asyncio.run(main())
"""


async def started(program: str, directory: Path, monkeypatch: pytest.MonkeyPatch, doors: list[Door]) -> Successor:
    (directory / "python").write_text(f"#!/bin/sh\nexec {sys.executable} {directory}/new.py\n")
    (directory / "python").chmod(0o755)
    (directory / "new.py").write_text(PREAMBLE + program)
    monkeypatch.setattr(sys, "executable", str(directory / "python"))
    monkeypatch.setenv("PYTHONPATH", str(Path(reload.__file__).parents[1]))
    with (directory / "lock").open("w") as lock:
        return await Successor.start(doors, lock_fd=lock.fileno())


async def test_a_new_one_that_is_well_gets_the_doors_and_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = open_descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as http:
        doors = [Door("ssh", "127.0.0.1:22", listener), Door("http", "127.0.0.1:80", http)]
        successor = await started(WELL, tmp_path, monkeypatch, doors)
        assert (await successor.until("ready", 20))["version"] == "9.9"
        await successor.go()
        await successor.until("serving", 20)
        address = listener.getsockname()
    successor.let_go()
    with socket.create_connection(address) as client:  # ours is closed; the new one has it still
        client.settimeout(20)
        assert client.recv(10) == b"new"
    await asyncio.to_thread(os.waitpid, successor.pid, 0)
    successor.reap()
    assert "served" in capfd.readouterr().err, "its log goes where ours went"
    assert open_descriptors() <= before


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (REFUSES, "does not start, so this one serves on: port 80 is taken; choose another$"),
        (BROKEN, "does not start, so this one serves on: RuntimeError: no such module$"),
        ("os._exit(0)\n", "does not start, so this one serves on: it ended without a word$"),
    ],
)
async def test_a_new_one_that_does_not_start_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    before = open_descriptors()
    successor = await started(program, tmp_path, monkeypatch, [])
    with pytest.raises(CommandRefused) as refused:
        await successor.until("ready", 20)
    assert refused.match(words)
    await successor.abandon()
    assert open_descriptors() <= before


async def test_a_new_one_that_says_nothing_is_given_up_and_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    successor = await started(SILENT, tmp_path, monkeypatch, [])
    with pytest.raises(CommandRefused, match="was not ready within"):
        await successor.until("ready", 0.01)
    await successor.abandon()
    assert not Path(f"/proc/{successor.pid}").exists()


async def test_a_new_one_that_dies_at_the_word_go_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    successor = await started(DIES_WHEN_TOLD, tmp_path, monkeypatch, [])
    await successor.until("ready", 20)
    await successor.go()
    with pytest.raises(CommandRefused, match="ended without a word"):
        await successor.until("serving", 20)
    await successor.abandon()


async def test_a_program_that_is_gone_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(CommandRefused, match="could not be started: No such file"):
        await Successor.start([], lock_fd=0)
    assert open_descriptors() <= before
