"""What gateway and keeper say to each other, and that any Python from 3.9 on can run the keeper."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gateway.keeper
from gateway.keeper import protocol

FILES = sorted(Path(gateway.keeper.__file__).parent.glob("*.py"))


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_arrive_as_they_were(value: bytes) -> None:
    message = protocol.decode(protocol.encode({"path": protocol.to_text(value), "list": [protocol.to_text(value)]}))
    assert protocol.to_bytes(str(message["path"])) == value


def test_bytes_that_are_not_ascii_take_no_more_room_than_they_have() -> None:
    value = "å漢🚢".encode() * 1000 + b"\xff" * 1000
    assert len(protocol.encode({"a": protocol.to_text(value)})) < len(value) + 20


@given(st.binary(max_size=200))
def test_whatever_is_no_object_is_malformed_and_nothing_else(data: bytes) -> None:
    try:
        assert isinstance(protocol.decode(data), dict)
    except protocol.MessageMalformed:
        return


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' + b"1" * 100 + b"}", b'{"a":NaN}'])
def test_depth_and_length_of_values_are_bounded(data: bytes) -> None:
    with pytest.raises(protocol.MessageMalformed):
        protocol.decode(data)


def test_text_without_bytes_is_refused() -> None:
    for use in (lambda: protocol.to_bytes("\ud800"), lambda: protocol.encode({"a": "\ud800"})):
        with pytest.raises(protocol.MessageMalformed):
            use()


@pytest.mark.parametrize("value", [None, 3, "", "x" * 65, ["x"]])
def test_a_field_that_is_no_short_text_is_refused(value: object) -> None:
    with pytest.raises(protocol.MessageMalformed):
        protocol.text_in({"session": value}, "session", chars_max=64)


@pytest.mark.parametrize("value", [None, -1, True, 1.0, "1", 2**40])
def test_a_field_that_is_no_number_in_range_is_refused(value: object) -> None:
    with pytest.raises(protocol.MessageMalformed):
        protocol.integer_in({"n": value}, "n")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_keeper_is_written_for_python_3_9_and_the_standard_library(file: Path) -> None:
    """It runs inside the workspace, by an interpreter that need not be ours."""
    tree = ast.parse(file.read_text(), feature_version=(3, 9))
    for node in [inner for outer in tree.body if not isinstance(outer, ast.If) for inner in ast.walk(outer)]:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        assert not [name for name in names if name.split(".")[0] in ("gateway", "models", "admin_http", "typing")]
