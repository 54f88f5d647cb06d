"""A program in a session whose clients are killed one after the other, and what a client shows that never was.

The program runs under script(1), which writes down every byte it prints and every byte it reads. The first file, fed to
a fresh terminal, is what an uninterrupted client shows: no model, no recording and no connection of the gateway's have
a part in it. The second file tells whether a client that came back typed anything by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psutil

from tests.support.installed import POLL_SECONDS, WORKSPACE, InstalledGateway, until
from tests.support.real_terminals import TERM, Screen, Size, Terminals, Window, differences
from tests.support.real_xterm import XtermWindow
from tests.support.screen_programs import Program, put_programs

# The picture of a client that came back; far more than it takes, on a machine with other things to do.
PICTURE_SECONDS = 10.0
# A client dies before its program has printed more than this, so mostly in the middle of a step.
KILL_WITHIN_BYTES = 40_000
DIES_WITHIN_SECONDS = 0.3
TERMS = ("xterm-256color", "screen-256color", "tmux-256color", "xterm-kitty")
STILL_POLLS = 4  # so often in a row nothing may have moved
_RESET = b"\x1bc"  # the first that `start` prints


@dataclass(slots=True)
class Tally:
    """What came of all rounds."""

    rounds: int = 0
    pictures: int = 0
    wrong: list[str] = field(default_factory=list)


class Interrupted:
    """One program in one session, from its first client to its end; `with` ends the session."""

    def __init__(
        self,
        gateway: InstalledGateway,
        program: Program,
        makers: Sequence[Terminals],
        *,
        size: Size,
        chance: random.Random,
        tally: Tally,
        term: str = TERM,
        login: str = WORKSPACE,
    ) -> None:
        """`makers`: of the clients, in turn. The last makes the first one."""
        self.gateway, self.program, self.size, self._chance, self._tally = gateway, program, size, chance, tally
        self._makers = list(makers)
        self._term = term  # of the first client, and so of the program; the others have their own
        self._command = gateway.ssh_command(workspace=login)
        self._name = f"{program.name}-{chance.randrange(1 << 40):x}"
        workspace = gateway.rows("SELECT id FROM workspaces WHERE name = ?", WORKSPACE)[0]["id"]
        folder = gateway.state_dir / "workspaces" / str(workspace) / "home" / "runs" / self._name
        self._printed, self._read = folder / "printed", folder / "read"
        self._references: dict[str, Screen] = {}
        self._fed = 0
        self._is_stopped = False
        self._script: psutil.Process | None = None
        self._server: psutil.Process | None = None
        self._read_bytes = 0  # of what it read, so much has its reason

    def __enter__(self) -> Self:
        put_programs(self.gateway)
        try:
            self._begin(self._makers[-1])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _begin(self, maker: Terminals) -> None:
        self.window: Window = maker.window(self._command, self.size, term=self._term)
        self._until_shell()
        until(lambda: self._was_painted(maker), "the gateway's model of terminals is up")
        self._row = self.gateway.until_row("SELECT * FROM sessions WHERE status = 'active' AND kind = 'shell'")
        self.window.type(f"exec sh ~/kept/start ~/runs/{self._name} {shlex.quote(self.program.command)}\r".encode())
        self._until_printed(_RESET, "it starts")
        script = until(lambda: self.gateway.programs(f"runs/{self._name}/printed"), "script runs")[0]
        self._script = psutil.Process(script)
        if self.program.begin:
            self._until_still(ends_with=b"")
            self.window.type(self.program.begin)
        if self.program.begun:
            self._until_printed(self.program.begun, f"{self.program.name} is up")
        for each in self._makers:
            self._references[each.name] = each.screen(self.size)
        self.hold_still()
        self._read_bytes = len(self._all_read())  # with what the first client answered to questions at the start
        self.expect_picture(maker, self.window, "uninterrupted")

    def _until_shell(self) -> None:
        until(lambda: any("$" in line for line in self.window.look().text), "a login shell")

    def _was_painted(self, maker: Terminals) -> bool:
        """Its process starts beside the gateway, which takes a second or two of a busy machine; clients that come
        meanwhile get plain lines (test_reattach_model_lost.py)."""
        if any(event["event"] == "screen.painted" for event in self.gateway.log.events):
            return True
        self._come(maker)
        self._until_shell()
        return False

    def _end(self) -> None:
        self._go_on()
        self.window.kill()
        if self.program.end:
            self.gateway.ssh(self.program.end)
        if self._script is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._script.kill()  # it minds no hang-up
        for row in self.gateway.rows("SELECT id FROM sessions WHERE status <> 'terminated'"):
            self.gateway.homeport("kill", str(row["id"]), check=False)
        self.gateway.until_no_live_row()
        for reference in self._references.values():
            reference.close()

    # ------------------------------------------------------------------------------------------------ the rounds

    def rounds(self, count: int) -> None:
        """Each: a client is killed while the program prints, and fresh ones come, one after the other."""
        for number in range(count):
            self.interrupt(self.program.steps[number % len(self.program.steps)])
            self._makers.reverse()
            for maker in self._makers:
                self.come_back(maker)

    def interrupt(self, keys: bytes) -> None:
        """Type, kill the client while the program prints, and come back before it has printed all."""
        self._expect_read(b"")
        self._go_on()
        self._tally.rounds += 1
        before = self._printed.stat().st_size
        self.window.type(keys)
        self._watch(before + self._chance.randrange(1, KILL_WITHIN_BYTES))
        self.window.kill()
        if self._chance.random() < 0.3:  # one comes, and dies somewhere between its connecting and its screen
            self._come(self._chance.choice(self._makers))
            self._draw(seconds=self._chance.uniform(0, DIES_WITHIN_SECONDS))  # not a wait: left to chance
            self.window.kill()
        if self._chance.random() < 0.5:  # the others come back to a program that has finished its step alone
            maker = self._chance.choice(self._makers)
            self._come(maker)
            self.hold_still()
            self.expect_picture(maker, self.window, self._where(maker, "came in the middle"))
            self.window.kill()
        self.hold_still()
        self._expect_read(keys)

    def come_back(self, maker: Terminals) -> None:
        """A fresh client: it gets the same session, and shows what it would show if it had been there all the time."""
        printed = self._printed.stat().st_size
        self._come(maker)
        what = self._where(maker, "came back")
        self.expect_picture(maker, self.window, what)
        # What is on the screen was painted: the program did not help.
        anew = self._printed.read_bytes()[printed:]
        assert not anew, f"{what}: the program drew its screen anew: {anew[:400]!r}; {self._approximated()}"
        self._expect_read(b"")
        self.expect_same_session()

    def _approximated(self) -> list[object]:
        """The times at which a client had to do without its screen."""
        events = self.gateway.log.events
        return [event for event in events if event["event"] in ("screen.approximated", "screens.failed")]

    def come_back_to(self, maker: Terminals, size: Size) -> None:
        """A fresh client whose window has another size, to which the program draws itself."""
        self.hold_still()
        self._feed_references()
        self.size = size
        for reference in self._references.values():
            reference.resize(size)
        self._come(maker)
        self.expect_picture(maker, self.window, self._where(maker, f"came with {size}"), is_moving=True)
        self.expect_same_session()

    def _come(self, maker: Terminals) -> None:
        self.window.kill()
        self.window = maker.window(self._command, self.size, term=self._chance.choice(TERMS))

    def expect_same_session(self) -> None:
        rows = self.gateway.rows("SELECT * FROM sessions WHERE status <> 'terminated' AND kind = 'shell'")
        assert [(row["id"], row["shell_pid"]) for row in rows] == [(self._row["id"], self._row["shell_pid"])]

    def type(self, keys: bytes, *, ends_with: bytes = b"") -> bytes:
        """Type; what the program printed then, until it holds still and this pattern is the last of it."""
        self._expect_read(b"")
        self._go_on()
        before = self._printed.stat().st_size
        self.window.type(keys)
        self._until_still(ends_with=ends_with)
        self._expect_read(keys)
        return self._printed.read_bytes()[before:]

    def read(self) -> bytes:
        """What the program has read that was not looked at yet."""
        return self._all_read()[self._read_bytes :]

    def take_read(self) -> bytes:
        """The same, and then it was looked at."""
        read = self.read()
        self._read_bytes += len(read)
        return read

    def _expect_read(self, keys: bytes) -> None:
        """The program has read these, of which a killed client may have kept the rest, and nothing else: no terminal
        answered a question that nobody asked. What comes late is found the next time."""
        read = self.take_read()
        assert keys.startswith(read), f"{self.program.name}: it read {read!r}, where {keys!r} was typed"

    def _all_read(self) -> bytes:
        # script(1) begins with a line of its own, which it may keep until there is more.
        return self._read.read_bytes().partition(b"]\n")[2]

    def recorded(self) -> str:
        """Everything the recording of the session has, as text."""
        lines = self.gateway.homeport("rec", "export", str(self._row["id"])).stdout.decode().splitlines()
        return "".join(event[2] for event in map(json.loads, lines[1:]) if event[1] == "o")

    def printed(self) -> str:
        """Everything the program has printed, as text."""
        data = self._printed.read_bytes()
        return data[data.index(_RESET) :].decode(errors="replace")

    def leave(self) -> None:
        """Leave the program: the screen from before it is there, for a client that never saw it."""
        assert self.program.leave is not None
        self.type(self.program.leave, ends_with=self.program.left)
        self.expect_picture(self._makers[-1], self.window, self._where(self._makers[-1], "left"))

    def expect_picture(self, maker: Terminals, window: Window, what: str, *, is_moving: bool = False) -> None:
        """`is_moving`: the program is drawing itself, so what it has printed is looked at again and again."""
        self._feed_references()
        self._tally.pictures += 1
        reference = self._references[maker.name]
        wanted = reference.look()
        deadline = time.monotonic() + PICTURE_SECONDS
        while (found := differences(wanted, window.look())) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            if is_moving:
                self._feed_references()
                wanted = reference.look()
                if maker.name == "tmux":  # a resize does not reach its screen behind, until that is shown
                    wanted = dataclasses.replace(wanted, behind=window.look().behind)
        if found:
            said = [str(event) for event in self.gateway.log.events if event["event"] == "screen.approximated"]
            self._tally.wrong.append("\n".join([f"{what}:", *found[:12], *said[-1:]]))

    def _where(self, maker: Terminals, what: str) -> str:
        return f"round {self._tally.rounds}, {self.program.name} {self.size} {self._term}, {maker.name} {what}"

    # ------------------------------------------------------------------------------------------- what it is doing

    def hold_still(self) -> None:
        """Until the program has printed all it has to print; one that never ends to is stopped."""
        if self.program.is_stopped:
            self._is_stopped = True
            for process in self._processes(self.program.is_stopped):
                process.suspend()
        self._until_still(ends_with=self.program.ends_with)

    def _go_on(self) -> None:
        if self._is_stopped:
            self._is_stopped = False
            for process in self._processes(self.program.is_stopped):
                process.resume()

    def _until_still(self, *, ends_with: bytes) -> None:
        """It waits for input, or is stopped, and nothing of it is under way."""
        polls, size = 0, -1

        def is_still() -> bool:
            nonlocal polls, size
            self._draw()
            now = self._printed.stat().st_size
            is_quiet = now == size and self._is_asleep() and self._has_printed_last(ends_with)
            polls, size = polls + 1 if is_quiet else 0, now
            return polls >= STILL_POLLS

        until(is_still, f"{self.program.name} holds still")

    def _is_asleep(self) -> bool:
        try:
            return all(process.status() in ("sleeping", "stopped") for process in self._processes())
        except psutil.NoSuchProcess:
            return False

    def _has_printed_last(self, pattern: bytes) -> bool:
        return not pattern or re.search(pattern, self._printed.read_bytes()[-200:]) is not None

    def _served_by(self) -> list[psutil.Process]:
        """The server that the program is a client of, and what runs in there."""
        if not self.program.server:
            return []
        if self._server is None or not self._server.is_running():
            ours = (psutil.Process(pid) for pid, _ in self.gateway.processes())
            self._server = next((process for process in ours if process.name() == self.program.server), None)
        return [] if self._server is None else [self._server, *self._server.children(recursive=True)]

    def _processes(self, name: str = "") -> list[psutil.Process]:
        assert self._script is not None
        found = [self._script, *self._script.children(recursive=True), *self._served_by()]
        return [process for process in found if not name or process.name() == name]

    def _until_printed(self, pattern: bytes, what: str) -> None:
        def is_printed() -> bool:
            self._draw()
            return self._printed.exists() and re.search(pattern, self._printed.read_bytes(), re.S) is not None

        until(is_printed, what)

    def _watch(self, size: int) -> None:
        """Until the program has printed so much, or pauses."""
        last, moved_at = -1, time.monotonic()
        while (now := self._printed.stat().st_size) < size and time.monotonic() - moved_at < 0.1:
            self._draw()
            if now != last:
                last, moved_at = now, time.monotonic()

    def _draw(self, *, seconds: float = 0.002) -> None:
        """Let a client that is drawn by us have its turn; others draw by themselves."""
        if isinstance(self.window, XtermWindow) and self.window.process.poll() is None:
            self.window.draw(seconds=seconds)
        else:
            time.sleep(seconds)

    def _feed_references(self) -> None:
        printed = self._printed.read_bytes()
        start = self._fed or printed.index(_RESET)
        self._fed = len(printed)
        for reference in self._references.values():
            reference.feed(printed[start:])
