"""What a session request makes the keeper start."""

from __future__ import annotations

from gateway.environment import program_environment
from gateway.interfaces import Inside, ProgramSpec, SessionKind, SessionRequest, Workspace

# VERBOSE, because at INFO the failure of a stat that is not named would look like that of the operation before it.
SFTP_LOG_OPTIONS = (b"-e", b"-l", b"VERBOSE")


def program_spec(
    request: SessionRequest, workspace: Workspace, inside: Inside, *, is_audited: bool = False
) -> ProgramSpec:
    """What the keeper shall start for a request: a login shell, a command through the shell, or sftp-server.

    `is_audited`: sftp-server tells on its standard error what it does (sftp_audit.py).
    """
    shell = inside.shell.encode()
    executable = shell
    argv: tuple[bytes, ...]
    if request.kind is SessionKind.SHELL:
        # A leading dash makes it a login shell (sshd(8), bash(1) INVOCATION).
        argv = (b"-" + shell.rpartition(b"/")[2],)
    elif request.kind is SessionKind.EXEC:
        argv = (shell.rpartition(b"/")[2], b"-c", request.command or b"")
    else:
        argv = tuple(word.encode() for word in inside.sftp_server)
        executable = argv[0]
        argv += SFTP_LOG_OPTIONS if is_audited else ()
    return ProgramSpec(
        session_id=request.session_id,
        argv=argv,
        executable=executable,
        environment=program_environment(inside, workspace, request),
        directory=inside.tree.encode(),
        terminal=request.terminal,
        wants_stderr_messages=is_audited,
    )
