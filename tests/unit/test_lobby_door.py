"""`ssh lobby@host …` over a channel that only remembers: words, statuses, interruptions, bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from gateway.errors import StoreUnavailable, UsageWrong
from gateway.interfaces import SessionKind, SessionRequest, WindowSize, Workspace
from gateway.lobby import channel_end, door, picker, table
from gateway.lobby.command import Command
from gateway.lobby.context import INPUT_MAX_BYTES, LobbyContext
from gateway.lobby.door import COMMAND_MAX_BYTES, LobbyDoor, split
from gateway.lobby.recordings import TERMINAL_RESET
from gateway.sessions.session import Channel
from tests.support.channel import OWNER, SCOPED, RememberingChannel, lobby_request
from tests.support.lobby import FakeLobby, FakeStore, Recording, session, workspace


class House:
    """A door, its services, and the sessions that were handed on."""

    def __init__(self) -> None:
        self.lobby = FakeLobby(store=FakeStore(workspaces=[workspace("my-app"), workspace("secret")]))
        self.served: list[SessionRequest] = []
        self.door = LobbyDoor(self.lobby.services(), serve_session=self._serve, drain_seconds=0.05)
        self.tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, request: SessionRequest, channel: Channel) -> None:
        self.served.append(request)

    def begin(self, request: SessionRequest) -> tuple[asyncio.Task[None], RememberingChannel]:
        channel = RememberingChannel()
        task = asyncio.create_task(self.door.serve(request, channel))
        self.tasks.add(task)
        return task, channel

    async def run(self, command: bytes | None, stdin: bytes = b"", **options: object) -> RememberingChannel:
        """One command to its end; its input, and the end of it, come at once."""
        task, channel = self.begin(lobby_request(command, **options))  # type: ignore[arg-type]
        await channel.until(lambda: channel.sink is not None or task.done())
        if channel.sink is not None and not task.done():
            channel.type(stdin)
            channel.sink.eof_received()
        await task
        return channel


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    for task in house.tasks:
        task.cancel()
    await asyncio.gather(*house.tasks, return_exceptions=True)


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[LobbyContext], Awaitable[int]]], None]:
    """Puts a command `odd` into the table that does what the test says."""

    def put(run: Callable[[LobbyContext], Awaitable[int]]) -> None:
        async def command(lobby: LobbyContext, _: Namespace) -> int:
            return await run(lobby)

        monkeypatch.setitem(table._BY_NAME, "odd", Command(name="odd", summary="", teaching="", run=command))

    return put


async def test_a_command_runs_and_its_streams_stay_apart(house: House):
    done = await house.run(b"ls --json")
    assert ([each["name"] for each in json.loads(done.output)], done.errors, done.status) == (
        ["my-app", "secret"], b"", 0
    )  # fmt: skip
    done = await house.run(b"kill my-ap")
    assert (done.output, done.status) == (b"", 1)
    assert done.errors.startswith(b"homeport: ")


async def test_words_are_those_of_a_shell_and_the_name_of_the_command_may_stand_before_them(house: House):
    done = await house.run(b"homeport new 'my new'")
    assert house.lobby.yard.made == [("my new", None)]
    assert done.status == 0


async def test_what_was_changed_is_in_the_journal_with_the_address_it_came_from(house: House):
    await house.run(b"new notes")
    assert house.lobby.store.journal == [("workspace_created", {"by": "ana", "workspace": "notes"})]
    assert house.lobby.store.journal_addresses == ["192.0.2.7"]


async def test_who_came_by_ssh_is_told_the_ssh_line_of_a_new_workspace(house: House):
    done = await house.run(b"new notes")
    assert done.output == b"notes is ready; enter it with: ssh notes@host\n"
    await house.lobby("new", "more")
    assert house.lobby.stdout.text == "more is ready; enter it with: homeport connect more\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (b"ls 'x", b"quotes do not match"),
        (b"ls \xff", b"not UTF-8"),
        (b"ls \0", b"NUL"),
        (b"x" * (COMMAND_MAX_BYTES + 1), b"bytes long"),
        (b"git-upload-pack 'my-app'", b"no command 'git-upload-pack'"),
        (b"keys add id.pub", b"files are on your side; write: ssh lobby@host keys add - "),
        (b"rec export 01932b7e -o x.cast", b"files are on your side"),
    ],
)
async def test_what_is_not_understood_has_status_2_and_words(house: House, command: bytes, said: bytes):
    done = await house.run(command)
    assert (done.output, done.status) == (b"", 2)
    assert said in done.errors
    assert len(done.errors) < 1000


def test_nothing_in_the_words_is_expanded():
    assert split(b"log --principal '$HOME *' \\; `x`") == ["log", "--principal", "$HOME *", ";", "`x`"]
    with pytest.raises(UsageWrong):
        split(b'"')


async def test_without_a_command_and_a_screen_the_overview_is_printed(house: House):
    for term in (None, "dumb"):
        done = await house.run(None, term=term)
        assert done.output.startswith(b"usage: ssh lobby@host COMMAND")
        assert done.status == 0


async def test_a_terminal_gets_both_ends_of_a_line_and_a_pipe_one(house: House):
    assert b"\r" not in (await house.run(b"ls")).output
    shown = (await house.run(b"ls", term="dumb")).output
    assert shown.count(b"\r\n") == shown.count(b"\n") > 1


async def test_a_recording_is_played_byte_for_byte(house: House):
    """A lone line feed of a full-screen program moves straight down, and must not become the end of a line."""
    house.lobby.store.sessions = [session("01932b7e-8f3c", name="logs")]
    house.lobby.shelf.recordings = [Recording("01932b7e-8f3c")]
    house.lobby.shelf.pieces = [b"one\ntwo\r\n"]
    done = await house.run(b"rec play my-app+logs", term="xterm")
    assert done.output == b"one\ntwo\r\n" + TERMINAL_RESET


async def test_colours_are_for_terminals_that_show_them(house: House):
    assert b"\x1b[" in (await house.run(b"ls", term="xterm")).output
    for done in (
        await house.run(b"ls", term="dumb"),
        await house.run(b"ls", term="xterm", environment={"NO_COLOR": "1"}),
        await house.run(b"ls"),
    ):
        assert b"\x1b" not in done.output


async def test_input_is_read_to_its_end_and_no_further_than_its_bound(house: House):
    done = await house.run(b"keys add -", stdin=b"ssh-dss AAAA\n")
    assert b"nothing was added" in done.errors
    done = await house.run(b"keys add -", stdin=b"x" * (INPUT_MAX_BYTES + 1))
    assert (b"longer than" in done.errors, done.status) == (True, 1)


async def test_a_subsystem_is_refused_with_where_files_are(house: House):
    done = await house.run(None, kind=SessionKind.SUBSYSTEM)
    assert (done.status, b"the lobby has no files" in done.errors) == (1, True)


async def test_questions_are_answered_on_the_terminal_and_refused_without_one(house: House, odd: Callable[..., None]):
    async def ask(lobby: LobbyContext) -> int:
        await lobby.print(f"<{await lobby.person.ask('name?')}>")
        return 0

    odd(ask)
    task, channel = house.begin(lobby_request(b"odd", term="xterm"))
    await channel.until(lambda: channel.errors == b"name? ")
    channel.type(b"demo\r")
    await task
    assert (channel.output, channel.status) == (b"<demo>\r\n", 0)
    refused = await house.run(b"odd")
    assert (refused.status, b"no terminal to ask on" in refused.errors) == (1, True)


# -------------------------------------------------------------------------------------------- interruptions


class Slow:
    """A command that waits, and says how it ended."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.undone = False

    async def __call__(self, lobby: LobbyContext) -> int:
        self.began.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # undoing takes its time
            self.undone = True
            raise
        return 7


async def test_control_c_undoes_and_has_the_status_of_an_interrupted_program(house: House, odd: Callable[..., None]):
    slow = Slow()
    odd(slow)
    task, channel = house.begin(lobby_request(b"odd", term="xterm"))
    await slow.began.wait()
    channel.type(b"abc\x03\x03")
    channel.type(b"\x03")  # impatience must not cut the undoing short
    await task
    assert (channel.status, slow.undone, channel.output) == (130, True, b"^C\r\n^C\r\n")


async def test_control_c_is_not_shown_to_a_client_that_does_not_read(house: House, odd: Callable[..., None]):
    """It may press it a million times, and nothing of it may pile up here."""
    slow = Slow()
    odd(slow)
    task, channel = house.begin(lobby_request(b"odd", term="xterm"))
    await slow.began.wait()
    channel.is_writing_paused = True
    for _ in range(10):
        channel.type(b"\x03")
    await task
    assert (channel.status, slow.undone, channel.output) == (130, True, b"")


async def test_a_signal_interrupts_and_a_control_c_in_a_pipe_is_data(house: House, odd: Callable[..., None]):
    slow = Slow()
    odd(slow)
    task, channel = house.begin(lobby_request(b"odd"))
    await slow.began.wait()
    assert channel.sink is not None
    channel.type(b"\x03")
    channel.sink.signal_requested("USR1")
    assert not task.done()
    channel.sink.signal_requested("INT")
    await task
    assert (channel.status, slow.undone) == (130, True)


async def test_a_client_that_leaves_cancels_its_command(house: House, odd: Callable[..., None]):
    slow = Slow()
    odd(slow)
    task, channel = house.begin(lobby_request(b"odd"))
    await slow.began.wait()
    assert channel.sink is not None
    channel.sink.channel_lost()
    await task
    assert slow.undone


async def test_a_reader_that_went_away_ends_the_command_as_in_a_shell(house: House, odd: Callable[..., None]):
    async def flood(lobby: LobbyContext) -> int:
        while True:
            await lobby.print("y")
            await asyncio.sleep(0)

    odd(flood)
    task, channel = house.begin(lobby_request(b"odd"))
    await channel.until(lambda: channel.output)
    assert channel.sink is not None
    channel.sink.output_unwanted()
    await task
    assert channel.status == 141


async def test_a_slow_reader_holds_its_own_command_back_and_not_for_ever(
    house: House, odd: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    async def two(lobby: LobbyContext) -> int:
        await lobby.print("one")
        await lobby.print("two")
        return 0

    odd(two)
    task, channel = house.begin(lobby_request(b"odd"))
    channel.is_writing_paused = True
    await channel.until(lambda: channel.sink is not None)
    await asyncio.sleep(0.01)
    assert channel.output == b""
    channel.is_writing_paused = False
    assert channel.sink is not None
    channel.sink.resume_writing()
    await task
    assert channel.output == b"one\ntwo\n"

    monkeypatch.setattr(channel_end, "STALL_SECONDS", 0.01)
    task, channel = house.begin(lobby_request(b"odd"))
    channel.is_writing_paused = True
    await task
    assert (channel.output, channel.status) == (b"", 255)


async def test_a_drain_waits_a_while_then_undoes_and_says_so(house: House, odd: Callable[..., None]):
    slow = Slow()
    odd(slow)
    task, channel = house.begin(lobby_request(b"odd"))
    await slow.began.wait()
    await house.door.drain()
    await task
    assert (channel.status, slow.undone) == (255, True)
    assert b"the gateway is stopping" in channel.errors
    assert (await house.run(b"ls")).status == 255


async def test_a_drain_lets_a_command_end_by_itself(house: House, odd: Callable[..., None]):
    slow = Slow()
    odd(slow)
    task, channel = house.begin(lobby_request(b"odd"))
    await slow.began.wait()
    draining = asyncio.create_task(house.door.drain())
    slow.may_end.set()
    await asyncio.gather(draining, task)
    assert channel.status == 7


async def test_one_key_cannot_take_all_places(house: House, odd: Callable[..., None], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(door, "SESSIONS_PER_KEY_MAX", 2)
    monkeypatch.setattr(door, "SESSIONS_MAX", 3)
    slow = Slow()
    odd(slow)
    running = [house.begin(lobby_request(b"odd")) for _ in range(2)]
    await slow.began.wait()
    refused = await house.run(b"ls")
    assert (refused.status, b"commands of this key run already" in refused.errors) == (1, True)
    other = replace(OWNER, fingerprint="SHA256:other")
    running.append(house.begin(lobby_request(b"odd", principal=other)))
    await asyncio.sleep(0)
    third = replace(OWNER, fingerprint="SHA256:third")
    assert b"3 commands run already" in (await house.run(b"ls", principal=third)).errors
    slow.may_end.set()
    await asyncio.gather(*(task for task, _ in running))
    assert (await house.run(b"ls")).status == 0


async def test_a_failure_of_ours_shows_no_traceback_and_reaches_nobody_else(house: House, odd: Callable[..., None]):
    async def fail(lobby: LobbyContext) -> int:
        raise RuntimeError("a secret path")

    odd(fail)
    done = await house.run(b"odd")
    assert (done.status, b"internal error" in done.errors, b"secret" in done.errors) == (1, True, False)


# ---------------------------------------------------------------------------------------------------- picking


@contextlib.asynccontextmanager
async def picking(house: House, **options: object) -> AsyncIterator[tuple[asyncio.Task[None], RememberingChannel]]:
    task, channel = house.begin(lobby_request(None, term="xterm", **options))  # type: ignore[arg-type]
    await channel.until(lambda: b"find:" in channel.output)
    yield task, channel


async def test_enter_hands_the_channel_on_with_the_name_that_was_chosen_and_the_size_of_now(house: House):
    house.lobby.store.sessions = [session("1", name="logs")]
    async with picking(house) as (task, channel):
        assert channel.sink is not None
        channel.sink.window_changed(WindowSize(100, 30))
        channel.type(b"log\r")
        await task
    assert [(request.login_name, request.terminal and request.terminal.size) for request in house.served] == [
        ("my-app+logs", WindowSize(100, 30))
    ]
    assert (channel.sink, channel.status) == (None, None)  # nobody's, and open
    assert channel.output.endswith(b"\x1b[?25h\x1b[?1049l\x1b[?2004l")  # cursor, screen and paste as they were


async def test_pickers_at_once_are_each_one_s_own(house: House):
    """Keys of one person acted on whichever picker was opened last."""
    async with picking(house) as first, picking(house) as second, picking(house) as third:
        channels = [channel for _, channel in (first, second, third)]
        first[1].type(b"secr\r")
        await asyncio.wait_for(first[0], 5)
        assert [request.login_name for request in house.served] == ["secret"]
        assert not second[0].done()
        third[1].type(b"q")
        await asyncio.wait_for(third[0], 5)
        second[1].type(b"my-a\r")
        await asyncio.wait_for(second[0], 5)
    assert [request.login_name for request in house.served] == ["secret", "my-app"]
    assert [channel.status for channel in channels] == [None, None, 0]
    assert not asyncio.get_running_loop().remove_signal_handler(signal.SIGWINCH), "one of them is still called"


async def test_a_database_that_does_not_answer_is_said_in_words(house: House, monkeypatch: pytest.MonkeyPatch):
    async def fail(**_: object) -> list[Workspace]:
        raise StoreUnavailable("the disk with the database is full; free some space on it")

    monkeypatch.setattr(house.lobby.store, "list_workspaces", fail)
    done = await house.run(None, term="xterm")
    assert (done.status, b"the disk with the database is full" in done.errors) == (1, True)


@pytest.mark.parametrize(("typed", "entered"), [(b"secr\r", ["secret"]), (b"", []), (b"zzz\r", [])])
async def test_keys_typed_ahead_count_and_an_input_that_ends_leaves(house: House, typed: bytes, entered: list[str]):
    """`ssh -tt lobby@host < keys` does not wait for ever."""
    task, channel = house.begin(lobby_request(None, term="xterm"))
    await channel.until(lambda: channel.sink is not None)
    channel.type(typed)
    assert channel.sink is not None
    channel.sink.eof_received()
    await asyncio.wait_for(task, 5)
    assert [request.login_name for request in house.served] == entered
    assert channel.status == (None if entered else 0)


async def test_no_bytes_whatever_break_the_picker(house: House):
    noise = random.Random(7)
    async with picking(house) as (task, channel):
        for _ in range(200):
            pieces = [b"\x1b[", b"\x1bO", b"\x1b[200~", b"\x1b[201~", b"\x1b[1;1R", b"\x1b[M !!", noise.randbytes(8)]
            channel.type(b"x" + noise.choice(pieces).translate(None, b"\x03\x04\r\nq"))
            await asyncio.sleep(0)
        channel.type(b"\x1b[201~\x03")
        await asyncio.wait_for(task, 5)
    assert channel.status == 0


async def test_a_session_that_begins_meanwhile_appears(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(picker, "REFRESH_SECONDS", 0.01)
    async with picking(house) as (task, channel):
        house.lobby.store.sessions = [session("1", name="logs")]
        await channel.until(lambda: b"my-app+logs" in channel.output)
        channel.type(b"q")
        await task


@pytest.mark.parametrize("keys", [b"q", b"\x03", b"\x1b", b"\x04"])
async def test_leaving_gives_the_screen_back_and_status_0(house: House, keys: bytes):
    async with picking(house) as (task, channel):
        channel.type(keys)
        await task
    assert (channel.status, house.served) == (0, [])
    assert b"\x1b[?1049l" in channel.output


async def test_a_new_workspace_is_made_and_entered(house: House):
    async with picking(house) as (task, channel):
        channel.type(b"n")
        channel.type(b"fresh\r")
        await task
    assert house.lobby.yard.made == [("fresh", None)]
    assert [request.login_name for request in house.served] == ["fresh"]


async def test_one_that_cannot_be_made_is_said_on_the_screen_that_was_there_before(house: House):
    async with picking(house) as (task, channel):
        channel.type(b"nit's\r")
        await task
    assert (channel.status, house.served) == (2, [])
    assert b"quotes do not match" in channel.errors


async def test_help_for_a_new_workspace_is_help(house: House):
    async with picking(house) as (task, channel):
        channel.type(b"n-h\r")
        await task
    assert (channel.status, house.served) == (0, [])
    assert b"usage: ssh lobby@host new" in channel.output


async def test_a_key_for_some_workspaces_sees_those_alone(house: House):
    async with picking(house, principal=SCOPED) as (task, channel):
        channel.type(b"q")
        await task
    assert (b"my-app" in channel.output, b"secret" in channel.output) == (True, False)


async def test_a_drain_ends_an_idle_picker_at_once_and_its_screen_is_given_back(house: House):
    async with picking(house) as (task, channel):
        await house.door.drain()
        await task
    assert (channel.status, b"restarting" in channel.errors, b"\x1b[?1049l" in channel.output) == (255, True, True)


async def test_a_flood_of_keys_is_cut_and_a_slow_reader_is_not_drawn_for(house: House):
    async with picking(house) as (task, channel):
        channel.is_writing_paused = True
        before = len(channel.output)
        for _ in range(100):
            channel.type(b"x" * 1000)
        await asyncio.sleep(0.05)
        assert len(channel.output) == before
        channel.is_writing_paused = False
        assert channel.sink is not None
        channel.sink.resume_writing()
        await channel.until(lambda: b"nothing has" in channel.output)
        channel.type(b"\x03")
        await task
    assert channel.status == 0


async def test_a_window_of_any_size_is_drawn_within_bounds(house: House):
    async with picking(house) as (task, channel):
        assert channel.sink is not None
        for size in (WindowSize(0, 0), WindowSize(1, 1), WindowSize(2**32 - 1, 2**32 - 1)):
            before = len(channel.output)
            channel.sink.window_changed(size)
            await channel.until(lambda before=before: len(channel.output) > before)
            assert len(channel.output) - before < 200_000
        channel.type(b"q")
        await task
    assert channel.status == 0
