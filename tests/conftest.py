"""Options of the whole suite."""

from __future__ import annotations

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
