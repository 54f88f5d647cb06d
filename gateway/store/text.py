"""Text on its way into the database: bounded, and without what could be mistaken for something else when printed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

COMMAND_CHARACTERS_MAX = 4_000
USER_AGENT_CHARACTERS_MAX = 255
CLIENT_IP_CHARACTERS_MAX = 64
DETAIL_CHARACTERS_MAX = 500
DETAILS_MAX = 30


def clean_text(text: str, characters_max: int) -> str:
    """One line: control and other unprintable characters escaped, as `repr` would, and cut at the given length."""
    if len(text) <= characters_max and text.isprintable():
        return text
    cut = text[: characters_max + 1]  # before escaping: it makes text longer, and clients choose the length
    escaped = "".join(char if char.isprintable() else repr(char)[1:-1] for char in cut)
    return escaped if len(escaped) <= characters_max else escaped[: characters_max - 1] + "…"


def clean_details(details: Mapping[str, object]) -> str:
    """Details as a JSON object: at most DETAILS_MAX, texts and lists of them cleaned and cut, None left out."""
    kept: dict[str, object] = {}
    for key, value in list(details.items())[:DETAILS_MAX]:
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):  # JSON has no NaN
            kept[key] = value
        elif isinstance(value, (list, tuple)):
            kept[key] = [clean_text(str(one), DETAIL_CHARACTERS_MAX) for one in value[:DETAILS_MAX]]
        elif value is not None:
            kept[key] = clean_text(str(value), DETAIL_CHARACTERS_MAX)
    return json.dumps(kept)
