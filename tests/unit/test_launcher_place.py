"""The directory of a keeper: its lock, its socket, and what a dead one leaves."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from gateway.errors import KeeperGone
from gateway.launchers.place import KeeperNote, KeeperPlace
from gateway.launchers.published_socket import PublishedSocket
from gateway.launchers.scratch import empty_directory
from gateway.state import SOCKET_PATH_MAX_BYTES


@pytest.fixture
def place(tmp_path: Path) -> KeeperPlace:
    deep = tmp_path.joinpath(*["a-directory-of-thirty-letters-x"] * 5)  # far beyond what a socket's path may have
    place = KeeperPlace(deep, "w1")
    place.make()
    return place


@pytest.mark.parametrize("workspace_id", ["", "..", "a/b", "a.b", "x" * 65])
def test_an_id_that_is_no_file_name_is_our_own_mistake(tmp_path: Path, workspace_id: str) -> None:
    with pytest.raises(ValueError, match="workspace id"):
        KeeperPlace(tmp_path, workspace_id)


def test_the_lock_is_held_by_whoever_inherited_it(place: KeeperPlace) -> None:
    lock = place.try_lock()
    assert lock is not None
    inherited = os.dup(lock)
    os.close(lock)
    assert place.try_lock() is None
    os.close(inherited)
    again = place.try_lock()
    assert again is not None
    os.close(again)


def test_a_lock_on_a_file_that_was_removed_meanwhile_does_not_count(place: KeeperPlace) -> None:
    first = place.try_lock()
    assert first is not None
    place.remove_remains()
    place.make()
    second = place.try_lock()
    assert second is not None
    assert place.try_lock() is None
    os.close(first)
    os.close(second)


def test_the_socket_is_reachable_however_deep_it_lies_and_for_its_owner_alone(place: KeeperPlace) -> None:
    with place.listen() as listener:
        assert stat.S_IMODE((place.directory / "keeper.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE(place.directory.stat().st_mode) == 0o700
        with place.connect() as client:
            accepted, _ = listener.accept()
            accepted.send(b"hello")
            assert client.recv(10) == b"hello"
            accepted.close()
    with pytest.raises(KeeperGone):
        place.connect()
    place.listen().close()  # over the remains of the first


def test_a_note_that_cannot_be_read_says_nothing(place: KeeperPlace) -> None:
    place.write_note(KeeperNote("bubblewrap", 17))
    assert place.read_note() == KeeperNote("bubblewrap", 17)
    for text in ("", "{", "[]", '{"launcher": 1}'):
        (place.directory / "keeper.json").write_text(text)
        assert place.read_note() == KeeperNote("", None)


def test_nothing_is_killed_when_no_keeper_holds_the_lock(place: KeeperPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The noted number may belong to somebody else by now."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(pid))
    place.write_note(KeeperNote("none", 4711))
    place.kill()
    assert killed == []
    lock = place.try_lock()
    assert lock is not None
    place.kill()
    place.status.write_text('{ "child-pid": 4712, "x": 1 }\n{ "exit-code": 0 }\n')
    place.kill()
    os.close(lock)
    assert killed == [4711, 4712]


def test_the_remains_of_a_dead_keeper_go_but_a_spool_stays(place: KeeperPlace) -> None:
    place.listen().close()
    place.write_note(KeeperNote("none", 1))
    (place.directory / "session.spool").touch()
    place.remove_remains()
    assert os.listdir(place.directory) == ["session.spool"]


def test_an_emptied_directory_is_new_at_once_and_the_old_one_goes_beside(tmp_path: Path) -> None:
    directory = tmp_path / "tmp"
    (directory / "a" / "b").mkdir(parents=True)
    (directory / "a").chmod(0)
    (tmp_path / "tmp.old-left-over").mkdir()
    empty_directory(directory)
    assert os.listdir(directory) == []
    for thread in threading.enumerate():
        if thread.name == "scratch-removal":
            thread.join(timeout=20)
    assert os.listdir(tmp_path) == ["tmp"]


def test_a_link_in_place_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (tmp_path / "tmp").symlink_to(elsewhere)
    empty_directory(tmp_path / "tmp")
    assert not (tmp_path / "tmp").is_symlink()
    assert (elsewhere / "precious").exists()


def test_agent_s_path_under_a_runtime_directory_of_50_bytes_is_one_that_programs_can_use() -> None:
    place = KeeperPlace(Path("/" + "r" * 49), "01932b7e-8f3c-7c4e-9d31-5a1f0c8e2b77")
    assert len(os.fsencode(place.agent_socket)) <= SOCKET_PATH_MAX_BYTES


def test_remains_of_a_dead_gateway_s_agent_go_with_those_of_the_keeper(place: KeeperPlace) -> None:
    PublishedSocket(place.agent_directory).publish().close()
    place.remove_remains()
    assert not place.directory.exists()
