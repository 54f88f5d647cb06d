"""Takes apart what GitHub answered: every field checked, bounded and of its kind, as from any stranger."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.errors import GithubUnavailable
from gateway.github.values import GithubRepository, IssuedTokens, is_full_name
from gateway.words import duration_text

THREAD_MIN_BYTES = 64 * 1024  # longer answers are parsed beside the event loop
SECRET_CHARACTERS_MAX = 4096
TEXT_CHARACTERS_MAX = 1000
EXPIRES_SECONDS_MAX = 366 * 24 * 3600  # GitHub's are eight hours; a clock has an end


async def parsed(data: bytes) -> Any:
    if len(data) > THREAD_MIN_BYTES:
        return await asyncio.to_thread(_parse, data)
    return _parse(data)


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def issued_tokens(value: Mapping[str, Any], *, now: datetime) -> IssuedTokens:
    expires_seconds = min(number_of(value, "expires_in", default=0), EXPIRES_SECONDS_MAX)
    return IssuedTokens(
        access=secret_of(value, "access_token"),
        refresh=secret_of(value, "refresh_token") if value.get("refresh_token") else None,
        expires_at=now + timedelta(seconds=expires_seconds) if expires_seconds > 0 else None,
    )


def repository_of(value: Any) -> GithubRepository | None:
    """None: nothing that we could use."""
    if not isinstance(value, dict):
        return None
    full_name, branch = text_of(value, "full_name") or "", text_of(value, "default_branch") or ""
    if not is_full_name(full_name) or not branch:
        return None
    return GithubRepository(
        id=int(number_of(value, "id")),
        full_name=full_name,
        default_branch=branch,
        is_private=value.get("private") is True,
        is_archived=value.get("archived") is True,
        description=text_of(value, "description"),
        pushed_at=_iso_moment(text_of(value, "pushed_at")),
    )


def text_of(value: Mapping[str, Any], key: str) -> str | None:
    """One printable line, or None."""
    text = value.get(key)
    if not isinstance(text, str):
        return None
    return "".join(letter for letter in text[:TEXT_CHARACTERS_MAX] if letter.isprintable()).strip() or None


def required_text(value: Mapping[str, Any], key: str) -> str:
    text = text_of(value, key)
    if text is None:
        raise GithubUnavailable(f"GitHub's answer has no {key}; is [github] right?")
    return text


def secret_of(value: Mapping[str, Any], key: str) -> str:
    """A token: it goes into headers and to git, where a line end would be another line."""
    text = value.get(key)
    if not isinstance(text, str) or not is_token(text):
        raise GithubUnavailable(f"GitHub's answer has no usable {key}; is [github] right?")
    return text


def is_token(text: str) -> bool:
    return 0 < len(text) <= SECRET_CHARACTERS_MAX and text.isascii() and text.isprintable() and " " not in text


def number_of(value: Mapping[str, Any], key: str, *, default: float | None = None) -> float:
    """A number that is not negative and not beyond all measure; GitHub has sent some of them as texts."""
    number = value.get(key, default)
    if isinstance(number, str) and number.isascii() and number.isdecimal() and len(number) < 16:
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 2**53:
        raise GithubUnavailable(f"GitHub's answer has no usable {key}; is [github] right?")
    return number


def header_moment(text: str | None) -> datetime | None:
    """`2030-01-02 03:04:05 UTC`, or with an offset (`+0000`)."""
    for form in ("%Y-%m-%d %H:%M:%S %Z", "%Y-%m-%d %H:%M:%S %z"):
        try:
            moment = datetime.strptime(text or "", form)  # noqa: DTZ007 (the zone is set below)
        except ValueError:
            continue
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def _iso_moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def has_next(headers: Mapping[str, str]) -> bool:
    """Only whether there is a next page (RFC 8288): its address is ours to make, not the answer's to name."""
    return 'rel="next"' in headers.get("Link", "")


def when_again(headers: Mapping[str, str]) -> str:
    after, reset = headers.get("Retry-After", ""), headers.get("X-RateLimit-Reset", "")
    if after.isdecimal() and len(after) < 9:
        return f"in {duration_text(timedelta(seconds=int(after) or 1))}"
    if reset.isdecimal() and len(reset) < 12:
        return f"in {duration_text(timedelta(seconds=max(int(reset) - time.time(), 1)))}"
    return "in a few minutes"
