"""What VS Code Remote-SSH is made of: a script on the input of `sh`, a server that outlives it, a tunnel."""

from __future__ import annotations

import base64
import subprocess

from tests.support.installed import InstalledGateway, free_port, until
from tests.support.streams import SHOUTER, connected, shout, through_socks

INSTALL = r"""
set -u
echo "1a2b: running"
mkdir -p "$HOME/.editor-server"
exec 9> "$HOME/.editor-server/lock"
flock -w 5 9 || exit 24
if [ -f "$HOME/.editor-server/pid" ] && kill -0 "$(cat "$HOME/.editor-server/pid")" 2>/dev/null; then
    found=1
else
    found=0
    python3 -c '%s' > "$HOME/.editor-server/log" 2>&1 < /dev/null 9>&- &
    echo $! > "$HOME/.editor-server/pid"
    while ! [ -s "$HOME/.editor-server/log" ]; do sleep 0.01; done
fi
echo "1a2b: start"
echo "listeningOn==$(cat "$HOME/.editor-server/log")=="
echo "found==$found=="
echo "platform==$(uname -s)=="
echo "1a2b: end"
flock -u 9
""".replace("%s", SHOUTER)


def bootstrap(
    gateway: InstalledGateway, options: tuple[str, ...] = ()
) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """Run the script on the input of `sh`; the client stays, its input open, as the editor's does."""
    command = gateway.ssh_command("-T", *options, "--", "sh")
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/")
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(INSTALL.encode())
    client.stdin.flush()
    lines: list[str] = []
    while not lines or lines[-1] != "1a2b: end":
        raw = client.stdout.readline()
        assert raw, f"ended after {lines}: {client.communicate()[1]!r}"
        lines.append(raw.decode().rstrip("\n"))
    assert lines[:2] == ["1a2b: running", "1a2b: start"], "nothing of ours may stand in the stream"
    return client, dict(line.strip("=").split("==", 1) for line in lines if line.endswith("=="))


def test_server_outlives_its_connection_and_the_next_one_finds_and_reaches_it(gateway: InstalledGateway) -> None:
    first, facts = bootstrap(gateway)
    assert (facts["found"], facts["platform"]) == ("0", "Linux")
    first.kill()  # the laptop's lid
    first.communicate()
    gateway.until_row("SELECT * FROM sessions WHERE command = 'sh' AND status = 'terminated'")
    dynamic = free_port()
    second, again = bootstrap(gateway, ("-D", str(dynamic)))
    try:
        assert (again["found"], again["listeningOn"]) == ("1", facts["listeningOn"])
        for _ in range(3):
            sock = through_socks(connected(dynamic), "127.0.0.1", int(facts["listeningOn"]))
            assert shout(sock, b"hello" * 1000) == b"HELLO" * 1000
    finally:
        assert second.communicate(b"exit 0\n", timeout=20)[0] == b""
        gateway.ssh('kill "$(cat ~/.editor-server/pid)"; rm -r ~/.editor-server')
    assert second.returncode == 0


def test_lock_of_a_vanished_connection_is_free_at_once(gateway: InstalledGateway) -> None:
    """A script whose input stayed open would hold its lock, and the next window would wait 30 s for it."""
    command = gateway.ssh_command("-T", "--", "sh")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/") as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"exec 9> ~/lock; flock 9; echo locked; read forever\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"locked\n"
        client.kill()
    until(lambda: gateway.ssh("flock -n ~/lock true").returncode == 0, "the lock is free", seconds=3)


def test_bootstrap_of_20_kilobytes_on_the_command_line_runs(gateway: InstalledGateway) -> None:
    script = base64.b64encode(b"# " + b"x" * 15_000 + b"\necho booted $0; exit 12\n").decode()
    done = gateway.ssh(f"echo {script} | base64 -d | bash -l")
    assert (done.returncode, done.stdout) == (12, b"booted bash\n")


def test_sessions_share_processes_and_temporary_files(gateway: InstalledGateway) -> None:
    """Lock files name pids: every session of a workspace must see the same ones."""
    started = gateway.ssh("sleep 303 >/dev/null 2>&1 & echo $! > /tmp/editor.pid; cat /tmp/editor.pid")
    pid = int(started.stdout)
    assert (
        gateway.ssh("kill -0 $(cat /tmp/editor.pid) && ps -o args= -p $(cat /tmp/editor.pid)").stdout == b"sleep 303\n"
    )
    assert gateway.ssh(f"kill {pid}; rm /tmp/editor.pid").returncode == 0
