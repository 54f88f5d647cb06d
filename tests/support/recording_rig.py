"""What the recording tests share: a workspace, a set of recordings in a folder, and reading one back."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.config import RecordingSettings
from gateway.interfaces import WindowSize, Workspace
from gateway.recording.layout import Kind, RecordedEvent, gap_bytes
from gateway.recording.recorder import SpoolRecorder
from gateway.recording.recordings import FileRecordings

SIZE = WindowSize(80, 24)
SESSION_ID = "01932b7e-8f3c-7c4e-9d31-5a1f0c8e2b77"
SEGMENT_BYTES = 16 * 1024
PATTERN_BYTES_PER_LINE = 10


def workspace(*, is_recorded: bool = True) -> Workspace:
    return Workspace("w1", "demo", Path("/home/demo"), Path("/workspaces/demo"), is_recorded=is_recorded)


def recordings_in(directory: Path, **settings: int | bool) -> FileRecordings:
    values = {"segment_bytes": SEGMENT_BYTES, **settings}
    return FileRecordings(
        recordings_dir=directory / "recordings",
        spools_dir=directory / "spools",
        settings=RecordingSettings.model_validate(values),
    )


def recorder_of(recordings: FileRecordings, session_id: str = SESSION_ID, *, is_recorded: bool = True) -> SpoolRecorder:
    recorder = recordings.recorder_for(
        session_id, workspace=workspace(is_recorded=is_recorded), size=SIZE, term="xterm-256color"
    )
    assert isinstance(recorder, SpoolRecorder)
    return recorder


def events_of(recordings: FileRecordings, session_id: str = SESSION_ID) -> list[RecordedEvent]:
    """All that can be read now; the recording must be undamaged."""
    reader = recordings.archive.open(session_id)
    events = list(reader)
    assert not reader.damage, reader.damage
    return events


def output_in(events: list[RecordedEvent]) -> bytes:
    return b"".join(event.data for event in events if event.kind == Kind.OUTPUT)


def lost_in_gaps(events: list[RecordedEvent]) -> int:
    return sum(gap_bytes(event.data) for event in events if event.kind == Kind.GAP)


def numbered_lines(byte_count: int, *, start: int = 0) -> bytes:
    """A stretch of an endless text in which each line says its number, so that any hole shows."""
    first, skipped = divmod(start, PATTERN_BYTES_PER_LINE)
    count = (skipped + byte_count) // PATTERN_BYTES_PER_LINE + 1
    return b"".join(b"%09d\n" % number for number in range(first, first + count))[skipped : skipped + byte_count]


class Pipe:
    """Stands for a terminal: what is fed in is what one read gives."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)

    def feed(self, data: bytes) -> None:
        assert os.write(self._write_fd, data) == len(data)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._write_fd)
