"""X11 displays: what of a request may reach xauth, and what is left when a display cannot be had."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import DisplayRefused, KeeperRefused
from gateway.forwarding import displays
from gateway.forwarding.displays import PORT_OF_DISPLAY_0, Display, DisplayRequest, Displays, display_request
from gateway.interfaces import Keeper, ProgramSpec, Workspace
from tests.support.installed import free_port
from tests.support.local_keepers import LocalKeeper, LocalKeepers, LocalLauncher

COOKIE = "MIT-MAGIC-COOKIE-1"
REQUEST = DisplayRequest(COOKIE, "00ff" * 8, 0, is_single=False)


class KeeperWithSockets(LocalKeeper):
    has_ipv6 = True

    async def tcp_socket(self, family: socket.AddressFamily) -> socket.socket:
        if family == socket.AF_INET6 and not self.has_ipv6:
            raise KeeperRefused("Address family not supported by protocol")
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


class Keepers(LocalKeepers):
    async def keeper_for(self, workspace: Workspace) -> Keeper:
        if not self.made:
            self.made.append(KeeperWithSockets(workspace.id, self.environment))
        return self.made[0]


class House:
    """A workspace in which `xauth` is a script of the test's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.workspace = Workspace("w", "demo", directory / "home", directory / "tree")
        for folder in (self.workspace.home, self.workspace.tree, directory / "bin"):
            folder.mkdir()
        self.keepers = Keepers({b"PATH": f"{directory}/bin:/usr/bin:/bin".encode()})
        self.tasks: list[asyncio.Task[None]] = []
        self.carried: list[tuple[socket.socket, str, int]] = []
        self.connected = asyncio.Event()
        self.displays = Displays(keepers=self.keepers, launcher=LocalLauncher(), spawn=self._spawn)
        self.set_xauth("cat >$HOME/said")

    @property
    def said(self) -> str:
        return (self.workspace.home / "said").read_text()

    def set_xauth(self, script: str) -> None:
        program = self.directory / "bin" / "xauth"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    async def open(self, request: DisplayRequest = REQUEST) -> Display:
        return await self.displays.open(self.workspace, request, self._carry)

    async def shell(self, **environment: str) -> int:
        """The pid of a program that was begun by an earlier client; it ends with the house."""
        keeper = await self.keepers.keeper_for(self.workspace)
        variables = {name.encode(): value.encode() for name, value in environment.items()}
        spec = ProgramSpec("old", (b"sleep", b"600"), b"/bin/sleep", variables, b"/")
        program = await keeper.start(spec)
        program.close()
        self.keepers.made[0].started.remove(spec)
        return program.pid

    async def _carry(self, program: socket.socket, host: str, port: int) -> None:
        self.carried.append((program, host, port))
        self.connected.set()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work, name=name))
        return self.tasks[-1]

    async def close(self) -> None:
        await asyncio.gather(*self.tasks)
        await self.keepers.close()
        for program, _, _ in self.carried:
            program.close()


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(displays, "DISPLAY_FIRST", free_port() - PORT_OF_DISPLAY_0)  # clear of whoever else forwards
    monkeypatch.setattr(displays, "DISPLAYS_SPREAD", 1)  # the first one
    house = House(tmp_path)
    yield house
    await house.close()


def port_of(display: Display) -> int:
    return PORT_OF_DISPLAY_0 + int(display.name.removeprefix("localhost:").partition(".")[0])


@pytest.mark.parametrize(
    ("protocol", "cookie", "screen"),
    [
        (b"MIT-MAGIC-COOKIE-1\nadd x", b"00ff", 0),  # xauth reads commands
        (b"MIT MAGIC", b"00ff", 0),
        (b"", b"00ff", 0),
        (b"M" * 65, b"00ff", 0),
        (COOKIE.encode(), b"00ff\nquit", 0),
        (COOKIE.encode(), b"0ff", 0),
        (COOKIE.encode(), b"", 0),
        (COOKIE.encode(), b"$(id)", 0),
        (COOKIE.encode(), b"ff" * 129, 0),
        (COOKIE.encode(), b"00ff", 256),
    ],
)
def test_what_could_be_anything_but_a_cookie_is_no_request(protocol: bytes, cookie: bytes, screen: int) -> None:
    assert display_request(protocol, cookie, screen, is_single=False) is None


def test_cookie_of_a_stock_client_is_taken_as_it_is() -> None:
    assert display_request(COOKIE.encode(), b"00FFa0" * 5, 3, is_single=True) == DisplayRequest(
        COOKIE, "00FFa0" * 5, 3, is_single=True
    )


async def test_display_s_cookie_is_with_the_programs_before_they_start(house: House) -> None:
    display = await house.open()
    number = display.name.removeprefix("localhost:")
    assert house.said == f"remove unix:{number}\nadd unix:{number} {COOKIE} {REQUEST.cookie}\n"
    display.close()


async def test_cookie_is_on_no_command_line(house: House) -> None:
    (await house.open()).close()
    spec = house.keepers.made[0].started[0]
    assert REQUEST.cookie.encode() not in b" ".join([*spec.argv, *spec.environment.values()])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_programs_reach_the_client_by_either_loopback_address(house: House, host: str) -> None:
    display = await house.open()
    with socket.create_connection((host, port_of(display)), 10) as program:
        async with asyncio.timeout(10):
            await house.connected.wait()
        assert house.carried[0][1:] == program.getsockname()[:2]
    display.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port_of(display)), 10)


async def test_machine_without_ipv6_forwards_on_ipv4(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeeperWithSockets, "has_ipv6", False)
    display = await house.open()
    socket.create_connection(("127.0.0.1", port_of(display)), 10).close()
    display.close()


async def test_display_whose_port_is_taken_at_either_address_is_passed_over(house: House) -> None:
    """A program of another workspace could wait at the other address for what is meant for this one."""
    first = await house.open()
    first.close()
    with socket.create_server(("::1", port_of(first)), family=socket.AF_INET6):
        second = await house.open()
        assert port_of(second) > port_of(first)
        second.close()


async def test_two_sessions_have_two_displays(house: House) -> None:
    first, second = await house.open(), await house.open()
    assert first.name != second.name
    first.close()
    second.close()


async def test_single_connection_is_the_only_one(house: House) -> None:
    display = await house.open(DisplayRequest(COOKIE, "00", 1, is_single=True))
    assert display.name.endswith(".1")
    with socket.create_connection(("127.0.0.1", port_of(display)), 10):
        async with asyncio.timeout(10):
            await house.connected.wait()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port_of(display)), 10)
    display.close()


async def test_one_program_too_many_is_closed_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displays, "STREAMS_MAX", 0)
    display = await house.open()
    with socket.create_connection(("127.0.0.1", port_of(display)), 10) as program:
        program.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(program, 1) == b""
    display.close()


@pytest.mark.parametrize(
    ("script", "words"),
    [("exec no-such-program", "apt install xauth"), ("exit 1", "Xauthority"), ("kill -9 $$", "Xauthority")],
)
async def test_without_a_cookie_there_is_no_display(house: House, script: str, words: str) -> None:
    house.set_xauth(script)
    with pytest.raises(DisplayRefused, match=words):
        await house.open()
    await only_let_go(house)
    await assert_port_is_free()


async def test_xauth_that_hangs_holds_a_session_up_for_a_bounded_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits 20 s for somebody else's lock."""
    monkeypatch.setattr(displays, "OPEN_SECONDS", 0.2)
    house.set_xauth("exec sleep 600")
    with pytest.raises(DisplayRefused, match="not ready"):
        await house.open()
    await only_let_go(house)
    await assert_port_is_free()


async def test_client_that_goes_meanwhile_leaves_nothing(house: House) -> None:
    house.set_xauth("echo >$HOME/said; exec sleep 600")
    opening = asyncio.create_task(house.open())
    async with asyncio.timeout(10):
        while not (house.workspace.home / "said").exists():
            await asyncio.sleep(0.01)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    await only_let_go(house)
    await assert_port_is_free()


async def only_let_go(house: House) -> None:
    """Whatever happened: xauth was ended, and the keeper told to forget it."""
    await asyncio.gather(*house.tasks)
    keeper = house.keepers.made[0]
    assert keeper.forgotten == [spec.session_id for spec in keeper.started]


async def assert_port_is_free() -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", PORT_OF_DISPLAY_0 + displays.DISPLAY_FIRST), 10)


async def test_all_displays_taken_is_said(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displays, "DISPLAYS_MAX", 0)
    with pytest.raises(DisplayRefused, match="taken"):
        await house.open()


# ------------------------------------------------------------------- a client attaches to the shell of an earlier one


async def gone_before(house: House) -> Display:
    """The display of a client that has gone; its number is free."""
    display = await house.open()
    display.close()
    return display


@pytest.fixture
async def newer(house: House) -> AsyncIterator[Display]:
    """The display of a client that came while another one had the first number."""
    earlier = await house.open()
    newer = await house.open(DisplayRequest(COOKIE, "aa" * 16, 0, is_single=False))
    earlier.close()
    yield newer
    newer.close()


async def is_answered(number: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", PORT_OF_DISPLAY_0 + number), 10).close()
    except ConnectionRefusedError:
        return False
    return True


async def test_old_shell_s_display_leads_to_the_client_that_attaches(house: House, newer: Display) -> None:
    """Its own number is given up, and the cookie is there before somebody answers."""
    first, own = displays.DISPLAY_FIRST, newer.number
    await house.displays.follow(house.workspace, newer.name, await house.shell(DISPLAY=f"localhost:{first}.0"))
    assert (newer.number, await is_answered(first), await is_answered(own)) == (first, True, False)
    assert house.said == f"remove unix:{first}.0\nadd unix:{first}.0 {COOKIE} {'aa' * 16}\n"


async def test_two_clients_on_one_shell_the_newest_has_its_display(house: House) -> None:
    older, newer = await house.open(), await house.open(DisplayRequest(COOKIE, "aa" * 16, 0, is_single=False))
    number = older.number
    await house.displays.follow(house.workspace, newer.name, await house.shell(DISPLAY=older.name))
    assert newer.number == number
    older.close()  # of its client: nothing that is another's by now
    assert await is_answered(number)
    newer.close()
    assert not await is_answered(number)


@pytest.mark.parametrize(
    "name",
    ["", ":0", "otherhost:10.0", "localhost:1.0", "localhost:99999.0", "localhost:-5", "localhost:" + "1" * 5000,
     "localhost:{first}.0x", "unix:{first}"],
)  # fmt: skip
async def test_what_is_no_display_of_ours_is_left_alone(house: House, newer: Display, name: str) -> None:
    own = newer.number
    pid = await house.shell(DISPLAY=name.format(first=displays.DISPLAY_FIRST))
    await house.displays.follow(house.workspace, newer.name, pid)
    assert (newer.number, await is_answered(own)) == (own, True)


async def test_shell_without_a_display_and_one_that_has_ended_change_nothing(house: House, newer: Display) -> None:
    own = newer.number
    await house.displays.follow(house.workspace, newer.name, await house.shell())
    await house.displays.follow(house.workspace, newer.name, 2**22 + 1)  # beyond every pid (proc(5), pid_max)
    assert (newer.number, await is_answered(own)) == (own, True)


async def test_number_that_somebody_else_has_by_now_is_theirs(house: House, newer: Display) -> None:
    first, own = displays.DISPLAY_FIRST, newer.number
    with socket.create_server(("127.0.0.1", PORT_OF_DISPLAY_0 + first)):
        await house.displays.follow(house.workspace, newer.name, await house.shell(DISPLAY=f"localhost:{first}.0"))
    assert (newer.number, await is_answered(own)) == (own, True)


async def test_number_of_another_workspace_s_client_is_not_taken_from_it(house: House) -> None:
    """A program says what it likes of the display that it was begun with."""
    theirs, newer = await house.open(), await house.open()
    theirs.workspace_id = "another"
    number = theirs.number
    await house.displays.follow(house.workspace, newer.name, await house.shell(DISPLAY=theirs.name))
    assert (theirs.number, newer.number != number, await is_answered(number)) == (number, True, True)
    theirs.close()
    newer.close()


@pytest.mark.parametrize("workspace_id", ["w", "another"])
async def test_display_that_lost_its_number_is_nobody_s_to_move(house: House, workspace_id: str) -> None:
    """All of them have one name: a client that lost its own could have the display of a stranger led to its shell."""
    theirs, number = await house.open(), displays.DISPLAY_FIRST
    theirs.workspace_id = workspace_id
    theirs.lose_number()
    await house.displays.follow(house.workspace, theirs.name, await house.shell(DISPLAY=f"localhost:{number}.0"))
    assert (theirs.number, await is_answered(number)) == (0, False)
    theirs.close()


async def test_display_of_another_workspace_is_not_found_by_its_name(house: House) -> None:
    theirs, number = await house.open(), displays.DISPLAY_FIRST + 7
    theirs.workspace_id = "another"
    await house.displays.follow(house.workspace, theirs.name, await house.shell(DISPLAY=f"localhost:{number}.0"))
    assert not await is_answered(number)
    theirs.close()


async def test_client_that_goes_while_its_display_moves_leaves_nothing(house: House, newer: Display) -> None:
    first = displays.DISPLAY_FIRST
    pid = await house.shell(DISPLAY=f"localhost:{first}.0")
    house.set_xauth("mkfifo $HOME/go; echo >$HOME/said; cat $HOME/go")
    (house.workspace.home / "said").unlink()
    following = asyncio.create_task(house.displays.follow(house.workspace, newer.name, pid))
    async with asyncio.timeout(10):
        while not (house.workspace.home / "said").exists():
            await asyncio.sleep(0.01)
    newer.close()
    (house.workspace.home / "go").write_text("")
    await following
    assert not await is_answered(first)


async def test_display_that_is_gone_follows_nobody(house: House) -> None:
    gone = await gone_before(house)
    started = len(house.keepers.made[0].started)
    await house.displays.follow(house.workspace, gone.name, 1)
    assert len(house.keepers.made[0].started) == started


async def test_numbers_are_spread_so_that_a_detached_shell_s_is_likely_free(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(displays, "DISPLAYS_SPREAD", 40)
    numbers = set()
    for _ in range(8):
        display = await house.open()
        numbers.add(display.number)
        display.close()
    assert len(numbers) > 1
