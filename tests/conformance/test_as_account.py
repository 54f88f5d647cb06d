"""The conformance suite, when the tests run as root: once more, as an account that programs may run as."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_every_launcher_keeps_its_promises_as_an_ordinary_account() -> None:
    """The whole suite in tests/conformance; its own output tells what failed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.unprivileged", "pytest", "-q", "-p", "no:cacheprovider",
         "--deselect", "tests/conformance/test_as_account.py", "tests/conformance"],
        cwd=CLONE, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    home = done.stdout.partition("home ")[2].partition("\n")[0]
    if home.startswith("/"):
        shutil.rmtree(home, ignore_errors=True)
    print(done.stdout[-6000:], done.stderr[-2000:])
    assert done.returncode == 0
