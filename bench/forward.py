"""A local forward of stock `ssh -L`, to a server of our own: both servers reach the same one, on loopback."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.processes import BenchError

BLOCK_BYTES = 256 * 1024
MEGABYTE = 1_000_000
DEADLINE_SECONDS = 60.0
# What the target does with a stream: the first byte the client sends.
ECHO, SOURCE, SINK = b"e", b"s", b"d"


class Target:
    """Echoes, gives `size_bytes`, or takes everything and answers with one byte; a thread for each stream."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="bench-target", daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        with stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wish = stream.recv(1)
            if wish == ECHO:
                while data := stream.recv(BLOCK_BYTES):
                    stream.sendall(data)
            elif wish == SOURCE:
                _send(stream, self._size_bytes)
            elif wish == SINK:
                _receive(stream, self._size_bytes)
                stream.sendall(b".")


def channel_ms(port: int, count: int) -> list[float]:
    """From connecting to the forward's port until one byte has come back."""
    return [_timed(port, ECHO, lambda stream: _receive(stream, 1), extra=b"x") * 1000 for _ in range(count)]


def ping_ms(port: int, count: int) -> float:
    """One byte there and back on an open stream, the median."""
    with _connected(port) as stream:
        stream.sendall(ECHO)
        taken = []
        for _ in range(count):
            started = time.perf_counter()
            stream.sendall(b"x")
            _receive(stream, 1)
            taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)


def down_mbps(port: int, size_bytes: int) -> float:
    return size_bytes / MEGABYTE / _timed(port, SOURCE, lambda stream: _receive(stream, size_bytes))


def up_mbps(port: int, size_bytes: int) -> float:
    def up(stream: socket.socket) -> None:
        _send(stream, size_bytes)
        _receive(stream, 1)

    return size_bytes / MEGABYTE / _timed(port, SINK, up)


def _timed(port: int, wish: bytes, use: Callable[[socket.socket], None], *, extra: bytes = b"") -> float:
    started = time.perf_counter()
    with _connected(port) as stream:
        stream.sendall(wish + extra)
        use(stream)
    return time.perf_counter() - started


@contextmanager
def _connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield stream


def _send(stream: socket.socket, size_bytes: int) -> None:
    block = bytes(BLOCK_BYTES)
    for offset in range(0, size_bytes, BLOCK_BYTES):
        stream.sendall(block[: size_bytes - offset])


def _receive(stream: socket.socket, size_bytes: int) -> None:
    buffer = bytearray(BLOCK_BYTES)
    total = 0
    while total < size_bytes:
        count = stream.recv_into(buffer)
        if count == 0:
            raise BenchError(f"the forward ended after {total} of {size_bytes} bytes")
        total += count
