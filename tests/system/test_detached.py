"""What a session does while nobody is attached, and what a shell that stayed finds of its new client."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.costs import cpu_ticks, own_pids, ticks_per_second
from tests.support.installed import InstalledGateway, until
from tests.support.shell import Shell, end_sessions, until_detached
from tests.support.ssh_agent import ssh_agent
from tests.support.walls import walls
from tests.support.x_server import ANSWER, COOKIE, PROGRAM, XServer
from tests.system.conftest import PIPE_LINGER_SECONDS, running, skip_without_walls

AT_ONCE_SECONDS = 1.0
# Asks its terminal where the cursor is and what it is, and puts down what it hears (ECMA-48 8.3.35, 8.3.24).
ASKER = r"""
import os, select, sys, termios, tty
tty.setraw(0)
os.write(1, b"\x1b[5;7H\x1b[6n\x1b[c")
heard = b""
while select.select([0], [], [], 5 if heard.count(b"c") < 1 else 0.5)[0]:
    heard += os.read(0, 1000)
with open("heard.new", "wb") as file: file.write(heard)
os.rename("heard.new", "heard")
"""
COUNTER = """
import os, sys, time
count, pause = int(sys.argv[1]), float(sys.argv[2])
due = time.monotonic()
for number in range(count):
    os.write(1, b"line %07d\\r\\n" % number)
    due += pause
    time.sleep(max(0, due - time.monotonic()))
"""


@pytest.fixture(autouse=True)
def _no_session_left(request: pytest.FixtureRequest) -> Iterator[None]:
    gateway = request.getfixturevalue("gateway") if "gateway" in request.fixturenames else None
    yield
    if gateway is not None:
        end_sessions(gateway)


def leave_at_work(gateway: InstalledGateway, command: str) -> None:
    """Have the shell `work` wait for a word in the fifo `go`, for then to run the command, and kill its client."""
    with Shell(gateway, login="demo+work") as shell:
        shell.do("mkfifo go")
        shell.enter(f"cat go; rm go; {command}")
        shell.read_for(lambda: bool(gateway.programs("cat go")), "waiting")
        shell.leave_by_kill()
    until_detached(gateway)


def go(gateway: InstalledGateway) -> None:
    assert gateway.ssh("echo >go").returncode == 0


def file_of(gateway: InstalledGateway, name: str, **limits: float) -> bytes:
    """A file of the tree, once it is there; then it is removed."""
    done = until(lambda: (found := gateway.ssh(f"cat {name}")).returncode == 0 and found, f"{name} is there", **limits)
    gateway.ssh(f"rm {name}")
    return done.stdout


# ------------------------------------------------------------------------------------------------ programs at work


@pytest.mark.parametrize("megabytes", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_program_that_floods_its_terminal_never_waits_for_anybody(gateway: InstalledGateway, megabytes: int) -> None:
    leave_at_work(gateway, f"yes flood | head -c {megabytes}M; echo ended >finished")
    started = time.monotonic()
    go(gateway)
    assert file_of(gateway, "finished", seconds=50) == b"ended\n"
    print(f"{megabytes} MB with nobody attached in {time.monotonic() - started:.1f} s")
    with Shell(gateway, login="demo+work") as shell:
        assert shell.ask("echo here") == "here"


def test_program_that_begins_with_nobody_attached_has_its_questions_answered(gateway: InstalledGateway) -> None:
    gateway.ssh("cat >asker.py", input=ASKER.encode())
    leave_at_work(gateway, "python3 asker.py; rm asker.py")
    go(gateway)
    heard = file_of(gateway, "heard")
    assert (heard.startswith(b"\x1b[5;7R\x1b[?"), heard.count(b"R"), heard.count(b"c")) == (True, 1, 1), heard


def test_with_a_client_attached_the_client_alone_answers(gateway: InstalledGateway) -> None:
    """The test's client answers nothing, as if it were slow: nobody else may do it in its place."""
    gateway.ssh("cat >asker.py", input=ASKER.replace("5 if", "1 if").encode())
    with Shell(gateway, login="demo+work") as shell:
        shell.enter("python3 asker.py")
        shell.wait(b"\x1b[6n")
        shell.type(b"\x1b[5;7R\x1b[?1c")
        assert file_of(gateway, "heard") == b"\x1b[5;7R\x1b[?1c"
        gateway.ssh("rm asker.py")


@pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed; apt install vim")
def test_vim_that_starts_detached_comes_up_and_knows_its_terminal(gateway: InstalledGateway) -> None:
    vim = "vim -u NONE -N -c 'au TermResponse * call writefile([v:termresponse], \"answer\")'"
    leave_at_work(gateway, vim)
    go(gateway)
    assert file_of(gateway, "answer").startswith(b"\x1b[>")
    with Shell(gateway, login="demo+work") as shell:
        shell.wait(b"~")
        shell.type(b":q!\r")
        # It throws away what is typed before it has gone.
        shell.read_for(lambda: not gateway.programs("vim -u NONE"), "gone")
        assert shell.ask("echo back") == "back"


def test_end_of_the_job_is_noted_and_told_to_whoever_comes_back(gateway: InstalledGateway) -> None:
    leave_at_work(gateway, "echo done")
    row = gateway.until_row("SELECT * FROM sessions WHERE name = 'work' AND job = 'cat' AND status = 'paused'")
    assert row["job_ended_at"] is None
    go(gateway)
    gateway.until_row("SELECT id FROM sessions WHERE name = 'work' AND job_ended_at IS NOT NULL")
    (told,) = json.loads(gateway.homeport("sessions", "--json").stdout)
    assert (told["job"], told["job_ended_at"] is not None) == ("cat", True)
    with Shell(gateway, login="demo+work") as shell:
        shell.ask("echo here")
        assert b"cat ended" in shell.printed
    row = gateway.rows("SELECT job, job_ended_at FROM sessions WHERE name = 'work' AND status = 'active'")
    assert row in ([], [{"job": None, "job_ended_at": None}])


def recorded_lines(gateway: InstalledGateway, name: str) -> list[int]:
    row = gateway.rows("SELECT id FROM sessions WHERE name = ? ORDER BY created_at DESC", name)[0]
    cast = gateway.homeport("rec", "export", str(row["id"])).stdout.decode().splitlines()
    output = "".join(event[2] for event in map(json.loads, cast[1:]) if event[1] == "o")
    return [int(line.split()[1]) for line in output.replace("\r", "").split("\n") if line.startswith("line 0")]


@pytest.mark.parametrize(("count", "rate"), [(200, 200), pytest.param(3600, 200, marks=pytest.mark.slow)])
def test_loop_with_nobody_attached_is_recorded_whole_and_costs_next_to_nothing(
    gateway: InstalledGateway, count: int, rate: int
) -> None:
    """At 20 lines a second the cost is a tenth of that measured here."""
    gateway.ssh("cat >counter.py", input=COUNTER.encode())
    leave_at_work(gateway, f"python3 counter.py {count} {1 / rate}; echo >finished")
    pids = own_pids(gateway)
    before, started = cpu_ticks(pids), time.monotonic()
    go(gateway)
    login_ticks = cpu_ticks(pids) - before  # of asking, not of the loop
    before = cpu_ticks(pids)
    workspace = gateway.rows("SELECT id FROM workspaces WHERE name = 'demo'")[0]["id"]
    finished = gateway.state_dir / "workspaces" / str(workspace) / "tree" / "finished"
    until(finished.exists, "the loop ended", seconds=50)
    spent = (cpu_ticks(pids) - before) / ticks_per_second()
    passed = time.monotonic() - started
    share = spent / passed * 20 / rate
    print(f"{count} lines at {rate} a second: {spent:.2f} s of processor in {passed:.1f} s, "
          f"{share:.2%} of a core at 20 a second (and {login_ticks} ticks for the login)")  # fmt: skip
    gateway.ssh("rm finished counter.py")
    assert recorded_lines(gateway, "work") == list(range(count))
    assert share < 0.02, "a fifth of that is what it takes where nothing else runs"


@pytest.mark.slow
def test_shell_at_its_prompt_with_nobody_attached_costs_nothing(gateway: InstalledGateway) -> None:
    """What a gateway spends without any session is taken off: it looks after itself now and then."""
    seconds = 5.0
    pids = own_pids(gateway)
    empty = ticks_in(pids, seconds)
    with Shell(gateway, login="demo+work") as shell:
        shell.ask("echo ready")
        shell.leave_by_kill()
    until_detached(gateway)
    pids = own_pids(gateway)
    quiet = min(ticks_in(pids, seconds) for _ in range(2))  # the first may have the detaching in it
    print(f"ticks in {seconds:g} s: {empty} without a session, {quiet} with a detached one")
    assert quiet <= empty + 1


def ticks_in(pids: list[int], seconds: float) -> int:
    before = cpu_ticks(pids)
    time.sleep(seconds)  # not a wait: the time is what is measured
    return cpu_ticks(pids) - before


# --------------------------------------------------------------------------------- what the old shell finds again


def agent_options(path: Path) -> tuple[str, ...]:
    return ("-A", "-o", f"IdentityAgent={path}", "--")


def test_agent_of_the_new_client_answers_in_the_old_shell_and_nobody_s_at_once(gateway: InstalledGateway) -> None:
    second_key = gateway.directory / "second-agent-key"
    if not second_key.exists():
        gateway.new_key(second_key.name)
    with (
        ssh_agent(gateway.directory / "a1.sock", gateway.key) as first,
        ssh_agent(gateway.directory / "a2.sock", second_key) as second,
    ):
        with Shell(gateway, *agent_options(first)) as shell:
            pid = shell.pid
            assert " key (ED25519)" in shell.ask("ssh-add -l")
            shell.enter("mkfifo go; cat go; time ssh-add -l >said 2>&1; echo >finished; rm go")
            shell.read_for(lambda: gateway.ssh("test -p go").returncode == 0, "waiting")
            shell.leave_by_kill()
        until_detached(gateway)
        started = time.monotonic()
        gateway.ssh("echo >go")
        file_of(gateway, "finished")
        assert time.monotonic() - started < AT_ONCE_SECONDS
        assert b"ED25519" not in file_of(gateway, "said")
        with Shell(gateway, *agent_options(second), "-i", str(gateway.key)) as shell:
            assert shell.pid == pid
            assert " second-agent-key (ED25519)" in shell.ask("ssh-add -l")


@pytest.fixture(params=walls())
def forwarding(request: pytest.FixtureRequest) -> Iterator[InstalledGateway]:
    """A gateway of the test's own, that forwards X11."""
    skip_without_walls(request.param)
    if shutil.which("xauth") is None:
        pytest.skip("xauth is not installed; apt install xauth")
    yield from running(
        InstalledGateway(request.param, ssh_x11_forwarding="true", session_pipe_linger_seconds=PIPE_LINGER_SECONDS)
    )


@pytest.mark.slow
def test_display_of_the_new_client_is_where_the_old_shell_looks_for_it(
    forwarding: InstalledGateway, tmp_path: Path
) -> None:
    """Also when another client has come meanwhile, and after a crash of the gateway."""
    forwarding.ssh("cat >draw.py", input=PROGRAM.encode())
    with contextlib.ExitStack() as stack:
        servers = [XServer(tmp_path_of(tmp_path, number)) for number in range(3)]
        for server in servers:
            stack.callback(server.close)

        def client(number: int, login: str = "demo+draws") -> Shell:
            return Shell(forwarding, "-Y", "--", login=login, environment=servers[number].environment)

        def draw(shell: Shell, number: int, name: str) -> None:
            """Its display may still be on its way to the old number."""
            before = len(servers[number].cookies)
            until(lambda: shell.ask("python3 draw.py 2>&1 | tail -n 1").encode() == ANSWER, "drawn")
            assert [cookie.hex() for cookie in servers[number].cookies[before:]][-1:] == [COOKIE]
            assert shell.ask("echo $DISPLAY") == name

        with client(0) as first:
            name = first.ask("echo $DISPLAY")
            assert name.startswith("localhost:")
            draw(first, 0, name)
            first.leave_by_kill()
        until_detached(forwarding)
        with client(1, "demo+other") as other, client(1) as second:
            assert other.ask("echo $DISPLAY") != name
            draw(second, 1, name)
            with client(2) as third:  # two on one shell: the newest has it
                draw(third, 2, name)
            second.leave_by_kill()
            other.exit()
        forwarding.kill()
        forwarding.start()
        with client(0) as last:
            draw(last, 0, name)
            last.exit()
    forwarding.ssh("rm draw.py")


def tmp_path_of(folder: Path, number: int) -> Path:
    made = folder / str(number)
    made.mkdir()
    return made
