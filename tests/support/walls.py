"""Which walls this machine can put up."""

from __future__ import annotations

import functools
import subprocess

import pytest

_TRIAL = ("bwrap", "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "true")


@functools.cache
def why_no_bubblewrap() -> str:
    """Why bubblewrap cannot be used here; empty if it can."""
    try:
        done = subprocess.run(_TRIAL, capture_output=True, timeout=20)
    except OSError as error:
        return f"bubblewrap does not work here: {error}"
    return "" if done.returncode == 0 else f"bubblewrap does not work here: {done.stderr.decode(errors='replace')}"


def walls() -> list[object]:
    """Both kinds, as parameters: a quick run meets the wall that users have by default, a whole one both."""
    usual, other = ("none", "bubblewrap") if why_no_bubblewrap() else ("bubblewrap", "none")
    return [usual, pytest.param(other, marks=pytest.mark.slow)]
