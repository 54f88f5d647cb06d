"""Git's own CGI program behind an aiohttp request (git-http-backend(1)), for repositories under one folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from aiohttp import web

CHUNK_BYTES = 64 * 1024


async def serve_git(request: web.Request, root: Path, path: str) -> web.StreamResponse:
    """Answer as a git server. `path` below `root`: `owner/repo.git/info/refs`. Pushing is up to the caller to allow."""
    process = await asyncio.create_subprocess_exec(
        "git",
        "http-backend",
        env=_environment(request, root, path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        feeding = asyncio.ensure_future(_feed(request, process.stdin))
        response = web.StreamResponse()
        while line := (await process.stdout.readline()).decode().strip():
            name, _, value = line.partition(": ")
            if name.lower() == "status":
                response.set_status(int(value.split()[0]))
            else:
                response.headers[name] = value
        await response.prepare(request)
        while chunk := await process.stdout.read(CHUNK_BYTES):
            await response.write(chunk)
        await response.write_eof()
        await feeding
        await process.wait()
        return response
    except BaseException:  # not at a good end: `kill` there could reap what the loop waits for
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    finally:
        await process.wait()


async def _feed(request: web.Request, stdin: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        async for chunk in request.content.iter_chunked(CHUNK_BYTES):
            stdin.write(chunk)
            await stdin.drain()
        stdin.close()


def _environment(request: web.Request, root: Path, path: str) -> dict[str, str]:
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "http.receivepack",
        "GIT_CONFIG_VALUE_0": "true",
        "GIT_CONFIG_KEY_1": "safe.directory",
        "GIT_CONFIG_VALUE_1": "*",
        "PATH_INFO": f"/{path}",
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.query_string,
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_USER": "octocat",
    }
    if "Content-Length" in request.headers:
        environment["CONTENT_LENGTH"] = request.headers["Content-Length"]
    if "Content-Encoding" in request.headers:
        environment["HTTP_CONTENT_ENCODING"] = request.headers["Content-Encoding"]
    if "Git-Protocol" in request.headers:
        environment["HTTP_GIT_PROTOCOL"] = request.headers["Git-Protocol"]
    return environment
