"""A listening socket that another process goes on with: nobody is reset who came as it changed hands."""

from __future__ import annotations

import asyncio
import socket

from gateway.listening import close_without_loss

CLIENTS = 50


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"old")
        transport.close()


async def test_whoever_was_accepted_is_served_and_the_others_wait_for_the_next() -> None:
    """All come at once, in the very turn of the loop that closes: some are accepted by then, and have no transport."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=CLIENTS) as listener:
        listener.setblocking(False)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(CLIENTS)]
        kept = listener.dup()
        server = await loop.create_server(Greeting, sock=listener, backlog=CLIENTS // 2)
        await asyncio.sleep(0)  # the reader is in the loop; in its next turn it accepts half of them
        closing = loop.create_task(close_without_loss([server]))
        await closing
        assert not server.is_serving()
        with kept:
            accepted = await asyncio.gather(*(asyncio.to_thread(_greeted, client) for client in clients))
            left = 0
            while True:
                try:
                    kept.accept()[0].close()
                except BlockingIOError:
                    break
                left += 1
    assert accepted.count("reset") == 0
    assert accepted.count("served") + left == CLIENTS
    for client in clients:
        client.close()


def _greeted(client: socket.socket) -> str:
    client.settimeout(0.5)
    try:
        return "served" if client.recv(10) == b"old" else "reset"
    except TimeoutError:
        return "waits"
    except ConnectionError:
        return "reset"
