"""One session's terminal model, and how far its recording was fed into it. Lives in the screens process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from gateway.errors import RecordingDamaged
from gateway.interfaces import StreamPosition
from gateway.recording.layout import Kind, size_of
from gateway.recording.screen.keyframe import Keyframe
from gateway.recording.screen.model import Screen
from gateway.recording.stream import START, Piece, Stream, pieces_in

# Read at once. Most output of this size takes half a millisecond.
PIECE_BYTES = 64 * 1024
# Fed at once, before others may have their turn: of repetitions (REP) and resets this little takes up to 80 ms.
FEED_BYTES = 2 * 1024
# A sequence that was cut off by a gap must not swallow what follows: CAN ends it, ST ends a string.
_AFTER_GAP = b"\x18\x1b\\"
_COLUMNS_UNKNOWN, _ROWS_UNKNOWN = 80, 24
# Questions of programs are few; beyond this somebody makes them by the thousand, and waits for no answer.
_REPLIES_MAX = 256
# Measured: 10 KB for an empty screen, 568 KB for 80 columns with 1,000 lines of history.
_BYTES_PER_CELL, _BYTES_PER_SCREEN = 8, 16 * 1024


class _Replies(NamedTuple):
    since: StreamPosition  # the question came after
    data: bytes


class FollowedScreen:
    """`position` says up to where the screen is right; `is_after_gap`, that something before it was never seen."""

    def __init__(
        self, screen: Screen, *, position: StreamPosition, file_at: int, is_after_gap: bool, history_lines: int
    ) -> None:
        self.screen = screen
        self.position = position
        self.is_after_gap = is_after_gap
        self.file_at = file_at
        self._history_lines = history_lines
        self._replies: deque[_Replies] = deque(maxlen=_REPLIES_MAX)

    @classmethod
    def fresh(cls, stream: Stream, *, history_lines: int) -> FollowedScreen:
        """At the session's start. Raises RecordingDamaged."""
        meta = stream.meta()
        screen = Screen(meta.columns or _COLUMNS_UNKNOWN, meta.rows or _ROWS_UNKNOWN, history_lines=history_lines)
        return cls(screen, position=START, file_at=0, is_after_gap=False, history_lines=history_lines)

    @classmethod
    def restored(cls, keyframe: Keyframe, *, history_lines: int) -> FollowedScreen:
        """Raises SnapshotForeign."""
        screen = Screen.restore(keyframe.snapshot, history_lines=history_lines)
        return cls(screen, position=keyframe.position, file_at=keyframe.file_at, is_after_gap=keyframe.is_after_gap,
                   history_lines=history_lines)  # fmt: skip

    def advance(self, stream: Stream, until: StreamPosition) -> Iterator[None]:
        """Feed what lies between, in steps that are short each; the caller decides when the next one is due."""
        for stretch in stream.stretches(self.position, until):
            if stretch.is_after_gap:
                self._note_gap()
            self.file_at = stretch.file_at
            self.position = StreamPosition(stretch.lap, stretch.offset)
            pieces = pieces_in(stretch.events, offset=stretch.offset, bytes_max=PIECE_BYTES)
            try:
                for piece in pieces:
                    yield from self._take(piece)
                    self.position = StreamPosition(stretch.lap, piece.offset_after)
            except RecordingDamaged:  # the rest of this lap cannot be read
                self._note_gap()
        self.position = until

    def replies_between(self, since: StreamPosition, until: StreamPosition) -> bytes:
        """To questions in the output between the two, each of which was the end of an `advance`."""
        return b"".join(replies.data for replies in self._replies if since <= replies.since < until)

    def keyframe(self) -> Keyframe | None:
        """None: not now, an unfinished sequence is too long."""
        snapshot = self.screen.snapshot()
        return None if snapshot is None else Keyframe(self.position, self.file_at, self.is_after_gap, snapshot)

    @property
    def memory_bytes(self) -> int:
        """About how much it takes at most, both screens and the history."""
        lines = self._history_lines + 2 * self.screen.rows
        return _BYTES_PER_SCREEN + _BYTES_PER_CELL * lines * self.screen.columns

    def _take(self, piece: Piece) -> Iterator[None]:
        if piece.kind == Kind.RESIZE:
            size = size_of(piece.data)
            self.screen.resize(size.columns, size.rows)
            yield  # lines are wrapped anew: milliseconds, and a client may send thousands of changes
        elif piece.kind == Kind.GAP:
            self._note_gap()
        else:
            for at in range(0, len(piece.data), FEED_BYTES):
                self.screen.feed(piece.data[at : at + FEED_BYTES])
                yield
            if replies := self.screen.take_replies():
                self._replies.append(_Replies(self.position, replies))

    def _note_gap(self) -> None:
        self.is_after_gap = True
        self.screen.feed(_AFTER_GAP)
