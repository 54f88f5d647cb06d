"""`status` and `sync`: what git says of a workspace's tree, and bringing it up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.lobby.command import EXIT_OK, Command, json_option
from gateway.lobby.shapes import sync_shape, tree_shape
from gateway.lobby.text import age, clean
from gateway.lobby.workspaces import workspace_named

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from gateway.interfaces import Workspace
    from gateway.lobby.command import Parser
    from gateway.lobby.context import LobbyContext
    from gateway.tree_status import TreeStatus

COMMIT_ID_SHOWN = 12


def _status_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="the workspace")
    json_option(parser)


async def _status(lobby: LobbyContext, args: Namespace) -> int:
    named = await workspace_named(lobby, args.name)
    status = await lobby.services.workspaces.status(named) if named.is_cloned else None
    # Only the list knows when it was used last.
    listed = {workspace.id: workspace for workspace in await lobby.services.store.list_workspaces()}
    workspace = listed.get(named.id, named)
    running = [row for row in await lobby.services.store.list_sessions() if row.workspace_id == workspace.id]
    if args.json:
        await lobby.print_json(tree_shape(workspace, status, session_count=len(running)))
        return EXIT_OK
    for label, text in _lines(workspace, status, session_count=len(running)):
        await lobby.print(f"{label:14} {text}")
    return EXIT_OK


def _lines(workspace: Workspace, status: TreeStatus | None, *, session_count: int) -> Iterator[tuple[str, str]]:
    yield "workspace", workspace.name + (f": {clean(workspace.description)}" if workspace.description else "")
    if workspace.github_url is not None:
        yield "repository", clean(workspace.github_repo or workspace.github_url)
    if status is None:
        yield "tree", "declared; cloned at its first login"
    else:
        yield "branch", _branch(status)
        yield "files", _files(status)
        yield "last commit", _commit(status)
    yield "sessions", str(session_count)
    yield "last activity", age(workspace.last_activity_at) if workspace.last_activity_at else "none on record"
    yield "last sync", age(workspace.last_sync_at) if workspace.last_sync_at else "never"


def _branch(status: TreeStatus) -> str:
    branch = "none (detached HEAD)" if status.branch is None else clean(status.branch)
    if status.upstream is None:
        return branch if status.branch is None else f"{branch}, without an upstream"
    upstream = clean(status.upstream)
    if status.ahead is None or status.behind is None:
        return f"{branch}, follows {upstream}, which is not there"
    if not (status.ahead or status.behind):
        return f"{branch}, as {upstream} was at the last fetch"
    return f"{branch}, {status.ahead} ahead of {upstream} and {status.behind} behind"


def _files(status: TreeStatus) -> str:
    if status.is_clean:
        return "clean"
    counts = {
        "with conflicts": status.conflicted,
        "staged": status.staged,
        "modified": status.modified,
        "untracked": status.untracked,
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return said if status.is_complete else f"at least {said}"


def _commit(status: TreeStatus) -> str:
    commit = status.last_commit
    if commit is None:
        return "none yet"
    when = f", {age(commit.at)}" if commit.at is not None else ""
    return f"{clean(commit.id)[:COMMIT_ID_SHOWN]} {clean(commit.subject)} ({clean(commit.author)}{when})"


async def _sync(lobby: LobbyContext, args: Namespace) -> int:
    workspace = await workspace_named(lobby, args.name)
    synced = await lobby.services.workspaces.sync(
        workspace, by=lobby.who, progress=lobby.stderr, is_terminal=lobby.is_terminal, columns=lobby.columns
    )
    if args.json:
        await lobby.print_json(sync_shape(workspace, synced))
        return EXIT_OK
    branch = clean(synced.branch or "-")
    if synced.commit_count == 0:
        await lobby.print(f"{workspace.name}: {branch} has everything already")
    else:
        commits = f"{synced.commit_count} commit{'' if synced.commit_count == 1 else 's'}"
        await lobby.print(f"{workspace.name}: {branch} is {commits} further, at {clean(synced.after or '-')[:12]}")
    return EXIT_OK


COMMANDS = (
    Command(
        name="status",
        summary="what git says of a tree: branch, changes, last commit",
        run=_status,
        arguments=_status_arguments,
        for_scoped_keys=True,
        teaching="""
Nothing is fetched and nothing changed: ahead and behind are as of the last fetch. A new
folder counts as one untracked file, as in `git status`.

examples:
  homeport status my-app
  homeport status my-app --json | jq .modified

--json: an object with workspace, is_cloned, branch (null: detached HEAD), upstream,
ahead and behind (null: no upstream), modified, staged, untracked, conflicted,
is_complete (false: there are more than were counted), last_commit (null, or an object
with id, at, author and subject), session_count, last_activity_at, last_sync_at.
Not cloned yet: what only git knows is null.
""",
    ),
    Command(
        name="sync",
        summary="fetch, and go forward to what the upstream has",
        run=_sync,
        arguments=_status_arguments,
        for_scoped_keys=True,
        teaching="""
`git fetch`, then `git merge --ff-only`, inside the workspace: commits and changes of
yours are never touched. Refused, with the reason, where the branch has diverged from
its upstream, where changed files are in the way, and on a detached HEAD; what was
fetched stays. Both steps are in the journal (`homeport log`).

examples:
  homeport sync my-app

--json: an object with workspace, branch, before and after (commit ids), commit_count.
""",
    ),
)
