"""Bearer tokens of the HTTP API: what they look like, and what is kept of them.

A token is 32 random bytes, so its plain hash is enough: nobody guesses one, and a copy of the database lets nobody in.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.interfaces import ApiToken

PREFIX = "hp_"  # so that scanners for leaked secrets, and people, know it when they see it
_RANDOM_BYTES = 32
_TOKEN = re.compile(r"hp_[A-Za-z0-9_-]{43}")
# Whoever reckons the end of a token by a clock of their own is not punished for its being a little slow.
TOLERANCE = timedelta(seconds=30)


def new_token() -> str:
    return PREFIX + base64.urlsafe_b64encode(os.urandom(_RANDOM_BYTES)).rstrip(b"=").decode()


def hash_of(token: str) -> str | None:
    """By which the database knows a token; None if this cannot be one of ours. It is found by this hash alone, so how
    long that takes tells nothing of the token."""
    return hashlib.sha256(token.encode()).hexdigest() if _TOKEN.fullmatch(token) else None


def has_expired(token: ApiToken, now: datetime) -> bool:
    return now >= token.expires_at + TOLERANCE
