"""A recording as asciicast text: version 3 (times count from the event before) and 2 (from the start), line by line.

asciicast is JSON and cannot hold every byte: what is not UTF-8 becomes U+FFFD, and the recording stays the truth.
Characters cut in two by a read are joined, so the decoder lives as long as the stream.
"""

from __future__ import annotations

import codecs
import json
import signal
from collections.abc import Callable, Iterable, Iterator

from gateway.interfaces import ProgramExit
from gateway.recording.layout import (
    Kind,
    RecordedEvent,
    RecordingMeta,
    exit_of,
    gap_bytes,
    principal_of,
    size_of,
    text_of,
)

# What players assume where a client did not say its size.
_COLUMNS_UNKNOWN, _ROWS_UNKNOWN = 80, 24


def asciicast_v3(meta: RecordingMeta, events: Iterable[RecordedEvent]) -> Iterator[str]:
    """For asciinema 3 and its player from 3.10 on. Each line ends with a newline."""
    term: dict[str, object] = {"cols": meta.columns or _COLUMNS_UNKNOWN, "rows": meta.rows or _ROWS_UNKNOWN}
    if meta.term:
        term["type"] = meta.term
    yield _line({"version": 3, "term": term, "timestamp": meta.started_us // 1_000_000, "title": meta.workspace_name})
    last_us = 0
    for time_us, code, text in _cast_events(events):
        yield _event_line(time_us - last_us, code, text)
        last_us = time_us


def asciicast_v2(meta: RecordingMeta, events: Iterable[RecordedEvent]) -> Iterator[str]:
    """For older players, which refuse version 3. It knows no exit event; that becomes a marker."""
    head: dict[str, object] = {
        "version": 2,
        "width": meta.columns or _COLUMNS_UNKNOWN,
        "height": meta.rows or _ROWS_UNKNOWN,
        "timestamp": meta.started_us // 1_000_000,
        "title": meta.workspace_name,
    }
    if meta.term:
        head["env"] = {"TERM": meta.term}
    yield _line(head)
    for time_us, code, text in _cast_events(events):
        yield _event_line(time_us, "m", f"exit status {text}") if code == "x" else _event_line(time_us, code, text)


def _cast_events(events: Iterable[RecordedEvent]) -> Iterator[tuple[int, str, str]]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    time_us = 0
    for time_us, kind, data in events:
        if kind == Kind.OUTPUT:
            if text := decoder.decode(data):
                yield time_us, "o", text
            continue
        if kind == Kind.GAP and (text := decoder.decode(b"", final=True)):  # the other half of it is lost
            yield time_us, "o", text
        if described := _DESCRIPTIONS.get(kind):
            code, text = described(data)
            yield time_us, code, text
    if text := decoder.decode(b"", final=True):
        yield time_us, "o", text


def _exit(data: bytes) -> tuple[str, str]:
    end = exit_of(data)
    status = exit_status(end)
    return ("m", "the program's end was not seen") if status is None else ("x", str(status))


def _resize(data: bytes) -> tuple[str, str]:
    size = size_of(data)
    return "r", f"{size.columns or _COLUMNS_UNKNOWN}x{size.rows or _ROWS_UNKNOWN}"


def _attach(data: bytes) -> tuple[str, str]:
    size = size_of(data)
    return "m", f"attached: {principal_of(data)} ({size.columns}x{size.rows})"


_DESCRIPTIONS: dict[int, Callable[[bytes], tuple[str, str]]] = {
    Kind.RESIZE: _resize,
    Kind.ATTACH: _attach,
    Kind.DETACH: lambda data: ("m", f"detached: {text_of(data)}"),
    Kind.GAP: lambda data: ("m", f"gap: {gap_bytes(data)} bytes are missing"),
    Kind.EXIT: _exit,
    Kind.MARKER: lambda data: ("m", text_of(data)),
}


def exit_status(end: ProgramExit) -> int | None:
    """One number, as a shell shows it: 128 + N for a program ended by signal N."""
    if end.exit_code is not None:
        return end.exit_code
    if end.signal is None:
        return None
    try:
        return 128 + signal.Signals[f"SIG{end.signal}"]
    except KeyError:
        return 255


def _event_line(time_us: int, code: str, text: str) -> str:
    return f"[{time_us // 1_000_000}.{time_us % 1_000_000:06d}, {_json(code)}, {_json(text)}]\n"


def _line(value: object) -> str:
    return _json(value) + "\n"


_json = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": ")).encode
