"""One client that looks at a terminal session, perhaps beside others: what it is sent, and when.

painting → live ⇄ behind. While its screen is being painted the program's output is held for it; a client that cannot
follow where others can is left behind, and gets the newest screen once it has room.
"""

from __future__ import annotations

import asyncio
import re
from enum import Enum, auto
from typing import Protocol

from gateway.interfaces import ProgramExit, WindowSize
from gateway.sessions.session import Channel
from gateway.sessions.terminal import DETACH_RESET

# Output of a program that prints while a screen is being painted, which takes 50 ms: more than a terminal gives then.
HELD_MAX_BYTES = 1024 * 1024
DISMISSED_STATUS = 255
# Up to the last Ctrl-C or Ctrl-\. Whoever loses patience while we ask a lost connection means the login, not the build
# that has run there since yesterday. Text that is typed ahead is for the program, as ever.
_INTERRUPT = re.compile(rb"\A.*[\x03\x1c]", re.DOTALL)


class ViewerState(Enum):
    PAINTING = auto()
    LIVE = auto()
    BEHIND = auto()


class ViewedSession(Protocol):
    """What a viewer tells its session."""

    def viewer_typed(self, data: bytes) -> None: ...
    def viewer_resized(self, viewer: Viewer) -> None: ...
    def viewer_has_room(self, viewer: Viewer) -> None: ...
    def viewer_left(self, viewer: Viewer) -> None: ...
    def signal_requested(self, name: str) -> None: ...


class Viewer:
    """Implements `ChannelSink` for its channel."""

    def __init__(
        self,
        channel: Channel,
        session: ViewedSession,
        *,
        size: WindowSize,
        term: str,
        connection_id: str = "",
        is_painted: bool = False,
    ) -> None:
        """`is_painted`: it comes to a program that has printed already, and is shown its screen first."""
        self.channel = channel
        self.size = size
        self.term = term
        self.connection_id = connection_id
        self.state = ViewerState.PAINTING if is_painted else ViewerState.LIVE
        self.is_gone = False
        self.needs_repaint = False  # what is being painted is out of date already
        self.painted = asyncio.Event()  # nothing is being painted for it, nor has to be
        if not is_painted:
            self.painted.set()
        self._session = session
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.has_screen = not is_painted  # the session's, with nothing left out in the lines above it
        self._has_seen_nothing = is_painted

    # ------------------------------------------------------------------------------------------------ its output

    def output(self, data: bytes) -> None:
        if self.state is ViewerState.LIVE:
            self.channel.write(data)
        elif self.state is ViewerState.PAINTING and not self.needs_repaint:
            self._held.append(data)
            self._held_bytes += len(data)

    @property
    def is_full(self) -> bool:
        """Nothing more should be printed for it now."""
        if self.state is ViewerState.PAINTING:
            return self._held_bytes > HELD_MAX_BYTES
        return self.state is ViewerState.LIVE and self.channel.is_writing_paused

    def begin_painting(self) -> None:
        """From here on output is held: the painting will end where this begins."""
        self.state = ViewerState.PAINTING
        self.painted.clear()
        self.needs_repaint = False
        self._drop_held()

    def show(self, painting: bytes) -> None:
        """The painting, then what was printed since, then everything as it comes."""
        held = b"".join(self._held)
        self._drop_held()
        self.state = ViewerState.LIVE
        self.channel.write(painting + held)
        self.has_screen = True
        self._has_seen_nothing = False
        self.painted.set()

    def fall_behind(self) -> None:
        """It is too slow: no more output, the newest screen later."""
        if self.state is ViewerState.PAINTING:
            self.needs_repaint = True
            self._drop_held()
        else:
            self.state = ViewerState.BEHIND
            self.has_screen = False
            self.painted.clear()

    def _drop_held(self) -> None:
        self._held.clear()
        self._held_bytes = 0

    # ---------------------------------------------------------------------------------------------------- its end

    def say(self, text: str) -> None:
        self.channel.write_stderr(f"\r\nhomeport: {text}\r\n".encode())

    def finish(self, end: ProgramExit, *, is_abrupt: bool) -> None:
        self.is_gone = True
        if is_abrupt:
            self.channel.write(DETACH_RESET)
        self.channel.finish(end)

    def dismiss(self, text: str) -> None:
        """The session goes on without this client: its terminal is tidied, and it is told why. Its status is that of a
        lost connection, after which scripts connect again."""
        self.is_gone = True
        self.painted.set()
        self.channel.write(DETACH_RESET + f"homeport: {text}\r\n".encode())
        self.channel.finish(ProgramExit(exit_code=DISMISSED_STATUS))

    # ------------------------------------------------------------------ what the channel tells us (ChannelSink)

    def data_received(self, data: bytes) -> None:
        if self.is_gone:
            return
        if self._has_seen_nothing:
            data = _INTERRUPT.sub(b"", data, count=1)
        if data:
            self._session.viewer_typed(data)

    def eof_received(self) -> None:
        """On a terminal a client's EOF means nothing: a Ctrl-D typed by us would end or litter the program."""

    def window_changed(self, size: WindowSize) -> None:
        if size == self.size:
            return
        self.size = size
        if not self.is_gone:
            self._session.viewer_resized(self)

    def signal_requested(self, name: str) -> None:
        if not self.is_gone:
            self._session.signal_requested(name)

    def output_unwanted(self) -> None:
        """Nothing breaks when a window is not looked at."""

    def resume_writing(self) -> None:
        if not self.is_gone:
            self._session.viewer_has_room(self)

    def channel_lost(self) -> None:
        if not self.is_gone:
            self.is_gone = True
            self.painted.set()
            self._session.viewer_left(self)
