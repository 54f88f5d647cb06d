"""Where Homeport and sshd answer a case differently, and why. Each stands in docs/compatibility.md in these words."""

from __future__ import annotations

from tests.support.server import Server

DIFFERENCES = {
    "variables": "Homeport sets LANG, PWD, WORKSPACE_NAME, a PATH with ~/.local/bin in front, behind walls "
    "XDG_RUNTIME_DIR, GIT_CONFIG_* for the gateway's credentials, and TERM=dumb for a terminal whose client names "
    "none; sshd without PAM sets MAIL instead, and leaves the rest to PAM.",
    "start": "Everything starts in the workspace's tree: shells, commands, SFTP. sshd has but the home.",
    "open-files": "A program may open 1024 files before it raises that itself, whatever the server runs with, for "
    "select(2) fails above; sshd hands on its own limit.",
    "c-library-signals": "Signals 32 and 33, which glibc keeps to itself, are ignored in Homeport's programs, as in "
    "everything that posix_spawn(3) starts.",
    "linger": "A child in the background that keeps a command's output open holds sshd's client for as long as it "
    "runs; Homeport's client goes after `session.pipe_linger_seconds` of silence. The child lives on in both.",
    "user-rc": "~/.ssh/rc is not run: what a login does is written in the shell's own files.",
    "nameless-signals": "Death by a signal that SSH has no name for (SIGBUS, SIGSYS, …) is told by its own name; sshd "
    "says `SIG@openssh.com`.",
    "too-long": "A command above 128 KiB, which execve(2) does not take as one argument, ends with 126 and a line that "
    "says so; sshd ends with 1.",
    "algorithms": "Only what is thought strong today is offered: no SHA-1, no CBC, no finite-field Diffie-Hellman, no "
    "chacha20-poly1305, no RSA host key unless the operator puts one there. sshd 9.2 still offers some of it.",
    "compression": "Compression is not offered: a compressed stream of a stranger is work for the gateway. `ssh -C` "
    "works without it.",
    "nul-in-command": "A command with a NUL byte is refused, and the connection lives on; sshd ends the connection.",
}


def is_different(server: Server, name: str) -> bool:
    """Whether this server is the one that differs from sshd in `name`."""
    assert name in DIFFERENCES
    return not server.is_sshd
