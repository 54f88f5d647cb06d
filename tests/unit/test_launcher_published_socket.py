"""The agent's socket: made, replaced and removed in one step each, and only by whoever made it."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from gateway.launchers.published_socket import SOCKET_NAME, PublishedSocket


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    deep = tmp_path.joinpath(*["a-directory-of-thirty-letters-x"] * 5)  # far beyond what a socket's path may have
    deep.mkdir(parents=True)
    return deep / "agent"


def answers(directory: Path, listener: socket.socket) -> bool:
    """Whether a program that connects to the path reaches this listener."""
    fd = os.open(directory, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as program:
            program.connect(f"/proc/self/fd/{fd}/{SOCKET_NAME}")
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                return False
            return True
    finally:
        os.close(fd)


def test_published_socket_answers_and_is_its_owner_s_alone(directory: Path) -> None:
    agent = PublishedSocket(directory)
    with agent.publish() as listener:
        assert answers(directory, listener)
        assert stat.S_IMODE((directory / SOCKET_NAME).stat().st_mode) == 0o600
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert os.listdir(directory) == [SOCKET_NAME]
        assert agent.is_published
        agent.withdraw()
    assert os.listdir(directory) == []
    agent.withdraw()  # twice is harmless


def test_newer_socket_takes_the_path_and_the_older_owner_leaves_it_alone(directory: Path) -> None:
    """Two gateways, while one drains: the old one must not take away what the new one made."""
    old, new = PublishedSocket(directory), PublishedSocket(directory)
    with old.publish(), new.publish() as listener:
        assert not old.is_published
        old.withdraw()
        assert answers(directory, listener)
        new.withdraw()


def test_remains_are_what_nobody_listens_at(directory: Path) -> None:
    dead, live = PublishedSocket(directory), PublishedSocket(directory)
    dead.publish().close()
    (directory / "half-made").touch()
    PublishedSocket(directory).remove_remains()
    assert os.listdir(directory) == []
    with live.publish() as listener:
        PublishedSocket(directory).remove_remains()
        listener.accept()[0].close()  # the question itself was a connection
        assert answers(directory, listener)
        live.withdraw()


def test_full_queue_counts_as_listened_at(directory: Path) -> None:
    agent = PublishedSocket(directory)
    with agent.publish() as listener:
        listener.listen(0)
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(3)]
        fd = os.open(directory, os.O_PATH)
        for one in waiting:
            try:
                one.connect(f"/proc/self/fd/{fd}/{SOCKET_NAME}")
            except BlockingIOError:
                break
        os.close(fd)
        PublishedSocket(directory).remove_remains()
        assert agent.is_published
        for one in waiting:
            one.close()


def test_missing_directory_has_no_remains_and_a_vanished_one_is_made_again(directory: Path) -> None:
    agent = PublishedSocket(directory)
    agent.remove_remains()
    agent.publish().close()
    (directory / SOCKET_NAME).unlink()
    directory.rmdir()
    assert not agent.is_published
    with agent.publish() as listener:
        assert answers(directory, listener)


def test_failed_publication_leaves_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    agent = PublishedSocket(directory)
    with pytest.raises(OSError, match="No space"):
        agent.publish()
    assert os.listdir(directory) == []
    assert not agent.is_published


def test_socket_that_may_not_be_removed_any_more_is_left(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without walls a program can close the directory; that must not keep a connection from ending."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    agent = PublishedSocket(directory)
    with agent.publish():
        monkeypatch.setattr(Path, "unlink", refuse)
        agent.withdraw()
    assert not agent.is_published
