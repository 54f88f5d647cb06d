"""Whoever sits at the terminal of a command that runs in this very process, without a gateway (direct.py)."""

from __future__ import annotations

import asyncio
import os

from gateway.errors import CommandRefused
from gateway.lobby.asking import ANSWER_MAX_BYTES, READ_BYTES, answer_of, can_ask, echo
from gateway.lobby.client import write_all
from gateway.lobby.text import question_text


class HostPerson:
    """Implements Person. Waits without blocking, so that Ctrl-C cancels the command and it can tidy up."""

    async def ask(self, question: str, *, is_secret: bool = False) -> str:
        if not can_ask():
            raise CommandRefused("there is no terminal to ask on")
        with echo(0, is_on=not is_secret):
            write_all(2, question_text(question).encode())
            answer = await _read_line(0)
        if is_secret or answer is None:
            write_all(2, b"\n")
        if answer is None:
            raise CommandRefused("nobody answered")
        return answer


async def _read_line(fd: int) -> str | None:
    line = bytearray()
    while not line.endswith(b"\n") and len(line) <= ANSWER_MAX_BYTES:
        await _readable(fd)
        piece = os.read(fd, READ_BYTES)
        line += piece
        if not piece:
            break
    return answer_of(line)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(fd, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(fd)
