"""What gateway and keeper say to each other: one JSON object per message of a SOCK_SEQPACKET unix socket.

    request   {"id": 7, "verb": "start", …}          gateway → keeper
    reply     {"id": 7, "ok": {…}}                   keeper → gateway, at most three descriptors with it
    refusal   {"id": 7, "error": {"code": "…", "message": "…"}}
    event     {"event": "exit", "session": "…", …}   keeper → the owner, without an id
              {"event": "wanted", "session": "…", …} keeper → the owner: another gateway asked for it
              {"event": "kept", "session": "…"}      keeper → all others: its owner keeps it
              {"event": "unowned", "session": "…"}   keeper → all others: its owner released it, or is gone

Bytes that need not be UTF-8 (arguments, environment, paths) travel as text by surrogateescape, so a message is no
larger than what it carries. A field or an event that is not known is ignored; a verb that is not known is refused by
name: that is how a newer gateway speaks to an older keeper, and an older gateway to a newer keeper. `VERSION` changes
only with what they could not get over so; then keepers that run must be ended to be used again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

VERSION = 1

# A single argument ends at 128 KiB whatever we do; four of them are enough. The default send buffer would stop at
# 212 KB, and the raised one is itself capped by net.core.wmem_max: a message may still be refused with EMSGSIZE.
MESSAGE_MAX_BYTES = 512 * 1024
SEND_BUFFER_BYTES = 1024 * 1024
DESCRIPTORS_MAX = 3  # stdin, stdout, stderr

SESSION_ID_MAX_CHARS = 64
RING_MAX_BYTES = 1024 * 1024
# All rings of one keeper: five hundred terminals that flood while no gateway reads must not fill the machine.
RINGS_TOTAL_MAX_BYTES = 64 * 1024 * 1024
EXITS_MAX = 1000
LIST_PAGE_MAX = 500
HANG_UP_GRACE_SECONDS = 5.0

_INTEGER_MAX_CHARS = 20

Message = dict[str, object]


class MessageMalformed(ValueError):
    """The other side sent something that is not a message, or a field that is not what the verb needs."""


def encode(message: Mapping[str, object]) -> bytes:
    """One message as bytes. Raises MessageMalformed if it holds text that no bytes stand for."""
    try:
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise MessageMalformed(f"text without bytes: {error.reason}") from None


def decode(data: bytes) -> Message:
    """The object in `data`. Raises MessageMalformed for everything that is not one JSON object."""
    try:
        message = json.loads(
            data.decode("utf-8", "surrogateescape"), parse_int=_short_integer, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise MessageMalformed(f"not JSON: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise MessageMalformed("not an object")
    return message


def to_text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def to_bytes(value: str) -> bytes:
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise MessageMalformed("text without bytes") from None


def text_in(message: Mapping[str, object], name: str, *, chars_max: int = MESSAGE_MAX_BYTES) -> str:
    """The field `name`, which must be text of 1 to `chars_max` characters."""
    value = message.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= chars_max:
        raise MessageMalformed(f"{name} must be text of 1 to {chars_max} characters")
    return value


def bytes_in(message: Mapping[str, object], name: str) -> bytes:
    """The field `name` as the bytes it stands for; no NUL, since the kernel would cut there."""
    value = to_bytes(text_in(message, name))
    if b"\0" in value:
        raise MessageMalformed(f"{name} holds a NUL byte")
    return value


def integer_in(message: Mapping[str, object], name: str, *, low: int = 0, high: int = 2**31 - 1) -> int:
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise MessageMalformed(f"{name} must be a number from {low} to {high}")
    return value


def _short_integer(digits: str) -> int:
    # int() of half a megabyte of digits takes seconds on interpreters without a limit of their own.
    if len(digits) > _INTEGER_MAX_CHARS:
        raise ValueError("number too long")
    return int(digits)


def _no_constant(name: str) -> float:
    raise ValueError(name)
