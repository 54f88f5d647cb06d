"""The export: what players of asciicast 3 and 2 get to see, to the letter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.interfaces import ProgramExit, WindowSize
from gateway.recording.asciicast import asciicast_v2, asciicast_v3
from gateway.recording.layout import (
    Kind,
    RecordedEvent,
    RecordingMeta,
    encode_exit,
    encode_number,
    encode_size,
    encode_text,
)
from gateway.recording.playback import paced

META = RecordingMeta("s1", "w1", "demo", 1_700_000_000_123_456, "xterm-256color", 80, 24)
EVENTS = [
    RecordedEvent(0, Kind.ATTACH, encode_size(WindowSize(80, 24)) + encode_text("laptop")),
    RecordedEvent(1_000, Kind.OUTPUT, b"$ \x1b[1mh\xc3"),
    RecordedEvent(1_500_000, Kind.OUTPUT, b'\xa9"\r\n'),
    RecordedEvent(2_000_000, Kind.RESIZE, encode_size(WindowSize(100, 30))),
    RecordedEvent(2_000_001, Kind.OUTPUT, b"cut \xe2\x82"),
    RecordedEvent(2_500_000, Kind.GAP, encode_number(4095)),
    RecordedEvent(2_500_000, Kind.DETACH, encode_text("the connection went away")),
    RecordedEvent(3_000_000, 200, b"of a later version"),
    RecordedEvent(3_600_000_000, Kind.OUTPUT, b"\xff end"),
    RecordedEvent(3_600_000_010, Kind.EXIT, encode_exit(ProgramExit(exit_code=7))),
]

GOLDEN_V3 = r"""
{"version": 3, "term": {"cols": 80, "rows": 24, "type": "xterm-256color"}, "timestamp": 1700000000, "title": "demo"}
[0.000000, "m", "attached: laptop (80x24)"]
[0.001000, "o", "$ \u001b[1mh"]
[1.499000, "o", "é\"\r\n"]
[0.500000, "r", "100x30"]
[0.000001, "o", "cut "]
[0.499999, "o", "�"]
[0.000000, "m", "gap: 4095 bytes are missing"]
[0.000000, "m", "detached: the connection went away"]
[3597.500000, "o", "� end"]
[0.000010, "x", "7"]
"""

GOLDEN_V2 = r"""
{"version": 2, "width": 80, "height": 24, "timestamp": 1700000000, "title": "demo", "env": {"TERM": "xterm-256color"}}
[0.000000, "m", "attached: laptop (80x24)"]
[0.001000, "o", "$ \u001b[1mh"]
[1.500000, "o", "é\"\r\n"]
[2.000000, "r", "100x30"]
[2.000001, "o", "cut "]
[2.500000, "o", "�"]
[2.500000, "m", "gap: 4095 bytes are missing"]
[2.500000, "m", "detached: the connection went away"]
[3600.000000, "o", "� end"]
[3600.000010, "m", "exit status 7"]
"""


def test_version_3_to_the_letter() -> None:
    assert "".join(asciicast_v3(META, EVENTS)) == GOLDEN_V3.lstrip()


def test_version_2_to_the_letter() -> None:
    assert "".join(asciicast_v2(META, EVENTS)) == GOLDEN_V2.lstrip()


@pytest.mark.parametrize("export", [asciicast_v3, asciicast_v2])
@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=20))
def test_any_bytes_cut_anywhere_are_the_text_of_the_whole(export: object, data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    events = [RecordedEvent(i, Kind.OUTPUT, data[a:b]) for i, (a, b) in enumerate(pairwise(edges))]
    lines = [json.loads(line) for line in export(META, events)]  # type: ignore[operator]
    assert "".join(text for _, code, text in lines[1:] if code == "o") == data.decode("utf-8", "replace")


def test_intervals_add_up_without_drift() -> None:
    events = [RecordedEvent(i * 333_333, Kind.OUTPUT, b"x") for i in range(10_000)]
    total = sum(round(json.loads(line)[0] * 1_000_000) for line in list(asciicast_v3(META, events))[1:])
    assert total == events[-1].time_us


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (ProgramExit(signal="KILL"), ["x", "137"]),
        (ProgramExit(signal="NONSENSE"), ["x", "255"]),
        (ProgramExit(), ["m", "the program's end was not seen"]),
    ],
)
def test_an_end_by_signal_is_shown_as_a_shell_shows_it(end: ProgramExit, expected: list[str]) -> None:
    lines = list(asciicast_v3(META, [RecordedEvent(0, Kind.EXIT, encode_exit(end))]))
    assert json.loads(lines[1])[1:] == expected


def test_an_unknown_size_and_terminal_become_what_players_assume() -> None:
    meta = RecordingMeta("s1", "w1", "demo", 0, "", 0, 0)
    assert json.loads(next(asciicast_v3(meta, [])))["term"] == {"cols": 80, "rows": 24}
    assert "env" not in json.loads(next(asciicast_v2(meta, [])))


def test_the_export_holds_no_more_than_one_event_at_a_time() -> None:
    taken = 0

    def events() -> Iterator[RecordedEvent]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield RecordedEvent(number, Kind.OUTPUT, b"x")

    lines = asciicast_v3(META, events())
    for _ in range(3):
        next(lines)
    assert taken <= 3


def test_playing_waits_as_long_as_the_program_did() -> None:
    assert list(paced(EVENTS[:5], speed=1, idle_limit_seconds=None)) == [
        (0.001, b"$ \x1b[1mh\xc3"),
        (1.499, b'\xa9"\r\n'),
        (pytest.approx(0.500001), b"cut \xe2\x82"),
    ]


def test_silences_are_cut_before_they_are_sped_up() -> None:
    delays = [delay for delay, _ in paced(EVENTS, speed=2, idle_limit_seconds=1)]
    assert delays == pytest.approx([0.0005, 0.5, 0.25, (0.499999 + 0 + 0.5 + 1) / 2], abs=1e-5)


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_a_speed_that_would_never_end_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="--speed"):
        next(paced(EVENTS, speed=speed, idle_limit_seconds=None))
