"""What real programs printed (tests/captures), cut anywhere: the model and the painter against the whole of it.

Also against xterm.js and tmux, which know nothing of our model. The many cuts are slow, a few are run always.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

pytest.importorskip("pyghostty")

from gateway.recording.screen.model import Screen
from gateway.recording.screen.painter import paint
from gateway.sessions.terminal import DETACH_RESET
from tests.support import real_terminals
from tests.support.clients import require
from tests.support.real_terminals import Size
from tests.support.real_tmux import Tmux
from tests.support.real_xterm import XtermJs, XtermScreen
from tests.support.screen_states import differences, state_of
from tests.support.terminal_states import AMBIGUOUS, EVERYTHING_ON, STATES

CAPTURES = sorted((Path(__file__).parents[1] / "captures").glob("*.zst"))
HISTORY_LINES = 300
CUTS, CUTS_MANY, CUTS_TMUX = 3, 200, 3
FUZZ_INPUTS = 20_000
FUZZ_SECONDS = 600.0
# Where real terminals disagree with each other, and so each with the model: the width of emoji (the text that less
# shows), and whether erasing behind the last column takes the cell in it (top; xterm does, as the model, xterm.js not).
DISPUTED = ("less", "top")

every_capture = pytest.mark.parametrize("capture", CAPTURES, ids=lambda capture: capture.stem)


class Capture:
    def __init__(self, path: Path) -> None:
        self.name, _, size = path.stem.partition("-")
        columns, rows = size.split("x")
        self.size = Size(int(columns), int(rows))
        self.data = zstandard.decompress(path.read_bytes())

    def screen(self, output: bytes = b"") -> Screen:
        screen = Screen(self.size.columns, self.size.rows, history_lines=HISTORY_LINES)
        screen.feed(output)
        return screen

    def cuts(self, count: int) -> list[int]:
        """The same ones in every run."""
        return sorted(random.Random(f"{self.name} {self.size}").sample(range(1, len(self.data)), count))


# ------------------------------------------------------------------------------------------ a model as the client


def a_snapshot_and_the_rest_are_the_whole(capture: Capture, cuts: int) -> None:
    whole = capture.screen(capture.data)
    wanted = state_of(whole)
    growing, fed = capture.screen(), 0
    for cut in capture.cuts(cuts):
        growing.feed(capture.data[fed:cut])
        fed = cut
        snapshot = growing.snapshot()
        assert snapshot is not None
        restored = Screen.restore(snapshot, history_lines=HISTORY_LINES)
        restored.feed(capture.data[cut:])
        if restored.snapshot() != whole.snapshot():
            assert differences(wanted, state_of(restored)) == [], f"cut at {cut}"
        restored.close()
    for screen in (whole, growing):
        screen.close()


def a_painting_and_the_rest_are_the_whole(capture: Capture, cuts: int) -> None:
    whole = capture.screen(capture.data)
    wanted = state_of(whole)
    for cut in capture.cuts(cuts):
        screen, client = capture.screen(capture.data[:cut]), capture.screen(b"$ ssh my-app@host\r\n")
        client.feed(paint(screen, notice="homeport: back"))
        assert client.terminal.take_replies() == [], f"cut at {cut}: something was asked"
        assert differences(state_of(screen), state_of(client)) == [], f"cut at {cut}, at once"
        client.feed(capture.data[cut:])
        assert differences(wanted, state_of(client)) == [], f"cut at {cut}, at the end"
        for each in (screen, client):
            each.close()
    whole.close()


@every_capture
def test_a_snapshot_and_the_rest_are_the_whole(capture: Path) -> None:
    a_snapshot_and_the_rest_are_the_whole(Capture(capture), CUTS)


@every_capture
def test_a_painting_and_the_rest_are_the_whole(capture: Path) -> None:
    a_painting_and_the_rest_are_the_whole(Capture(capture), CUTS)


@pytest.mark.slow
@pytest.mark.timeout(240)
@every_capture
def test_a_snapshot_and_the_rest_are_the_whole_at_many_cuts(capture: Path) -> None:
    a_snapshot_and_the_rest_are_the_whole(Capture(capture), CUTS_MANY)


@pytest.mark.slow
@pytest.mark.timeout(240)
@every_capture
def test_a_painting_and_the_rest_are_the_whole_at_many_cuts(capture: Path) -> None:
    a_painting_and_the_rest_are_the_whole(Capture(capture), CUTS_MANY)


# -------------------------------------------------------------------------------------- other people's terminals


@pytest.fixture(scope="module")
def xterm() -> Iterator[XtermJs]:
    with XtermJs() as xterm:
        yield xterm


def fed(xterm: XtermJs, size: Size, output: bytes) -> XtermScreen:
    screen = xterm.screen(size)
    screen.feed(b"\x1b]2;before\x07" + output)
    return screen


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
def test_xterm_js_is_painted_into_each_state_and_answers_nothing(xterm: XtermJs, name: str) -> None:
    size = Size(80, 24)
    screen = Screen(size.columns, size.rows, history_lines=HISTORY_LINES)
    screen.feed(STATES[name])
    wanted, client = fed(xterm, size, STATES[name]), fed(xterm, size, b"\x1b[?1003h$ ssh my-app@host\r\n")
    assert client.answer(paint(screen, notice="homeport: back")) == b""
    assert real_terminals.differences(wanted.look(), client.look()) == []
    for each in (screen, wanted, client):
        each.close()


@pytest.mark.slow
@pytest.mark.timeout(240)
@every_capture
def test_a_painting_and_the_rest_are_the_whole_in_xterm_js(xterm: XtermJs, capture: Path) -> None:
    program = Capture(capture)
    if program.name in DISPUTED:
        pytest.skip("terminals disagree about what this program prints")
    for cut in program.cuts(40):
        screen = program.screen(program.data[:cut])
        wanted, client = (
            fed(xterm, program.size, program.data[:cut]),
            fed(xterm, program.size, b"$ ssh my-app@host\r\n"),
        )
        assert client.answer(paint(screen, notice="homeport: back")) == b"", f"cut at {cut}"
        assert real_terminals.differences(wanted.look(), client.look()) == [], f"cut at {cut}, at once"
        for each in (wanted, client):
            each.feed(program.data[cut:])
        assert real_terminals.differences(wanted.look(), client.look()) == [], f"cut at {cut}, at the end"
        for closed in (screen, wanted, client):
            closed.close()


@pytest.mark.slow
def test_the_widths_that_are_disputed_spoil_nothing_but_their_own_cells_in_xterm_js(xterm: XtermJs) -> None:
    screen = Screen(80, 24, history_lines=0)
    screen.feed(b"".join(f"row\r\n{text.decode()}\x1b[60G| \r\n".encode() for text in AMBIGUOUS.values()))
    client = fed(xterm, Size(80, 24), paint(screen))
    rows = client.look().rows
    assert [cells[59][0] for cells in rows[1::2] if cells[0][0] != " "].count("|") >= len(AMBIGUOUS) - 1
    for closed in (screen, client):
        closed.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STATES, "everything"])
def test_the_reset_at_a_detach_leaves_xterm_js_as_new(xterm: XtermJs, name: str) -> None:
    """Tab stops alone stay: `CSI ? 5 W`, which would have them back, is known to xterm only."""
    output = EVERYTHING_ON if name == "everything" else STATES[name]
    client, new = (fed(xterm, Size(80, 24), each + DETACH_RESET) for each in (output, b""))
    left, wanted = client.look(), new.look()
    for seen in (left, wanted):
        seen.modes.pop("tabStops")
    assert left.modes == wanted.modes
    assert left.behind == []
    for closed in (client, new):
        closed.close()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["agent", "bash", "htop", "page", "progress", "tmux", "vim"])
def test_a_painting_and_the_rest_are_the_whole_in_tmux(name: str) -> None:
    """Not dialog, which leaves the alternate screen a second time, where tmux goes to a cursor of its own; and not mc,
    which takes back the title that was before: a pile of titles that no terminal tells."""
    require("tmux")
    program = Capture(next(path for path in CAPTURES if path.stem.startswith(f"{name}-80")))
    with Tmux() as tmux:
        for cut in program.cuts(CUTS_TMUX):
            screen = program.screen(program.data[:cut])
            with closing(tmux.screen(program.size)) as wanted, closing(tmux.screen(program.size)) as client:
                wanted.feed(program.data)
                # Fed in one piece: the painting may end in the middle of a sequence, where nothing can be asked.
                client.feed(paint(screen, notice="homeport: back") + program.data[cut:])
                assert real_terminals.differences(wanted.look(), client.look()) == [], f"cut at {cut}"
            screen.close()


# -------------------------------------------------------------------------------------------------------- hostile


@pytest.mark.slow
@pytest.mark.timeout(FUZZ_SECONDS)
def test_no_input_ends_the_process_or_raises() -> None:
    command = [sys.executable, "-m", "tests.support.screen_fuzz", "1", str(FUZZ_INPUTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FUZZ_SECONDS, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout) == (0, f"done {FUZZ_INPUTS}\n"), done.stderr[-2000:]
