"""The caller's standard input, whole: what arrives by frames of the control socket, or on an SSH channel."""

from __future__ import annotations

import asyncio

from gateway.errors import CommandRefused
from gateway.lobby.context import INPUT_MAX_BYTES


class ReceivedInput:
    """An Input. Kept up to the bound, counted beyond it, so that a flood costs nothing."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._is_too_long = False
        self._ended = asyncio.Event()

    def feed(self, data: bytes) -> None:
        self._is_too_long = self._is_too_long or len(self._data) + len(data) > INPUT_MAX_BYTES
        if not self._is_too_long:
            self._data += data

    def end(self) -> None:
        self._ended.set()

    async def read_all(self) -> bytes:
        await self._ended.wait()  # ends with the caller at the latest: its leaving cancels the command
        if self._is_too_long:
            raise CommandRefused(f"the input is longer than {INPUT_MAX_BYTES} bytes; nothing was read")
        return bytes(self._data)
