"""Which gateways of a state live: true after any end of theirs, and nobody else is ever signalled."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.processes import GatewayProcesses

# Another gateway, as far as this module can tell: enters, says so, and waits for its end.
OTHER = """
import signal, sys
from pathlib import Path
from gateway.processes import GatewayProcesses
processes = GatewayProcesses(Path(sys.argv[1]))
processes.enter()
print(*processes.others(), flush=True)
signal.pause()
"""


@contextmanager
def other_gateway(directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", OTHER, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.seen = process.stdout.readline().split()  # type: ignore[attr-defined]
        try:
            yield process
        finally:
            process.kill()


def test_gateways_see_each_other_and_not_themselves(tmp_path: Path) -> None:
    processes = GatewayProcesses(tmp_path)
    assert processes.others() == []
    processes.enter()
    with other_gateway(tmp_path) as other:
        assert processes.others() == [other.pid]
        assert len(other.seen) == 1  # type: ignore[attr-defined]
    processes.leave()
    processes.leave()
    with other_gateway(tmp_path) as other:
        assert other.seen == []  # type: ignore[attr-defined]


def test_a_killed_gateway_is_forgotten_though_its_file_stayed(tmp_path: Path) -> None:
    with other_gateway(tmp_path) as other:
        other.kill()
        other.wait()
        assert (tmp_path / str(other.pid)).exists()
        assert GatewayProcesses(tmp_path).others() == []
        assert not (tmp_path / str(other.pid)).exists()


def test_asked_to_stop_is_who_lives(tmp_path: Path) -> None:
    """A file of a dead gateway may bear the number of anybody: here this test's own parent's."""
    (tmp_path / "1").touch()
    (tmp_path / "notes").touch()
    with other_gateway(tmp_path) as other:
        assert GatewayProcesses(tmp_path).ask_others_to_stop() == [other.pid]
        assert other.wait(10) == -signal.SIGTERM


def test_a_missing_directory_holds_nobody(tmp_path: Path) -> None:
    assert GatewayProcesses(tmp_path / "gone").others() == []
