"""Runs what packs a workspace, unpacks it and looks for unsaved work: inside, as programs of its keeper.

They are in gateway/keeper/packing. Files are on this side; the programs inside get streams, never a path of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gateway.errors import ArchiveDamaged, CommandRefused, KeeperGone
from gateway.interfaces import Inside, Keeper, ProgramExit
from gateway.workspaces.archive_file import FileFacts, FileWriter, pieces_of
from gateway.workspaces.inside import InsideProgram, Sink, run_inside
from gateway.workspaces.unsaved import SURVEY_MAX_BYTES, parse_survey, printable

STDERR_KEPT_BYTES = 64 * 1024
MANIFEST_MAX_BYTES = 4 * 1024 * 1024
SURVEY_SECONDS_MAX = 300.0  # git status of a very large tree on a slow disk
_NO_BUNDLE = ("no_repository", "no_commits", "bundle")
_WORDS = {
    "unreadable": 'cannot read {count} of the entries of "{name}", so its archive would not be whole: {paths}; '
    "make them readable inside (chmod -R u+rX PATH), then try again",
    "changed": 'something in "{name}" was changed while it was read, so its archive would not be whole; end what '
    "changes it, then try again",
    "borrowed": 'the repository {paths} in "{name}" borrows objects from a cache, which an archive leaves out; make it '
    "whole inside (git repack -a -d, then remove its objects/info/alternates), then try again",
    "attributes": 'the extended attributes of {paths} in "{name}" cannot be read, so its archive would not be whole',
    "damaged": 'the archive of "{name}" is damaged: {paths}',
    "not_empty": 'the place for "{name}" is not empty; try again',
    "system": '"{name}" could not be read or written inside: {paths}',
}

T = TypeVar("T")


class Packer:
    """For one workspace, through its keeper. Cancelling ends what runs, and leaves only unfinished files."""

    def __init__(self, keeper: Keeper, inside: Inside, *, name: str, seconds_max: float, free_bytes_min: int) -> None:
        self._keeper = keeper
        self._inside = inside
        self._name = name
        self._seconds_max = seconds_max
        self._free_bytes_min = free_bytes_min

    async def survey(self) -> dict[str, Any] | None:
        """What was found of git, as JSON; None: it cannot be known. Raises KeeperGone."""
        kept = _Kept(SURVEY_MAX_BYTES)
        try:
            async with asyncio.timeout(min(SURVEY_SECONDS_MAX, self._seconds_max)):
                end, _ = await self._run("survey", stdout=kept)
        except TimeoutError:
            return None
        return parse_survey(bytes(kept.data)) if end.exit_code == 0 else None

    async def bundle(self, path: Path) -> FileFacts | None:
        """The tree's repository as a git bundle. None: there is nothing to bundle, or git cannot."""
        end, said, facts = await self._write("bundle", path, is_compressed=False)
        if end.exit_code == 0:
            return facts
        await asyncio.to_thread(path.unlink)
        if said.get("refused") not in _NO_BUNDLE:
            self._refuse(end, said)
        return None

    async def pack(self, path: Path) -> FileFacts:
        """Home and tree. Raises CommandRefused with what stands in the way."""
        end, said, facts = await self._write("pack", path, is_compressed=True)
        self._refuse(end, said)
        return facts

    async def check(self, path: Path, expected: FileFacts) -> dict[str, Any]:
        """Read it back: every byte against what was written, and inside every file against the sum that was made where
        it was read. Returns what the archive says of itself. Raises ArchiveDamaged, CommandRefused."""
        manifest = _Kept(MANIFEST_MAX_BYTES)
        await self._read("check", path, expected, stdout=manifest)
        return _last_line(bytes(manifest.data))

    async def refuse_changed(self, packed: Mapping[str, Any]) -> None:
        """Raises CommandRefused if anything was changed since it was packed. `packed`: what `check` returned."""
        kept = _Kept(MANIFEST_MAX_BYTES)
        end, said = await self._run("look", stdout=kept)
        self._refuse(end, said)
        if not packed.get("digest") or _last_line(bytes(kept.data)).get("digest") != packed["digest"]:
            raise CommandRefused(self._refusal({"refused": "changed"}))

    async def unpack(self, path: Path, expected: FileFacts) -> None:
        """Bring home and tree back. Raises ArchiveDamaged, CommandRefused."""
        await self._read("unpack", path, expected, stdout=_Kept(0))

    async def _read(self, verb: str, path: Path, expected: FileFacts, *, stdout: Sink) -> None:
        source = _pieces(path, expected)
        async with contextlib.aclosing(source):
            end, said = await self._run(verb, stdout=stdout, stdin=source)
        if said.get("refused") == "damaged":
            raise ArchiveDamaged(self._refusal(said))
        self._refuse(end, said)

    async def _write(
        self, verb: str, path: Path, *, is_compressed: bool
    ) -> tuple[ProgramExit, dict[str, Any], FileFacts]:
        writer = FileWriter(path, is_compressed=is_compressed, free_bytes_min=self._free_bytes_min)

        async def take(piece: bytes) -> None:
            await in_thread(writer.write, piece)

        try:
            end, said = await self._run(verb, stdout=take)
            return end, said, await in_thread(writer.finish)
        finally:
            writer.close()

    async def _run(
        self, verb: str, *, stdout: Sink, stdin: AsyncIterable[bytes] | None = None
    ) -> tuple[ProgramExit, dict[str, Any]]:
        said = bytearray()

        async def keep(piece: bytes) -> None:
            said.extend(piece)
            del said[:-STDERR_KEPT_BYTES]

        inside = self._inside
        words = (*inside.python, f"{inside.programs}/packing", verb, inside.home, inside.tree)
        program = InsideProgram(
            argv=[word.encode() for word in words],
            executable=inside.python[0].encode(),
            stdout=stdout,
            stderr=keep,
            stdin=stdin,
        )
        try:
            end = await run_inside(self._keeper, inside, program, seconds_max=self._seconds_max)
        except TimeoutError:
            raise CommandRefused(
                f'"{self._name}" was not done after {self._seconds_max:.0f} s, and nothing was changed; a larger '
                "archive.seconds_max allows it more"
            ) from None
        return end, _last_line(bytes(said))

    def _refuse(self, end: ProgramExit, said: dict[str, Any]) -> None:
        if end.exit_code == 0:
            return
        if end == ProgramExit():
            raise KeeperGone("the workspace's keeper ended in the middle of it, and nothing was changed")
        raise CommandRefused(self._refusal(said), detail=f"exit {end.exit_code}, signal {end.signal}")

    def _refusal(self, said: dict[str, Any]) -> str:
        names, count = said.get("paths"), said.get("count")
        names = [printable(name) for name in names if isinstance(name, str)][:10] if isinstance(names, list) else []
        words = _WORDS.get(str(said.get("refused")), 'what had to run in "{name}" failed; the gateway\'s log says how')
        return words.format(name=self._name, paths=", ".join(names), count=count if isinstance(count, int) else "some")


async def _pieces(path: Path, expected: FileFacts) -> AsyncGenerator[bytes, None]:
    """What is in the archive's file. The last piece comes only if all of it was what the manifest says: what is made of
    a damaged archive is never whole."""
    pieces = pieces_of(path)
    digest, count, held = hashlib.sha256(), 0, b""
    while piece := await in_thread(next, pieces, b""):
        digest.update(piece)
        count += len(piece)
        if held:
            yield held
        held = piece
    if (count, digest.hexdigest()) != (expected.content_bytes, expected.content_sha256):
        raise ArchiveDamaged(f"the archive {path.parent.name} is not what was written to it; its backup may be")
    yield held


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """asyncio.to_thread, but cancelling waits for the thread: it may be writing to what the caller closes next."""
    task = asyncio.create_task(asyncio.to_thread(work, *args), name="archive:thread")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise


class _Kept:
    """A sink that keeps so much, and one byte more if there is more."""

    def __init__(self, max_bytes: int) -> None:
        self.data = bytearray()
        self._room = max_bytes + 1

    async def __call__(self, piece: bytes) -> None:
        self.data += piece[: self._room - len(self.data)]


def _last_line(said: bytes) -> dict[str, Any]:
    """What a program of ours says last is JSON, if it is not the interpreter that speaks."""
    try:
        found = json.loads(said.rstrip(b"\n").rpartition(b"\n")[2])
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
