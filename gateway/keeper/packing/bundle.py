"""Writes the tree's repository to stdout as a git bundle, which any git can clone from. Checked by git before that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

from . import git
from .refusal import Refused
from .walk import fd_path


def bundle(home: str, tree: str) -> None:
    """All refs, HEAD, and what all stashes hold. Raises Refused: no_repository, no_commits, bundle."""
    try:
        if not os.path.lexists(f"{tree}/.git"):
            raise Refused("no_repository")
        if not git.output(tree, "for-each-ref", "--count=1") and not git.succeeds(
            tree, "rev-parse", "-q", "--verify", "HEAD"
        ):
            raise Refused("no_commits")
        if git.output(tree, "rev-parse", "--is-shallow-repository") == "true":
            raise Refused("bundle")  # git would write one, call it good, and refuse to clone from it
        with tempfile.TemporaryFile() as file:
            _write(tree, file.fileno())
            # By its descriptor: it has no name that a program could put something else under.
            verify = git.start(tree, "bundle", "verify", "--quiet", fd_path(file.fileno()), pass_fds=(file.fileno(),))
            verify.communicate()
            if verify.returncode != 0:
                raise Refused("bundle")
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout.buffer, git.PIECE_BYTES)
            sys.stdout.buffer.flush()
    except git.GitFailed:
        raise Refused("bundle") from None


def _write(tree: str, fd: int) -> None:
    # A bundle has refs only, and of the stashes that is the newest. The others are named so that it holds them.
    stashes = git.output(tree, "stash", "list", "--format=%H").split()
    names = b"".join(word.encode() + b"\n" for word in stashes)
    head = ["HEAD"] if git.succeeds(tree, "rev-parse", "-q", "--verify", "HEAD") else []
    process = git.start(
        tree, "bundle", "create", "--quiet", "-", "--all", *head, "--stdin", stdin=subprocess.PIPE, stdout=fd
    )
    process.communicate(names)
    if process.returncode != 0:
        raise Refused("bundle")
