"""Looks for work that exists nowhere else, and prints what it found as JSON.

Every repository in tree and home counts: nested ones, submodules, linked worktrees, bare ones. What is not certain
counts as unsaved.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from . import git
from .walk import Entry, walk

REPOSITORIES_MAX = 200  # named; with more than these, the rest is not looked at and counts as unsaved
EXAMPLES_MAX = 10
UNTRACKED_LISTED_MAX = 200
NAME_SHOWN_MAX = 200
REFS_LISTED_MAX = 1000
# A file of this name in the git directory → what is under way.
_OPERATIONS = {
    "MERGE_HEAD": "merge",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
}


@dataclass
class Repository:
    """One that was found, and what of it exists only here."""

    path: str  # tree, tree/vendor/lib, home/.dotfiles
    branch: str | None = None  # None: no branch, a detached HEAD or a bare repository
    staged_count: int = 0
    modified_count: int = 0
    untracked_count: int = 0
    hidden_count: int = 0  # files whose changes git was told to overlook (update-index --assume-unchanged)
    ignored_count: int = 0  # not unsaved work by git's rules, but only here as well
    stash_count: int = 0
    unpushed_count: int = 0  # commits that no remote is known to have
    operation: str | None = None  # a merge or the like is under way
    problem: str | None = None  # it could not be looked at
    examples: list[str] = field(default_factory=list)


@dataclass
class Survey:
    repositories: list[Repository] = field(default_factory=list)
    is_complete: bool = True
    loose_count: int = 0  # files of the tree that no repository has
    loose: list[str] = field(default_factory=list)
    home_file_count: int = 0
    content_bytes: int = 0
    newest_ns: int = 0  # when anything was changed last
    head: str | None = None  # of the tree's own repository, as are the following
    refs: dict[str, str] = field(default_factory=dict)
    stashes: list[str] = field(default_factory=list)
    untracked: list[str] = field(default_factory=list)


def survey(home: str, tree: str) -> None:
    places = {"home": home, "tree": tree}
    found = Survey()
    worktrees, git_dirs = _find(home, tree, found)
    if len(worktrees) + len(git_dirs) > REPOSITORIES_MAX:
        found.is_complete = False
    covered: set[str] = set()
    for name in worktrees[:REPOSITORIES_MAX]:
        repository = Repository(name)
        found.repositories.append(repository)
        try:
            covered.update(_look_at_worktree(repository, _real(name, places), set(worktrees), found))
        except (git.GitFailed, OSError, ValueError) as error:
            repository.problem = str(error)[:200]
    for name in git_dirs[: REPOSITORIES_MAX - len(found.repositories)]:
        path = _real(name, places)
        if os.path.realpath(path) in covered:
            continue
        repository = Repository(name)
        found.repositories.append(repository)
        try:
            _look_at_commits(repository, path, f"--git-dir={path}")
        except (git.GitFailed, OSError, ValueError) as error:
            repository.problem = str(error)[:200]
    sys.stdout.write(json.dumps(asdict(found)))
    sys.stdout.flush()


def _real(name: str, places: dict[str, str]) -> str:
    root, _, rest = name.partition("/")
    return f"{places[root]}/{rest}" if rest else places[root]


def _find(home: str, tree: str, found: Survey) -> tuple[list[str], list[str]]:
    """Names of directories that have a `.git`, and of those that look like one themselves."""
    worktrees: list[str] = []
    git_dirs: list[str] = []
    covering: list[str] = []  # the worktrees we are in, innermost last
    unreadable: list[str] = []
    for entry in walk(home, tree, unreadable):
        found.newest_ns = max(found.newest_ns, entry.stat.st_ctime_ns)
        while covering and not entry.name.startswith(covering[-1] + "/"):
            covering.pop()
        if entry.is_directory:
            if _has(entry, ".git"):
                worktrees.append(entry.name)
                covering.append(entry.name)
            elif all(_has(entry, name) for name in ("HEAD", "objects", "refs")):
                git_dirs.append(entry.name)
            continue
        found.content_bytes += entry.stat.st_size if entry.is_file else 0
        if entry.name.startswith("home/"):
            found.home_file_count += 1
        elif not covering:
            found.loose_count += 1
            found.loose += [entry.name[:NAME_SHOWN_MAX]] if len(found.loose) < EXAMPLES_MAX else []
    found.is_complete = not unreadable
    return worktrees, git_dirs


def _has(directory: Entry, name: str) -> bool:
    try:
        os.stat(f"{directory.leaf}/{name}", dir_fd=directory.parent_fd, follow_symlinks=False)
    except OSError:
        return False
    return True


def _look_at_worktree(repository: Repository, path: str, worktrees: set[str], found: Survey) -> Iterator[str]:
    """Fills `repository`; gives the git directories that were looked at with it."""
    git_dir = git.output(path, "rev-parse", "--absolute-git-dir")
    common = os.path.realpath(os.path.join(path, git.output(path, "rev-parse", "--git-common-dir")))  # noqa: PTH118
    if os.path.realpath(git.output(path, "rev-parse", "--show-toplevel")) != os.path.realpath(path):
        raise git.GitFailed("its .git is no repository")
    untracked = found.untracked if repository.path == "tree" else None
    _look_at_status(repository, path, worktrees, untracked)
    for record in git.records(path, "ls-files", "-v", "-z"):
        tag, name = record[:2], os.fsdecode(record[2:])
        if (tag[:1].islower() or tag == b"S ") and os.path.lexists(os.path.join(path, name)):  # noqa: PTH118
            repository.hidden_count += 1
            _example(repository, name)
    repository.operation = next(
        (word for name, word in _OPERATIONS.items() if os.path.lexists(f"{git_dir}/{name}")), None
    )
    _look_at_commits(repository, path)
    if repository.path == "tree":
        _describe(found, path)
    return iter((os.path.realpath(git_dir), common))


def _look_at_status(repository: Repository, path: str, worktrees: set[str], untracked: list[str] | None) -> None:
    options = ("--porcelain=v2", "-z", "--branch", "--untracked-files=all", "--ignored=traditional")
    lines = git.records(path, "status", *options, "--ignore-submodules=none")
    for line in lines:
        kind, rest = line[:1], os.fsdecode(line[2:])
        if line.startswith(b"# branch.head "):
            head = os.fsdecode(line.removeprefix(b"# branch.head "))
            repository.branch = None if head == "(detached)" else head
        elif kind in b"12u":
            if kind == b"2":
                next(lines, None)  # where it was renamed from
            states, name = rest[:2], rest.split(" ", {b"1": 7, b"2": 8, b"u": 9}[kind])[-1]
            repository.staged_count += states[0] != "."
            repository.modified_count += states[1] != "."
            _example(repository, name)
        elif kind == b"!":
            repository.ignored_count += 1
        elif (
            kind == b"?" and f"{repository.path}/{rest}".rstrip("/") not in worktrees
        ):  # those are looked at themselves
            repository.untracked_count += 1
            _example(repository, rest)
            if untracked is not None and len(untracked) < UNTRACKED_LISTED_MAX:
                untracked.append(rest[:NAME_SHOWN_MAX])


def _look_at_commits(repository: Repository, where: str, *git_dir: str) -> None:
    """What no remote has: of HEAD, branches, tags and all other refs, as far as the last fetch or push tells."""
    elsewhere = [f"--remotes={name}" for name in _remotes_elsewhere(where, *git_dir)]
    has_head = git.succeeds(where, *git_dir, "rev-parse", "-q", "--verify", "HEAD")
    wanted = [*(["HEAD"] if has_head else []), "--exclude=refs/stash", "--all"]
    count = git.output(where, *git_dir, "rev-list", "--count", *wanted, "--not", *elsewhere)
    repository.unpushed_count = int(count)
    if git.succeeds(where, *git_dir, "rev-parse", "-q", "--verify", "refs/stash"):
        repository.stash_count = sum(
            1 for _ in git.records(where, *git_dir, "reflog", "show", "-z", "--format=%H", "refs/stash")
        )
        repository.stash_count = max(repository.stash_count, 1)


def _remotes_elsewhere(where: str, *git_dir: str) -> Iterator[str]:
    """Remotes on another host. What was pushed to a path in here goes with the workspace."""
    for name in filter(None, git.output(where, *git_dir, "remote").split("\n")):
        # A push moves the same refs as a fetch, and may go elsewhere.
        if git.succeeds(where, *git_dir, "remote", "get-url", "--", name):
            urls = [git.output(where, *git_dir, "ls-remote", "--get-url", "--", name)]
            urls += git.output(where, *git_dir, "remote", "get-url", "--push", "--all", "--", name).split("\n")
            if all(map(_is_elsewhere, urls)):
                yield name


def _is_elsewhere(url: str) -> bool:
    scheme, has_scheme, _ = url.partition("://")
    is_scp_like = not has_scheme and ":" in url.partition("/")[0]
    return is_scp_like or (bool(has_scheme) and scheme != "file")


def _describe(found: Survey, path: str) -> None:
    """What an archive's manifest tells of the tree's own repository."""
    if git.succeeds(path, "rev-parse", "-q", "--verify", "HEAD"):
        found.head = git.output(path, "rev-parse", "HEAD")
    lines = git.records(path, "for-each-ref", "--format=%(objectname) %(refname)", separator=b"\n")
    for line in lines:
        value, _, name = os.fsdecode(line).partition(" ")
        if name and len(found.refs) < REFS_LISTED_MAX:
            found.refs[name] = value
    for line in git.records(path, "stash", "list", "--format=%H %gs", separator=b"\n"):
        if line and len(found.stashes) < EXAMPLES_MAX * 10:
            found.stashes.append(os.fsdecode(line)[:200])


def _example(repository: Repository, name: str) -> None:
    if len(repository.examples) < EXAMPLES_MAX:
        repository.examples.append(name[:NAME_SHOWN_MAX])
