"""A small blocking SSH client (RFC 4253, 4252, 4254) that costs the measured machine as little as it can.

A full client spends more processor time on a connection than the gateway does, so on a shared machine it would be
what is measured. This one speaks exactly one algorithm of each kind (`curve25519-sha256`, `ssh-ed25519`,
`aes128-gcm@openssh.com`), verifies the host's signature, and logs in with one key. It is a load generator: it does not
check *whose* host key it sees, never rekeys, and must not be used for anything else.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import socket
from dataclasses import dataclass, field
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

VERSION = b"SSH-2.0-HomeportBench_1"
TIMEOUT_SECONDS = 20
WINDOW_BYTES = 2 * 1024 * 1024
PACKET_MAX_BYTES = 32 * 1024
RECEIVE_BYTES = 256 * 1024
BLOCK_BYTES = 16
TAG_BYTES = 16

# Message numbers, RFC 4250 §4.1.2.
DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO = 1, 2, 3, 4, 5, 6, 7
KEXINIT, NEWKEYS, KEX_ECDH_INIT, KEX_ECDH_REPLY = 20, 21, 30, 31
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER = 50, 51, 52, 53
GLOBAL_REQUEST, REQUEST_FAILURE = 80, 82
CHANNEL_OPEN, CHANNEL_OPEN_CONFIRMATION, CHANNEL_OPEN_FAILURE, CHANNEL_WINDOW_ADJUST = 90, 91, 92, 93
CHANNEL_DATA, CHANNEL_EXTENDED_DATA, CHANNEL_EOF, CHANNEL_CLOSE, CHANNEL_REQUEST = 94, 95, 96, 97, 98
CHANNEL_SUCCESS, CHANNEL_FAILURE = 99, 100

_PASSED_OVER = frozenset({IGNORE, UNIMPLEMENTED, DEBUG, EXT_INFO, USERAUTH_BANNER, REQUEST_FAILURE})


class WireError(Exception):
    """The server said or did something this client cannot go on with."""


@dataclass(slots=True)
class Channel:
    """One session channel, the client's end. `output` is what came and was not taken yet."""

    number: int
    peer: int = -1
    is_open: bool = False
    has_sent_close: bool = False
    is_closed: bool = False
    answers: int = 0  # to requests with want_reply
    exit_status: int | None = None
    output: bytearray = field(default_factory=bytearray)
    output_total: int = 0
    keeps_output: bool = True  # a flood is counted and dropped
    unacknowledged_bytes: int = 0


class Connection:
    """One SSH transport, logged in. Not thread-safe: one thread per connection."""

    def __init__(self, address: tuple[str, int], *, login_name: str, key: Ed25519PrivateKey) -> None:
        self._channels: list[Channel] = []
        self._input = bytearray()
        self._taken = 0
        self._sealing: _Sealing | None = None
        self._opening: _Sealing | None = None
        self._socket = socket.create_connection(address, timeout=TIMEOUT_SECONDS)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            session_id = self._exchange_keys()
            self._log_in(session_id, login_name, key)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    # ------------------------------------------------------------------------------------------- sessions

    def run(self, command: str) -> int | None:
        """Run a command to the end of its channel; its exit status."""
        channel = self.open_session()
        self.request(channel, b"exec", _string(command.encode()))
        while not channel.is_closed:
            self.receive()
        return channel.exit_status

    def open_session(self) -> Channel:
        channel = Channel(len(self._channels))
        self._channels.append(channel)
        limits = _uint32(channel.number) + _uint32(WINDOW_BYTES) + _uint32(PACKET_MAX_BYTES)
        self._send(bytes([CHANNEL_OPEN]) + _string(b"session") + limits)
        while not channel.is_open:
            self.receive()
        return channel

    def open_terminal(self, command: str | None = None) -> Channel:
        """A session on a terminal of 80 × 24, with the login shell or a command."""
        channel = self.open_session()
        self.request_terminal(channel, columns=80, rows=24)
        self.request_program(channel, command)
        return channel

    def request_terminal(self, channel: Channel, *, columns: int, rows: int) -> None:
        """Wait until it is granted; what runs there is asked for next."""
        size = _uint32(columns) + _uint32(rows) + _uint32(0) + _uint32(0)
        self.request(channel, b"pty-req", _string(b"xterm-256color") + size + _string(b"\0"))

    def request_program(self, channel: Channel, command: str | None) -> None:
        """The login shell, or a command."""
        if command is None:
            self.request(channel, b"shell", b"")
        else:
            self.request(channel, b"exec", _string(command.encode()))

    def request(self, channel: Channel, name: bytes, rest: bytes) -> None:
        """Send a channel request and wait until it is granted."""
        before = channel.answers
        self._send(bytes([CHANNEL_REQUEST]) + _uint32(channel.peer) + _string(name) + b"\1" + rest)
        while channel.answers == before:
            if channel.is_closed:
                raise WireError(f"the channel was closed before {name.decode()} was answered")
            self.receive()

    def write(self, channel: Channel, data: bytes) -> None:
        """A few bytes of input: the channel window is not looked at."""
        self._send(bytes([CHANNEL_DATA]) + _uint32(channel.peer) + _string(data))

    def close_channel(self, channel: Channel) -> None:
        """Hang up one session and wait until the server did the same."""
        self._send_close(channel)
        while not channel.is_closed:
            self.receive()

    def read_until(self, channel: Channel, pattern: re.Pattern[bytes]) -> bytes:
        """Take the output up to and including `pattern`."""
        while not (found := pattern.search(channel.output)):
            if channel.is_closed:
                raise WireError(f"the session ended before {pattern.pattern!r} came: {bytes(channel.output[-300:])!r}")
            self.receive()
        taken = bytes(channel.output[: found.end()])
        del channel.output[: found.end()]
        return taken

    def receive(self) -> None:
        """Wait for one message and act on it."""
        message = self._next_message()
        kind = message[0]
        if kind == GLOBAL_REQUEST:
            _, rest = _take_string(message, 1)
            if message[rest]:
                self._send(bytes([REQUEST_FAILURE]))
        elif CHANNEL_OPEN_CONFIRMATION <= kind <= CHANNEL_FAILURE:
            self._channel_message(kind, self._channels[int.from_bytes(message[1:5])], message)

    def receive_within(self, seconds: float) -> None:
        """Act on one message if it comes within that time. Only whole packets are waited for on the way."""
        if len(self._input) == self._taken and not select.select([self._socket], [], [], seconds)[0]:
            return
        self.receive()

    def _channel_message(self, kind: int, channel: Channel, message: memoryview) -> None:
        if kind == CHANNEL_DATA:
            self._data(channel, message[9:])
        elif kind == CHANNEL_EXTENDED_DATA:
            self._data(channel, message[13:])
        elif kind in (CHANNEL_SUCCESS, CHANNEL_FAILURE):
            channel.answers += 1
            if kind == CHANNEL_FAILURE:
                raise WireError("the server refused a channel request")
        elif kind == CHANNEL_OPEN_CONFIRMATION:
            channel.peer, channel.is_open = int.from_bytes(message[5:9]), True
        elif kind == CHANNEL_OPEN_FAILURE:
            raise WireError(f"the server refused a session: {bytes(_take_string(message, 9)[0]).decode()}")
        elif kind == CHANNEL_REQUEST:
            name, rest = _take_string(message, 5)
            if bytes(name) == b"exit-status":
                channel.exit_status = int.from_bytes(message[rest + 1 : rest + 5])
        elif kind == CHANNEL_CLOSE:
            self._send_close(channel)
            channel.is_closed = True

    def _send_close(self, channel: Channel) -> None:
        if not channel.has_sent_close:
            channel.has_sent_close = True
            self._send(bytes([CHANNEL_CLOSE]) + _uint32(channel.peer))

    def _data(self, channel: Channel, data: memoryview) -> None:
        channel.output_total += len(data)
        if channel.keeps_output:
            channel.output += data
        channel.unacknowledged_bytes += len(data)
        if channel.unacknowledged_bytes > WINDOW_BYTES // 2:
            credit = _uint32(channel.unacknowledged_bytes)
            self._send(bytes([CHANNEL_WINDOW_ADJUST]) + _uint32(channel.peer) + credit)
            channel.unacknowledged_bytes = 0

    # ------------------------------------------------------------------------------------- keys and login

    def _exchange_keys(self) -> bytes:
        """RFC 4253 §7 and RFC 8731; the exchange hash, which is the session's id."""
        self._socket.sendall(VERSION + b"\r\n")
        server_version = self._read_version()
        offer = _kexinit()
        self._send(offer)
        answer = bytes(self._await(KEXINIT))
        private = X25519PrivateKey.generate()
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._send(bytes([KEX_ECDH_INIT]) + _string(public))
        reply = self._await(KEX_ECDH_REPLY)
        host_key, at = _take_string(reply, 1)
        server_public, at = _take_string(reply, at)
        signature, at = _take_string(reply, at)
        shared = _mpint(private.exchange(X25519PublicKey.from_public_bytes(bytes(server_public))))
        hashed = [VERSION, server_version, offer, answer, bytes(host_key), public, bytes(server_public)]
        session_id = hashlib.sha256(b"".join(map(_string, hashed)) + shared).digest()
        raw_key, _ = _take_string(host_key, 4 + len(b"ssh-ed25519"))
        raw_signature, _ = _take_string(signature, 4 + len(b"ssh-ed25519"))
        Ed25519PublicKey.from_public_bytes(bytes(raw_key)).verify(bytes(raw_signature), session_id)
        self._send(bytes([NEWKEYS]))

        def derived(letter: bytes, size: int) -> bytes:
            return hashlib.sha256(shared + session_id + letter + session_id).digest()[:size]

        self._sealing = _Sealing(derived(b"C", 16), derived(b"A", 12))
        self._await(NEWKEYS)
        self._opening = _Sealing(derived(b"D", 16), derived(b"B", 12))
        return session_id

    def _log_in(self, session_id: bytes, login_name: str, key: Ed25519PrivateKey) -> None:
        self._send(bytes([SERVICE_REQUEST]) + _string(b"ssh-userauth"))
        self._await(SERVICE_ACCEPT)
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        blob = _string(b"ssh-ed25519") + _string(public)
        names = _string(login_name.encode()) + _string(b"ssh-connection") + _string(b"publickey")
        request = bytes([USERAUTH_REQUEST]) + names + b"\1" + _string(b"ssh-ed25519") + _string(blob)
        signature = _string(b"ssh-ed25519") + _string(key.sign(_string(session_id) + request))
        self._send(request + _string(signature))
        self._await(USERAUTH_SUCCESS)

    def _read_version(self) -> bytes:
        while True:
            while b"\n" not in self._input:
                self._fill()
            line, _, rest = bytes(self._input).partition(b"\n")
            self._input[:] = rest
            if line.startswith(b"SSH-"):
                return line.rstrip(b"\r")

    # -------------------------------------------------------------------------------------------- packets

    def _await(self, kind: int) -> memoryview:
        message = self._next_message()
        if message[0] != kind:
            raise WireError(f"expected message {kind} and got {message[0]}: {bytes(message[1:200])!r}")
        return message

    def _next_message(self) -> memoryview:
        while True:
            message = self._next_packet()
            if message[0] == DISCONNECT:
                raise WireError(f"the server disconnected: {bytes(_take_string(message, 5)[0]).decode()}")
            if message[0] not in _PASSED_OVER:
                return message

    def _next_packet(self) -> memoryview:
        """One message, without padding (RFC 4253 §6; RFC 5647 §7.3 for the length in the clear)."""
        tag = TAG_BYTES if self._opening else 0
        while len(self._input) - self._taken < 4:
            self._fill()
        length = int.from_bytes(self._input[self._taken : self._taken + 4])
        while len(self._input) - self._taken < 4 + length + tag:
            self._fill()
        start, end = self._taken + 4, self._taken + 4 + length + tag
        body = bytes(self._input[start:end])
        if self._opening:
            body = self._opening.opened(body, length)
        self._taken = end
        return memoryview(body)[1 : len(body) - body[0]]

    def _fill(self) -> None:
        if self._taken:
            del self._input[: self._taken]
            self._taken = 0
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise WireError("the server closed the connection")
        self._input += data

    def _send(self, message: bytes) -> None:
        body = _padded(message, is_sealed=self._sealing is not None)
        length = _uint32(len(body))
        self._socket.sendall(length + (self._sealing.sealed(body, length) if self._sealing else body))


class _Sealing:
    """AES-GCM for one direction: a fixed part and a counter make the nonce (RFC 5647 §7.1)."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._cipher = AESGCM(key)
        self._fixed, self._counter = nonce[:4], int.from_bytes(nonce[4:])

    def sealed(self, body: bytes, length: bytes) -> bytes:
        return self._cipher.encrypt(self._nonce(), body, length)

    def opened(self, body: bytes, length: int) -> bytes:
        return self._cipher.decrypt(self._nonce(), body, _uint32(length))

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8)
        self._counter = (self._counter + 1) % 2**64
        return nonce


def _padded(message: bytes, *, is_sealed: bool) -> bytes:
    """Padding length, message, padding. Under AES-GCM the length field before them is not part of the blocks."""
    counted = 1 + len(message) + (0 if is_sealed else 4)
    padding = BLOCK_BYTES - counted % BLOCK_BYTES
    padding += BLOCK_BYTES if padding < 4 else 0
    return bytes([padding]) + message + os.urandom(padding)


def _kexinit() -> bytes:
    cipher = b"aes128-gcm@openssh.com"
    # AES-GCM brings its own integrity, but a server may insist on a common MAC name all the same.
    names = [b"curve25519-sha256", b"ssh-ed25519", cipher, cipher, b"hmac-sha2-256", b"hmac-sha2-256"]
    names += [b"none", b"none", b"", b""]
    return bytes([KEXINIT]) + os.urandom(16) + b"".join(map(_string, names)) + b"\0" + _uint32(0)


def _uint32(value: int) -> bytes:
    return value.to_bytes(4)


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


def _mpint(data: bytes) -> bytes:
    data = data.lstrip(b"\0")
    return _string(b"\0" + data if data and data[0] & 0x80 else data)


def _take_string(message: memoryview, at: int) -> tuple[memoryview, int]:
    """The string at `at`, and where the next field begins."""
    length = int.from_bytes(message[at : at + 4])
    return message[at + 4 : at + 4 + length], at + 4 + length
