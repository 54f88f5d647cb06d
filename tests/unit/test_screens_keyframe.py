"""Keyframes are caches: whatever is not right about one is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.interfaces import StreamPosition
from gateway.recording.screen import keyframe
from gateway.recording.screen.keyframe import Keyframe, KeyframeUnusable

FRAME = Keyframe(StreamPosition(7, 1234), 99_000, True, b"snapshot " * 100)
CONTENT = keyframe.to_bytes(FRAME, stamp="library 1")


def test_it_comes_back_as_it_was() -> None:
    assert keyframe.from_bytes(CONTENT, stamp="library 1") == FRAME


def test_cut_anywhere_it_is_not_used() -> None:
    for length in range(len(CONTENT)):
        with pytest.raises(KeyframeUnusable):
            keyframe.from_bytes(CONTENT[:length], stamp="library 1")


def test_with_any_wrong_byte_it_is_not_used() -> None:
    for at in range(len(CONTENT)):
        damaged = bytearray(CONTENT)
        damaged[at] ^= 0x10
        with pytest.raises(KeyframeUnusable):
            keyframe.from_bytes(bytes(damaged), stamp="library 1")


def test_another_librarys_is_not_used() -> None:
    with pytest.raises(KeyframeUnusable, match="another version"):
        keyframe.from_bytes(CONTENT, stamp="library 2")


def test_storing_replaces_whole_files_that_only_we_may_read(tmp_path: Path) -> None:
    path = tmp_path / "a.screen"
    keyframe.store(path, b"first")
    keyframe.store(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["a.screen"]


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.screen"
    keyframe.store(path, b"first")
    real = os.fdopen

    def full(fd: int, mode: str) -> object:
        real(fd, mode).close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keyframe.os, "fdopen", full)
    with pytest.raises(OSError, match="No space"):
        keyframe.store(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a.screen"]
