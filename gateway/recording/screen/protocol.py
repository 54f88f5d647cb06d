"""What the gateway and its screens process say to each other: one SOCK_SEQPACKET message each, with descriptors.

    request   JSON, gateway → process; the session's files come with it, read-only
    reply     a fixed head and some text, process → gateway; what it made comes with it, in memory files
    ready     a reply with id 0, once; its text is what the process can do

The process believes the gateway. The gateway believes nothing: sizes are bounded, files are what they should be, and a
reply nobody waits for is thrown away.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from gateway.interfaces import StreamPosition, WindowSize

MESSAGE_BYTES_MAX = 16 * 1024
TEXT_BYTES_MAX = 512
PAINTING_BYTES_MAX = 4 * 1024 * 1024
KEYFRAME_BYTES_MAX = 3 * 1024 * 1024
DESCRIPTORS_MAX = 3
READY_ID = 0
NOWHERE = StreamPosition(0, 0)  # before every position
UNKNOWN_SIZE = WindowSize(0, 0)
NO_LIBRARY_STATUS = 69  # EX_UNAVAILABLE of sysexits.h

_REPLY = struct.Struct("<QBII")


class Verb(StrEnum):
    PAINT = "paint"
    FOLLOW = "follow"
    ANSWERS = "answers"
    FORGET = "forget"  # no reply
    PING = "ping"


class Outcome(IntEnum):
    DONE = 0
    AFTER_GAP = 1  # done, but output is missing that may have been part of the screen
    FAILED = 2  # the text says why


@dataclass(frozen=True, slots=True)
class Request:
    """`since` is for answers alone. `files` names the descriptors that come along: recording, spool, keyframe."""

    id: int
    verb: Verb
    session_id: str = ""
    since: StreamPosition = NOWHERE
    until: StreamPosition = NOWHERE
    size: WindowSize = UNKNOWN_SIZE  # of the client's terminal, for a painting
    notice: str = ""
    wants_keyframe: bool = False
    is_again: bool = False
    files: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return json.dumps(
            [self.id, self.verb, self.session_id, [self.since.lap, self.since.offset],
             [self.until.lap, self.until.offset], [self.size.columns, self.size.rows], self.notice,
             self.wants_keyframe, self.is_again, self.files]
        ).encode()  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Request:
        number, verb, session_id, since, until, size, notice, wants_keyframe, is_again, files = json.loads(data)
        return cls(number, Verb(verb), session_id, StreamPosition(*since), StreamPosition(*until), WindowSize(*size),
                   notice, wants_keyframe, is_again, tuple(files))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    id: int
    outcome: Outcome
    text: str = ""
    data: bytes = b""  # a painting, or answers
    keyframe: bytes = b""


class ReplyWrong(ValueError):
    """The process sent what no screens process sends."""


def reply_to_bytes(reply: Reply) -> tuple[bytes, list[int]]:
    """The message, and the memory files to send with it, which the caller closes."""
    fds = [_memory_file(content) for content in (reply.data, reply.keyframe) if content]
    head = _REPLY.pack(reply.id, reply.outcome, len(reply.data), len(reply.keyframe))
    return head + reply.text.encode("utf-8", "replace")[:TEXT_BYTES_MAX], fds


def reply_from_bytes(message: bytes, fds: list[int]) -> Reply:
    """The descriptors stay the caller's. Raises ReplyWrong."""
    if not _REPLY.size <= len(message) <= _REPLY.size + TEXT_BYTES_MAX:
        raise ReplyWrong(f"a message of {len(message)} bytes")
    number, outcome, data_bytes, keyframe_bytes = _REPLY.unpack_from(message)
    if outcome not in Outcome.__members__.values():
        raise ReplyWrong(f"outcome {outcome}")
    if data_bytes > PAINTING_BYTES_MAX or keyframe_bytes > KEYFRAME_BYTES_MAX:
        raise ReplyWrong(f"{data_bytes} and {keyframe_bytes} bytes")
    if len(fds) != bool(data_bytes) + bool(keyframe_bytes):
        raise ReplyWrong(f"{len(fds)} descriptors")
    contents = iter(fds)
    text = message[_REPLY.size :].decode("utf-8", "replace")
    return Reply(
        number,
        Outcome(outcome),
        "".join(character if character.isprintable() else "?" for character in text),
        _content(next(contents), data_bytes) if data_bytes else b"",
        _content(next(contents), keyframe_bytes) if keyframe_bytes else b"",
    )


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("screens", os.MFD_CLOEXEC)
    written = 0
    while written < len(content):
        written += os.write(fd, memoryview(content)[written:])
    return fd


def _content(fd: int, size: int) -> bytes:
    # Only a file is sure to be read without waiting. It is never mapped: it may be cut while we look.
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ReplyWrong("a descriptor that is no file")
    content = os.pread(fd, size, 0)
    if len(content) != size:
        raise ReplyWrong(f"{len(content)} bytes instead of {size}")
    return content
