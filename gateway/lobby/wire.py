"""The control socket's protocol, both ends' share of it: frames, and what is in them. Standard library only.

A frame is one byte of kind, four bytes of length (big endian) and that many bytes. The caller sends one REQUEST
(JSON), its standard input as STDIN frames and one STDIN_END; the gateway sends STDOUT and STDERR frames and last one
STATUS (JSON). The caller shutting down its sending side means: cancel, but let me hear the end of it.

Fields of a request that one end does not know are ignored, and what it was not told it does not do: a command of an
older version is never asked anything. So VERSION changes only with what both must understand.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from enum import IntEnum

from gateway.errors import GatewayError

VERSION = 1
HEADER = struct.Struct(">BI")
FRAME_MAX_BYTES = 256 * 1024  # room for any sensible command line; data is cut into smaller pieces
DATA_FRAME_BYTES = 32 * 1024
COLUMNS_MAX = 1000


class FrameInvalid(GatewayError):
    """The other end does not speak this protocol."""

    code = "frame_invalid"


class Kind(IntEnum):
    REQUEST = 1
    STDIN = 2
    STDIN_END = 3
    STDOUT = 4
    STDERR = 5
    STATUS = 6
    ASK = 7  # only to a caller that can answer: a question to the person
    ANSWER = 8


@dataclass(frozen=True, slots=True)
class Request:
    """One command, as the caller typed it."""

    argv: list[str]
    columns: int
    is_terminal: bool
    can_answer: bool = False  # a person sits there, and ASK is understood
    has_colour: bool = False  # the terminal shows colours, and nobody said NO_COLOR
    version: int = VERSION

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Raises FrameInvalid."""
        values = _json_object(data)
        argv, columns = values.get("argv"), values.get("columns")
        if values.get("version") != VERSION:
            raise FrameInvalid("the command and the gateway are of different versions; restart the gateway")
        if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
            raise FrameInvalid("argv is no list of words")
        if not isinstance(columns, int) or isinstance(columns, bool):
            raise FrameInvalid("columns is not a number")
        return cls(
            argv,
            max(1, min(columns, COLUMNS_MAX)),
            is_terminal=values.get("is_terminal") is True,
            can_answer=values.get("can_answer") is True,
            has_colour=values.get("has_colour") is True,
        )


@dataclass(frozen=True, slots=True)
class Question:
    """What the person shall be asked."""

    text: str
    is_secret: bool

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Question:
        """Raises FrameInvalid."""
        values = _json_object(data)
        text = values.get("text")
        if not isinstance(text, str):
            raise FrameInvalid("a question has no text")
        return cls(text, values.get("is_secret") is True)


def encode_answer(line: str | None) -> bytes:
    """None: the person declined (Ctrl-D)."""
    return json.dumps({"line": line}).encode()


def decode_answer(data: bytes) -> str | None:
    """Raises FrameInvalid."""
    line = _json_object(data).get("line")
    if line is not None and not isinstance(line, str):
        raise FrameInvalid("an answer is no line")
    return line


def encode_status(status: int) -> bytes:
    return json.dumps({"status": status}).encode()


def decode_status(data: bytes) -> int:
    status = _json_object(data).get("status")
    if not isinstance(status, int) or not 0 <= status <= 255:
        raise FrameInvalid("status is no exit status")
    return status


def frame(kind: Kind, data: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(data)) + data


def parse_header(header: bytes) -> tuple[Kind, int]:
    """Raises FrameInvalid for an unknown kind and for a length beyond FRAME_MAX_BYTES."""
    number, length = HEADER.unpack(header)
    if length > FRAME_MAX_BYTES:
        raise FrameInvalid(f"a frame of {length} bytes is longer than {FRAME_MAX_BYTES}")
    try:
        return Kind(number), length
    except ValueError:
        raise FrameInvalid(f"no frame has the kind {number}") from None


def _json_object(data: bytes) -> dict[str, object]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise FrameInvalid("a frame that should hold JSON does not") from None
    if not isinstance(values, dict):
        raise FrameInvalid("a frame that should hold a JSON object does not")
    return values
