"""A client's own ssh-agent."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

END_SECONDS = 10.0


@contextmanager
def ssh_agent(path: Path, key: Path) -> Iterator[Path]:
    """One that listens at `path` and holds `key`, until the end of the block."""
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        try:
            agent.stdout.readline()  # said once it listens; the path is there a moment before
            subprocess.run(["ssh-add", "-q", key], check=True, env={"SSH_AUTH_SOCK": str(path)})
            yield path
        finally:
            agent.terminate()
            agent.wait(END_SECONDS)
            path.unlink(missing_ok=True)
