"""Removes what a workspace left on disk. Blocking; nothing runs there any more."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gateway.events import Event
from gateway.ids import new_id
from gateway.log import log_warning

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_for_good(place: Path) -> None:
    """Remove a directory that programs may have filled with anything. What cannot be removed stays, with a warning.

    Not shutil.rmtree: it calls itself for each level, and a program nests deeper than Python's stack with ease. Here
    every folder is moved up to `place` before it is looked into, so two descriptors do for any depth. Closed folders
    (0500; Go's module cache has them) are opened first. No link is followed.
    """
    try:
        _remove(place)
    except FileNotFoundError:
        return
    except OSError as error:
        log_warning(Event.GATEWAY_WARNED, reason="remains_of_a_workspace", place=place.name, detail=error.strerror)


def _remove(place: Path) -> None:
    place.chmod(0o700)
    root = os.open(place, _OPEN_DIRECTORY)
    try:
        _empty(root, root)
        while names := os.listdir(root):  # noqa: PTH208  (a descriptor); only folders are left
            for name in names:
                fd = os.open(name, _OPEN_DIRECTORY, dir_fd=root)
                try:
                    _empty(fd, root)
                finally:
                    os.close(fd)
                os.rmdir(name, dir_fd=root)
    finally:
        os.close(root)
    place.rmdir()


def _empty(folder: int, root: int) -> None:
    """Unlink the files of `folder` and move its folders to `root`, under names that nothing there has: no program gave
    them, and no removal that was interrupted."""
    for leaf in os.listdir(folder):
        found = os.stat(leaf, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(leaf, dir_fd=folder)
            continue
        os.chmod(leaf, 0o700, dir_fd=folder)  # its own, to list it; and to move it, since its `..` changes
        if folder != root:
            os.rename(leaf, new_id(), src_dir_fd=folder, dst_dir_fd=root)
