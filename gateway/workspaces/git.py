"""Runs git inside a workspace, as a program of its keeper: a hostile repository executes code (filters, hooks,
fsmonitor), so it must find nothing there but the workspace itself."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from gateway.environment import DEFAULT_LANG, DEFAULT_PATH
from gateway.errors import CommandRefused, KeeperGone, KeeperRefused
from gateway.ids import new_id
from gateway.interfaces import Inside, Keeper, Program, ProgramExit, ProgramSpec

PROTOCOLS_ALLOWED = "https:ssh"  # for submodules and redirects as well: never file: or ext::
OUTPUT_MAX_BYTES = 64 * 1024
READ_BYTES = 32 * 1024
LAST_LINES_KEPT = 5
FIRST_BRANCH = "main"
# Once git has ended its pipes are at their end too, unless a background child of it holds them.
PIPE_LINGER_SECONDS = 2

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

OnProgress = Callable[[str], Awaitable[None]]


async def run_git(
    keeper: Keeper, inside: Inside, arguments: Sequence[str], *, seconds_max: float, on_progress: OnProgress
) -> str:
    """Run `git ARGUMENTS` in the tree and return what it printed; stderr goes to `on_progress` as it comes.

    Raises CommandRefused with git's last words, KeeperGone, ProgramFailed. Cancelling hangs git up before it returns.
    """
    spec = ProgramSpec(
        session_id=new_id(),
        argv=tuple(word.encode() for word in ("env", "git", *_OPTIONS, *arguments)),
        executable=b"/usr/bin/env",  # finds git on the workspace's own PATH
        environment=_environment(inside),
        directory=inside.tree.encode(),
    )
    program = await keeper.start(spec)
    last_lines: deque[str] = deque(maxlen=LAST_LINES_KEPT)
    try:
        async with asyncio.timeout(seconds_max), _pipes(program) as (stdout, stderr):
            end, output = await _until_ended(program, stdout, stderr, on_progress, last_lines)
    except TimeoutError:
        raise CommandRefused(f"git was not done after {seconds_max:.0f} s and was ended") from None
    finally:
        with contextlib.suppress(KeeperGone, KeeperRefused):  # it is gone, and git with it
            if not program.exited.done():
                await keeper.hang_up(spec.session_id)
            await keeper.forget(spec.session_id)
    _refuse_failure(end, last_lines)
    return output


def _environment(inside: Inside) -> dict[bytes, bytes]:
    values = {
        "HOME": inside.home,
        "USER": inside.user,
        "LOGNAME": inside.user,
        "PATH": DEFAULT_PATH,
        "LANG": DEFAULT_LANG,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": PROTOCOLS_ALLOWED,
        "GIT_SSH_COMMAND": _SSH_COMMAND,
    }
    return {name.encode(): value.encode() for name, value in values.items()}


@contextlib.asynccontextmanager
async def _pipes(program: Program) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamReader]]:
    """The program's output as streams; owns its three descriptors."""
    assert program.stdin_fd is not None and program.stdout_fd is not None and program.stderr_fd is not None
    os.close(program.stdin_fd)
    loop = asyncio.get_running_loop()
    readers: list[asyncio.StreamReader] = []
    transports: list[asyncio.ReadTransport] = []
    try:
        for fd in (program.stdout_fd, program.stderr_fd):
            reader = asyncio.StreamReader(limit=READ_BYTES)
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_read_pipe(partial(_same, protocol), os.fdopen(fd, "rb", buffering=0))
            readers.append(reader)
            transports.append(transport)
        yield readers[0], readers[1]
    finally:
        for transport in transports:
            transport.close()


def _same(protocol: asyncio.StreamReaderProtocol) -> asyncio.StreamReaderProtocol:
    return protocol


async def _until_ended(
    program: Program,
    stdout: asyncio.StreamReader,
    stderr: asyncio.StreamReader,
    on_progress: OnProgress,
    last_lines: deque[str],
) -> tuple[ProgramExit, str]:
    output = bytearray()
    async with asyncio.TaskGroup() as group:
        reading = {
            group.create_task(_keep(stdout, output), name="git:stdout"),
            group.create_task(_pass_on(stderr, on_progress, last_lines), name="git:stderr"),
        }
        end = await asyncio.shield(program.exited)  # the future is the keeper's; cancelling us must not cancel it
        _, pending = await asyncio.wait(reading, timeout=PIPE_LINGER_SECONDS)
        for task in pending:
            task.cancel()
    return end, output.decode(errors="replace")


async def _keep(stream: asyncio.StreamReader, kept: bytearray) -> None:
    while piece := await stream.read(READ_BYTES):
        kept += piece[: OUTPUT_MAX_BYTES - len(kept)]


async def _pass_on(stream: asyncio.StreamReader, on_progress: OnProgress, last_lines: deque[str]) -> None:
    """Show what git says. The other side's server speaks through it, so nothing that a terminal would act on passes."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    unfinished = ""
    while piece := await stream.read(READ_BYTES):
        text = "".join(
            letter if letter.isprintable() or letter in "\r\n" else "\N{REPLACEMENT CHARACTER}"
            for letter in decoder.decode(piece)
        )
        *lines, unfinished = (unfinished + text)[-READ_BYTES:].replace("\r", "\n").split("\n")
        last_lines.extend(line.strip() for line in lines if line.strip())
        await on_progress(text)
    if unfinished.strip():
        last_lines.append(unfinished.strip())


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
