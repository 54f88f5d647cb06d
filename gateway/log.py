"""Logging: events with keys, one line each; JSON for a service, readable text for a terminal.

Events are also what the metrics count: `subscribe` sees each one, so no part of the program has to know about
metrics. Text that came from a client is escaped here, once, by JSON or by `repr`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from gateway.events import Event

Subscriber = Callable[[Event, dict[str, object]], None]

_logger = logging.getLogger("homeport")
_subscribers: list[Subscriber] = []

# asyncssh logs user names, commands and (at debug) environment values; our own events say what may be said.
QUIET_LIBRARIES = ("asyncssh", "tortoise", "aerich", "aiohttp", "asyncio", "aiosqlite")


def subscribe(subscriber: Subscriber) -> Callable[[], None]:
    """Have `subscriber` see every event; the returned function takes it away again."""
    _subscribers.append(subscriber)
    return lambda: _subscribers.remove(subscriber)


def log_event(event: Event, /, *, level: int = logging.INFO, **keys: object) -> None:
    """Record that something happened. `keys` must be safe to log: no input, environment, token or command line."""
    for subscriber in _subscribers:
        subscriber(event, keys)
    if _logger.isEnabledFor(level):
        # Handled directly: Logger.log would first walk the stack for a file and line that nobody prints.
        record = logging.LogRecord(_logger.name, level, "", 0, event.value, None, None)
        record.keys = keys
        _logger.handle(record)


def log_warning(event: Event, /, **keys: object) -> None:
    """Something odd that was handled."""
    log_event(event, level=logging.WARNING, **keys)


def log_failure(event: Event, /, **keys: object) -> None:
    """Someone should act. Inside an `except` block the traceback goes to the log, and only there."""
    for subscriber in _subscribers:
        subscriber(event, keys)
    _logger.error(event.value, extra={"keys": keys}, exc_info=sys.exc_info()[0] is not None)


def set_up_logging(*, as_json: bool, level: str) -> None:
    """Send events to stderr, one line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _logger.setLevel(level.upper())
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "keys", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        keys = getattr(record, "keys", {})
        words = [f"{key}={_shown(value)}" for key, value in keys.items()]
        line = " ".join([_time(record)[11:23], f"{record.levelname.lower():7}", record.getMessage(), *words])
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def _shown(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else repr(text)
