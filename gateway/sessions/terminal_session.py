"""A session on a terminal: its program outlives its clients, of which there may be none, one or several at a time.

All of them see the same and may type. The window is as large as the smallest of theirs. A client that comes to a
program which runs already is shown its screen first: the painting is made from the recording up to a position, and
what the program prints after that position is held for the client until the painting is there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from gateway.interfaces import Program, ProgramExit, Recorder, Screens, WindowSize
from gateway.sessions.pumps import TerminalPump
from gateway.sessions.session import Channel, Session, SessionState
from gateway.sessions.viewer import Viewer, ViewerState

# How long a client that does not keep up may hold back the others. A flood fills everybody's buffer for a moment.
SLOW_SECONDS = 0.25
# At the program's end: a client beside others that does not take its last words is not waited for any longer.
LAST_WORDS_SECONDS = 1.0
# Between the two window changes that make a program draw itself anew: it must have seen the first.
REDRAW_SECONDS = 0.1

# Questions to a terminal, as programs ask them when they start: device attributes, status and cursor reports, modes,
# window, keyboard, names and colours (ECMA-48 8.3.24, 8.3.35; xterm's ctlseqs). More than it takes is harmless.
_QUESTION = re.compile(
    rb"\x1b(?:\[[?>=]?[0-9;]*(?:[cntx]|\$p)|\[>[0-9;]*q|\[\?u|Z|P[+$]q|\][0-9]+;(?:[^\x07\x1b;]*;)?\?)|\x05"
)
_QUESTION_MAX_BYTES = 32

Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]


class TerminalSession(Session):
    """Joins a program's terminal and its viewers (implements `ViewedSession` for them)."""

    is_terminal = True

    def __init__(
        self,
        program: Program,
        *,
        recorder: Recorder,
        screens: Screens,
        size: WindowSize,
        set_window_size: Callable[[int, WindowSize], None],
        on_signal: Callable[[str], None],
        on_detached: Callable[[], None],
        spawn: Spawn,
        pipe_linger_seconds: float,
    ) -> None:
        super().__init__(program, pipe_linger_seconds=pipe_linger_seconds)
        assert program.terminal_fd is not None
        self.size = size
        self.is_hung_up = False  # it runs on without its terminal
        self._recorder = recorder
        self._screens = screens
        self._set_window_size = set_window_size
        self._on_signal = on_signal
        self._on_detached = on_detached
        self._spawn = spawn
        self._viewers: list[Viewer] = []
        self._is_input_full = False
        self._slow_timer: asyncio.TimerHandle | None = None
        self._answered = recorder.position  # questions before it were a client's to answer, or are answered
        self._is_answering = self._is_asked = False
        self._asked_tail = b""  # a question may come in two reads
        self._pump = TerminalPump(program.terminal_fd, self, recorder)
        self._outputs.append(self._pump)

    # ------------------------------------------------------------------------------------------- coming and going

    @property
    def terminal_fd(self) -> int | None:
        """The master's, as long as it is open: a number that was closed may be another's by now."""
        return None if self._pump.is_closed else self.program.terminal_fd

    @property
    def viewers(self) -> tuple[Viewer, ...]:
        return tuple(self._viewers)

    def attach(self, channel: Channel, *, size: WindowSize, term: str, connection_id: str = "") -> Viewer:
        """The first client of a program that has just begun: it sees everything as it comes."""
        viewer = Viewer(channel, self, size=size, term=term, connection_id=connection_id)
        self._join(viewer)
        return viewer

    async def reattach(self, channel: Channel, *, size: WindowSize, term: str, connection_id: str, notice: str) -> None:
        """A client comes to a program that runs: it joins at once, and this returns when it has the screen.

        Joining happens before the first wait, so two clients that come together do not miss each other.
        """
        viewer = Viewer(channel, self, size=size, term=term, connection_id=connection_id, is_painted=True)
        self._pump.flush()
        self._join(viewer)
        await self._paint(viewer, notice)

    def _join(self, viewer: Viewer) -> None:
        assert self.state in (SessionState.DETACHED, SessionState.ATTACHED)
        self.state = SessionState.ATTACHED
        self._viewers.append(viewer)
        self._fit_window(viewer)
        if self._is_input_full:
            viewer.channel.pause_reading()
        viewer.channel.attach(viewer)

    def has_nobody_yet(self) -> None:
        """It was adopted: everything until now is on record, and nobody was here to answer."""
        self._answered = self._recorder.position

    def dismiss(self, viewer: Viewer, text: str) -> None:
        """This client has lost the session; it is told, if it still hears us."""
        if viewer in self._viewers:
            viewer.dismiss(text)
            self.viewer_left(viewer)

    def dismiss_all(self, text: str) -> None:
        for viewer in self.viewers:
            self.dismiss(viewer, text)

    def viewer_left(self, viewer: Viewer) -> None:
        if viewer not in self._viewers:
            return
        self._viewers.remove(viewer)
        if self.state is not SessionState.ATTACHED:
            return
        if self._viewers:
            self._fit_window(None)
        else:
            self.state = SessionState.DETACHED
            self._input.discard()
            self._is_input_full = False
            self._answered = self._recorder.position
        self.resume_outputs()
        if not self._viewers:
            self._on_detached()

    # ---------------------------------------------------------------------------------------------------- painting

    async def _paint(self, viewer: Viewer, notice: str = "") -> None:
        """Show the screen as it is now, again if it changed its size or grew too long meanwhile."""
        try:
            while not viewer.is_gone:
                # What the pump still holds is in the recording already: it goes to whoever watched until now.
                self._pump.flush()
                viewer.begin_painting()
                until = self._recorder.position
                painting = await self._screens.paint(
                    self.session_id, until, size=self._size_of(viewer), term=viewer.term, notice=notice,
                    is_again=viewer.has_screen,
                )  # fmt: skip
                if viewer.is_gone or viewer.needs_repaint:
                    continue
                viewer.show(painting.data)
                self._go_on()
                if not painting.is_exact:
                    self._have_it_drawn_anew()
                return
        except Exception:
            # Left among the viewers it would hold the program back for ever, and the session would never be free.
            self.dismiss(viewer, "internal error; connect again")
            raise
        finally:
            viewer.painted.set()

    def _size_of(self, viewer: Viewer) -> WindowSize:
        """Of the client's own terminal, which may be larger than the window."""
        size = viewer.size
        return size if size.columns and size.rows else self.size

    def _paint_soon(self, viewer: Viewer) -> None:
        viewer.begin_painting()
        self._spawn(self._paint(viewer), f"paint:{self.session_id}")

    def _paint_again(self, viewer: Viewer) -> None:
        """What it sees is out of date."""
        if viewer.state is ViewerState.PAINTING:
            viewer.needs_repaint = True
        elif viewer.is_full:  # one painting upon the other would wait in our memory
            viewer.fall_behind()
        elif viewer.state is ViewerState.LIVE:
            self._paint_soon(viewer)

    def _have_it_drawn_anew(self) -> None:
        """Without its screen a client sees what the program draws when its window changes."""
        size = self.size
        if size.rows > 1:
            self._resize_terminal(WindowSize(size.columns, size.rows - 1, size.width_pixels, size.height_pixels))
            asyncio.get_running_loop().call_later(REDRAW_SECONDS, self._resize_back)

    def _resize_back(self) -> None:
        self._resize_terminal(self.size)

    # ------------------------------------------------------------------------------------------------- the window

    def viewer_resized(self, viewer: Viewer) -> None:
        before = self.size
        self._fit_window(viewer)
        # Its own terminal has moved the lines about. A program that has another's window will not draw them anew.
        if self.size == before and len(self._viewers) > 1:
            self._paint_again(viewer)

    def _fit_window(self, cause: Viewer | None) -> None:
        """As large as the smallest viewer's. Where others change the size, a viewer's own terminal did not follow."""
        size = _smallest([viewer.size for viewer in self._viewers]) or self.size
        if size == self.size:
            return
        self.size = size
        self._pump.flush()
        self._resize_terminal(size)
        self._recorder.mark_resize(size)
        for viewer in self._viewers:
            # The terminal of a sole viewer has followed already.
            if viewer.state is ViewerState.PAINTING or viewer is not cause or len(self._viewers) > 1:
                self._paint_again(viewer)

    def _resize_terminal(self, size: WindowSize) -> None:
        if not self._pump.is_closed and self.program.terminal_fd is not None:
            self._set_window_size(self.program.terminal_fd, size)

    # -------------------------------------------------------------------------------------------------------- input

    def viewer_typed(self, data: bytes) -> None:
        self._count_input(data)
        self._input.write(data)

    def signal_requested(self, name: str) -> None:
        self._on_signal(name)

    def input_is_full(self) -> None:
        self._is_input_full = True
        for viewer in self.viewers:
            viewer.channel.pause_reading()

    def input_is_free(self) -> None:
        self._is_input_full = False
        for viewer in self.viewers:
            viewer.channel.resume_reading()

    # ------------------------------------------------------------------------------------------------------- output

    def output(self, data: bytes, *, is_stderr: bool) -> bool:
        self.bytes_out += len(data)
        self.last_activity_at = datetime.now(UTC)
        for viewer in self.viewers:
            viewer.output(data)
        if not self._viewers and self.state is SessionState.DETACHED:
            self._look_for_questions(data)
        elif self.is_output_paused and len(self._viewers) > 1:
            self._watch_slow_viewers()
        return not self.is_output_paused

    @property
    def is_output_paused(self) -> bool:
        return any(viewer.is_full for viewer in self._viewers)

    def viewer_has_room(self, viewer: Viewer) -> None:
        if viewer.state is ViewerState.BEHIND:
            self._paint_soon(viewer)
        self._go_on()

    def _go_on(self) -> None:
        """Read the program on. Where one viewer is full and another is not, that one is waited for a moment at most."""
        self.resume_outputs()
        if self.is_output_paused and len(self._viewers) > 1:
            self._watch_slow_viewers()

    def _watch_slow_viewers(self) -> None:
        if self._slow_timer is None:
            self._slow_timer = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._leave_slow_behind)

    def _leave_slow_behind(self) -> None:
        """Who is still full while another is not, falls behind. All of them full: the program waits, as for one."""
        self._slow_timer = None
        full = [viewer for viewer in self._viewers if viewer.is_full]
        is_anyone_quick = any(viewer.state is not ViewerState.BEHIND and not viewer.is_full for viewer in self._viewers)
        if full and is_anyone_quick:
            for viewer in full:
                viewer.fall_behind()
        self.resume_outputs()

    def say(self, text: str) -> None:
        for viewer in self._viewers:
            viewer.say(text)

    # ----------------------------------------------------------------------------------------- while nobody is there

    def _look_for_questions(self, data: bytes) -> None:
        """A program that asks its terminal while nobody is attached would wait for an answer until it gives up."""
        if b"\x1b" not in data and b"\x05" not in data and not self._asked_tail:
            return
        asked = self._asked_tail + data
        self._asked_tail = asked[-_QUESTION_MAX_BYTES:] if b"\x1b" in asked[-_QUESTION_MAX_BYTES:] else b""
        if _QUESTION.search(asked):
            self._asked_tail = b""
            self._is_asked = True
            if not self._is_answering:
                self._is_answering = True
                self._spawn(self._answer(), f"answer:{self.session_id}")

    async def _answer(self) -> None:
        try:
            while self._is_asked and not self._viewers:
                self._is_asked = False
                since, self._answered = self._answered, self._recorder.position
                reply = await self._screens.answers(self.session_id, since, self._answered)
                # A client that came meanwhile was shown a screen without the question; the program still waits.
                # One that does not read its answers gets no more of them.
                if reply and self._input.is_idle and self.state in (SessionState.ATTACHED, SessionState.DETACHED):
                    self._input.write(reply)
        finally:
            self._is_answering = False

    # ----------------------------------------------------------------------------------------------------- the end

    async def _clients_have_it(self) -> None:
        """Painted first, if that is under way; then one client is waited for as long as it lives, several for a bit."""
        viewers = self.viewers
        if not viewers:
            return
        seconds = None if len(viewers) == 1 else LAST_WORDS_SECONDS
        waits = [asyncio.ensure_future(self._has_it(viewer)) for viewer in viewers]
        try:
            await asyncio.wait(waits, timeout=seconds)
        finally:
            for wait in waits:
                wait.cancel()

    async def _has_it(self, viewer: Viewer) -> None:
        await viewer.painted.wait()
        await viewer.channel.drained()

    def finish(self, end: ProgramExit, *, is_abrupt: bool = False) -> None:
        viewers, self._viewers = self.viewers, []
        self.state = SessionState.ENDED
        self.close()
        for viewer in viewers:
            viewer.finish(end, is_abrupt=is_abrupt)

    def drop_terminal(self) -> None:
        """Let go of the terminal though the program runs on: the kernel hangs it up, and reading from it ends."""
        self.is_hung_up = True
        self.close()

    def stop_reading(self) -> None:
        self._pump.flush()
        super().stop_reading()

    def close(self) -> None:
        if self._slow_timer is not None:
            self._slow_timer.cancel()
            self._slow_timer = None
        super().close()


def _smallest(sizes: list[WindowSize]) -> WindowSize | None:
    """The window that fits into all of them; a zero means unknown. Pixels only where one viewer has exactly this."""
    columns = min((size.columns for size in sizes if size.columns), default=0)
    rows = min((size.rows for size in sizes if size.rows), default=0)
    if not columns or not rows:
        return None
    whole = next((size for size in sizes if (size.columns, size.rows) == (columns, rows)), None)
    return whole or WindowSize(columns, rows)
