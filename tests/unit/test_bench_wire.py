"""The light client's packets, without a socket."""

from __future__ import annotations

import pytest

from bench import wire


def test_a_multiple_precision_integer_never_looks_negative() -> None:
    """RFC 4251 §5: a leading bit means a negative number, and one key in two has it."""
    assert wire._mpint(b"\x80\x01") == b"\0\0\0\x03\0\x80\x01"
    assert wire._mpint(b"\0\0\x7f") == b"\0\0\0\x01\x7f"
    assert wire._mpint(b"\0") == b"\0\0\0\0"


def test_what_one_direction_seals_the_other_opens_in_the_same_order() -> None:
    sealing, opening = (
        wire._Sealing(bytes(16), b"\0" * 4 + b"\xff" * 8),
        wire._Sealing(bytes(16), b"\0" * 4 + b"\xff" * 8),
    )
    for body in (b"first", b"second"):  # the counter wraps between the two (RFC 5647 §7.1)
        sealed = sealing.sealed(body, wire._uint32(len(body)))
        assert opening.opened(sealed, len(body)) == body


@pytest.mark.parametrize("size", range(64))
def test_every_packet_is_padded_to_whole_blocks_with_at_least_four_bytes(size: int) -> None:
    """RFC 4253 §6; under AES-GCM the length field is not counted (RFC 5647 §7.3), before the keys it is."""
    for is_sealed in (False, True):
        body = wire._padded(b"x" * size, is_sealed=is_sealed)
        assert (len(body) + (0 if is_sealed else 4)) % wire.BLOCK_BYTES == 0
        assert 4 <= body[0] <= 255
        assert body[1 : len(body) - body[0]] == b"x" * size
