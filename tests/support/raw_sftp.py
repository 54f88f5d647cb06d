"""An SFTP client that sends what it is told (draft-ietf-secsh-filexfer-02), over stock ssh: what no tool sends."""

from __future__ import annotations

import struct
import subprocess
from types import TracebackType

from tests.support.installed import DEADLINE_SECONDS, InstalledGateway

OPEN, CLOSE, WRITE, LSTAT, FSTAT, REMOVE, EXTENDED = 3, 4, 6, 7, 8, 13, 200
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_ANSWER = 101, 102, 103, 104, 105, 201


def text(value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(data)) + data


def texts_in(body: bytes) -> list[bytes]:
    """All strings of a body that holds nothing else."""
    found = []
    while body:
        size = int.from_bytes(body[:4], "big")
        found.append(body[4 : 4 + size])
        body = body[4 + size :]
    return found


class RawSftp:
    """One SFTP session, one request at a time."""

    def __init__(self, gateway: InstalledGateway) -> None:
        self._process = subprocess.Popen(
            gateway.ssh_command("-s", "--", "sftp"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._next_id = 0
        answer = self._exchange(struct.pack(">BI", 1, 3))
        names = texts_in(answer[5:])
        self.extensions = dict(zip(names[::2], names[1::2], strict=True))

    def ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """The kind of the answer, and what follows its id."""
        self._next_id += 1
        answer = self._exchange(struct.pack(">BI", kind, self._next_id) + body)
        assert int.from_bytes(answer[1:5], "big") == self._next_id
        return answer[0], answer[5:]

    def extended(self, name: str, body: bytes = b"") -> tuple[int, bytes]:
        return self.ask(EXTENDED, text(name) + body)

    def status(self, kind: int, body: bytes) -> int:
        answer, rest = self.ask(kind, body)
        assert answer == STATUS, answer
        return int.from_bytes(rest[:4], "big")

    def open(self, path: str, flags: int) -> bytes:
        """A handle, ready to be put into a request."""
        kind, handle = self.ask(OPEN, text(path) + struct.pack(">II", flags, 0))
        assert kind == HANDLE, (kind, handle)
        return handle

    def __enter__(self) -> RawSftp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _, errors = self._process.communicate(timeout=DEADLINE_SECONDS)
        assert error is not None or (self._process.returncode, errors) == (0, b"")

    def _exchange(self, request: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack(">I", len(request)) + request)
        self._process.stdin.flush()
        return self._process.stdout.read(int.from_bytes(self._process.stdout.read(4), "big"))
