"""The promise of the bubblewrap wall: what a workspace can see, reach and end. Each test asks from inside."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.keeper_site import Site, close_streams, ended, eventually

SECRET = "secret-of-the-gateway-4711"

ATTACKS = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1,
               signal.SIGQUIT, signal.SIGALRM, signal.SIGPIPE, signal.SIGCHLD, signal.SIGSEGV, signal.SIGRTMIN):
    os.kill(1, number)
print("ptrace", libc.ptrace(16, 1, 0, 0), libc.ptrace(0x4206, 1, 0, 0))
pidfd = os.pidfd_open(1)
print("getfd", [libc.syscall(438, pidfd, fd, 0) for fd in range(20)].count(-1))
def refused(path, flags=os.O_RDONLY):
    try:
        os.close(os.open(path, flags))
        return False
    except OSError:
        return True
print("proc", refused("/proc/1/mem", os.O_RDWR), *(refused("/proc/1/" + name) for name in ("environ", "maps", "fd")))
print("root", refused("/proc/1/root/etc"), refused("/proc/1/cwd/etc"))
"""


async def test_nothing_of_the_gateway_or_other_workspaces_can_be_found(walled: Site) -> None:
    other = walled.make_workspace("other")
    for directory in (other.home, other.tree, walled.directory / "state", walled.runtime_dir):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "marker-of-ours").write_text(SECRET)
    keeper = await walled.keeper()
    elsewhere = "-path /usr -prune -o -path /proc -prune -o -path /sys -prune -o"
    search = f"find / {elsewhere} -name '*marker-of-ours*' -print -o -name 'keeper.*' -print"
    assert await walled.output(keeper, f"{search} 2>/dev/null; true") == ""
    for path in (walled.directory, other.home, walled.runtime_dir, "/root/.ssh", "/var/lib/homeport"):
        assert await walled.output(keeper, f"ls {path} 2>&1 | grep -c 'No such'") == "1"


async def test_the_environment_and_processes_of_the_gateway_cannot_be_seen(
    walled: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEPORT_TEST_SECRET", SECRET)
    keeper = await walled.keeper()
    secret = f"$(echo {SECRET[::-1]} | rev)"  # so that the search does not find itself
    search = f"env; cat /proc/*/environ 2>/dev/null | grep -ac {secret}; ls -d /proc/[0-9]* | wc -l"
    said = (await walled.output(keeper, search)).splitlines()
    assert int(said[-2]) == 0
    assert int(said[-1]) < 8
    assert await walled.output(keeper, f"kill -0 {os.getpid()} 2>&1 || echo refused") != ""
    assert "refused" in await walled.output(keeper, f"kill -9 {os.getpid()} 2>&1 || echo refused")


async def test_a_program_cannot_end_or_become_its_keeper(walled: Site) -> None:
    keeper = await walled.keeper()
    said = await walled.output(keeper, "/usr/bin/python3", "-c", ATTACKS)
    assert said.splitlines() == [
        "ptrace -1 -1",
        "getfd 20",
        "proc True True True True",
        "root True True",
    ]
    assert await walled.output(keeper, "echo alive") == "alive"


async def test_files_made_inside_belong_to_the_account_and_not_to_root(walled: Site) -> None:
    keeper = await walled.keeper()
    assert await walled.output(keeper, "touch ~/made made; id -u; id -un; echo ~; pwd") == "\n".join(
        [str(os.getuid()), "demo", "/home/demo", "/workspaces/demo"]
    )
    assert os.getuid() != 0
    for file in (walled.workspace.home / "made", walled.workspace.tree / "made"):
        assert file.stat().st_uid == os.getuid()


async def test_a_program_has_no_privilege_and_cannot_gain_any(walled: Site) -> None:
    keeper = await walled.keeper()
    said = await walled.output(keeper, "grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs)' /proc/self/status")
    assert [line.split()[1].strip("0") for line in said.splitlines()] == ["", "", "", "", "1"]


async def test_the_system_is_read_only_and_memory_file_systems_are_bounded(walled: Site) -> None:
    keeper = await walled.keeper()
    for directory in ("", "/usr", "/etc", "/dev", "/home", "/workspaces", "/.homeport", "/.homeport/keeper", "/var"):
        await walled.output(keeper, f"touch {directory}/x 2>/dev/null", status=1)
    sizes = (await walled.output(keeper, "df --output=size -k /run /dev/shm | tail -n +2")).split()
    assert [int(size) for size in sizes] == [64 * 1024, 256 * 1024]
    assert (
        await walled.output(keeper, "stat -c %a /tmp /var/tmp /dev/shm /run/user/$(id -u)") == "1777\n1777\n1777\n700"
    )
    assert await walled.output(keeper, "df --output=fstype /tmp | tail -1") != "tmpfs"


async def test_the_temporary_directory_is_empty_when_a_keeper_starts(walled: Site) -> None:
    gateway = walled.gateway()
    keeper = await walled.keeper(gateway)
    await walled.output(keeper, "mkdir -p /tmp/a/b; touch /tmp/a/b/c /var/tmp/d; chmod 0 /tmp/a; touch ~/stays; ls ~")
    await keeper.terminate()
    fresh = await walled.keeper(gateway)
    assert await walled.output(fresh, "ls -A /tmp /var/tmp; ls ~") == "/tmp:\n\n/var/tmp:\nstays"
    scratch = walled.workspace.home.parent

    async def only_new() -> bool:
        return [path.name for path in scratch.glob("tmp*")] == ["tmp"]

    await eventually(only_new, "the old ones are removed")


async def test_the_end_of_the_outer_process_does_not_end_the_keeper(walled: Site) -> None:
    """The keeper survives the gateway's unit being stopped; it ends by its verb, or by its own pid."""
    gateway = walled.gateway()
    keeper = await walled.keeper(gateway)
    outer = walled.place().read_note().pid
    assert outer is not None
    os.kill(outer, signal.SIGKILL)
    assert await walled.output(keeper, "echo alive") == "alive"
    walled.place().kill()

    async def is_closed() -> bool:
        return keeper.closed.is_set()

    await eventually(is_closed, "the keeper is gone")


async def test_everything_ends_with_the_keeper(walled: Site) -> None:
    keeper = await walled.keeper()
    program = await keeper.start(walled.spec("setsid sleep 1000 & setsid sleep 1000"))
    walled.place().kill()
    await ended(program)
    assert program.stdout_fd is not None
    os.set_blocking(program.stdout_fd, False)

    async def at_end() -> bool:
        try:
            return os.read(program.stdout_fd or 0, 10) == b""
        except BlockingIOError:
            return False

    await eventually(at_end, "no process holds the pipe")
    close_streams(program)


async def test_two_workspaces_do_not_see_each_other(walled: Site) -> None:
    gateway = walled.gateway()
    keeper = await walled.keeper(gateway)
    await walled.output(keeper, "touch /tmp/mine /dev/shm/mine /run/mine; sleep 1000 >/dev/null 2>&1 &")
    walled.workspace = walled.make_workspace("other")
    other = await walled.keeper(gateway)
    assert await walled.output(other, "ls /tmp /dev/shm /home /workspaces; ls /run; pgrep sleep || echo none") == (
        "/dev/shm:\n\n/home:\nother\n\n/tmp:\n\n/workspaces:\nother\nlock\nuser\nnone"
    )
