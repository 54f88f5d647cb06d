"""A painting brings another terminal into the state of a screen, whatever it was in, and asks it nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("pyghostty")

from gateway.recording.screen import painter
from gateway.recording.screen.model import Screen
from gateway.recording.screen.painter import paint
from gateway.recording.screen.rows import plain_text
from gateway.sessions.terminal import DETACH_RESET
from tests.support.screen_states import differences, state_of
from tests.support.terminal_states import AMBIGUOUS, EVERYTHING_ON, LINES, STATES

HISTORY_LINES = 100
BEFORE = b"junk \x1b[31m\x1b[5;7Hx\r\n$ ssh my-app@host\r\n"


@contextmanager
def screens(*outputs: bytes, columns: int = 40, rows: int = 6) -> Iterator[list[Screen]]:
    """A screen for each output."""
    made = [Screen(columns, rows, history_lines=HISTORY_LINES) for _ in outputs]
    for screen, output in zip(made, outputs, strict=True):
        screen.feed(output)
    yield made
    for screen in made:
        screen.close()


def history_of(screen: Screen) -> list[str]:
    return [plain_text(row) for row in screen.terminal.rows_shown(history_rows=HISTORY_LINES) if row.is_history]


# --------------------------------------------------------------------------------------------------- what is equal


@pytest.mark.parametrize(("columns", "rows"), [(40, 6), (80, 24)])
@pytest.mark.parametrize("name", [*STATES, *AMBIGUOUS])
def test_a_painted_terminal_is_in_the_state_of_the_screen(name: str, columns: int, rows: int) -> None:
    output = {**STATES, **AMBIGUOUS}[name]
    with screens(output, BEFORE, columns=columns, rows=rows) as (screen, client):
        before = state_of(screen)
        client.feed(paint(screen, notice="homeport: back"))
        assert not client.terminal.take_replies(), "the terminal was asked something"
        assert differences(state_of(screen), state_of(client)) == []
        assert differences(before, state_of(screen)) == [], "painting changed the screen itself"


def test_a_terminal_in_which_everything_is_on_is_painted_like_a_new_one() -> None:
    with screens(STATES["text"], EVERYTHING_ON) as (screen, client):
        client.feed(paint(screen))
        client.resize(41, 6)  # margins that were left would still be kept beside the painted ones
        screen.resize(41, 6)
        assert differences(state_of(screen), state_of(client)) == []


def test_leaving_the_alternate_screen_shows_the_main_one_and_its_cursor() -> None:
    with screens(LINES + b"$ vim\x1b[?1049h\x1b[2J\x1b[3;3H~", b"") as (screen, client):
        client.feed(paint(screen))
        for each in (screen, client):
            each.feed(b"\x1b[?1049l!")
        assert client.lines() == screen.lines()
        assert client.lines()[-1] == "$ vim!"


def test_a_popped_keyboard_mode_uncovers_the_one_before_on_the_client_too() -> None:
    with screens(b"\x1b[>1u\x1b[>5u", b"") as (screen, client):
        client.feed(paint(screen) + b"\x1b[<u")
        assert client.terminal.kitty_flags == 1


def test_lines_that_wrap_stay_one_line_when_the_window_grows() -> None:
    text = b"one line that is longer than forty columns and so takes two rows"
    with screens(text, b"") as (screen, client):
        client.feed(paint(screen))
        client.resize(100, 6)
        assert client.lines()[0] == text.decode()


def test_a_size_report_is_wanted_only_by_a_program_that_holds_the_whole_screen() -> None:
    """Switching mode 2048 on makes terminals report their size. Textual goes by these reports alone, so there it must
    be on; typed into a shell, whose program died without switching it off, a report would be junk."""
    with screens(b"\x1b[?1049h\x1b[?2048h", b"\x1b[?2048h") as (program, shell):
        assert b"\x1b[?2048h" in paint(program)
        assert b"\x1b[?2048h" not in paint(shell)


# ------------------------------------------------------------------------------------- the client's own scrollback


def test_history_and_notice_end_up_in_the_scrollback_below_the_clients_own_lines_without_blank_ones() -> None:
    with screens(LINES + b"$ ", b"own 1\r\nown 2\r\n") as (screen, client):
        client.feed(paint(screen, notice="homeport: back"))
        wanted = ["own 1", "own 2", *(f"line {number}" for number in range(25)), "homeport: back"]
        assert history_of(client) == wanted
        assert client.lines() == [*(f"line {number}" for number in range(25, 30)), "$"]


def test_a_client_with_more_rows_has_history_and_notice_in_its_scrollback_too() -> None:
    with screens(LINES + b"$ ") as (screen,):
        client = Screen(60, 20, history_lines=HISTORY_LINES)
        client.feed(b"own\r\n" + paint(screen, notice="homeport: back", client_columns=60, client_rows=20))
        assert history_of(client)[0] == "own"
        assert history_of(client)[-1] == "homeport: back"
        assert client.lines()[:6] == screen.lines()
        assert set(client.lines()[6:]) == {""}
        client.close()


def test_a_wider_client_has_every_row_where_it_belongs() -> None:
    with screens(b"abcdefghij" * 9) as (screen,):
        client = Screen(60, 6, history_lines=HISTORY_LINES)
        client.feed(paint(screen, client_columns=60, client_rows=6))
        assert client.lines() == screen.lines()
        client.close()


def test_no_more_history_than_is_asked_for_is_painted_and_of_it_the_newest() -> None:
    screen = Screen(40, 6, history_lines=10)
    screen.feed(b"".join(b"line %d\r\n" % number for number in range(5000)))
    with screens(b"") as (client,):
        client.feed(paint(screen))
        assert history_of(client) == [f"line {number}" for number in range(4985, 4995)]
    screen.close()


# -------------------------------------------------------------------------------------------------------- hostile


def test_text_of_a_program_cannot_end_a_sequence_of_ours_or_begin_one() -> None:
    """DEL is stored in cells, C1 controls may be in titles and links: to a terminal they are commands."""
    output = "a\x7fb\x1b]2;ti\x9b6ntle\x1b\\\x1b]8;;http://x/\x9b6n\x1b\\link".encode()
    with screens(output, b"") as (screen, client):
        data = paint(screen, notice="back\x1b[6n\x9b6n")
        assert b"\x7f" not in data
        assert "\x9b".encode() not in data
        assert b"back\x1b[6n" not in data
        client.feed(data)
        assert client.terminal.take_replies() == []


def test_a_painting_too_large_loses_history_first_and_then_everything_but_text() -> None:
    pens = b"".join(b"\x1b[38;2;%d;%d;%dmx" % (number % 256, number // 256, 7) for number in range(40 * 30))
    with screens(pens, b"", b"") as (screen, client, small):
        all_of_it = paint(screen)
        client.feed(paint(screen, bytes_max=len(all_of_it) - 3000))
        assert 0 < len(history_of(client)) < 24
        assert differences(state_of(screen), state_of(client)) == []
        least = paint(screen, bytes_max=700)
        assert len(least) < 700 + 500, "beside what is bounded there are only our reset and notice"
        small.feed(least)
        assert len(history_of(small)) < len(history_of(screen))
        assert small.lines() == screen.lines()
        assert small.terminal.has_mode(7)


def test_history_in_which_every_cell_has_a_colour_of_its_own_is_bounded_in_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.recording.screen.rows._HISTORY_COST_MAX", 500)
    pens = b"".join(b"\x1b[38;2;%d;%d;%dmx" % (number % 256, number // 256, 7) for number in range(40 * 30))
    with screens(pens, b"") as (screen, client):
        client.feed(paint(screen))
        rows = client.terminal.rows_shown(history_rows=1)
        newest = next(rows)
        assert plain_text(newest) == "x" * 40
        assert newest.style(0).foreground is None
        assert differences(state_of(screen), state_of(client)) == [], "the screen itself has all its colours"


def test_a_sequence_too_long_to_repeat_swallows_its_own_rest_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painter, "_UNFINISHED_BYTES_MAX", 100)
    with screens(b"text\x1b]52;c;" + b"A" * 200, b"") as (screen, client):
        client.feed(paint(screen))
        for each in (screen, client):
            each.feed(b"AAAA\x07 and on")
        assert client.lines() == screen.lines()


def test_a_screen_behind_a_sequence_that_cannot_be_copied_is_painted_all_the_same() -> None:
    with screens(b"main\x1b[?1049hALT\x1bP" + b"q" * (1 << 20) + b"q", b"") as (screen, client):
        assert screen.terminal.copy() is None
        client.feed(paint(screen))
        client.feed(b"\x1b\\!")
        assert "ALT!" in "".join(client.lines())


# ------------------------------------------------------------------------------------------------- the end of it


@pytest.mark.parametrize("name", [*STATES, *AMBIGUOUS])
def test_the_reset_at_a_detach_leaves_a_terminal_as_new(name: str) -> None:
    """But for what the user may have set: tab stops, colours, title, meta keys and the like are not touched.

    Origin mode ends by a soft reset, which the library does not know; xterm.js does (test_screen_captures.py).
    """
    with screens({**STATES, **AMBIGUOUS}[name] + DETACH_RESET + b"$ ", b"$ ") as (client, new):
        left = _left(differences(state_of(new), state_of(client)))
        assert [line for line in left if not line.startswith("mode ?6:")] == []


def test_the_reset_at_a_detach_ends_everything_that_may_be_on() -> None:
    with screens(EVERYTHING_ON + DETACH_RESET + b"$ ", b"$ ") as (client, new):
        assert _left(differences(state_of(new), state_of(client))) == []


def test_after_a_detach_the_prompt_follows_what_was_shown_and_nothing_is_below_it() -> None:
    """A plain ?1049l, ?6l or CSI r would have sent the cursor home, and the prompt over the picture."""
    with screens(b"$ top\r\nheader\r\n1\r\n2\r\n3\x1b[2;3H" + DETACH_RESET + b"$ ") as (client,):
        assert client.lines() == ["$ top", "header", "$", "", "", ""]


def test_after_a_detach_from_the_alternate_screen_the_prompt_follows_the_command() -> None:
    with screens(b"$ vim\r\n\x1b[?1049h\x1b[3;3H~" + DETACH_RESET + b"$ ") as (client,):
        assert client.lines()[:3] == ["$ vim", "", "$"]


_LEFT = ("row", "cursor:", "saved", "palette", "colours", "title", "directory", "tabstops", "mode ?8:", "mode ?67:",
         "mode ?1007", "mode ?1035", "mode ?1036", "mode ?1039", "mode ?1045", "mode ?2027", "mode 2:")  # fmt: skip


def _left(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith(_LEFT)]
