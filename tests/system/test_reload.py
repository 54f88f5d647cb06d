"""`homeport reload`: a new process serves, the old one goes on with what it has, and no client notices either."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.installed import HOMEPORT, STOP_SECONDS, InstalledGateway, free_port, until
from tests.support.shell import Shell, end_sessions, until_detached
from tests.support.streams import connected, shouting_inside
from tests.support.walls import walls
from tests.system.conftest import running, skip_without_walls

COMMANDS_AT_ONCE = 4
COMMANDS_A_RELOAD = 50
# Asked for by the design: a person who lost the connection is back at the shell.
BACK_SECONDS_MAX = 7.0


@pytest.fixture(scope="module", params=walls())
def gateway(request: pytest.FixtureRequest) -> Iterator[InstalledGateway]:
    """Of our own: a gateway that others have lent must stay the process they know."""
    skip_without_walls(request.param)
    yield from running(InstalledGateway(request.param))


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[InstalledGateway]:
    """For what leaves a trace in the log, or kills: without the promises of a module."""
    gateway = InstalledGateway("none")
    try:
        gateway.set_up()
        yield gateway
    finally:
        gateway.close()
        gateway.remove()


def alone(gateway: InstalledGateway) -> bool:
    return gateway.gateway_pids() == {gateway.serving_pid}


# ------------------------------------------------------------------------------------------------- nobody is refused


@pytest.mark.timeout(400)
@pytest.mark.parametrize("reloads", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_commands_health_checks_and_a_transfer_go_through_reloads(gateway: InstalledGateway, reloads: int) -> None:
    """Commands come without a pause from several clients; one copy began before the first reload."""
    upload = gateway.directory / "upload"
    upload.write_bytes(os.urandom(1024) * 1024 * (2 + reloads))
    bits = upload.stat().st_size * 8 // 1000 // (3 * reloads)  # kbit/s: it takes as long as the reloads, about
    over = threading.Event()

    def commands() -> list[tuple[int, bytes]]:
        outcomes = []
        while not over.is_set():
            done = gateway.ssh("true")
            outcomes.append((done.returncode, done.stderr))
        return outcomes

    def health() -> list[str]:
        """What was wrong."""
        wrong = []
        while not over.is_set():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{gateway.http_port}/readyz", timeout=20) as answer:
                    answer.read()
            except (urllib.error.URLError, OSError) as error:
                wrong.append(str(error))
        return wrong

    with ThreadPoolExecutor(COMMANDS_AT_ONCE + 1) as pool:
        copying = subprocess.Popen(
            ["scp", *gateway.ssh_options, "-l", str(bits), str(upload), "demo@gateway:upload"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/",
        )  # fmt: skip
        gateway.until_row("SELECT id FROM sessions WHERE status = 'active' AND kind = 'subsystem'")
        loops = [pool.submit(commands) for _ in range(COMMANDS_AT_ONCE)]
        checks = pool.submit(health)
        try:
            count = 0
            for _ in range(reloads):
                gateway.reload()
                count += COMMANDS_A_RELOAD
                ended = "SELECT count(*) AS n FROM sessions WHERE command = 'true' AND ended_at IS NOT NULL"
                until(lambda: int(str(gateway.rows(ended)[0]["n"])) >= count, "commands ran", seconds=60)  # noqa: B023
        finally:
            over.set()
        outcomes = [outcome for loop in loops for outcome in loop.result()]
        assert copying.wait(120) == 0, copying.stderr and copying.stderr.read()
        assert copying.stderr is not None
        copying.stderr.close()
    assert len(outcomes) >= reloads * COMMANDS_A_RELOAD
    assert [outcome for outcome in outcomes if outcome != (0, b"")] == []
    assert checks.result() == []
    assert gateway.ssh("cat upload; rm upload").stdout == upload.read_bytes()
    until(lambda: alone(gateway), "all that were replaced have ended")


def test_what_is_open_stays_with_the_old_one_and_notices_nothing(gateway: InstalledGateway) -> None:
    """A terminal, a command on pipes, a forward, and a connection on which further sessions are opened."""
    local = free_port()
    with shouting_inside(gateway) as port, Shell(gateway) as shell, gateway.master() as master:
        pid = shell.pid
        assert gateway.ssh(*master, "-O", "forward", "-L", f"{local}:127.0.0.1:{port}", "--").returncode == 0
        sock = connected(local)
        pipe = subprocess.Popen(
            gateway.ssh_command("cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
        )  # fmt: skip
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        pipe.stdin.write(b"before\n")
        pipe.stdin.flush()
        assert pipe.stdout.readline() == b"before\n"
        old = gateway.serving_pid
        gateway.reload()
        assert old in gateway.gateway_pids()
        assert shell.pid == pid
        pipe.stdin.write(b"after\n")
        pipe.stdin.close()
        assert pipe.stdout.read() == b"after\n"
        assert pipe.wait(STOP_SECONDS) == 0
        pipe.stdout.close()
        sock.sendall(b"still")
        sock.shutdown(1)
        assert sock.recv(100) == b"STILL"
        sock.close()
        assert gateway.ssh(*master, "--", "echo on the old connection").stdout == b"on the old connection\n"
        assert old in gateway.gateway_pids()
        shell.exit()
    until(lambda: alone(gateway), "the old one has ended")


# ----------------------------------------------------------------------------------------- who gets which session


def test_a_terminal_that_is_left_goes_to_the_new_one_and_back_to_its_owner(gateway: InstalledGateway) -> None:
    with Shell(gateway) as shell:
        pid = shell.pid
        shell.do("kept=across")
        gateway.reload()
        shell.leave_by_kill()
    until_detached(gateway)
    with Shell(gateway) as shell:
        assert (shell.pid, shell.ask("echo $kept")) == (pid, "across")
        shell.exit()
    until(lambda: alone(gateway), "the old one has ended")


@pytest.mark.slow
def test_a_detached_terminal_is_there_at_once_after_a_reload(gateway: InstalledGateway) -> None:
    with Shell(gateway, login="demo+night") as shell:
        pid = shell.pid
        shell.enter("for i in $(seq 200); do echo line $i; sleep 0.02; done; echo $((20 + 22))")
        shell.wait(b"line 3\r")
        shell.leave_by_window()
    until_detached(gateway)
    gateway.reload()
    with Shell(gateway, login="demo+night") as shell:
        shell.wait(b"42")
        assert shell.pid == pid
        shell.exit()
    (row,) = gateway.rows("SELECT * FROM sessions WHERE name = 'night'")
    export = gateway.homeport("rec", "export", str(row["id"])).stdout.decode().splitlines()
    printed = "".join(event[2] for event in map(json.loads, export[1:]) if event[1] == "o")
    assert [printed.count(f"line {number}\r\n") for number in range(1, 201)] == [1] * 200


def test_a_named_session_is_given_up_by_the_old_one_to_who_asks_the_new_one(gateway: InstalledGateway) -> None:
    with Shell(gateway, login="demo+logs") as first:
        pid = first.pid
        gateway.reload()
        started = time.monotonic()
        with Shell(gateway, login="demo+logs") as second:
            assert second.pid == pid
            assert time.monotonic() - started < BACK_SECONDS_MAX
            assert first.wait_ended() == 255
            first.wait(b"goes on in a newer gateway")
            second.exit()
    until(lambda: alone(gateway), "the old one has ended")


@pytest.mark.slow
def test_a_shell_whose_client_fell_silent_before_the_reload_is_had_back(gateway: InstalledGateway) -> None:
    """The laptop sleeps while the gateway is upgraded; a window that is awake keeps its own shell."""
    with Shell(gateway) as asleep:
        pid = asleep.pid
        gateway.reload()
        with Shell(gateway) as awake:
            assert awake.pid != pid, "the first still answers, so this is another"
            asleep.stop()
            try:
                started = time.monotonic()
                with Shell(gateway) as back:
                    assert back.pid == pid
                    assert time.monotonic() - started < BACK_SECONDS_MAX
                    back.exit()
            finally:
                asleep.go_on()
            awake.exit()
    until(lambda: alone(gateway), "the old one has ended")


def test_a_name_is_not_begun_twice_by_a_connection_to_the_old_one(gateway: InstalledGateway) -> None:
    with gateway.master("demo+logs") as master:
        gateway.reload()
        with Shell(gateway, login="demo+logs") as shell:
            pid = shell.pid
            command = gateway.ssh_command(*master, "-tt", "--", workspace="demo+logs")
            with Shell(gateway, command=command) as other:
                other.wait(b"logs is with a newer gateway")
                assert other.wait_ended() == 255
            assert shell.pid == pid
            shell.exit()
    until(lambda: alone(gateway), "the old one has ended")


def test_kill_reaches_what_the_old_one_has(gateway: InstalledGateway) -> None:
    pipe = subprocess.Popen(gateway.ssh_command("exec sleep 1234"), stdin=subprocess.DEVNULL, cwd="/")
    row = gateway.until_row("SELECT id FROM sessions WHERE command = 'exec sleep 1234' AND status = 'active'")
    gateway.reload()
    gateway.homeport("kill", str(row["id"]))
    assert pipe.wait(STOP_SECONDS) != 0
    row = gateway.until_row("SELECT * FROM sessions WHERE id = ? AND status = 'terminated'", row["id"])
    assert row["end_reason"] == "killed"
    until(lambda: alone(gateway), "the old one has ended")


def test_kill_of_a_workspace_says_killed_also_of_what_the_old_one_has(gateway: InstalledGateway) -> None:
    pipe = subprocess.Popen(gateway.ssh_command("exec sleep 1235"), stdin=subprocess.DEVNULL, cwd="/")
    row = gateway.until_row("SELECT id FROM sessions WHERE command = 'exec sleep 1235' AND status = 'active'")
    gateway.reload()
    gateway.homeport("kill", "--workspace", "demo")
    assert pipe.wait(STOP_SECONDS) != 0
    row = gateway.until_row("SELECT * FROM sessions WHERE id = ? AND status = 'terminated'", row["id"])
    assert row["end_reason"] == "killed"
    until(lambda: alone(gateway), "the old one has ended")


@pytest.mark.slow
def test_the_old_one_ends_at_its_deadline_and_its_shells_go_on_in_the_new_one() -> None:
    gateway = InstalledGateway("none", session_reload_drain_seconds=0.5, session_drain_seconds=0)
    try:
        gateway.set_up()
        with Shell(gateway) as shell:
            pid = shell.pid
            gateway.reload()
            assert shell.wait_ended() == 255
            shell.wait(b"this gateway was replaced, and ends now; this shell goes on running")
        until(lambda: alone(gateway), "the old one has ended")
        with Shell(gateway) as shell:
            assert shell.pid == pid
            shell.exit()
    finally:
        gateway.close()
        gateway.remove()


@pytest.mark.slow
def test_a_removed_key_loses_its_connections_to_the_old_one(gateway: InstalledGateway) -> None:
    key = gateway.new_key("guest")
    gateway.homeport("keys", "add", str(key.with_suffix(".pub")), "--name", "guest")
    command = [*gateway.plain_ssh_command(key), "echo up; exec sleep 77"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        gateway.reload()
        gateway.homeport("keys", "rm", "guest")
        started = time.monotonic()
        assert client.wait(STOP_SECONDS) == 255
        assert time.monotonic() - started < 10
    gateway.ssh("pkill -f 'sleep 77'")
    end_sessions(gateway)


# ------------------------------------------------------------------------------------------- when it does not work


def refused(gateway: InstalledGateway) -> str:
    """A reload that must not happen: its words. The old gateway serves on as if nothing had been asked."""
    before = gateway.serving_pid
    with Shell(gateway, login="demo+waits") as shell:
        pid = shell.pid
        shell.leave_by_window()
    until_detached(gateway)
    done = gateway.homeport("reload", check=False)
    assert done.returncode == 1
    assert gateway.serving_pid == before
    assert gateway.ssh("echo served").stdout == b"served\n"
    with Shell(gateway, login="demo+waits") as shell:
        assert shell.pid == pid
        shell.exit()
    until(lambda: alone(gateway), "nothing of the new one is left")
    return done.stderr.decode()


def test_a_settings_file_that_is_wrong_is_refused_in_its_own_words(own: InstalledGateway) -> None:
    (own.directory / "homeport.toml").write_text("[ssh]\nlisten_on = 'x'\n")
    before = own.serving_pid
    done = own.homeport("reload", check=False)
    assert done.returncode == 1
    assert "this one serves on: config: [ssh] listen_on is not a setting" in done.stderr.decode()
    assert own.serving_pid == before
    (own.directory / "homeport.toml").write_text("")
    assert own.ssh("echo served").stdout == b"served\n"
    own.reload()


def test_a_database_upgrade_that_the_old_version_cannot_live_with_is_refused(own: InstalledGateway) -> None:
    """The third one is not additive; taken off the list of what was made, it is to be made again."""
    with contextlib.closing(sqlite3.connect(own.state_dir / "homeport.db")) as database:
        applied = database.execute("SELECT * FROM aerich WHERE version >= '3'").fetchall()
        database.execute("DELETE FROM aerich WHERE version >= '3'")
        database.commit()
    assert "cannot be made while the previous version works on; restart the gateway" in refused(own)
    with contextlib.closing(sqlite3.connect(own.state_dir / "homeport.db")) as database:
        marks = ",".join("?" * len(applied[0]))
        database.executemany(f"INSERT INTO aerich VALUES ({marks})", applied)
        database.commit()
    own.reload()


@pytest.mark.parametrize("number", range(3))
@pytest.mark.slow
def test_a_new_one_that_is_killed_as_it_starts_leaves_the_old_one_serving(own: InstalledGateway, number: int) -> None:
    """At a moment left to chance: before it is ready, or when it has been told to go."""
    with Shell(own, login="demo+waits") as shell:
        pid = shell.pid
        shell.leave_by_window()
    until_detached(own)
    before = own.serving_pid
    with ThreadPoolExecutor(1) as pool:
        reloading = pool.submit(own.homeport, "reload", check=False)
        (new,) = until(lambda: own.gateway_pids() - {before}, "the new one has begun")
        time.sleep(number * 0.03)  # not a wait: the moment of the kill
        with contextlib.suppress(ProcessLookupError):
            os.kill(new, signal.SIGKILL)
        done = reloading.result()
    if own.serving_pid == new:
        pytest.skip("it served already")
    assert done.returncode == 1
    assert b"this one serves on" in done.stderr
    assert own.serving_pid == before
    assert own.ssh("echo served").stdout == b"served\n"
    with Shell(own, login="demo+waits") as shell:
        assert shell.pid == pid
        shell.exit()
    own.reload()


@pytest.mark.slow
def test_a_crash_of_the_new_one_leaves_the_old_ones_clients_alone(own: InstalledGateway) -> None:
    """And the next start finds what the crash left, while the old one still has its own."""
    with Shell(own) as attached, Shell(own, login="demo+waits") as waiting:
        pid, waiting_pid = attached.pid, waiting.pid
        waiting.leave_by_window()
        until_detached(own)
        new = own.reload()
        os.kill(new, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{new}/fd").exists() or new not in own.gateway_pids(), "the new one is gone")
        assert attached.pid == pid
        assert own.ssh("true").returncode == 255
        old = own.process
        own.start()
        assert attached.pid == pid
        with Shell(own, login="demo+waits") as again:
            assert again.pid == waiting_pid
            again.exit()
        attached.leave_by_kill()
        assert old is not None
        assert old.wait(STOP_SECONDS) == 0
        until_detached(own)
        with Shell(own) as again:
            assert again.pid == pid
            again.exit()


def test_stop_ends_those_that_were_replaced_as_well(own: InstalledGateway) -> None:
    with Shell(own) as first:
        first_pid = first.pid
        own.reload()
        with Shell(own) as second:
            assert second.pid != first_pid
            own.reload()
            assert len(own.gateway_pids()) == 3
            own.homeport("stop")
            assert own.gateway_pids() == set()
            assert (first.wait_ended(), second.wait_ended()) == (255, 255)
    assert len(own.rows("SELECT id FROM sessions WHERE status = 'paused'")) == 2
    assert own.process is not None
    assert own.process.wait(STOP_SECONDS) == 0


@pytest.mark.slow
def test_without_a_service_manager_the_first_process_lasts_as_long_as_the_service(own: InstalledGateway) -> None:
    """A container or a terminal knows only the process it started."""
    own.terminate()
    environment = {name: value for name, value in own.environment.items() if name != "NOTIFY_SOCKET"}
    with subprocess.Popen([str(HOMEPORT), "serve"], env=environment, stderr=subprocess.DEVNULL, cwd="/") as first:
        until(lambda: own.ssh("true").returncode == 0, "it serves")
        new = own.reload()
        until(lambda: b"stand_in" in Path(f"/proc/{first.pid}/cmdline").read_bytes(), "it waits")
        assert own.ssh("echo served").stdout == b"served\n"
        first.send_signal(signal.SIGTERM)
        assert first.wait(STOP_SECONDS) == 0
        assert not Path(f"/proc/{new}").exists() or new not in own.gateway_pids()
