"""Listening sockets that another process goes on with."""

from __future__ import annotations

import asyncio
from collections.abc import Collection


async def close_without_loss(servers: Collection[asyncio.Server]) -> None:
    """Stop accepting, and have everybody served who was accepted; others wait in the kernel's queue.

    `Server.close` alone resets those whose transport is not made yet: asyncio accepts in one turn of the loop and makes
    transports in the next, which a closed server refuses (`Server._attach`).
    """
    loop = asyncio.get_running_loop()
    for server in servers:
        for sock in server.sockets:
            loop.remove_reader(sock.fileno())
    for _ in range(2):
        await asyncio.sleep(0)
    for server in servers:
        server.close()
