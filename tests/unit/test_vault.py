"""Secrets at rest: only the right place, the right key and the untouched text open."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SecretUnreadable, StartRefused, StoreUnavailable
from gateway.github.vault import Place, Sealed, Vault

PLACE = Place("settings", "singleton", "github_token")
SECRET = "gho_16C7e42F292c6912E7710c838347Ae178B4a"


@pytest.fixture
def keys_dir(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    return tmp_path / "keys"


@pytest.fixture
def vault(keys_dir: Path) -> Vault:
    return Vault(keys_dir)


def flipped(text: str, index: int) -> str:
    return text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]


def test_what_was_sealed_opens_in_its_place_and_nowhere_shows(vault: Vault):
    sealed = vault.seal(SECRET, PLACE)
    assert vault.open(sealed, PLACE) == SECRET
    assert SECRET not in sealed.ciphertext + sealed.iv


def test_the_same_secret_never_looks_the_same_twice(vault: Vault):
    """A cipher that ignores its nonce would show that two tokens are the same."""
    made = [vault.seal(SECRET, PLACE) for _ in range(50)]
    assert len({sealed.iv for sealed in made}) == len({sealed.ciphertext for sealed in made}) == 50


@pytest.mark.parametrize("place", [
    replace(PLACE, table="sessions"), replace(PLACE, row="other"), replace(PLACE, column="github_refresh_token"),
])  # fmt: skip
def test_a_secret_that_was_moved_does_not_open(vault: Vault, place: Place):
    with pytest.raises(SecretUnreadable, match="changed, or belongs to another row"):
        vault.open(vault.seal(SECRET, PLACE), place)


def test_no_changed_character_goes_unnoticed(vault: Vault):
    sealed = vault.seal(SECRET, PLACE)
    for index in range(len(sealed.ciphertext)):
        with pytest.raises(SecretUnreadable):
            vault.open(replace(sealed, ciphertext=flipped(sealed.ciphertext, index)), PLACE)
    for index in range(len(sealed.iv)):
        with pytest.raises(SecretUnreadable):
            vault.open(replace(sealed, iv=flipped(sealed.iv, index)), PLACE)


@given(ciphertext=st.text(max_size=200), iv=st.text(max_size=40))
def test_nonsense_in_the_columns_is_a_clear_error_and_nothing_else(tmp_path_factory, ciphertext: str, iv: str):
    vault = Vault(tmp_path_factory.getbasetemp())
    with pytest.raises(SecretUnreadable, match="log in again"):
        vault.open(Sealed(ciphertext, iv), PLACE)


@pytest.mark.parametrize("key_id", ["../../etc/passwd", "000001-aaaaaaaaaaaa/../x", "", "000001-AAAAAAAAAAAA"])
def test_a_key_s_name_in_the_database_never_becomes_another_file(vault: Vault, key_id: str):
    with pytest.raises(SecretUnreadable, match="not in a format"):
        vault.open(Sealed(f"v1.{key_id}.AAAA", "AAAA"), PLACE)


def test_a_secret_whose_key_is_gone_says_which(vault: Vault, keys_dir: Path):
    sealed = vault.seal(SECRET, PLACE)
    [key] = keys_dir.iterdir()
    key.unlink()
    with pytest.raises(SecretUnreadable, match=key.name):
        vault.open(sealed, PLACE)


def test_the_first_use_makes_one_key_that_only_its_owner_may_read(vault: Vault, keys_dir: Path):
    old = os.umask(0)
    try:
        vault.seal(SECRET, PLACE)
        vault.seal(SECRET, PLACE)
    finally:
        os.umask(old)
    [key] = keys_dir.iterdir()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_key_that_others_may_read_is_refused_with_the_command_that_repairs_it(vault: Vault, keys_dir: Path):
    sealed = vault.seal(SECRET, PLACE)
    [key] = keys_dir.iterdir()
    key.chmod(0o640)
    with pytest.raises(StartRefused, match=f"chmod 600 {key}"):
        vault.open(sealed, PLACE)


def test_a_key_that_is_a_link_is_not_followed(vault: Vault, keys_dir: Path, tmp_path: Path):
    sealed = vault.seal(SECRET, PLACE)
    [key] = keys_dir.iterdir()
    key.rename(tmp_path / "elsewhere")
    key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartRefused, match="cannot be read"):
        vault.open(sealed, PLACE)


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 44, b"A" * 43 + b"\n"])
def test_a_damaged_key_is_named(vault: Vault, keys_dir: Path, content: bytes):
    sealed = vault.seal(SECRET, PLACE)
    [key] = keys_dir.iterdir()
    key.write_bytes(content)
    with pytest.raises(StartRefused, match="is damaged"):
        vault.open(sealed, PLACE)


def test_the_newest_key_seals_and_older_ones_still_open(vault: Vault):
    old = vault.seal(SECRET, PLACE)
    key_id = vault.make_key()
    new = vault.seal(SECRET, PLACE)
    assert new.ciphertext.split(".")[1] == key_id == vault.key_ids()[-1]
    assert vault.open(old, PLACE) == vault.open(new, PLACE) == SECRET


def test_the_newest_key_is_known_whatever_the_clock_says(vault: Vault, monkeypatch: pytest.MonkeyPatch):
    vault.make_key()
    monkeypatch.setattr("time.time_ns", lambda: 0)
    monkeypatch.setattr("time.time", lambda: 0.0)
    newest = vault.make_key()
    assert vault.key_ids()[-1] == newest


def test_removing_old_keys_clears_what_an_interrupted_rotation_left(vault: Vault, keys_dir: Path):
    vault.make_key()
    (keys_dir / "vault-000002-aaaaaaaaaaaa.new").write_bytes(b"half")
    (keys_dir / "host_ed25519").write_bytes(b"not ours")
    newest = vault.make_key()
    assert vault.remove_keys(before=newest) == 1
    assert sorted(path.name for path in keys_dir.iterdir()) == ["host_ed25519", f"vault-{newest}.key"]


def test_a_rotation_that_comes_late_leaves_the_newer_key(vault: Vault):
    vault.make_key()
    late = vault.make_key()
    newest = vault.make_key()
    assert vault.remove_keys(before=late) == 1
    assert vault.key_ids() == [late, newest]


def test_a_key_that_cannot_be_written_whole_leaves_nothing(
    vault: Vault, keys_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnavailable, match="No space left"):
        vault.seal(SECRET, PLACE)
    assert list(keys_dir.iterdir()) == []
