"""What git says of a working tree, as values: `git status --porcelain=v2 --branch -z` and one commit, parsed.

What is parsed comes from inside a workspace, so it may be anything: what makes no sense is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

TEXT_CHARACTERS_MAX = 500
COMMIT_FORMAT = "%H%x00%cI%x00%an%x00%s"


@dataclass(frozen=True, slots=True)
class Commit:
    id: str
    at: datetime | None
    author: str
    subject: str


@dataclass(frozen=True, slots=True)
class TreeStatus:
    """Counts of files are at least these if `is_complete` is false: there are very many."""

    branch: str | None  # None: a detached HEAD
    commit_id: str | None  # None: no commit yet
    upstream: str | None
    ahead: int | None  # of the upstream; None: there is none, or it is gone
    behind: int | None
    staged: int = 0
    modified: int = 0  # in the tree and not staged; a file may be both
    untracked: int = 0  # a folder of new files counts as one
    conflicted: int = 0
    is_complete: bool = True
    last_commit: Commit | None = None

    @property
    def is_clean(self) -> bool:
        return not (self.staged or self.modified or self.untracked or self.conflicted)


@dataclass(frozen=True, slots=True)
class Synced:
    """What `sync` did."""

    branch: str | None
    before: str | None  # commit ids
    after: str | None
    commit_count: int  # how many commits the branch went forward


def parse_status(text: str, *, is_complete: bool = True) -> TreeStatus:
    """git-status(1), "Porcelain Format Version 2": entries end with NUL, headers among them."""
    headers: dict[str, str] = {}
    counts = dict.fromkeys(("staged", "modified", "untracked", "conflicted"), 0)
    # Cut in the middle of an entry, the last one is no entry.
    entries = iter(text.split("\0")[: None if is_complete else -1])
    for entry in entries:
        kind = entry[:2]
        if kind == "# ":
            name, _, value = entry[2:].partition(" ")
            headers[name] = value[:TEXT_CHARACTERS_MAX]
        elif kind in ("1 ", "2 "):
            counts["staged"] += entry[2:3] != "."
            counts["modified"] += entry[3:4] != "."
            if kind == "2 ":
                next(entries, None)  # where it was renamed from
        elif kind == "u ":
            counts["conflicted"] += 1
        elif kind == "? ":
            counts["untracked"] += 1
    branch, commit_id = headers.get("branch.head"), headers.get("branch.oid")
    ahead, behind = _ahead_and_behind(headers.get("branch.ab", ""))
    return TreeStatus(
        branch=None if branch == "(detached)" else branch,
        commit_id=None if commit_id == "(initial)" else commit_id,
        upstream=headers.get("branch.upstream"),
        ahead=ahead,
        behind=behind,
        staged=counts["staged"],
        modified=counts["modified"],
        untracked=counts["untracked"],
        conflicted=counts["conflicted"],
        is_complete=is_complete,
    )


def parse_commit(text: str) -> Commit | None:
    """One commit as COMMIT_FORMAT prints it."""
    parts = text.rstrip("\n").split("\0", 3)
    if len(parts) != 4:
        return None
    commit_id, at, author, subject = (part[:TEXT_CHARACTERS_MAX] for part in parts)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        moment = None
    return Commit(commit_id, moment if moment is not None and moment.tzinfo is not None else None, author, subject)


def _ahead_and_behind(text: str) -> tuple[int | None, int | None]:
    ahead, _, behind = text.partition(" ")
    if not (ahead[:1] == "+" and behind[:1] == "-" and ahead[1:].isdecimal() and behind[1:].isdecimal()):
        return None, None
    return int(ahead[1:][:9]), int(behind[1:][:9])
