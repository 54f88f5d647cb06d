"""How long something took or has been, in words a person reads at a glance."""

from __future__ import annotations

from datetime import timedelta


def duration_text(span: timedelta) -> str:
    """The largest unit and the next one: `42 s`, `7 min`, `7 h 12 min`, `1 day 4 h`, `12 days`. Never negative."""
    seconds = max(0, int(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 24:
        return _joined(f"{hours} h", minutes % 60, "min")
    days = hours // 24
    # Whoever was away for a week does not ask for the hour.
    return _joined(f"{days} day{'s' if days > 1 else ''}", hours % 24 if days < 7 else 0, "h")


def _joined(text: str, rest: int, unit: str) -> str:
    return f"{text} {rest} {unit}" if rest else text
