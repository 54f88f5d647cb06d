"""Whose turn it is in the screens process. No library, no process: jobs that only say that they were worked on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("pyghostty")

from gateway.interfaces import StreamPosition
from gateway.recording.screen import worker as worker_module
from gateway.recording.screen.protocol import MESSAGE_BYTES_MAX, Request, Verb, reply_from_bytes
from gateway.recording.screen.worker import Job, Worker


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def gateway(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    ends[0].settimeout(5)
    return ends[0]


@pytest.fixture
def worker(ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """Each step takes all the time a session gets."""
    monkeypatch.setattr(worker_module, "STEPS_SECONDS", 0.0)
    note_fd = os.memfd_create("note")
    yield Worker(ends[1], note_fd, history_lines=10)
    os.close(note_fd)


def worked_on(worker: Worker, monkeypatch: pytest.MonkeyPatch, requests: list[Request], *, steps: int) -> list[int]:
    """The ids of the requests in the order of their steps."""
    order: list[int] = []

    def counted(job: Job) -> Iterator[None]:
        for _ in range(steps):
            order.append(job.request.id)
            yield

    monkeypatch.setattr(worker, "_steps", counted)
    for request in requests:
        worker._accept(request, [])
    while worker._queues:
        worker._work()
    return order


def request(number: int, verb: Verb, session_id: str) -> Request:
    return Request(number, verb, session_id, until=StreamPosition(1, 1))


def test_long_ways_take_turns(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    follows = [request(number, Verb.FOLLOW, f"s{number}") for number in (1, 2, 3)]
    assert worked_on(worker, monkeypatch, follows, steps=2) == [1, 2, 3, 1, 2, 3]


def test_somebody_who_waits_goes_first(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    follows = [request(number, Verb.FOLLOW, f"s{number}") for number in (1, 2)]
    urgent = [request(3, Verb.PAINT, "s3"), request(4, Verb.ANSWERS, "s4")]
    assert worked_on(worker, monkeypatch, [*follows, *urgent], steps=2) == [3, 4, 3, 4, 1, 2, 1, 2]


def test_who_waits_for_a_session_on_a_long_way_has_that_way_done_first(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [request(1, Verb.FOLLOW, "other"), request(2, Verb.FOLLOW, "s"), request(3, Verb.PAINT, "s")]
    assert worked_on(worker, monkeypatch, requests, steps=2) == [2, 2, 3, 3, 1, 1]


def test_what_fails_fails_alone(worker: Worker, gateway: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(job: Job) -> Iterator[None]:
        yield
        raise ValueError("words")

    monkeypatch.setattr(worker, "_steps", failing)
    worker._accept(request(1, Verb.PAINT, "s"), [])
    while worker._queues:
        worker._work()
    assert reply_from_bytes(gateway.recv(MESSAGE_BYTES_MAX), []).text == "ValueError: words"


def test_forgetting_ends_what_was_asked(worker: Worker, gateway: socket.socket) -> None:
    read_fd, write_fd = os.pipe()
    os.close(write_fd)
    asked = Request(1, Verb.FOLLOW, "s", until=StreamPosition(1, 1), files=("spool",))
    worker._accept(asked, [read_fd])
    worker._accept(Request(2, Verb.FORGET, "s"), [])
    assert reply_from_bytes(gateway.recv(MESSAGE_BYTES_MAX), []).text == "forgotten"
    assert not worker._queues
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(read_fd)


def test_requests_survive_the_way(worker: Worker) -> None:
    sent = Request(
        7, Verb.PAINT, "s", StreamPosition(1, 2), StreamPosition(3, 4), notice="zurück ünd", files=("spool",)
    )
    assert Request.from_bytes(sent.to_bytes()) == sent
