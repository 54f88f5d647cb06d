"""What a client gets that comes back while the terminal model is broken, hangs, or is not installed: words, and its
session."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import installed
from tests.support.clients import require
from tests.support.installed import InstalledGateway, until
from tests.support.real_terminals import Size
from tests.support.real_xterm import XtermJs, XtermWindow
from tests.system.conftest import running

SIZE = Size(80, 24)
APOLOGY = "homeport: your screen could not be restored; these are its last lines"
FALLBACK_SECONDS = 1.0  # from the request of a shell, which follows the login
LOGIN_SECONDS = 1.0  # of stock ssh, on a busy machine


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    require("node", "npm")


@pytest.fixture
def gateway() -> Iterator[InstalledGateway]:
    yield from running(InstalledGateway("none"))


@pytest.fixture(scope="module")
def xterm() -> Iterator[XtermJs]:
    with XtermJs() as xterm:
        yield xterm


@pytest.fixture
def left(gateway: InstalledGateway, xterm: XtermJs) -> None:
    """A session that printed something, and lost its clients; one of them saw its screen painted."""
    begin(gateway, xterm)
    with come(gateway, xterm) as window:
        shows(window, "kept $")
        gateway.log.wait("screen.painted", is_exact=True)
    gateway.until_row("SELECT id FROM sessions WHERE status = 'paused'")


def begin(gateway: InstalledGateway, xterm: XtermJs) -> None:
    """A session with a full screen, whose client is killed."""
    with come(gateway, xterm) as window:
        shows(window, "$")
        window.type(b"PS1='kept $ '; clear; seq 61 97\r")
        until(lambda: window.look().text[-2:] == ["97", "kept $"], "a full screen")


def come(gateway: InstalledGateway, xterm: XtermJs) -> XtermWindow:
    return xterm.window(gateway.ssh_command(), SIZE)


def shows(window: XtermWindow, text: str) -> list[str]:
    until(lambda: any(text in line for line in window.look().text), f"{text!r} on the screen")
    return window.look().text


def events(gateway: InstalledGateway, name: str) -> list[dict[str, object]]:
    return [event for event in gateway.log.events if event["event"] == name]


def screens_pid(gateway: InstalledGateway) -> int:
    """The process that has the model now."""
    ended = len(events(gateway, "screens.ended"))
    started = until(lambda: events(gateway, "screens.started")[ended:], "a screens process")
    return int(str(started[-1]["pid"]))


def expect_words_and_the_session(window: XtermWindow, *, seconds: float) -> None:
    """The apology, the last lines, and a shell that answers."""
    started = time.monotonic()
    screen = shows(window, APOLOGY)
    assert time.monotonic() - started < seconds
    assert "97" in screen
    window.type(b"echo still $((40 + 2))\r")
    shows(window, "still 42")


def expect_exact_soon(gateway: InstalledGateway, xterm: XtermJs) -> None:
    """As soon as there is a new process, which makes the screen anew from the recording."""

    def came_exactly() -> bool:
        with come(gateway, xterm) as window:
            screen = shows(window, "still 42")
            if APOLOGY in "\n".join(screen):
                return False
            assert (screen[-1], events(gateway, "screen.painted")[-1]["is_exact"]) == ("kept $", True)
            window.type(b"exit\r")
            assert window.wait_ended() == 0
            return True

    until(came_exactly, "a screen without an apology")


@pytest.mark.usefixtures("left")
def test_screens_process_killed_while_it_paints_leaves_words_and_the_session(
    gateway: InstalledGateway, xterm: XtermJs
) -> None:
    pid = screens_pid(gateway)
    os.kill(pid, signal.SIGSTOP)  # so that the kill comes in the middle
    with come(gateway, xterm) as window:
        gateway.until_row("SELECT id FROM sessions WHERE status = 'active'")  # written beside the painting
        os.kill(pid, signal.SIGKILL)
        expect_words_and_the_session(window, seconds=FALLBACK_SECONDS)
    gateway.log.wait("screens.ended")
    expect_exact_soon(gateway, xterm)


@pytest.mark.slow
@pytest.mark.usefixtures("left")
def test_screens_process_that_hangs_leaves_words_and_the_session(gateway: InstalledGateway, xterm: XtermJs) -> None:
    os.kill(screens_pid(gateway), signal.SIGSTOP)
    with come(gateway, xterm) as window:
        expect_words_and_the_session(window, seconds=FALLBACK_SECONDS + LOGIN_SECONDS)
    gateway.log.wait("screens.ended")  # it was taken for broken
    expect_exact_soon(gateway, xterm)


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[InstalledGateway]:
    """The command, installed in an environment of its own where the terminal library cannot be imported."""
    folder = Path("/tmp") / f"hp-venv-{os.getpid()}"
    try:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", folder], check=True)
        site = next((folder / "lib").glob("python3*/site-packages"))
        (site / "pyghostty.py").write_text("raise ImportError('it is not installed')\n")
        (site / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        command = folder / "bin/homeport"
        command.write_text(f"#!{folder}/bin/python\nimport sys\nfrom gateway.cli import main\nsys.exit(main())\n")
        command.chmod(0o755)
        monkeypatch.setattr(installed, "HOMEPORT", command)
        yield from running(InstalledGateway("none"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_without_the_terminal_library_there_are_words_and_programs_draw_themselves(
    without_library: InstalledGateway, xterm: XtermJs
) -> None:
    """It has no wheel for every machine: the gateway starts without it."""
    begin(without_library, xterm)
    with come(without_library, xterm) as window:
        expect_words_and_the_session(window, seconds=FALLBACK_SECONDS + LOGIN_SECONDS)
        window.type(b"clear; seq 300 > rows; vim -u NONE -N rows\r")
        shows(window, '"rows" 300L')
    with come(without_library, xterm) as window:
        until(lambda: window.look().text[:23] == [str(n) for n in range(1, 24)], "vim has drawn itself")
        window.type(b":q\r")
        shows(window, "kept $")
        window.type(b"exit\r")
        assert window.wait_ended() == 0
