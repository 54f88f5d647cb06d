"""Clients killed in the middle of output, and fresh ones that show what an uninterrupted client shows, to the cell.

tests/support/reattaching.py says what is compared with what. `-m slow` has the 50 rounds.
"""

from __future__ import annotations

import random
import re
import statistics
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from bench.load import LAST_WORD, SCREEN_COMMAND
from bench.wire import Connection
from tests.support.clients import require
from tests.support.installed import WORKSPACE, InstalledGateway, until
from tests.support.real_terminals import Size
from tests.support.real_tmux import Tmux
from tests.support.real_xterm import XtermJs, XtermWindow
from tests.support.reattaching import Interrupted, Tally
from tests.support.screen_programs import ASKER, BY_NAME, PROGRAMS
from tests.system.conftest import Lend, skip_without_walls

SMALL, LARGE = Size(80, 24), Size(132, 43)
ROUNDS_EACH = 3
HISTORY_LINES = 900  # a little fewer than what is kept
ATTACHES = 60
ATTACH_MS_P95 = 150
DEVICE_ATTRIBUTES, CAN_ANSWER = re.compile(rb"\x1b\[\?[0-9;]+c"), re.compile(rb"\x1b\[0n")
CURSOR_AT = re.compile(rb"\x1b\[[0-9]+;[0-9]+R")
PAINTED = re.compile(rb"\x1b\[\?2026l")  # the last of a painting
# Programs that draw all of their screen when its size changes.
DRAWS_ITSELF = ("vim", "less", "tmux", "mc")


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require("tmux", "node", "npm", "script")


@pytest.fixture(scope="module")
def terminals() -> Iterator[tuple[Tmux, XtermJs]]:
    with Tmux() as tmux, XtermJs() as xterm:
        yield tmux, xterm


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


def expect_none_wrong(tally: Tally) -> None:
    print(f"{tally.rounds} rounds, {tally.pictures} pictures compared, {len(tally.wrong)} wrong")
    if tally.wrong:
        pytest.fail("\n\n".join(tally.wrong), pytrace=False)


@pytest.mark.parametrize("name", ["bash", "vim", "agent"])
def test_fresh_client_shows_what_an_uninterrupted_one_would(
    walled: InstalledGateway, terminals: tuple[Tmux, XtermJs], chance: random.Random, name: str
) -> None:
    tally = Tally()
    with Interrupted(walled, BY_NAME[name], terminals, size=SMALL, chance=chance, tally=tally) as interrupted:
        interrupted.rounds(1)
        if interrupted.program.leave is not None:
            interrupted.leave()
    expect_none_wrong(tally)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_50_killed_clients_leave_no_screen_wrong(
    lend_gateway: Lend, terminals: tuple[Tmux, XtermJs], chance: random.Random
) -> None:
    """Nine programs, two sizes with a terminal type each, one of them behind walls; and each recording is whole."""
    skip_without_walls("bubblewrap")
    require("vim", "less", "htop", "mc", "dialog")
    tally = Tally()
    unrecorded = []
    for isolation, size, term, login in (
        ("none", SMALL, "xterm-256color", WORKSPACE),
        ("bubblewrap", LARGE, "screen-256color", f"{WORKSPACE}+named"),
    ):
        for program in PROGRAMS:
            interrupted = Interrupted(
                lend_gateway(isolation), program, terminals, size=size, term=term, login=login, chance=chance,
                tally=tally,
            )  # fmt: skip
            with interrupted:
                interrupted.rounds(ROUNDS_EACH)
                if interrupted.program.leave is not None:
                    interrupted.leave()
                printed = interrupted.printed()
            if printed not in interrupted.recorded():
                unrecorded.append(f"{program.name} {size}")
    assert tally.rounds >= 50
    expect_none_wrong(tally)
    assert not unrecorded


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "vim" else pytest.mark.slow) for name in DRAWS_ITSELF]
)
def test_client_with_another_window_shows_what_one_that_was_resized_would(
    walled: InstalledGateway, terminals: tuple[Tmux, XtermJs], chance: random.Random, name: str
) -> None:
    tmux, xterm = terminals
    tally = Tally()
    with Interrupted(walled, BY_NAME[name], terminals, size=SMALL, chance=chance, tally=tally) as interrupted:
        interrupted.interrupt(interrupted.program.steps[0])
        interrupted.come_back_to(xterm, LARGE)
        interrupted.come_back_to(tmux, Size(71, 20))
        interrupted.come_back_to(xterm, SMALL)
    expect_none_wrong(tally)


def test_shell_is_the_same_process_with_its_variables(
    walled: InstalledGateway, terminals: tuple[Tmux, XtermJs], chance: random.Random
) -> None:
    tally = Tally()
    with Interrupted(walled, BY_NAME["bash"], terminals, size=SMALL, chance=chance, tally=tally) as interrupted:
        for maker in terminals:
            interrupted.come_back(maker)
            assert b"[same-kept]" in interrupted.type(b"\x15echo [${kept/$$/same}]\r")
    expect_none_wrong(tally)


def test_history_is_in_the_scrollback_of_a_client_that_comes_and_one_line_tells_where_it_is(
    walled: InstalledGateway, terminals: tuple[Tmux, XtermJs], chance: random.Random
) -> None:
    """That line is the newest of the scrollback, so that the screen itself is as it was left."""
    _, xterm = terminals
    tally = Tally()
    with Interrupted(walled, BY_NAME["bash"], [xterm], size=SMALL, chance=chance, tally=tally) as interrupted:
        interrupted.type(b"seq 5000\r", ends_with=interrupted.program.left)
        interrupted.come_back(xterm)
        window = interrupted.window
        assert isinstance(window, XtermWindow)
        *history, notice = window.screen.history(HISTORY_LINES + 1)
        top = int(window.look().text[0])
        assert history == [str(number) for number in range(top - HISTORY_LINES, top)]
        assert re.fullmatch(r"homeport: back in main, detached \d+ s ago; fresh shell: ssh demo\+new@host", notice)
    expect_none_wrong(tally)


def test_each_question_is_answered_once_and_a_client_that_comes_answers_none(
    walled: InstalledGateway, terminals: tuple[Tmux, XtermJs], chance: random.Random
) -> None:
    """By the client that was there, or by the gateway where none was. Both terminals answer whatever they are asked."""
    tmux, xterm = terminals
    tally = Tally()
    with Interrupted(walled, ASKER, terminals, size=SMALL, chance=chance, tally=tally) as interrupted:
        interrupted.window.type(b"a")
        interrupted.hold_still()
        expect_answered_once(interrupted)
        for maker in (tmux, xterm):
            interrupted.come_back(maker)
        interrupted.window.kill()
        walled.ssh("kill -USR1 $(cat ~/kept/asker.pid)")
        interrupted.hold_still()
        expect_answered_once(interrupted)
        for maker in (tmux, xterm):
            interrupted.come_back(maker)
    expect_none_wrong(tally)


def expect_answered_once(interrupted: Interrupted) -> None:
    until(lambda: CAN_ANSWER.search(interrupted.read()), "an answer")
    answers = interrupted.take_read()
    kinds = [len(re.findall(kind, answers)) for kind in (DEVICE_ATTRIBUTES, CAN_ANSWER, CURSOR_AT)]
    assert kinds == [1, 1, 1], answers


@pytest.mark.slow
def test_screen_is_there_150_milliseconds_after_a_shell_was_asked_for(walled: InstalledGateway) -> None:
    """For 95 of 100 clients, and for a screen with a history, measured on the wire by a client that costs little."""
    key = load_ssh_private_key(walled.key.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    address = ("127.0.0.1", walled.ssh_port)
    took_ms = []
    for number in range(ATTACHES + 1):
        with Connection(address, login_name=f"{WORKSPACE}+timed", key=key) as connection:
            channel = connection.open_session()
            connection.request_terminal(channel, columns=132, rows=43)
            started = time.perf_counter()
            connection.request_program(channel, None)
            if number == 0:
                connection.read_until(channel, re.compile(rb"\$ "))
                connection.write(channel, SCREEN_COMMAND.encode() + b"\r")
                connection.read_until(channel, LAST_WORD)
            else:
                connection.read_until(channel, PAINTED)
                took_ms.append((time.perf_counter() - started) * 1000)
            if number == ATTACHES:
                connection.write(channel, b"\x15exit\r")
                while not channel.is_closed:
                    connection.receive()
    p50, p95 = statistics.median(took_ms), statistics.quantiles(took_ms, n=20)[18]
    print(f"{ATTACHES} attaches: p50 {p50:.0f} ms, p95 {p95:.0f} ms, worst {max(took_ms):.0f} ms")
    assert p95 < ATTACH_MS_P95
