"""Runs git inside a workspace, as a program of its keeper: a hostile repository executes code (filters, hooks,
fsmonitor), so it must find nothing there but the workspace itself."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from gateway.errors import CommandRefused, KeeperGone
from gateway.interfaces import Inside, Keeper, ProgramExit
from gateway.workspaces.inside import InsideProgram, run_inside

PROTOCOLS_ALLOWED = "https:ssh"  # for submodules and redirects as well: never file: or ext::
OUTPUT_MAX_BYTES = 64 * 1024
READ_BYTES = 32 * 1024
LAST_LINES_KEPT = 5
FIRST_BRANCH = "main"

# Never ask anything: nobody could answer. A new host's key is taken on first use, a changed one is refused (ssh(1)).
_SSH_COMMAND = "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ConnectTimeout=20"
# No background upkeep that would outlive the command; no credential prompts; no surprises from a global setting.
_OPTIONS = tuple(
    word
    for setting in (
        "gc.auto=0",
        "maintenance.auto=false",
        "core.askPass=",
        "advice.detachedHead=false",
        f"init.defaultBranch={FIRST_BRANCH}",  # also of a clone without commits, unless the far side names its own
    )
    for word in ("-c", setting)
)

GIT_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": PROTOCOLS_ALLOWED,
    "GIT_SSH_COMMAND": _SSH_COMMAND,
}

OnProgress = Callable[[str], Awaitable[None]]


async def run_git(
    keeper: Keeper, inside: Inside, arguments: Sequence[str], *, seconds_max: float, on_progress: OnProgress
) -> str:
    """Run `git ARGUMENTS` in the tree and return what it printed; stderr goes to `on_progress` as it comes.

    Raises CommandRefused with git's last words, KeeperGone, ProgramFailed. Cancelling hangs git up before it returns.
    """
    output = bytearray()
    said = _Said(on_progress)

    async def keep(piece: bytes) -> None:
        output.extend(piece[: OUTPUT_MAX_BYTES - len(output)])

    program = InsideProgram(
        argv=[word.encode() for word in ("env", "git", *_OPTIONS, *arguments)],
        stdout=keep,
        stderr=said.take,
        environment=GIT_ENVIRONMENT,
        read_bytes=READ_BYTES,
    )
    try:
        end = await run_inside(keeper, inside, program, seconds_max=seconds_max)
    except TimeoutError:
        raise CommandRefused(f"git was not done after {seconds_max:.0f} s and was ended") from None
    _refuse_failure(end, said.finish())
    return output.decode(errors="replace")


class _Said:
    """Shows what git says. The far side's server speaks through it, so nothing that a terminal would act on passes."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unfinished = ""
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES_KEPT)

    async def take(self, piece: bytes) -> None:
        text = "".join(
            letter if letter.isprintable() or letter in "\r\n" else "\N{REPLACEMENT CHARACTER}"
            for letter in self._decoder.decode(piece)
        )
        *lines, self._unfinished = (self._unfinished + text)[-READ_BYTES:].replace("\r", "\n").split("\n")
        self._last_lines.extend(line.strip() for line in lines if line.strip())
        await self._on_progress(text)

    def finish(self) -> Sequence[str]:
        """The last lines, once there will be no more."""
        if self._unfinished.strip():
            self._last_lines.append(self._unfinished.strip())
        return self._last_lines


def _refuse_failure(end: ProgramExit, last_lines: Sequence[str]) -> None:
    if end.exit_code == 0:
        return
    if end == ProgramExit():
        raise KeeperGone("the workspace's keeper ended, and git with it")
    if end.exit_code == 127:
        raise CommandRefused("git is not installed where workspaces see it; install it with: apt install git")
    fatal = [line for line in last_lines if line.startswith(("fatal:", "error:"))] or list(last_lines)[-1:]
    said = fatal[-1].removeprefix("fatal: ").removeprefix("error: ") if fatal else f"it ended with {_how(end)}"
    raise CommandRefused(f"git failed: {said}{_hint(last_lines)}")


def _how(end: ProgramExit) -> str:
    return f"signal {end.signal}" if end.signal is not None else f"exit status {end.exit_code}"


def _hint(last_lines: Sequence[str]) -> str:
    text = "\n".join(last_lines)
    if any(words in text for words in ("could not read Username", "Permission denied", "Authentication failed")):
        return (
            "\nprivate repositories need credentials, which the gateway does not have: make an empty workspace with"
            " `homeport new NAME`, enter it and clone there"
        )
    return ""
