"""Options of the whole suite."""

from __future__ import annotations

import signal

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--against",
        choices=["homeport", "sshd"],
        default="homeport",
        help="run the tests of tests/clients against this server; sshd: OpenSSH's, and no other tests",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Against another server only what asks for `server` makes sense."""
    if config.getoption("--against") == "homeport":
        return
    is_about_server = {item: "server" in getattr(item, "fixturenames", ()) for item in items}
    config.hook.pytest_deselected(items=[item for item in items if not is_about_server[item]])
    items[:] = [item for item in items if is_about_server[item]]


def pytest_configure() -> None:
    """Under nohup(1), or in the background of a script, these are ignored, and every client started here would inherit
    that: a closed window would not end it."""
    for number, usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGQUIT, signal.SIG_DFL),
                          (signal.SIGINT, signal.default_int_handler)):  # fmt: skip
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
