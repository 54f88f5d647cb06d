"""What a person sees of git's work."""

from __future__ import annotations

import re

import pytest

from gateway.workspaces import progress
from gateway.workspaces.progress import GitProgress, bar_line

# As git 2.39 prints it for a clone over HTTP; the far side's own lines end in spaces.
CLONE = (
    "Cloning into '.'...\n"
    "remote: Enumerating objects: 7, done.        \n"
    "remote: Counting objects:  14% (1/7)        \rremote: Counting objects: 100% (7/7), done.        \n"
    "remote: Compressing objects:  50% (1/2)        \rremote: Compressing objects: 100% (2/2), done.        \n"
    "Receiving objects:  42% (3/7)\rReceiving objects:  57% (4/7), 1.20 MiB | 2.40 MiB/s\r"
    "remote: Total 7 (delta 1), reused 0 (delta 0), pack-reused 0        \n"
    "Receiving objects: 100% (7/7), 1.91 MiB | 2.39 MiB/s, done.\n"
    "Resolving deltas:   0% (0/1)\rResolving deltas: 100% (1/1), done.\n"
)


class Screen:
    """One line of a terminal, as carriage returns make it."""

    def __init__(self) -> None:
        self.data = ""

    async def write(self, data: bytes) -> None:
        self.data += data.decode()

    @property
    def shown(self) -> list[str]:
        """Every state of the line, in order."""
        states, line = [], ""
        for piece in re.split(r"(\r|\n)", self.data):
            if piece == "\n":
                line = ""
            elif piece != "\r" and piece:
                line = piece + line[len(piece) :]
                states.append(line.rstrip())
        return states


@pytest.fixture(autouse=True)
def _every_step_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0)


@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_a_clone_is_one_line_that_goes_through_its_phases(piece: int):
    screen = Screen()
    shown = GitProgress(screen, is_terminal=True, columns=80)
    for start in range(0, len(CLONE), piece):
        await shown.feed(CLONE[start : start + piece])
    await shown.end()
    assert "\n" not in screen.data
    states = [state for state in screen.shown if state]
    phases = list(dict.fromkeys(state.split()[0] for state in states))
    assert phases == ["counting", "compressing", "receiving", "resolving"]
    assert any(state.endswith("57%  1.20 MiB, 2.40 MiB/s") for state in states)
    assert all(len(state) < 80 for state in states)
    assert (screen.shown[-1], screen.data[-1]) == ("", "\r")  # nothing is left of it


async def test_without_a_terminal_there_is_nothing_but_what_the_far_side_has_to_say():
    screen = Screen()
    shown = GitProgress(screen, is_terminal=False)
    await shown.feed(CLONE + "remote: this repository has moved\nwarning: You appear to have cloned an empty repo")
    await shown.end()
    assert screen.data == "remote: this repository has moved\nwarning: You appear to have cloned an empty repo\n"


async def test_other_words_stand_above_the_bar_and_the_bar_is_drawn_again():
    screen = Screen()
    shown = GitProgress(screen, is_terminal=True, columns=60, line_end="\r\n")
    await shown.feed("Receiving objects:  10% (1/10)\r")
    await shown.say("the network failed; trying again in 1 s")
    await shown.feed("warning: redirecting\nReceiving objects:  20% (2/10)\r")
    await shown.end()
    lines = [line.rpartition("\r")[2].rstrip() for line in screen.data.split("\r\n")]
    assert lines == ["homeport: the network failed; trying again in 1 s", "warning: redirecting", ""]
    assert " 20%" in screen.data


async def test_a_server_that_talks_without_end_is_heard_for_some_lines():
    screen = Screen()
    shown = GitProgress(screen, is_terminal=True)
    await shown.feed("".join(f"remote: advertisement {number}\n" for number in range(1000)) + "x" * 100_000)
    await shown.end()
    assert screen.data.count("\n") == progress.LINES_MAX
    assert len(screen.data) < progress.LINES_MAX * 100


async def test_percentages_that_make_no_sense_change_nothing_but_the_bar():
    screen = Screen()
    shown = GitProgress(screen, is_terminal=True, columns=80)
    await shown.feed("remote: Counting objects: 999% (9/1)\r")
    assert screen.shown[-1].endswith("] 100%")


@pytest.mark.parametrize("columns", [1, 5, 12, 20, 30, 40, 80, 300])
def test_a_bar_never_reaches_the_last_column(columns: int):
    line = bar_line("writing files", 57, "1.20 MiB", "2.40 MiB/s", columns=columns)
    assert len(line) < max(columns, 2)


def test_a_bar_shows_how_far_it_is():
    assert bar_line("receiving", 50, "9 bytes", None, columns=40) == "receiving      [####----]  50%  9 bytes"
    assert bar_line("receiving", 50, None, None, columns=14) == "receiving 50%"


async def test_why_git_got_no_token_is_left_to_the_refusal_that_says_it():
    screen = Screen()
    shown = GitProgress(screen, is_terminal=True)
    await shown.feed("homeport: nobody is logged in to GitHub; log in\nfatal: could not read Username\nwarning: x\n")
    await shown.end()
    assert screen.data == "warning: x\n"
