"""manifest.json beside an archive: what it holds, and the sums by which it is known to be whole.

The last file that is written of an archive, and it is written in one piece: a folder that has it is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from gateway.errors import ArchiveDamaged
from gateway.workspaces.archive_file import FileFacts

FORMAT = 1
MANIFEST = "manifest.json"
ARCHIVE = "archive.tar.zst"
BUNDLE = "repo.bundle"
_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Manifest:
    workspace_id: str
    name: str
    archived_at: datetime
    archive: FileFacts
    bundle: FileFacts | None
    packed: Mapping[str, Any] = field(default_factory=dict)  # counts, sizes and what was left out, as packed inside
    git: Mapping[str, Any] | None = None  # the survey inside; None: it failed

    def write(self, folder: Path) -> None:
        """Blocking. On the disk when this returns."""
        values = {
            "format": FORMAT,
            "workspace": {"id": self.workspace_id, "name": self.name},
            "archived_at": self.archived_at.isoformat(),
            "archive": {"file": ARCHIVE, **_facts(self.archive)},
            "bundle": None if self.bundle is None else {"file": BUNDLE, **_facts(self.bundle)},
            "packed": self.packed,
            "git": self.git,
        }
        unfinished = folder / f"{MANIFEST}.new"
        with unfinished.open("xb") as file:
            file.write(json.dumps(values, indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(folder / MANIFEST)
        sync_directory(folder)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Blocking. Raises ArchiveDamaged, with a newer version's format as well, OSError."""
        try:
            with (folder / MANIFEST).open("rb") as file:
                values = json.loads(file.read(_MAX_BYTES))
            if values["format"] != FORMAT:
                raise ArchiveDamaged(f"the archive {folder.name} was made by a newer version of homeport")
            bundle = values["bundle"]
            return cls(
                workspace_id=str(values["workspace"]["id"]),
                name=str(values["workspace"]["name"]),
                archived_at=datetime.fromisoformat(values["archived_at"]),
                archive=_read_facts(values["archive"]),
                bundle=None if bundle is None else _read_facts(bundle),
                packed=dict(values["packed"]),
                git=values["git"],
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ArchiveDamaged(f"the manifest of the archive {folder.name} cannot be read") from None


def sync_directory(folder: Path) -> None:
    """New names in it are on the disk when this returns (fsync(2))."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _facts(facts: FileFacts) -> dict[str, Any]:
    return {
        "size_bytes": facts.size_bytes,
        "sha256": facts.sha256,
        "content_bytes": facts.content_bytes,
        "content_sha256": facts.content_sha256,
    }


def _read_facts(values: Mapping[str, Any]) -> FileFacts:
    return FileFacts(
        int(values["size_bytes"]),
        str(values["sha256"]),
        int(values["content_bytes"]),
        str(values["content_sha256"]),
    )
