"""What of a workspace exists nowhere else: as the survey inside found it (gateway/keeper/packing/survey.py).

Its answer comes from a workspace: every value is checked for its kind and bounded, and no text can act on a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

SURVEY_MAX_BYTES = 1024 * 1024
_COUNT_MAX = 1 << 53
_TEXT_MAX = 200
_EXAMPLES_MAX = 3
# Field of a repository → what is said of it. Each of them is work that only this workspace has.
_COUNTED = {
    "staged_count": ("staged file", "staged files"),
    "modified_count": ("modified file", "modified files"),
    "untracked_count": ("untracked file", "untracked files"),
    "hidden_count": ("file that git was told to overlook", "files that git was told to overlook"),
    "stash_count": ("stash", "stashes"),
    "unpushed_count": ("commit that was not pushed", "commits that were not pushed"),
}


@dataclass(frozen=True, slots=True)
class Unsaved:
    """The answer to: may this be deleted? `reasons` is empty only if everything was looked at and is elsewhere."""

    reasons: tuple[str, ...]
    ignored_count: int = 0
    home_file_count: int = 0
    content_bytes: int = 0
    changed_at: datetime | None = None

    @property
    def is_clean(self) -> bool:
        return not self.reasons


UNKNOWN = Unsaved(("whether anything in it is unsaved is not known",))


def parse_survey(data: bytes) -> dict[str, Any] | None:
    """The survey's JSON; None: it is no survey."""
    try:
        found = json.loads(data) if len(data) <= SURVEY_MAX_BYTES else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("repositories"), list) else None


def unsaved_in(survey: Mapping[str, Any] | None) -> Unsaved:
    if survey is None:
        return UNKNOWN
    repositories = [each for each in survey["repositories"] if isinstance(each, dict)]
    reasons = [reason for repository in repositories for reason in _reasons_of(repository)]
    if count := _count(survey, "loose_count"):
        reasons.append(
            f"{_counted(count, ('file', 'files'))} in no repository{_examples(survey.get('loose'), 'tree/')}"
        )
    if survey.get("is_complete") is not True or len(repositories) != len(survey["repositories"]):
        reasons.append("some folders or repositories could not be looked at")
    return Unsaved(
        reasons=tuple(reasons),
        ignored_count=sum(_count(repository, "ignored_count") for repository in repositories),
        home_file_count=_count(survey, "home_file_count"),
        content_bytes=_count(survey, "content_bytes"),
        changed_at=_moment(survey.get("newest_ns")),
    )


def _reasons_of(repository: Mapping[str, Any]) -> Sequence[str]:
    path = _text(repository.get("path"))
    where = "" if path == "tree" else f" in {path.removeprefix('tree/')}"
    if repository.get("problem") is not None:
        return [f"the repository {path} could not be looked at ({_text(repository['problem'])})"]
    found = [_counted(count, words) for name, words in _COUNTED.items() if (count := _count(repository, name))]
    if operation := repository.get("operation"):
        found.append(f"a {_text(operation)} under way")
    if not found:
        return []
    return [f"{', '.join(found)}{where}{_examples(repository.get('examples'))}"]


def _counted(count: int, words: tuple[str, str]) -> str:
    return f"{count} {words[count != 1]}"


def _examples(names: object, prefix: str = "") -> str:
    shown = [_text(name).removeprefix(prefix) for name in (names if isinstance(names, list) else [])[:_EXAMPLES_MAX]]
    return (
        f" ({', '.join(shown)}{', …' if isinstance(names, list) and len(names) > _EXAMPLES_MAX else ''})"
        if shown
        else ""
    )


def _count(values: Mapping[str, Any], name: str) -> int:
    """A count that is none is one: whatever is not certain counts as unsaved."""
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _COUNT_MAX else 1


def _moment(nanoseconds: object) -> datetime | None:
    is_one = isinstance(nanoseconds, int) and 0 < nanoseconds < 1 << 62
    return datetime.fromtimestamp(cast("int", nanoseconds) // 10**9, UTC) if is_one else None


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else "?"


def printable(text: str) -> str:
    """A name from inside: short, and nothing that a terminal would act on."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:_TEXT_MAX])
