"""How a recording lies in bytes: events, the same in the spool and in the file, and what stands at the head of both.

    event  = dt_us u32 | kind u8 | size u32 | data        time counted from the event before it
    lap    = events                                        one filling of a spool segment; its first event counts
                                                           from the lap's start
    head   = JSON of RecordingMeta

Everything is little-endian. Nothing here does I/O.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import NamedTuple

from gateway.errors import RecordingDamaged
from gateway.interfaces import ProgramExit, WindowSize

EVENT = struct.Struct("<IBI")
EVENT_BYTES = EVENT.size
DT_US_MAX = 0xFFFF_FFFF  # 71 minutes; longer silences are a PAUSE event first

_SIZE = struct.Struct("<II")
_U64 = struct.Struct("<Q")
_EXIT = struct.Struct("<iB")
_NO_CODE = -1
_TEXT_BYTES_MAX = 1024  # a principal, a reason, a marker: marks must always fit where 4 KiB do


class Kind(IntEnum):
    """What an event is. Readers skip kinds they do not know; zero is "nothing was written here"."""

    OUTPUT = 1
    RESIZE = 2  # columns u32, rows u32
    ATTACH = 3  # columns u32, rows u32, principal
    DETACH = 4  # reason
    GAP = 5  # bytes lost u64
    EXIT = 6  # code i32 (-1: none), core dumped u8, signal name
    MARKER = 7  # text
    PAUSE = 8  # microseconds u64, beyond what a dt can say


class RecordedEvent(NamedTuple):
    """One event; the time counts from the session's start."""

    time_us: int
    kind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RecordingMeta:
    """What a recording says about itself, at the head of spool and file."""

    session_id: str
    workspace_id: str
    workspace_name: str
    started_us: int  # wall clock, UTC, since 1970
    term: str
    columns: int
    rows: int

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> RecordingMeta:
        """Raises RecordingDamaged; keys of a later version are left aside."""
        try:
            values = json.loads(data)
            return cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError) as error:
            raise RecordingDamaged("the head of the recording cannot be read", detail=repr(error)) from None


def new_meta(session_id: str, workspace_id: str, workspace_name: str, term: str, size: WindowSize) -> RecordingMeta:
    """The head of a recording that starts now. `term` comes from the client: printable ASCII and bounded from here."""
    return RecordingMeta(
        session_id=session_id,
        workspace_id=workspace_id,
        workspace_name=workspace_name[:100],
        started_us=time.time_ns() // 1000,
        term="".join(c for c in term[:64] if c.isascii() and c.isprintable()),
        columns=size.columns,
        rows=size.rows,
    )


def events_in(data: bytes | memoryview, start_us: int) -> Iterator[RecordedEvent]:
    """The events of one lap. Raises RecordingDamaged where they stop making sense."""
    time_us, at, end = start_us, 0, len(data)
    while at < end:
        if end - at < EVENT_BYTES:
            raise RecordingDamaged("an event is cut off", detail=f"at {at} of {end}")
        dt_us, kind, size = EVENT.unpack_from(data, at)
        at += EVENT_BYTES
        if kind == 0 or size > end - at:
            raise RecordingDamaged("an event is cut off", detail=f"at {at} of {end}, {size} bytes of kind {kind}")
        time_us += dt_us
        content = bytes(data[at : at + size])
        if kind == Kind.PAUSE:
            time_us += gap_bytes(content)  # the same eight bytes
        else:
            yield RecordedEvent(time_us, kind, content)
        at += size


def lost_in(data: bytes | memoryview) -> int:
    """How many bytes of output are lost with this lap, gaps it already had included."""
    lost = 0
    for event in events_in(data, 0):
        if event.kind == Kind.OUTPUT:
            lost += len(event.data)
        elif event.kind == Kind.GAP:
            lost += gap_bytes(event.data)
    return lost


def gap_event(lost_bytes: int) -> bytes:
    return EVENT.pack(0, Kind.GAP, _U64.size) + _U64.pack(lost_bytes)


def marker_event(text: str) -> bytes:
    data = encode_text(text)
    return EVENT.pack(0, Kind.MARKER, len(data)) + data


def encode_text(text: str) -> bytes:
    return text.encode("utf-8", "replace")[:_TEXT_BYTES_MAX]


def encode_size(size: WindowSize) -> bytes:
    return _SIZE.pack(size.columns & 0xFFFF_FFFF, size.rows & 0xFFFF_FFFF)


def encode_number(number: int) -> bytes:
    return _U64.pack(number)


def encode_exit(end: ProgramExit) -> bytes:
    code = _NO_CODE if end.exit_code is None else end.exit_code
    return _EXIT.pack(code, end.core_dumped) + encode_text(end.signal or "")


def size_of(data: bytes) -> WindowSize:
    """The size in a RESIZE or ATTACH event."""
    return WindowSize(*_SIZE.unpack_from(_enough(data, _SIZE)))


def principal_of(data: bytes) -> str:
    return data[_SIZE.size :].decode("utf-8", "replace")


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def gap_bytes(data: bytes) -> int:
    number: int = _U64.unpack_from(_enough(data, _U64))[0]
    return number


def exit_of(data: bytes) -> ProgramExit:
    code, core_dumped = _EXIT.unpack_from(_enough(data, _EXIT))
    signal = data[_EXIT.size :].decode("utf-8", "replace") or None
    return ProgramExit(None if code == _NO_CODE else code, signal, bool(core_dumped))


def _enough(data: bytes, shape: struct.Struct) -> bytes:
    if len(data) < shape.size:
        raise RecordingDamaged("an event is shorter than its kind", detail=f"{len(data)} bytes")
    return data
