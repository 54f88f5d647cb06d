"""`archive`, `rm`, `unarchive`, `archives`: workspaces put away, brought back, and deleted for good."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gateway.errors import CommandRefused, UsageWrong
from gateway.journal import JournalAction
from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.shapes import archive_shape
from gateway.lobby.text import age, clean, counted, size
from gateway.lobby.workspaces import visible, workspace_named

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator

    from gateway.interfaces import AccessKey, Workspace
    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext
    from gateway.lobby.services import Unsaved

REASONS_SHOWN_MAX = 8


def _archive_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="the workspace to archive")
    parser.add_argument("--end", action="store_true", help="first end all that runs in it")
    json_option(parser)


async def _archive(lobby: LobbyContext, args: Namespace) -> int:
    workspace = await workspace_named(lobby, args.name)
    await _refuse_running(lobby, workspace, ends=args.end)
    made = await lobby.services.archives.archive(workspace, say=lobby.note)
    await lobby.journal(
        JournalAction.WORKSPACE_ARCHIVED,
        workspace=workspace.name,
        size_bytes=made.size_bytes,
        is_clean=made.unsaved.is_clean,
    )
    if args.json:
        await lobby.print_json(archive_shape(made))
        return EXIT_OK
    if made.skipped_count:
        await lobby.note(f"{made.skipped_count} sockets were left out: they mean nothing without their programs")
    await lobby.print(
        f"{workspace.name} is archived ({size(made.size_bytes or 0)}); bring it back with:"
        f" {lobby.prog} unarchive {workspace.name}"
    )
    return EXIT_OK


def _rm_arguments(parser: Parser) -> None:
    _archive_arguments(parser)
    parser.add_argument("--purge", action="store_true", help="delete it for good instead, archived or not")
    parser.add_argument("--yes", action="store_true", help="with --purge: do not ask for the name")
    parser.add_argument(
        "--discard-unsaved", action="store_true", help="with --purge: even if it has work that is nowhere else"
    )


async def _rm(lobby: LobbyContext, args: Namespace) -> int:
    if args.purge:
        return await _purge(lobby, args)
    if args.yes or args.discard_unsaved:
        raise UsageWrong("--yes and --discard-unsaved go with --purge; without it nothing is deleted")
    return await _archive(lobby, args)


async def _purge(lobby: LobbyContext, args: Namespace) -> int:
    workspace = await _any_workspace_named(lobby, args.name)

    def refuse(unsaved: Unsaved) -> None:
        if not unsaved.is_clean and not args.discard_unsaved:
            raise CommandRefused(_unsaved_words(lobby, workspace, unsaved))

    if workspace.is_active:
        await _refuse_running(lobby, workspace, ends=args.end)
    if not args.yes:
        unsaved = await lobby.services.archives.unsaved(workspace)
        refuse(unsaved)
        await _ask_for_name(lobby, workspace, unsaved)
    async with _scopes_kept(lobby, workspace):
        session_count = await lobby.services.archives.purge(workspace, refuse=refuse)
    await lobby.journal(
        JournalAction.WORKSPACE_DELETED,
        workspace=workspace.name,
        how="purged",
        was_archived=not workspace.is_active,
        discarded_unsaved=args.discard_unsaved,
        session_count=session_count,
    )
    if args.json:
        await lobby.print_json({"id": workspace.id, "name": workspace.name, "session_count": session_count})
    else:
        await lobby.print(f"{workspace.name} is deleted for good, and its name is free")
    return EXIT_OK


@contextlib.asynccontextmanager
async def _scopes_kept(lobby: LobbyContext, workspace: Workspace) -> AsyncIterator[None]:
    """Close what is open with keys that lose the workspace from their scope in the block, however it ends: connections
    have the scope of their login, and the name may be another workspace's at once."""
    holders = {key.id for key in await _keys_into(lobby, workspace)}
    try:
        yield
    finally:
        holders -= {key.id for key in await _keys_into(lobby, workspace)}
        for key in await lobby.services.store.list_keys() if holders else []:
            if key.id in holders:
                lobby.services.disconnect(key.fingerprint)


async def _keys_into(lobby: LobbyContext, workspace: Workspace) -> list[AccessKey]:
    """Those whose scope names it."""
    keys = await lobby.services.store.list_keys()
    return [key for key in keys if key.workspaces is not None and workspace.name in key.workspaces]


async def _ask_for_name(lobby: LobbyContext, workspace: Workspace, unsaved: Unsaved) -> None:
    """Whoever types the name means it."""
    also = [f"its home ({unsaved.home_file_count} files)"] if unsaved.home_file_count else []
    also += [f"{unsaved.ignored_count} files or folders that git ignores"] if unsaved.ignored_count else []
    note = f" With it go {' and '.join(also)}." if also else ""
    await lobby.note(f'"{workspace.name}" will be deleted for good, with its sessions and their recordings.{note}')
    try:
        answer = await lobby.person.ask("type its name to go on: ")
    except CommandRefused:
        raise CommandRefused(
            f"nobody is there to be asked; delete it without a question with: {lobby.prog} rm {workspace.name} --purge"
            " --yes"
        ) from None
    if answer.strip() != workspace.name:
        raise CommandRefused("that is not its name; nothing was deleted")


def _unsaved_words(lobby: LobbyContext, workspace: Workspace, unsaved: Unsaved) -> str:
    shown = [clean(reason) for reason in unsaved.reasons[:REASONS_SHOWN_MAX]]
    more = len(unsaved.reasons) - len(shown)
    lines = [f"  {line}" for line in [*shown, *([f"and {more} more"] if more > 0 else [])]]
    look = "" if workspace.is_active else f"\nlook at it again with: {lobby.prog} unarchive {workspace.name}"
    return "\n".join(
        [
            f'"{workspace.name}" has work that is nowhere else, so it is not deleted:',
            *lines,
            "(whether tags were pushed is not known; a commit counts as pushed once this clone has seen it on a remote)"
            + look,
            f"archive it with: {lobby.prog} archive {workspace.name}" if workspace.is_active else "",
            f"delete it with all of that: {lobby.prog} rm {workspace.name} --purge --discard-unsaved",
        ]
    ).replace("\n\n", "\n")


def _unarchive_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="the archived workspace")
    parser.add_argument("--keep", action="store_true", help="keep the archive's files as well")
    json_option(parser)


async def _unarchive(lobby: LobbyContext, args: Namespace) -> int:
    workspace = await _any_workspace_named(lobby, args.name)
    if workspace.is_active:
        raise CommandRefused(f'"{workspace.name}" is not archived; see what is with: {lobby.prog} archives')
    kept = await lobby.services.archives.unarchive(workspace, is_archive_kept=args.keep, say=lobby.note)
    await lobby.journal(JournalAction.WORKSPACE_RESTORED, workspace=workspace.name)
    if args.json:
        kept_as = None if kept is None else kept.name
        await lobby.print_json({"id": workspace.id, "name": workspace.name, "kept_as": kept_as})
        return EXIT_OK
    if kept is not None:
        await lobby.note(f"the archive is kept as archive/{kept.name}")
    await lobby.print(f"{workspace.name} is back; enter it with: {lobby.way_into(workspace.name)}")
    return EXIT_OK


def _archives_arguments(parser: Parser) -> None:
    json_option(parser)


async def _archives(lobby: LobbyContext, args: Namespace) -> int:
    every = await lobby.services.archives.list_archived()
    shown = [archived for archived in every if visible(lobby, [archived.workspace])]
    if args.json:
        await lobby.print_json([archive_shape(archived) for archived in shown])
        return EXIT_OK
    if not shown:
        await lobby.note(f"nothing is archived; archive a workspace with: {lobby.prog} archive NAME")
        return EXIT_OK
    rows = [
        (
            archived.workspace.name,
            age(archived.archived_at),
            "missing" if archived.place is None else "-" if archived.size_bytes is None else size(archived.size_bytes),
            "nothing" if archived.unsaved.is_clean else clean("; ".join(archived.unsaved.reasons), length_max=60),
        )
        for archived in shown
    ]
    await lobby.print_table(("NAME", "ARCHIVED", "SIZE", "ONLY THERE"), rows)
    return EXIT_OK


async def _any_workspace_named(lobby: LobbyContext, name: str) -> Workspace:
    """Archived or not; else refused in the same words as everywhere."""
    found = await lobby.services.store.find_workspace(name.lower())
    if found is not None and visible(lobby, [found]):
        return found
    return await workspace_named(lobby, name)


async def _refuse_running(lobby: LobbyContext, workspace: Workspace, *, ends: bool) -> None:
    if ends:
        await lobby.services.sessions.kill_workspace(workspace.id)
        return
    hint = f"end all of it with --end, or with: {lobby.prog} kill --workspace {workspace.name}"
    running = await lobby.services.store.list_sessions(workspaces=[workspace.name])
    if running:
        raise CommandRefused(
            f'"{workspace.name}" has {counted(len(running), "session")} running (see: {lobby.prog} sessions); {hint}'
        )
    if count := await lobby.services.sessions.programs_in(workspace.id):
        raise CommandRefused(f'"{workspace.name}" has {counted(count, "background program")} running; {hint}')


_ARCHIVE_JSON = """\
--json: one object with id, name, archived_at, place, size_bytes and content_bytes
(null: made by an earlier version), has_bundle, skipped_count, is_clean, unsaved.
"""

COMMANDS = (
    Command(
        name="archive",
        summary="put a workspace away: all of it in one checked file",
        run=_archive,
        arguments=_archive_arguments,
        teaching=f"""
Nothing is lost: the tree with its repository, stashes, untracked and ignored files,
and the home without caches (docs/archives.md lists them), go into one compressed
file, which is read back before anything is removed. Logins are refused from then
on. The name stays taken, and so do sessions and recordings, until they are old.
While programs run in it this is refused.

examples:
  homeport archive my-app
  homeport archive my-app --end

{_ARCHIVE_JSON}""",
    ),
    Command(
        name="rm",
        summary="archive a workspace; with --purge delete it for good",
        run=_rm,
        arguments=_rm_arguments,
        teaching=f"""
Without --purge this is `archive`: nothing is deleted.

With it, files, archives, sessions and recordings are deleted, and the name is free.
The journal keeps what was done. Refused while programs run, and while the workspace
has work that is nowhere else: uncommitted or untracked files, stashes, commits that
no remote is known to have, in any repository of it. The refusal says what.
Of an archived one, what counts is what was so when it was archived.

examples:
  homeport rm my-app
  homeport rm my-app --purge
  homeport rm my-app --purge --yes --discard-unsaved

{_ARCHIVE_JSON}With --purge: one object with id, name, session_count.
""",
    ),
    Command(
        name="unarchive",
        summary="bring an archived workspace back",
        run=_unarchive,
        arguments=_unarchive_arguments,
        teaching="""
Everything is as it was: files, modes and times, the repository with its index, its
stashes and its reflogs. It is checked against the archive's sums, and only then the
archive is removed; --keep keeps it, under another name.

examples:
  homeport unarchive my-app

--json: one object with id, name, kept_as.
""",
    ),
    Command(
        name="archives",
        summary="list the archived workspaces",
        run=_archives,
        arguments=_archives_arguments,
        teaching="""
ONLY THERE: work that was nowhere else when it was archived. `rm NAME --purge` asks
for --discard-unsaved before it deletes that.

examples:
  homeport archives

--json: a list of objects with id, name, archived_at, place, size_bytes and
content_bytes (null: made by an earlier version), has_bundle, skipped_count,
is_clean, unsaved.
""",
    ),
)
