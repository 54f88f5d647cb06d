"""The keeper's loop, one batch of events at a time, without a process of its own."""

from __future__ import annotations

import os
import select
import selectors
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gateway.keeper import protocol, server
from gateway.keeper.programs import Program, exit_from_status
from gateway.keeper.server import Keeper
from gateway.keeper.terminal import open_terminal


class Stage:
    """A keeper with one terminal whose program is this test: it has the slave."""

    def __init__(self, directory: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(directory / "s"))
        self._listener.listen()
        self.path = str(directory / "s")
        self.keeper = Keeper(self._listener, idle_seconds=60, terminals_max=10)
        master, slave = open_terminal((80, 24, 0, 0), {})
        self.slave = os.open(slave, os.O_RDWR | os.O_NOCTTY)
        self.program = self.keeper.programs.add("s1", os.getpid(), master)
        self.clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(self.path)
        client.settimeout(5)
        self.clients.append(client)
        self.turn()
        self.ask(client, "hello", gateway="g")
        return client

    def turn(self) -> None:
        self.keeper.handle(self.keeper._selector.select(0))

    def print(self, data: bytes) -> None:
        """What a program would; readable only once a worker of the kernel has passed it on."""
        os.write(self.slave, data)
        assert select.select([self.program.master], [], [], 10)[0]

    def ask(self, client: socket.socket, verb: str, **fields: object) -> tuple[protocol.Message, list[int]]:
        self.send(client, verb, **fields)
        self.turn()
        return self.answer(client)

    @staticmethod
    def send(client: socket.socket, verb: str, **fields: object) -> None:
        client.send(protocol.encode({"id": 1, "verb": verb, **fields}))

    @staticmethod
    def answer(client: socket.socket) -> tuple[protocol.Message, list[int]]:
        data, fds, _, _ = socket.recv_fds(client, protocol.MESSAGE_MAX_BYTES, 4)
        return protocol.decode(data), fds

    def event_of(self, fd: int) -> tuple[selectors.SelectorKey, int]:
        return self.keeper._selector.get_key(fd), selectors.EVENT_READ

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for ours in list(self.keeper.clients):
            self.keeper.drop_client(ours)
        for program in self.keeper.programs:
            self.keeper.forget(program)
        self.keeper._selector.close()
        self._listener.close()
        os.close(self.slave)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def test_output_that_waits_in_the_batch_of_its_adoption_goes_to_the_adopter(stage: Stage) -> None:
    """Both events in one batch, the adoption first: the drain handler that runs after it must not read, or 4 KiB
    end in a ring that nobody reads. It cost most of the kills under flood their bytes."""
    keeper, program = stage.keeper, stage.program
    keeper.disown(program)
    client = stage.connect()
    assert program.master is not None
    readable = stage.event_of(program.master)
    (request,) = (stage.event_of(ours.connection.fileno()) for ours in keeper.clients)
    stage.print(b"just in time")
    stage.send(client, "adopt", session="s1")
    keeper.handle([request, readable])
    values, fds = stage.answer(client)
    assert values["ok"]["ring_bytes"] == len(program.ring) == 0  # type: ignore[index]
    assert os.read(fds[0], 100) == b"just in time"
    os.close(fds[0])


def test_output_read_before_the_adoption_is_in_the_ring(stage: Stage) -> None:
    stage.keeper.disown(stage.program)
    stage.print(b"early")
    stage.turn()
    client = stage.connect()
    values, fds = stage.ask(client, "adopt", session="s1")
    ring, master = fds
    assert (os.pread(ring, 100, 0), values["ok"]["ring_bytes"]) == (b"early", 5)  # type: ignore[index]
    os.close(ring)
    os.close(master)


def test_an_event_of_a_client_dropped_in_the_same_batch_is_harmless(stage: Stage) -> None:
    client = stage.connect()
    (ours,) = stage.keeper.clients
    event = stage.event_of(ours.connection.fileno())
    client.close()
    stage.keeper.handle([event, event])
    assert stage.keeper.clients == []


def test_the_end_of_the_owner_makes_the_keeper_the_reader(stage: Stage) -> None:
    client = stage.connect()
    stage.program.owner = stage.keeper.clients[0]
    stage.print(b"unread")
    stage.turn()
    assert len(stage.program.ring) == 0
    client.close()
    stage.turn()
    stage.turn()
    assert stage.program.owner is None
    assert len(stage.program.ring) == len(b"unread")


def test_whoever_is_left_hears_that_a_program_is_nobodys(stage: Stage) -> None:
    """By a release, and by the end of its owner; never the one who let it go."""
    owner, other = stage.connect(), stage.connect()
    stage.program.owner = stage.keeper.clients[0]
    assert stage.ask(owner, "release", session="s1")[0] == {"id": 1, "ok": {}}
    assert stage.answer(other)[0] == {"event": "unowned", "session": "s1"}
    stage.program.owner = stage.keeper.clients[0]
    owner.close()
    stage.turn()
    assert stage.answer(other)[0] == {"event": "unowned", "session": "s1"}


def test_a_wish_is_passed_on_to_the_owner_and_takes_nothing(stage: Stage) -> None:
    owner, other = stage.connect(), stage.connect()
    stage.program.owner = stage.keeper.clients[0]
    assert stage.ask(other, "want", session="s1", how="release")[0]["ok"] == {"asked": True}
    assert stage.answer(owner)[0] == {"event": "wanted", "session": "s1", "how": "release"}
    assert stage.program.owner is stage.keeper.clients[0]
    assert stage.ask(owner, "keep", session="s1")[0] == {"id": 1, "ok": {}}
    assert stage.answer(other)[0] == {"event": "kept", "session": "s1"}
    assert stage.ask(other, "keep", session="s1")[0]["error"]["code"] == "owned"  # type: ignore[index]


def test_a_wish_for_what_is_ones_own_nobodys_or_unknown_asks_nobody(stage: Stage) -> None:
    client = stage.connect()
    assert stage.ask(client, "want", session="s1", how="end")[0]["ok"] == {"asked": False}
    stage.program.owner = stage.keeper.clients[0]
    assert stage.ask(client, "want", session="s1", how="end")[0]["ok"] == {"asked": False}
    assert stage.ask(client, "want", session="s2", how="end")[0]["error"]["code"] == "unknown_session"  # type: ignore[index]


def test_a_verb_that_fails_is_answered_and_ends_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    client = stage.connect()
    monkeypatch.setitem(server.VERBS, "stats", broken)
    values, _ = stage.ask(client, "stats")
    assert values["error"]["code"] == "failed"  # type: ignore[index]
    values, _ = stage.ask(client, "list")
    assert len(values["ok"]["programs"]) == 1  # type: ignore[index]


def test_a_listener_that_could_not_be_handed_over_leaves_no_path(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would ever ask for its removal."""
    client = stage.connect()
    send = server.Client.send

    def without_descriptors(ours: server.Client, message: protocol.Message, fds: Sequence[int] = ()) -> None:
        if fds:
            raise OSError("too many references")
        send(ours, message)

    monkeypatch.setattr(server.Client, "send", without_descriptors)
    values, _ = stage.ask(client, "listen", path=str(tmp_path / "x"))
    assert values["error"]["code"] == "failed"  # type: ignore[index]
    assert not (tmp_path / "x").exists()
    assert stage.keeper.clients[0].listening_paths == {}


def test_a_client_that_does_not_read_its_events_is_dropped_in_the_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.keeper.client.QUEUE_MAX_MESSAGES", 3)
    stage.connect()
    (ours,) = stage.keeper.clients
    for number in range(10_000):
        stage.keeper.tell(ours, {"event": "exit", "session": f"{number:0500}"})
        if ours.is_closed:
            break
    assert stage.keeper.clients == []


def test_the_oldest_exits_make_room(stage: Stage) -> None:
    table = stage.keeper.programs
    table._exits_max = 2
    programs = [table.add(f"p{number}", 1000 + number, None) for number in range(4)]
    for program in programs:
        stage.keeper._note_exit(program, 0)
    assert [program.session for program in table if program.exit] == ["p2", "p3"]


def test_a_hang_up_is_followed_by_a_kill_when_nothing_came_of_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    monkeypatch.setattr(os, "killpg", lambda pid, number: sent.append(number))
    monkeypatch.setattr(Program, "kill", lambda program: sent.append("kill"))
    monkeypatch.setattr(Keeper, "reap", lambda keeper: None)
    stage.keeper.hang_up(stage.program)
    assert sent == [signal.SIGHUP, signal.SIGCONT]
    due = stage.program.kill_at
    assert due is not None
    stage.keeper.tick(due - 0.1)
    assert sent[2:] == []
    stage.keeper.tick(due)
    stage.keeper.tick(due + 10)
    assert sent[2:] == ["kill"]


def test_a_line_that_drops_kills_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "killpg", lambda pid, number: None)
    stage.keeper.hang_up(stage.program, then_kill=False)
    assert (stage.program.kill_at, stage.program.master) == (None, None)
    assert stage.program.describe()["terminal"] is False, "nobody can adopt what has no terminal"
    stage.keeper.hang_up(stage.program)
    assert stage.program.kill_at is not None, "but it can still be asked for"


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (7 << 8, {"code": 7}),
        (15, {"signal": "TERM", "core": False}),
        (11 | 0x80, {"signal": "SEGV", "core": True}),
        (40, {"signal": "RT40", "core": False}),
    ],
)
def test_a_wait_status_is_a_code_or_a_signal(status: int, meaning: dict[str, object]) -> None:
    assert exit_from_status(status) == meaning
