"""Runs git inside a workspace, as a program of its keeper: a hostile repository executes code (filters, hooks,
fsmonitor), so it must find nothing there but the workspace itself."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from gateway.credentials.git_settings import git_variables
from gateway.errors import CommandRefused, GitFailed, KeeperGone
from gateway.interfaces import Inside, Keeper, ProgramExit
from gateway.workspaces.inside import InsideProgram, run_inside

PROTOCOLS_ALLOWED = "https:ssh"  # for submodules and redirects as well: never file: or ext::
PROTOCOLS_WITH_HTTP = "https:ssh:http"  # where the GitHub that is configured is a listener on loopback
OUTPUT_MAX_BYTES = 64 * 1024
READ_BYTES = 32 * 1024
LAST_LINES_KEPT = 12
# A clone with progress says some 50 KiB. What a tree's own filter or hook says beyond is taken slowly, or `status` of a
# tree whose filter never stops would hold up everybody: a piece takes milliseconds to make harmless.
SAID_FREELY_BYTES = 512 * 1024
SAID_PAUSE_SECONDS = 1.0
FIRST_BRANCH = "main"
# A server that prepares a large pack sends five bytes in five seconds (git-config(1), uploadpack.keepAlive), and no
# more where no progress is asked for: what is slower for so long is dead.
HTTP_BYTES_PER_SECOND_MIN = 1
HTTP_SILENCE_SECONDS = 300

# What git, curl and ssh say when the other side cannot be reached, or went away in the middle.
_NETWORK_WORDS = (
    "Could not resolve host", "Temporary failure in name resolution", "Failed to connect", "Couldn't connect",
    "Connection refused", "Connection reset", "Connection timed out", "Connection closed", "Network is unreachable",
    "No route to host", "Operation timed out", "Operation too slow", "early EOF", "unexpected disconnect",
    "hung up unexpectedly", "RPC failed", "Empty reply from server", "transfer closed", "returned error: 5",
    "not responding", "SSL_ERROR_SYSCALL", "unexpected eof", "TLS connection was non-properly terminated",
)  # fmt: skip
# Those come with such words as well, and trying again helps nothing.
_NOT_NETWORK_WORDS = ("returned error: 4", "RPC failed; HTTP 4", "No space left on device", "Permission denied")
_PERCENTAGE = re.compile(r": +\d{1,3}% \(")
_UNKNOWN_HERE = re.compile(r"could not read (?:Username|Password) for '(.*)': .*")

# Never ask anything: nobody could answer. A new host's key is taken on first use, a changed one is refused (ssh(1)).
_SSH_COMMAND = (
    "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ConnectTimeout=20"
    " -o ServerAliveInterval=30 -o ServerAliveCountMax=4"
)
# No background upkeep that would outlive the command; no credential prompts; no surprises from a global setting.
_OPTIONS = tuple(
    word
    for setting in (
        "gc.auto=0",
        "maintenance.auto=false",
        "core.askPass=",
        "advice.detachedHead=false",
        # A server that sends nothing is a network that failed; git itself would wait for ever.
        f"http.lowSpeedLimit={HTTP_BYTES_PER_SECOND_MIN}",
        f"http.lowSpeedTime={HTTP_SILENCE_SECONDS}",
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


async def say_nothing(_: str) -> None:
    """For a git whose words matter only if it fails."""


def protocols_for(url: str | None) -> str:
    """What git may speak for a repository at `url`, which was checked."""
    return PROTOCOLS_WITH_HTTP if url is not None and url.startswith("http://") else PROTOCOLS_ALLOWED


async def run_git(
    keeper: Keeper,
    inside: Inside,
    arguments: Sequence[str],
    *,
    seconds_max: float,
    on_progress: OnProgress,
    protocols: str = PROTOCOLS_ALLOWED,
    output_max_bytes: int = OUTPUT_MAX_BYTES,
) -> str:
    """Run `git ARGUMENTS` in the tree and return what it printed, cut at `output_max_bytes`; stderr goes to
    `on_progress` as it comes.

    Raises GitFailed with git's last words, KeeperGone, ProgramFailed. Cancelling hangs git up before it returns.
    """
    output = bytearray()
    said = _Said(on_progress)

    async def keep(piece: bytes) -> None:
        output.extend(piece[: output_max_bytes - len(output)])

    program = InsideProgram(
        argv=[word.encode() for word in ("env", "git", *_OPTIONS, *arguments)],
        stdout=keep,
        stderr=said.take,
        environment=GIT_ENVIRONMENT | {"GIT_ALLOW_PROTOCOL": protocols} | git_variables(inside.git_directory),
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
        self._byte_count = 0

    async def take(self, piece: bytes) -> None:
        self._byte_count += len(piece)
        if self._byte_count > SAID_FREELY_BYTES:
            await asyncio.sleep(SAID_PAUSE_SECONDS)
        text = "".join(
            letter if letter.isprintable() or letter in "\r\n" else "\N{REPLACEMENT CHARACTER}"
            for letter in self._decoder.decode(piece)
        )
        *lines, self._unfinished = (self._unfinished + text)[-READ_BYTES:].replace("\r", "\n").split("\n")
        self._last_lines.extend(line.strip() for line in lines if line.strip() and not _PERCENTAGE.search(line))
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
    text = "\n".join(last_lines)
    if asked := _UNKNOWN_HERE.fullmatch(said):  # a server asks for a login also where there is nothing
        said = f"{asked[1]} has no such repository, or not for everybody"
    is_network = _has(text, _NETWORK_WORDS) and not _has(text, _NOT_NETWORK_WORDS)
    why = _reason(last_lines) or _hint(text)
    raise GitFailed(f"git failed: {said}{why}", lines=tuple(last_lines), is_network=is_network)


def _has(text: str, words: Sequence[str]) -> bool:
    return any(word in text for word in words)


def _how(end: ProgramExit) -> str:
    return f"signal {end.signal}" if end.signal is not None else f"exit status {end.exit_code}"


def _reason(lines: Sequence[str]) -> str:
    """Why git got no token, if its helper said so (keeper/git_credential.py)."""
    said = [line for line in lines if line.startswith("homeport: ")]
    return "; " + said[-1].removeprefix("homeport: ") if said else ""


def _hint(text: str) -> str:
    if "No space left on device" in text:
        return "; the disk of the gateway is full: make room, then try again"
    if _has(text, ("could not read Username", "Permission denied", "Authentication failed")):
        return (
            "; private repositories need a login: `homeport github login`; or make an empty workspace with"
            " `homeport new NAME`, enter it and clone there"
        )
    return ""
