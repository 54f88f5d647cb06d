"""Whose keys a trial trusts: those in ~/.ssh that can really be used, with a note about every other."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from gateway.caller_keys import CallerKeys, find_keys, make_trial_key
from gateway.errors import StartRefused
from gateway.public_key import parse_public_key

NO_AGENT: frozenset[bytes] = frozenset()


def make_key(folder: Path, name: str = "id_ed25519", *, passphrase: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "ana@laptop", "-f", str(folder / name)]
    subprocess.run(command, check=True)
    return folder / name


def test_a_default_key_is_taken_and_needs_no_option(tmp_path: Path) -> None:
    private = make_key(tmp_path)
    found = find_keys(tmp_path, in_agent=NO_AGENT)
    assert found == CallerKeys((private.with_suffix(".pub").read_text().strip(),))


def test_a_passphrase_does_not_matter(tmp_path: Path) -> None:
    make_key(tmp_path, passphrase="secret words")
    assert find_keys(tmp_path, in_agent=NO_AGENT).notes == ()


def test_a_key_under_another_name_is_named_on_the_line(tmp_path: Path) -> None:
    private = make_key(tmp_path, "github")
    assert find_keys(tmp_path, in_agent=NO_AGENT).identity == str(private)


def test_a_public_key_without_its_private_one_is_passed_over(tmp_path: Path) -> None:
    make_key(tmp_path).unlink()
    found = find_keys(tmp_path, in_agent=NO_AGENT)
    assert found.lines == ()
    assert "id_ed25519.pub passed over: its private key is neither in" in found.notes[0]


def test_a_public_key_whose_private_one_is_in_the_agent_is_taken(tmp_path: Path) -> None:
    private = make_key(tmp_path, "work")
    key = parse_public_key(private.with_suffix(".pub").read_text())
    private.unlink()
    found = find_keys(tmp_path, in_agent=frozenset({key.blob}))
    assert (found.lines, found.identity) == ((key.line,), None)


def test_a_public_key_of_another_private_key_is_passed_over(tmp_path: Path) -> None:
    make_key(tmp_path / "new")
    private = make_key(tmp_path)
    shutil.copy(tmp_path / "new" / "id_ed25519", private)
    assert "not the public half of id_ed25519" in find_keys(tmp_path, in_agent=NO_AGENT).notes[0]


def test_a_private_key_that_ssh_would_refuse_is_passed_over(tmp_path: Path) -> None:
    make_key(tmp_path).chmod(0o644)
    assert "chmod 600" in find_keys(tmp_path, in_agent=NO_AGENT).notes[0]


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"ssh-ed25519\n", b"a\nb\n", b"ssh-rsa-cert-v01@openssh.com AAAA"]
)
def test_a_malformed_file_is_one_note_and_the_others_are_taken(tmp_path: Path, content: bytes) -> None:
    make_key(tmp_path)
    (tmp_path / "odd.pub").write_bytes(content)
    found = find_keys(tmp_path, in_agent=NO_AGENT)
    assert len(found.lines) == 1
    assert len(found.notes) == 1
    assert found.notes[0].startswith("odd.pub passed over: ")


def test_no_ssh_folder_is_no_key(tmp_path: Path) -> None:
    assert find_keys(tmp_path / ".ssh", in_agent=NO_AGENT) == CallerKeys()


def test_what_was_found_survives_the_way_to_the_account() -> None:
    keys = CallerKeys(("ssh-ed25519 AAAA ana",), "/home/ana/ü key", is_trial_key=True, notes=("a", "b"))
    assert CallerKeys.from_bytes(keys.to_bytes()) == keys


def test_a_trial_key_is_made_once_and_works_with_ssh_keygen(tmp_path: Path) -> None:
    line = make_trial_key(tmp_path)
    private = tmp_path / "trial" / "id_ed25519"
    shown = subprocess.run(["ssh-keygen", "-y", "-f", private], check=True, capture_output=True, text=True).stdout
    assert shown.split()[:2] == line.split()[:2]
    assert (stat.S_IMODE(private.stat().st_mode), private.stat().st_uid) == (0o600, os.geteuid())
    assert make_trial_key(tmp_path) == line


@pytest.mark.parametrize("trap", ["open to others", "link"])
def test_a_trial_folder_that_others_could_have_prepared_is_refused(tmp_path: Path, trap: str) -> None:
    if trap == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (tmp_path / "trial").symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "trial").mkdir(mode=0o755)
    with pytest.raises(StartRefused, match="trial"):
        make_trial_key(tmp_path)
    assert list(tmp_path.rglob("id_ed25519*")) == []
