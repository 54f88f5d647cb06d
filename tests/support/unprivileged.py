"""Runs a module as an account that is not root: `python -m tests.support.unprivileged MODULE ARG…`.

Programs never run as root outside a workspace, so the tests that start programs need such an account too; where the
tests themselves run as root (containers, many CI machines), they are run again by this. The account needs no entry
in passwd. What the interpreter and the tests need is made reachable as for the gateway itself, also below /root.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from gateway import privileges, reach
from gateway.reach import Need
from gateway.state import Owner

ACCOUNT = Owner(64200, 64200)
CLONE = Path(__file__).resolve().parents[2]


def main() -> None:
    home = tempfile.mkdtemp(prefix="homeport-tests-")  # removed by whoever started us: it outlives this process
    os.chown(home, ACCOUNT.uid, ACCOUNT.gid)
    print(f"home {home}", flush=True)
    paths = {CLONE, Path(sys.prefix), Path(sys.base_prefix), Path(os.path.realpath(sys.executable))}
    covers = reach.plan([*(Need(path) for path in sorted(paths)), Need(Path(home), is_writable=True)], ACCOUNT)
    if covers:
        reach.enter(covers)
    privileges.drop(ACCOUNT)
    os.environ.update(HOME=home, TMPDIR=home, USER="tests", LOGNAME="tests", PYTHONDONTWRITEBYTECODE="1")
    os.chdir(CLONE)
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])


if __name__ == "__main__":
    main()
