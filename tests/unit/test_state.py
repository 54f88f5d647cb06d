"""Where a state and its runtime directory come to lie, and what is refused with which words."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.errors import StartRefused
from gateway.state import SOCKET_PATH_MAX_BYTES, Owner, Places, StateLock, claim, find, prepare

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
as_other = pytest.mark.skipif(os.geteuid() == 0, reason="root has /run and may write everywhere")


@dataclass(frozen=True)
class Settings:
    state_dir: Path
    runtime_dir: Path | None = None


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """tmp_path is too deep for socket paths on some machines."""
    path = Path(f"/tmp/hp-state-{os.getpid()}")
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def made_in_tmp(places: Places) -> Path:
    assert places.runtime_dir.parent == Path("/tmp")
    return places.runtime_dir


def test_everything_is_made_and_closed_to_others(short_dir: Path) -> None:
    places = prepare(Settings(short_dir / "state", short_dir / "run"))
    made = [places.state_dir, places.runtime_dir, places.keys_dir, places.workspaces_dir, places.recordings_dir]
    made += [places.backups_dir, places.archive_dir, places.keepers_dir, places.spools_dir]
    assert {mode_of(path) for path in made} == {0o700}
    assert places.control_socket.parent == places.runtime_dir


def test_preparing_twice_changes_nothing(short_dir: Path) -> None:
    settings = Settings(short_dir / "state", short_dir / "run")
    first = prepare(settings)
    (first.keys_dir / "kept").write_text("x")
    assert prepare(settings) == first
    assert (first.keys_dir / "kept").read_text() == "x"


def test_an_open_state_of_ours_is_closed_again(short_dir: Path) -> None:
    places = prepare(Settings(short_dir / "state", short_dir / "run"))
    places.state_dir.chmod(0o755)
    prepare(Settings(short_dir / "state", short_dir / "run"))
    assert mode_of(places.state_dir) == 0o700


def test_every_socket_path_fits_however_deep_the_clone_is(short_dir: Path) -> None:
    deep = short_dir.joinpath(*["a-rather-long-directory-name"] * 6)
    places = prepare(Settings(deep / ".homeport"), environment={"XDG_RUNTIME_DIR": str(deep)})
    try:
        longest = places.keepers_dir / "01932b7e-8f3c-7c4e-9d31-5a1f0c8e2b77" / "keeper.sock"
        assert len(os.fsencode(longest)) <= SOCKET_PATH_MAX_BYTES
    finally:
        shutil.rmtree(places.runtime_dir)


@as_other
def test_without_a_runtime_directory_a_private_one_is_made_and_found_again(short_dir: Path) -> None:
    settings = Settings(short_dir / "state")
    first = made_in_tmp(prepare(settings, environment={}))
    try:
        assert mode_of(first) == 0o700
        # A later start with a proper XDG_RUNTIME_DIR still goes where the keepers are.
        later = prepare(settings, environment={"XDG_RUNTIME_DIR": str(short_dir)})
        assert later.runtime_dir == first
        found = find(settings)
        assert found is not None
        assert found.runtime_dir == first
    finally:
        shutil.rmtree(first)


def test_a_runtime_directory_that_vanished_is_made_anew(short_dir: Path) -> None:
    settings = Settings(short_dir / "state")
    first = prepare(settings, environment={})
    shutil.rmtree(first.runtime_dir)
    second = prepare(settings, environment={})
    assert second.keepers_dir.is_dir()
    shutil.rmtree(second.runtime_dir)


@pytest.mark.parametrize("disguise", ["link", "open to others"])
def test_a_recorded_runtime_directory_that_others_could_have_made_is_not_trusted(
    short_dir: Path, disguise: str
) -> None:
    state, trap = short_dir / "state", short_dir / "trap"
    prepare(Settings(state, short_dir / "run"))
    (state / "runtime-dir").write_text(f"{trap}\n")
    if disguise == "link":
        trap.symlink_to(short_dir / "run")
    else:
        trap.mkdir(mode=0o755)
    places = prepare(Settings(state), environment={})
    assert places.runtime_dir != trap
    shutil.rmtree(places.runtime_dir)


def test_two_states_get_two_runtime_directories(short_dir: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(short_dir), "HOME": str(short_dir)}
    first = prepare(Settings(short_dir / "one"), environment=environment)
    second = prepare(Settings(short_dir / "two"), environment=environment)
    try:
        assert first.runtime_dir != second.runtime_dir
    finally:
        for places in (first, second):
            shutil.rmtree(places.runtime_dir)


def test_a_runtime_directory_of_another_state_is_refused(short_dir: Path) -> None:
    prepare(Settings(short_dir / "one", short_dir / "run"))
    with pytest.raises(StartRefused, match="two gateways cannot share one"):
        prepare(Settings(short_dir / "two", short_dir / "run"))


def test_systemds_runtime_directory_is_used(short_dir: Path) -> None:
    (short_dir / "run").mkdir(mode=0o755)
    places = prepare(Settings(short_dir / "state"), environment={"RUNTIME_DIRECTORY": str(short_dir / "run")})
    assert places.runtime_dir == short_dir / "run"


def test_a_named_runtime_directory_that_is_too_deep_is_refused_with_the_room_there_is(short_dir: Path) -> None:
    with pytest.raises(StartRefused, match=r"HOMEPORT_RUNTIME_DIR = .* is \d+ bytes long, and socket paths allow 50"):
        prepare(Settings(short_dir / "state", short_dir / ("r" * 60)))


def test_a_directory_full_of_other_things_is_not_taken_over(short_dir: Path) -> None:
    (short_dir / "photos").mkdir()
    with pytest.raises(StartRefused, match=r"not empty and holds nothing of Homeport \('photos', for one\)"):
        prepare(Settings(short_dir))
    assert mode_of(short_dir) == 0o755


def test_a_file_in_the_way_is_one_sentence(short_dir: Path) -> None:
    (short_dir / "file").write_text("")
    with pytest.raises(
        StartRefused, match=r"cannot use the state .*: .*a part of the path is a file.*HOMEPORT_STATE_DIR"
    ):
        prepare(Settings(short_dir / "file" / "state"))


@as_other
def test_an_unwritable_place_is_one_sentence_with_the_fix() -> None:
    with pytest.raises(StartRefused, match=r"permission denied; make it writable .*HOMEPORT_STATE_DIR"):
        prepare(Settings(Path("/etc/homeport-test/state")))


def test_finding_changes_nothing(short_dir: Path) -> None:
    assert find(Settings(short_dir / "state")) is None
    assert not (short_dir / "state").exists()


@as_root
def test_root_gives_a_fresh_state_and_its_old_content_away_but_not_the_trial_key(short_dir: Path) -> None:
    state = short_dir / "state"
    (state / "keys").mkdir(parents=True)
    (state / "trial").mkdir()
    (state / "keys" / "outside").symlink_to("/etc/hostname")
    claim(Settings(state, short_dir / "run"), Owner(12345, 12345))
    assert {state.stat().st_uid, (state / "keys").stat().st_uid, (short_dir / "run").stat().st_uid} == {12345}
    assert (state / "trial").stat().st_uid == 0
    assert ((state / "keys" / "outside").lstat().st_uid, Path("/etc/hostname").stat().st_uid) == (12345, 0)


@as_root
def test_a_state_of_another_account_is_refused(short_dir: Path) -> None:
    claim(Settings(short_dir / "state", short_dir / "run"), Owner(12345, 12345))
    with pytest.raises(StartRefused, match=r"belongs to uid 12345, and this is uid 23456"):
        claim(Settings(short_dir / "state", short_dir / "run"), Owner(23456, 23456))


def test_a_second_holder_is_refused_and_told_who_the_first_is(short_dir: Path) -> None:
    path = short_dir / "gateway.lock"
    with StateLock(path), pytest.raises(StartRefused, match=rf"in use by process {os.getpid()};.*homeport stop"):
        StateLock(path).acquire()
    with StateLock(path):
        pass


def test_a_lock_that_was_passed_on_is_free_only_when_both_have_let_go(short_dir: Path) -> None:
    """In whichever order: a reload that failed leaves it with the old gateway, one that went well with the new."""
    path = short_dir / "gateway.lock"
    for is_old_first in (True, False):
        old = StateLock(path)
        old.acquire()
        new = StateLock(path, inherited_fd=os.dup(old.fileno()))
        new.acquire()
        first, last = (old, new) if is_old_first else (new, old)
        first.release()
        with pytest.raises(StartRefused, match="in use"):
            StateLock(path).acquire()
        last.release()
        with StateLock(path):
            pass


def test_a_lock_of_another_state_is_not_taken_for_this_ones(short_dir: Path) -> None:
    with StateLock(short_dir / "old.lock") as old, StateLock(short_dir / "new.lock"):
        inherited = StateLock(short_dir / "new.lock", inherited_fd=os.dup(old.fileno()))
        with pytest.raises(StartRefused, match="a reload keeps the state"):
            inherited.acquire()
        inherited.release()


def test_the_holder_is_whoever_signed_last(short_dir: Path) -> None:
    path = short_dir / "gateway.lock"
    path.write_text("12345678901234567890\n")
    with StateLock(path) as lock:
        assert lock.holder_pid() == os.getpid()
