"""Runs the screens process: `python3 -I …/screen/__main__.py SOCKET NOTE HISTORY_LINES`, started by process.py."""

from __future__ import annotations

import os
import sys
from importlib import import_module

NICE = 5  # from the start, most of which is loading the library: echo goes first


def find_us() -> None:
    """-I keeps PYTHON… variables and the working directory away, and with them this package.

    It goes behind the standard library, for which nothing beside it must stand in, and before all else: another version
    of us may be installed.
    """
    top = os.path.abspath(__file__).rsplit(os.sep, 4)[0]  # noqa: PTH100
    at = next((at for at, path in enumerate(sys.path) if path.endswith("-packages")), len(sys.path))
    sys.path.insert(at, top)


if __name__ == "__main__":
    os.nice(NICE)
    find_us()
    import_module("gateway.recording.screen.worker").main()
