"""The terminal model: snapshots that hold everything, replies that fit any client, sizes and sequences of any kind."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

pytest.importorskip("pyghostty")

from gateway.recording.screen import model
from gateway.recording.screen.ghostty import GhosttyError, Terminal, ffi, lib
from gateway.recording.screen.model import SIDE_MAX, Screen, SnapshotForeign
from gateway.recording.screen.painter import paint
from tests.support.screen_states import differences, state_of
from tests.support.terminal_states import AMBIGUOUS, LINES, STATES


@pytest.fixture
def screen() -> Iterator[Screen]:
    screen = Screen(40, 6, history_lines=100)
    yield screen
    screen.close()


# --------------------------------------------------------------------------------------------------- snapshots


@pytest.mark.parametrize("name", [*STATES, *AMBIGUOUS])
def test_a_restored_screen_is_the_same_and_so_is_its_snapshot(screen: Screen, name: str) -> None:
    screen.feed({**STATES, **AMBIGUOUS}[name])
    snapshot = screen.snapshot()
    assert snapshot is not None
    restored = Screen.restore(snapshot, history_lines=100)
    assert differences(state_of(screen, history_lines=100), state_of(restored, history_lines=100)) == []
    assert restored.snapshot() == snapshot
    restored.close()


def test_a_restored_screen_tells_programs_choices_from_defaults(screen: Screen) -> None:
    snapshot = screen.snapshot()
    assert snapshot is not None
    restored = Screen.restore(snapshot, history_lines=100)
    restored.feed(b"\x1b[2 q")
    assert restored.terminal.cursor_shape.name == "block"
    restored.feed(b"\x1b[0 q")
    assert restored.terminal.cursor_shape.name == "default"
    restored.close()


def test_a_restored_screen_keeps_as_much_history_as_before(screen: Screen) -> None:
    snapshot = screen.snapshot()
    assert snapshot is not None
    restored = Screen.restore(snapshot, history_lines=100)
    restored.feed(LINES * 100)
    assert restored.terminal.history_rows >= 100
    restored.close()


@pytest.mark.parametrize("foreign", [b"", b"no snapshot", bytes(3000)])
def test_other_bytes_are_no_snapshot(foreign: bytes) -> None:
    with pytest.raises(SnapshotForeign):
        Screen.restore(foreign, history_lines=100)


def test_a_snapshot_that_was_cut_or_changed_is_refused_or_restored_and_nothing_else(screen: Screen) -> None:
    screen.feed(STATES["alternate screen, all different there"] + LINES)
    snapshot = screen.snapshot()
    assert snapshot is not None
    for cut in range(0, len(snapshot), 7):
        with pytest.raises(SnapshotForeign):
            Screen.restore(snapshot[:cut], history_lines=100)
    for at in range(0, len(snapshot), 5):
        changed = snapshot[:at] + bytes([snapshot[at] ^ 0x41]) + snapshot[at + 1 :]
        try:
            Screen.restore(changed, history_lines=100).close()
        except SnapshotForeign:
            continue


def test_in_the_middle_of_a_sequence_too_long_to_keep_there_is_no_snapshot_and_after_it_there_is(
    screen: Screen,
) -> None:
    screen.feed(b"\x1bP" + b"q" * (1 << 20) + b"q")
    assert screen.snapshot() is None
    screen.feed(b"\x1b\\")
    assert screen.snapshot() is not None


# ------------------------------------------------------------------------------------------------------ replies


def test_what_every_terminal_answers_is_answered(screen: Screen) -> None:
    screen.feed(b"\x1b[3;4H\x1b[6n\x1b[5n\x1b[c\x1b[?25$p\x1bP$qm\x1b\\")
    assert screen.take_replies() == b"\x1b[3;4R\x1b[0n\x1b[?62;22c\x1b[?25;1$y\x1bP1$r0m\x1b\\"
    assert screen.take_replies() == b""


@pytest.mark.parametrize(
    "question",
    [
        b"\x1b[?u",  # kitty's keys
        b"\x1b[>q",  # its name
        b"\x1b]4;1;?\x07",  # its colours
        b"\x1b]10;#112233\x07\x1b]10;?\x07",
        b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\",  # images
        b"\x1b_25a1;s\x1b\\",  # glyphs
        b"\x1b]52;c;?\x07",  # the clipboard
        b"\x1b[21t",  # its title, which a program could have chosen
        b"\x1b]2;ls\r\x07\x1b[21t",
    ],
)
def test_what_a_later_client_may_not_be_or_have_is_not_claimed(screen: Screen, question: bytes) -> None:
    screen.feed(question)
    assert screen.take_replies() == b""


@pytest.mark.parametrize("mode", [2027, 2031, 2048])
def test_modes_that_not_every_client_has_are_unknown(screen: Screen, mode: int) -> None:
    screen.feed(b"\x1b[?%d$p" % mode)
    assert screen.take_replies() == b"\x1b[?%d;0$y" % mode


def test_a_flood_of_questions_is_answered_up_to_a_bound_and_later_ones_again(screen: Screen) -> None:
    screen.feed(b"\x1b[6n" * 100_000)
    assert len(screen.take_replies()) <= 4096
    screen.feed(b"\x1b[6n")
    assert screen.take_replies() == b"\x1b[1;1R"


# -------------------------------------------------------------------------------------------------------- sizes


def test_a_side_that_is_unknown_stays_as_it_was(screen: Screen) -> None:
    screen.resize(0, 10)
    assert (screen.columns, screen.rows) == (40, 10)
    screen.resize(50, 0)
    assert (screen.columns, screen.rows) == (50, 10)


def test_no_size_is_too_small_or_too_large(screen: Screen) -> None:
    for columns, rows in ((1, 1), (65535, 65535), (1, 65535), (65535, 1), (-5, 7)):
        screen.resize(columns, rows)
        screen.feed("x中\U0001f600".encode() * 5)
        assert 1 <= screen.columns <= SIDE_MAX
        assert len(screen.lines()) == screen.rows
        assert paint(screen)


def test_a_program_cannot_change_the_size(screen: Screen) -> None:
    screen.feed(b"\x1b[?40h\x1b[?3h wide \x1b[8;50;132t")
    assert (screen.terminal.columns, screen.terminal.rows) == (40, 6)


@pytest.mark.parametrize("columns", [1, 10, 80, 200])
def test_as_much_history_is_kept_as_asked_for_at_any_width(columns: int) -> None:
    screen = Screen(columns, 24, history_lines=1000)
    screen.feed(b"x\r\n" * 1100)
    fewest = 1000
    for _ in range(200):
        screen.feed(b"x\r\n" * 50)
        fewest = min(fewest, screen.terminal.history_rows)
    assert fewest == 1000
    screen.close()


def test_without_history_lines_no_history_is_painted_and_next_to_none_kept() -> None:
    screen = Screen(40, 6, history_lines=0)
    screen.feed(LINES * 1000)
    assert screen.terminal.history_rows < 1500, "the library drops pages of so many lines"
    assert b"line 24" not in paint(screen)
    assert screen.lines()[4] == "line 29"
    screen.close()


def test_lines_are_the_text_that_is_visible(screen: Screen) -> None:
    screen.feed("a\tb \r\n中文 e\u0301\r\n\x1b[44m\x1b[K\x1b[0m\r\n\x1b[8;31mhidden\x7f".encode())
    assert screen.lines() == ["a       b", "中文 e\u0301", "", "hidden", "", ""]


# ------------------------------------------------------------------------------------------------- the library


def test_a_closed_screen_may_be_closed_again(screen: Screen) -> None:
    screen.close()
    screen.close()


def test_the_version_is_told_without_loading_the_library() -> None:
    code = "import sys; from gateway.recording.screen.model import VERSION; print(VERSION, 'pyghostty' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout.strip() == f"{model.VERSION} False"
    assert model.VERSION.startswith("pyghostty ")


def test_a_library_that_is_missing_or_broken_is_not_available() -> None:
    """A wheel for another machine gives OSError, none at all ImportError."""
    for broken in ("sys.modules['pyghostty'] = None", "os.environ['PYGHOSTTY_LIB'] = '/dev/null'"):
        code = f"import os, sys; {broken}\nfrom gateway.recording.screen import model; print(model.is_available())"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
        assert told.stdout.strip() == "False", broken


def test_each_value_is_written_within_the_type_that_is_declared_for_it(screen: Screen) -> None:
    """The library takes a bare pointer for each: a type too small would let it write over the heap, unseen."""
    screen.feed(b"\x1b]2;title\x07\x1b]7;file:///x\x07\x1b[>5u" + LINES)
    handle = screen.terminal._handle
    buffer = ffi.new("uint8_t[]", 4096)
    for name, declared in {
        "COLS": "uint16_t", "ROWS": "uint16_t", "CURSOR_X": "uint16_t", "CURSOR_Y": "uint16_t",
        "CURSOR_PENDING_WRAP": "bool", "ACTIVE_SCREEN": "GhosttyTerminalScreen", "KITTY_KEYBOARD_FLAGS": "uint8_t",
        "TITLE": "GhosttyString", "PWD": "GhosttyString", "SCROLLBACK_ROWS": "size_t",
        "COLOR_PALETTE": "GhosttyColorRgb[256]", "COLOR_PALETTE_DEFAULT": "GhosttyColorRgb[256]",
    }.items():  # fmt: skip
        touched: set[int] = set()
        for filler in (0x55, 0xAA):
            ffi.buffer(buffer)[:] = bytes([filler]) * len(buffer)
            assert lib.ghostty_terminal_get(handle, getattr(lib, f"GHOSTTY_TERMINAL_DATA_{name}"), buffer) == 0
            touched |= {at for at, byte in enumerate(ffi.buffer(buffer)[:]) if byte != filler}
        assert max(touched) + 1 <= ffi.sizeof(declared), name


def test_what_the_library_refuses_is_an_error_and_not_a_wrong_value() -> None:
    with pytest.raises(GhosttyError):
        Terminal.create(0, 0, history_rows_max=0)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_leaks() -> None:
    """2,000 times everything that is done to a terminal."""

    def everything() -> None:
        screen = Screen(80, 24, history_lines=200)
        screen.feed(LINES * 5 + STATES["alternate screen, all different there"] + b"\x1b[6n")
        screen.take_replies()
        snapshot = screen.snapshot()
        assert snapshot is not None
        restored = Screen.restore(snapshot, history_lines=200)
        paint(restored, notice="homeport")
        restored.resize(100, 30)
        for each in (screen, restored):
            each.close()

    process = psutil.Process()
    for _ in range(200):
        everything()
    gc.collect()
    before = process.memory_info().rss
    for _ in range(2000):
        everything()
    gc.collect()
    assert process.memory_info().rss - before < 8 * 1024 * 1024
