"""Runs a keeper: `python3 -I -S …/keeper LISTEN_FD LOCK_FD IDLE_SECONDS TERMINALS_MAX`, started by a launcher."""

from __future__ import annotations

import os
import sys
from importlib import import_module


def importable_name() -> str:
    """Run by path: make this folder importable as a package, and say under which name.

    Its parent goes to the *end* of the path, so that nothing beside the folder can stand in for a standard module.
    """
    folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  (pathlib costs 5 ms of the start)
    sys.path[:] = [entry for entry in sys.path if entry != folder] + [os.path.dirname(folder)]  # noqa: PTH120
    return os.path.basename(folder)  # noqa: PTH119


if __name__ == "__main__":
    package = __package__ or importable_name()
    import_module(f"{package}.process").protect_process()  # before anything else is imported or read
    import_module(f"{package}.server").serve(sys.argv[1:])
