"""Looks for a secret in everything that a workspace can read of itself: files, environments, command lines."""

from __future__ import annotations

import shlex

FOUND_NOTHING = "searched"
# The needle comes in two halves, or the search would find itself.
_PROGRAM = """
import os, sys
needle = "".join(sys.argv[1:3]).encode()
def pieces():
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            yield from (f"/proc/{folder}/environ", f"/proc/{folder}/cmdline")
    for top in sys.argv[3:]:
        for folder, _, names in os.walk(top):
            yield from (os.path.join(folder, name) for name in names)
seen = 0
for path in pieces():
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        continue
    seen += 1
    if needle in data:
        print(path)
    if b"git-remote" + b"-http" in data and path.startswith("/proc/"):
        print("under way")
print("searched" if seen > 10 else "saw nothing")
"""


def search_for(secret: str, *, has_walls: bool) -> str:
    """A line for sh, run in the tree. Prints, sorted, where the secret is, `under way` if git is at it just now, and
    FOUND_NOTHING at last."""
    places = "~ . /tmp /var/tmp /run /dev/shm /.homeport" if has_walls else "~ ."  # there /tmp is the machine's own
    return f"python3 -c {shlex.quote(_PROGRAM)} {secret[:8]} {secret[8:]} {places} | sort -u"
