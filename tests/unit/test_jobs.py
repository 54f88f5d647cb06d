"""Foreground jobs: what real shells on real terminals are busy with, and when that ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.interfaces import SessionKind
from gateway.keeper.spawn import spawn_on_terminal
from gateway.keeper.terminal import open_terminal
from gateway.sessions import jobs
from gateway.sessions.jobs import Foreground, JobWatch, foreground
from tests.support.installed import until

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
AT_PROMPT = Foreground(None)
SHELL, EXEC = SessionKind.SHELL, SessionKind.EXEC


class Shell:
    """A program on a terminal of its own, whose output is thrown away."""

    def __init__(self, home: Path, *argv: str) -> None:
        self.master, slave = open_terminal((80, 24, 0, 0), {})
        executable = shutil.which(argv[0])
        if executable is None:
            os.close(self.master)
            pytest.skip(f"{argv[0]} is not installed")
        environment = {b"PATH": os.environb[b"PATH"], b"TERM": b"xterm", b"HOME": os.fsencode(home)}
        words = [os.fsencode(word) for word in argv]
        self.pid = spawn_on_terminal(slave, os.fsencode(executable), words, environment, os.fsencode(home))

    def enter(self, line: str) -> None:
        os.write(self.master, line.encode() + b"\r")

    def shown(self, kind: SessionKind = SHELL) -> Foreground:
        with contextlib.suppress(BlockingIOError, OSError):
            while os.read(self.master, 65536):
                pass
        return foreground(self.master, kind)

    def wait(self, job: str | None, kind: SessionKind = SHELL) -> Foreground:
        until(lambda: self.shown(kind).job == job, f"{job} in front")
        return self.shown(kind)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.master)
        os.waitpid(self.pid, 0)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Shell]]:
    monkeypatch.chdir(Path.cwd())  # a keeper does not mind where it is afterwards, the other tests do
    shells: list[Shell] = []

    def start(*argv: str) -> Shell:
        shells.append(Shell(tmp_path, *argv))
        return shells[-1]

    yield start
    for shell in shells:
        shell.end()


SHELLS = [("bash", "--norc"), ("zsh", "-f"), ("fish", "--no-config"), ("dash", "-i")]


@pytest.mark.parametrize("argv", SHELLS, ids=[argv[0] for argv in SHELLS])
def test_a_shell_at_its_prompt_has_no_job_and_one_with_a_job_has_its_name(
    start: Callable[..., Shell], argv: tuple[str, ...]
) -> None:
    shell = start(*argv)
    assert shell.wait(None).is_certain is (argv[0] != "dash")
    shell.enter("sleep 1000")
    shell.wait("sleep")
    os.write(shell.master, b"\x03")
    shell.wait(None)


@pytest.mark.parametrize("argv", SHELLS[:2], ids=["bash", "zsh"])
@pytest.mark.parametrize("line", ["while true; do true; done", "sleep 1000 & wait", "read x"])
def test_a_shell_that_is_busy_itself_is_its_own_job(
    start: Callable[..., Shell], argv: tuple[str, ...], line: str
) -> None:
    shell = start(*argv)
    shell.wait(None)
    shell.enter(line)
    shell.wait(argv[0])


def test_what_was_known_of_a_job_is_believed_until_another_is_in_front(
    start: Callable[..., Shell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking up its name each second would stop all others for 25 µs, five hundred times."""
    shell = start("bash", "--norc")
    shell.wait(None)
    shell.enter("sleep 1000")
    found = shell.wait("sleep")
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_name", lambda pid: pytest.fail("looked up again"))
        assert foreground(shell.master, SHELL, found) is found
    os.write(shell.master, b"\x03")
    until(lambda: foreground(shell.master, SHELL, found) == AT_PROMPT, "the prompt")
    shell.enter("tail -f /dev/null")
    until(lambda: foreground(shell.master, SHELL, found).job == "tail", "another job")


def test_a_background_job_is_no_foreground_job(start: Callable[..., Shell]) -> None:
    shell = start("bash", "--norc")
    shell.wait(None)
    shell.enter("sleep 1000 & touch ready")
    until(lambda: Path(os.readlink(f"/proc/{shell.pid}/cwd"), "ready").exists(), "the line was read")
    shell.wait(None)


def test_a_pipeline_whose_first_program_has_ended_has_the_name_of_another(start: Callable[..., Shell]) -> None:
    shell = start("bash", "--norc")
    shell.wait(None)
    shell.enter("true | sleep 1000")
    shell.wait("sleep")


def test_a_program_in_place_of_the_shell_is_the_job_whatever_it_does_to_the_terminal(
    start: Callable[..., Shell],
) -> None:
    shell = start("bash", "--norc")
    shell.wait(None)
    shell.enter("stty -icanon; exec sleep 1000")
    shell.wait("sleep")


def test_a_command_is_the_job_of_its_session_also_if_it_is_a_script(start: Callable[..., Shell]) -> None:
    script = start("sh", "-c", "while true; do read x; done")
    name = Path(f"/proc/{script.pid}/exe").resolve().name
    until(lambda: script.shown(EXEC).job in ("sh", name), "the script in front")
    assert script.shown(EXEC).is_certain


def test_an_interactive_shell_that_was_asked_for_by_a_command_is_at_its_prompt(start: Callable[..., Shell]) -> None:
    shell = start("bash", "-c", "exec bash --norc -i")
    assert shell.wait(None, EXEC) == AT_PROMPT


def test_a_name_that_means_something_to_terminals_is_made_harmless(start: Callable[..., Shell], tmp_path: Path) -> None:
    evil = tmp_path / "a\x1b[2Jb\nc"
    shutil.copy("/bin/sleep", evil)
    shell = start("bash", "--norc")
    shell.wait(None)
    shell.enter("./a?[2J*c 1000")
    shell.wait("a?[2Jb?c")


def test_a_terminal_without_programs_is_an_error_and_not_a_prompt(start: Callable[..., Shell]) -> None:
    shell = start("bash", "--norc")
    shell.wait(None)
    os.kill(shell.pid, signal.SIGKILL)
    os.waitid(os.P_PID, shell.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(OSError):
        foreground(shell.master, SHELL)


# ---------------------------------------------------------------------------------------------- the watch


@dataclass
class Detached:
    session_id: str = "s1"
    kind: SessionKind = SHELL
    is_attached: bool = False
    terminal_fd: int | None = 7
    job: str | None = None
    job_ended_at: datetime | None = None


class Rig:
    """A watch over sessions whose terminals answer as `now_in_front` says, and what it had written down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.001)
        self.time = NOON
        self.now_in_front: dict[int, Foreground | None] = {}
        self.asked: list[int] = []
        self.looked = asyncio.Event()
        self.notes: list[tuple[str, str | None, datetime | None]] = []
        self.watch = JobWatch(self._note, self._spawn, ask=self._ask, now=lambda: self.time)

    async def _note(self, session_id: str, job: str | None, ended_at: datetime | None) -> None:
        self.notes.append((session_id, job, ended_at))

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        with contextlib.suppress(StopIteration):
            coroutine.send(None)
        coroutine.close()

    def _ask(self, fd: int, kind: SessionKind, known: Foreground | None) -> Foreground:
        self.asked.append(fd)
        self.looked.set()
        found = self.now_in_front[fd]
        if found is None:
            raise OSError(25, "no program")
        return found

    async def looks(self, count: int) -> None:
        """Until the terminals were asked this many times more."""
        for _ in range(count):
            self.looked.clear()
            async with asyncio.timeout(5):
                await self.looked.wait()


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


async def test_the_end_of_a_job_is_noted_once_and_nothing_is_watched_then(rig: Rig) -> None:
    session = Detached()
    rig.now_in_front[7] = Foreground("make")
    rig.watch.detached(session)
    assert (session.job, session.job_ended_at, rig.notes) == ("make", None, [])
    await rig.looks(3)
    rig.now_in_front[7] = AT_PROMPT
    await rig.looks(1)
    assert rig.notes == [("s1", "make", NOON)]
    assert session.job_ended_at == NOON
    assert (rig.watch.watched_count, rig.watch._timer) == (0, None)


async def test_a_shell_at_its_prompt_is_looked_at_once_more_and_then_never(rig: Rig) -> None:
    rig.now_in_front[7] = AT_PROMPT
    session = Detached()
    rig.watch.detached(session)
    await rig.looks(1)
    assert (session.job, rig.notes, rig.watch.watched_count, rig.watch._timer) == (None, [], 0, None)


async def test_a_line_that_the_shell_had_not_read_when_its_client_left_is_noticed(rig: Rig) -> None:
    rig.now_in_front[7] = AT_PROMPT
    rig.watch.detached(Detached())
    rig.now_in_front[7] = Foreground("make")
    await rig.looks(1)
    rig.now_in_front[7] = AT_PROMPT
    await rig.looks(1)
    assert rig.notes == [("s1", "make", None), ("s1", "make", NOON)]


async def test_the_newest_of_several_jobs_is_the_one_that_ended(rig: Rig) -> None:
    """`make; ./test`: and the shell that is in front between them is nobody's job."""
    rig.now_in_front[7] = Foreground("make")
    rig.watch.detached(session := Detached())
    for job in ("bash", "test", "bash"):
        rig.now_in_front[7] = Foreground(job)
        await rig.looks(1)
    rig.now_in_front[7] = AT_PROMPT
    await rig.looks(1)
    assert rig.notes == [("s1", "test", NOON)]
    assert session.job == "test"


async def test_the_job_that_goes_on_is_the_one_that_is_listed(rig: Rig) -> None:
    """`make; ./all-night` is not `make` all night; and a loop of short jobs is not a row each."""
    rig.now_in_front[7] = Foreground("make")
    rig.watch.detached(Detached())
    for job in ("one", "two", "all-night"):
        rig.now_in_front[7] = Foreground(job)
        await rig.looks(2)
    assert rig.notes == []
    rig.time += jobs.RENAMED_AFTER
    await rig.looks(3)
    assert rig.notes == [("s1", "all-night", None)]
    for second in range(3600):
        rig.time += timedelta(seconds=1)
        rig.now_in_front[7] = Foreground(f"step-{second}")
        rig.watch._look()
    assert len(rig.notes) < 25
    rig.watch.close()


async def test_a_shell_that_may_be_between_two_jobs_is_looked_at_twice(rig: Rig) -> None:
    rig.now_in_front[7] = Foreground("make")
    rig.watch.detached(Detached())
    rig.now_in_front[7] = Foreground(None, is_certain=False)
    await rig.looks(1)
    rig.now_in_front[7] = Foreground("cc")
    await rig.looks(1)
    rig.now_in_front[7] = Foreground(None, is_certain=False)
    await rig.looks(1)
    assert rig.notes == []
    await rig.looks(1)
    assert rig.notes == [("s1", "cc", NOON)]


@pytest.mark.parametrize("what", ["attached", "given away", "hung up"])
async def test_a_session_that_is_not_ours_to_watch_any_more_is_dropped_without_a_note(rig: Rig, what: str) -> None:
    session = Detached()
    rig.now_in_front[7] = Foreground("make")
    rig.watch.detached(session)
    if what == "attached":
        session.is_attached = True
    elif what == "given away":
        session.terminal_fd = None
    else:
        rig.now_in_front[7] = None
    other = Detached("s2", terminal_fd=8)
    rig.now_in_front[8] = Foreground("make")
    rig.watch.detached(other)  # keeps the looks coming
    rig.asked.clear()
    await rig.looks(3)
    assert rig.watch.watched_count == 1
    assert rig.asked.count(7) == (what == "hung up")
    assert rig.notes == []
    rig.watch.close()
    assert rig.watch._timer is None


async def test_an_adopted_session_whose_job_is_gone_has_ended_it_by_now(rig: Rig) -> None:
    rig.now_in_front[7] = AT_PROMPT
    rig.watch.adopted(session := Detached(job="make"))
    assert rig.notes == [("s1", "make", NOON)]
    assert session.job_ended_at == NOON


async def test_an_adopted_session_whose_job_goes_on_is_watched_to_its_end(rig: Rig) -> None:
    rig.now_in_front[7] = Foreground("make")
    rig.watch.adopted(Detached(job="make"))
    assert rig.notes == []  # nothing new
    rig.now_in_front[7] = AT_PROMPT
    await rig.looks(1)
    assert rig.notes == [("s1", "make", NOON)]


async def test_a_job_that_nobody_knew_of_is_written_down_as_it_is_found(rig: Rig) -> None:
    """The gateway was killed while a client was attached."""
    rig.now_in_front[7] = Foreground("make")
    rig.watch.adopted(session := Detached(job="vim", job_ended_at=NOON))
    assert rig.notes == [("s1", "make", None)]
    assert (session.job, session.job_ended_at) == ("make", None)
    rig.watch.close()


async def test_what_is_known_of_a_shell_at_its_prompt_is_not_written_again(rig: Rig) -> None:
    rig.now_in_front[7] = AT_PROMPT
    rig.watch.adopted(Detached(job="make", job_ended_at=NOON))
    rig.watch.adopted(Detached())
    assert rig.notes == []


async def test_five_hundred_jobs_are_one_question_each_a_look(rig: Rig) -> None:
    for number in range(500):
        rig.now_in_front[number] = Foreground("make")
        rig.watch.detached(Detached(f"s{number}", terminal_fd=number))
    rig.asked.clear()
    await rig.looks(1)
    assert sorted(rig.asked) == list(range(500))
    rig.watch.close()
