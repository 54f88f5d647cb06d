"""The wire between an editor's window and its server, as the desktop editor speaks it: frames, handshake, calls.

Each frame has an id and acknowledges the other side's; what was not acknowledged is sent again after a reconnection. So
this side proves, byte by byte, that nothing was lost or doubled. Blocking sockets; every wait has an end.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from tests.support.installed import DEADLINE_SECONDS

MANAGEMENT, EXTENSION_HOST = 1, 2  # connection types
_REGULAR, _CONTROL, _ACK, _DISCONNECT, _REPLAY, _PAUSE, _RESUME, _KEEPALIVE = 1, 2, 3, 5, 6, 7, 8, 9
_HEADER = struct.Struct(">BIII")  # type, id, acknowledged id, length
_READ_BYTES = 65_536
AUTHORITY = "ssh-remote+server"
Connect = Callable[[], socket.socket]  # a new stream to the server


class Refused(Exception):
    """The server ended the handshake, and said why."""


@dataclass
class Frames:
    """One side of the lossless stream. The socket may be replaced; ids and what is not acknowledged stay."""

    sock: socket.socket
    _sent: list[tuple[int, bytes]] = field(default_factory=list)
    _last_sent = 0
    _last_seen = 0
    _buffer: bytearray = field(default_factory=bytearray)

    def send(self, data: bytes) -> None:
        self._last_sent += 1
        self._sent.append((self._last_sent, data))
        self._write(_REGULAR, data, self._last_sent)

    def send_control(self, message: object) -> None:
        self._write(_CONTROL, json.dumps(message).encode(), 0)

    def receive(self) -> bytes:
        """The next message of the stream."""
        while (found := self._next_frame())[0] != _REGULAR:
            pass
        return found[1]

    def receive_control(self) -> dict[str, object]:
        while (found := self._next_frame())[0] != _CONTROL:
            pass
        message: dict[str, object] = json.loads(found[1])
        if message.get("type") == "error":
            raise Refused(str(message.get("reason")))
        return message

    def read_some(self) -> int:
        """Wait for more bytes without looking at them; how many wait now."""
        chunk = self.sock.recv(_READ_BYTES)
        if not chunk:
            raise ConnectionResetError("the server's stream ended")
        self._buffer += chunk
        return len(self._buffer)

    def go_on_with(self, sock: socket.socket) -> None:
        """After a drop: a frame that was cut comes again whole, and ours that were not acknowledged go out again."""
        self.sock.close()
        self.sock = sock
        self._buffer.clear()
        for number, data in self._sent:
            self._write(_REGULAR, data, number)

    def disconnect(self) -> None:
        """Say that this window is closed for good: the server need not keep its side."""
        self._write(_DISCONNECT, b"", 0)
        self.sock.close()

    def _next_frame(self) -> tuple[int, bytes]:
        while True:
            kind, number, acknowledged, data = self._cut_frame()
            self._sent = [entry for entry in self._sent if entry[0] > acknowledged]
            assert kind != _REPLAY, "the server missed a frame"
            if kind != _REGULAR:
                return kind, data
            if number <= self._last_seen:
                continue  # sent again, though it had arrived
            assert number == self._last_seen + 1, f"frame {number} came after {self._last_seen}"
            self._last_seen = number
            self._write(_ACK, b"", 0)
            return kind, data

    def _cut_frame(self) -> tuple[int, int, int, bytes]:
        self._fill(_HEADER.size)
        kind, number, acknowledged, length = _HEADER.unpack_from(self._buffer)
        self._fill(_HEADER.size + length)
        data = bytes(self._buffer[_HEADER.size : _HEADER.size + length])
        del self._buffer[: _HEADER.size + length]
        return kind, number, acknowledged, data

    def _fill(self, count: int) -> None:
        while len(self._buffer) < count:
            self.read_some()

    def _write(self, kind: int, data: bytes, number: int) -> None:
        self.sock.sendall(_HEADER.pack(kind, number, self._last_seen, len(data)) + data)


class EditorConnection:
    """A window's connection of one type. `token` names it, to the same server, for as long as the window lives."""

    def __init__(self, connect: Connect, *, server_token: str, commit: str, kind: int) -> None:
        self.token = str(uuid.uuid4())
        self.server_token, self._commit, self._kind = server_token, commit, kind
        self._calls = 0
        self.frames, self.greeting = self._introduce(connect(), is_reconnection=False)

    def reconnect(self, connect: Connect) -> None:
        """By another way, to the same server: it goes on where the stream was cut. Raises Refused."""
        introduced, _ = self._introduce(connect(), is_reconnection=True)
        self.frames.go_on_with(introduced.sock)

    def close(self) -> None:
        self.frames.sock.close()

    def _introduce(self, sock: socket.socket, *, is_reconnection: bool) -> tuple[Frames, dict[str, object]]:
        try:
            sock.settimeout(DEADLINE_SECONDS)
            self._upgrade(sock, is_reconnection=is_reconnection)
            frames = Frames(sock)
            return frames, self._handshake(frames)
        except BaseException:
            sock.close()
            raise

    def _upgrade(self, sock: socket.socket, *, is_reconnection: bool) -> None:
        """HTTP, up to the 101. The desktop editor skips WebSocket's own frames."""
        query = f"reconnectionToken={self.token}&reconnection={str(is_reconnection).lower()}&skipWebSocketFrames=true"
        nonce = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET ws://127.0.0.1/stable-{self._commit}?{query} HTTP/1.1\r\n"
            f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {nonce}\r\n\r\n".encode()
        )
        head = _read_head(sock)
        assert head.startswith(b"HTTP/1.1 101 "), head

    def _handshake(self, frames: Frames) -> dict[str, object]:
        frames.send_control({"type": "auth", "auth": self.server_token, "data": "challenge"})
        signed = frames.receive_control()
        assert signed["type"] == "sign", signed
        frames.send_control(
            {
                "type": "connectionType",
                "commit": self._commit,
                "signedData": signed["data"],
                "desiredConnectionType": self._kind,
                "args": {"language": "en"},
            }
        )
        return frames.receive_control()


class Management(EditorConnection):
    """Connection type 1: calls to the server's services."""

    def __init__(self, connect: Connect, *, server_token: str, commit: str) -> None:
        super().__init__(connect, server_token=server_token, commit=commit, kind=MANAGEMENT)
        assert self.greeting == {"type": "ok"}
        self.frames.send(_pack({"remoteAuthority": AUTHORITY, "clientId": "renderer"}))
        assert _unpack(self.frames.receive())[0] == [_INITIALIZED]

    def ask(self, channel: str, command: str, argument: object) -> int:
        """Send a call; its number is for `answer`."""
        self._calls += 1
        self.frames.send(_pack([_CALL, self._calls, channel, command]) + _pack(argument))
        return self._calls

    def answer(self, call: int) -> object:
        while True:
            header, body = _unpack(self.frames.receive())
            assert isinstance(header, list)
            if header[1:] == [call]:
                assert header[0] == _SUCCEEDED, body
                return body

    def call(self, channel: str, command: str, argument: object) -> object:
        return self.answer(self.ask(channel, command, argument))

    def server_pid(self) -> int:
        environment = self.call("remoteextensionsenvironment", "getEnvironmentData", {"remoteAuthority": AUTHORITY})
        return cast(int, cast(dict[str, object], environment)["pid"])

    def ask_for_file(self, path: str) -> int:
        uri = {"$mid": 1, "scheme": "vscode-remote", "authority": AUTHORITY, "path": path}
        return self.ask("remoteFilesystem", "readFile", [uri, {}])

    def read_file(self, path: str) -> bytes:
        return cast(bytes, self.answer(self.ask_for_file(path)))


def _read_head(sock: socket.socket) -> bytes:
    """Up to the empty line, and not a byte more: frames follow."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise ConnectionResetError(f"the server's stream ended after {head!r}")
        head += byte
    return head


# ---------------------------------------------------------------------------------------------- values in messages

_CALL, _INITIALIZED, _SUCCEEDED = 100, 200, 201
_UNDEFINED, _STRING, _BUFFER, _BUFFER_TOO, _ARRAY, _OBJECT, _INTEGER = range(7)


def _pack(value: object) -> bytes:
    if value is None:
        return bytes([_UNDEFINED])
    if isinstance(value, int):
        return bytes([_INTEGER]) + _pack_length(value)
    if isinstance(value, list):
        return bytes([_ARRAY]) + _pack_length(len(value)) + b"".join(_pack(item) for item in value)
    kind, data = (_STRING, value.encode()) if isinstance(value, str) else (_OBJECT, json.dumps(value).encode())
    return bytes([kind]) + _pack_length(len(data)) + data


def _pack_length(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    packed = bytearray()
    while value > 0x7F:
        packed.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*packed, value])


def _unpack(data: bytes) -> tuple[object, object]:
    """The two values of an answer: header and body."""
    header, rest = _unpack_one(data)
    body, rest = _unpack_one(rest)
    assert not rest, f"{len(rest)} bytes more than a header and a body"
    return header, body


def _unpack_one(data: bytes) -> tuple[object, bytes]:
    kind, rest = data[0], data[1:]
    if kind == _UNDEFINED:
        return None, rest
    length, rest = _unpack_length(rest)
    if kind == _INTEGER:
        return length, rest
    if kind == _ARRAY:
        items = []
        for _ in range(length):
            item, rest = _unpack_one(rest)
            items.append(item)
        return items, rest
    value, rest = rest[:length], rest[length:]
    if kind == _STRING:
        return value.decode(), rest
    return (json.loads(value) if kind == _OBJECT else value), rest


def _unpack_length(data: bytes) -> tuple[int, bytes]:
    value = shift = 0
    for index, byte in enumerate(data):
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, data[index + 1 :]
        shift += 7
    raise AssertionError("a length that does not end")
