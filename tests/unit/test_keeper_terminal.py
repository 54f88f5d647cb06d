"""Encoded terminal modes (RFC 4254 §8) on a real PTY."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gateway.keeper.terminal import open_terminal


@pytest.fixture
def opened() -> Iterator[Any]:
    masters = []

    def attributes(modes: Mapping[int, int]) -> list[Any]:
        master, path = open_terminal((80, 24, 0, 0), modes)
        masters.append(master)
        assert path.startswith("/dev/pts/")
        assert not os.get_blocking(master)
        return termios.tcgetattr(master)

    yield attributes
    for master in masters:
        os.close(master)


def test_the_size_is_set(opened: Any) -> None:
    master, _ = open_terminal((132, 50, 7, 9), {})
    assert os.get_terminal_size(master) == (132, 50)
    os.close(master)


def test_without_modes_the_terminal_is_as_the_kernel_makes_it(opened: Any) -> None:
    assert opened({})[3] & termios.ECHO


def test_flags_are_set_and_cleared(opened: Any) -> None:
    attributes = opened({53: 0, 50: 1, 36: 0, 42: 1, 70: 0})
    assert not attributes[3] & termios.ECHO
    assert attributes[3] & termios.ISIG
    assert not attributes[0] & termios.ICRNL
    assert attributes[0] & 0x4000  # IUTF8
    assert not attributes[1] & termios.OPOST


def test_characters_are_set_and_255_means_none(opened: Any) -> None:
    characters = opened({3: 8, 1: 255})[6]
    assert characters[termios.VERASE] == b"\x08"
    assert characters[termios.VINTR] == b"\0"


def test_a_terminal_has_eight_bits_and_no_parity_whatever_was_asked_for(opened: Any) -> None:
    """glibc makes it an error to ask a PTY for seven bits or parity; it must not cost the login."""
    for modes in ({90: 1, 91: 0}, {90: 0, 91: 0}, {92: 1, 93: 1}):
        assert opened(modes | {53: 0})[2:4] == opened({53: 0})[2:4]


@pytest.mark.parametrize("modes", [{0: 1}, {11: 3}, {128: 12345}, {129: 0}, {255: 2**32 - 1}, {3: 2**32 - 1}])
def test_what_this_system_lacks_is_left_alone(opened: Any, modes: dict[int, int]) -> None:
    assert opened(modes)[4:6] == opened({})[4:6]
