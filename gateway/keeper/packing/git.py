"""git, as it is asked about a repository: nothing is fetched, refreshed or written, and nobody is asked anything."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

PIECE_BYTES = 256 * 1024
_OPTIONS = ("--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0")
_ENVIRONMENT = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}


class GitFailed(Exception):
    """git is missing, or could not do it."""


def output(where: str, *arguments: str) -> str:
    """What `git ARGUMENTS` prints. For short answers. Raises GitFailed."""
    return b"\0".join(records(where, *arguments, separator=b"\0")).decode(errors="surrogateescape").strip()


def succeeds(where: str, *arguments: str) -> bool:
    try:
        output(where, *arguments)
    except GitFailed:
        return False
    return True


def records(where: str, *arguments: str, separator: bytes = b"\0") -> Iterator[bytes]:
    """What it prints, one record after the other, however much that is. Raises GitFailed once there are no more."""
    process = start(where, *arguments)
    assert process.stdout is not None
    with process:
        rest = b""
        while piece := process.stdout.read(PIECE_BYTES):
            *whole, rest = (rest + piece).split(separator)
            yield from whole
        if rest:
            yield rest
    if process.returncode != 0:
        raise GitFailed(f"git {arguments[0]} ended with {process.returncode}")


def start(where: str, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    """`where`: a directory of the repository, or, with `--git-dir=` as the first argument, any."""
    settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, **options}
    command = ["git", *_OPTIONS, *arguments]
    try:
        return subprocess.Popen(command, cwd=where, env={**os.environ, **_ENVIRONMENT}, **settings)  # type: ignore[call-overload,no-any-return]
    except OSError as error:
        raise GitFailed(f"git cannot be run: {error.strerror}") from None
