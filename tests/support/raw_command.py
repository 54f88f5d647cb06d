"""A client that sends bytes no client's command line can carry: python -m tests.support.raw_command PORT USER KEY.

The command is read from standard input. Prints `status N`, `signal NAME` or `failed WORDS`.
"""

from __future__ import annotations

import asyncio
import sys

import asyncssh
from asyncssh.packet import String


class _Channel(asyncssh.SSHClientChannel[bytes]):
    """asyncssh takes an empty command for a shell, and others for text."""

    command = b""

    def _make_request(self, request: bytes, *args: bytes, **options: object):  # type: ignore[no-untyped-def]
        if request == b"exec":
            args = (String(self.command),)
        return super()._make_request(request, *args, **options)


async def main(port: str, user: str, key: str) -> str:
    _Channel.command = sys.stdin.buffer.read()
    asyncssh.connection.SSHClientChannel = _Channel  # type: ignore[misc]
    options = {"username": user, "client_keys": [key], "known_hosts": None, "config": [], "agent_path": None}
    try:
        async with asyncssh.connect("127.0.0.1", int(port), **options) as connection:
            done = await connection.run("its place", check=False)
            if done.exit_signal is not None:
                return f"signal {done.exit_signal[0]}"
            sys.stderr.write(str(done.stderr))
            return "failed no status" if done.exit_status is None else f"status {done.exit_status}"
    except (asyncssh.Error, OSError) as error:
        return f"failed {type(error).__name__} {error}"


if __name__ == "__main__":
    print(asyncio.run(main(*sys.argv[1:])))
