"""What a launcher promises about programs and gateways: who owns them, what survives whom, what nobody read."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import pytest

from gateway.errors import KeeperGone, KeeperRefused, LauncherUnavailable
from gateway.interfaces import ProgramExit
from gateway.keeper import protocol
from gateway.launchers.link import KeeperLink
from gateway.launchers.none import NoneLauncher
from tests.support.keeper_site import DEADLINE_SECONDS, Reading, Site, close_streams, ended, eventually

LINE = "\033[3%dm%06d räksmörgås 漢字 🚢"


def numbered_lines(count: int) -> str:
    return (
        f"i=0; while [ $i -lt {count} ]; do printf '\\033[3%dm%06d räksmörgås 漢字 🚢\\n' $((i%8)) $i; i=$((i+1)); done"
    )


def expected_lines(count: int) -> bytes:
    return "".join(LINE % (number % 8, number) + "\r\n" for number in range(count)).encode()


async def all_kept_have_ended(keeper: KeeperLink) -> bool:
    return all(kept.exit is not None for kept in await keeper.list())


async def test_a_gateway_killed_mid_flood_loses_no_byte(site: Site) -> None:
    """What the first gateway read, the ring, and what the second reads are one byte stream, however it is cut.

    The first goes without a word, as by kill -9: its end of the socket closes while output is on its way.
    """
    count = 4000
    for read_bytes in (0, 1, 4096, 50_000, 150_000):
        first = site.gateway()
        keeper = await site.keeper(first)
        spec = site.spec(numbered_lines(count), terminal=True)
        program = await keeper.start(spec)
        before = Reading(program.terminal_fd or 0)
        await before.until_size(read_bytes)
        before.stop()
        await first.close()
        os.close(before.fd)

        second = site.gateway()
        (found,) = await second.find()
        adopted = await found.adopt(spec.session_id)
        rest = await Reading(adopted.terminal_fd or 0).to_end()
        assert before.data + adopted.backlog + rest == expected_lines(count)
        assert adopted.backlog_lost_bytes == 0
        assert await ended(adopted) == ProgramExit(exit_code=0)
        await found.forget(spec.session_id)


async def test_a_terminal_given_back_and_taken_again_loses_no_byte(site: Site) -> None:
    """release, then adopt by another gateway while the first still has others: an upgrade."""
    count = 4000
    old, new = await site.keeper(), await site.keeper()
    spec = site.spec(numbered_lines(count), terminal=True)
    program = await old.start(spec)
    before = Reading(program.terminal_fd or 0)
    await before.until_size(20_000)
    before.stop()
    await old.release(spec.session_id)
    os.close(before.fd)
    adopted = await new.adopt(spec.session_id)
    rest = await Reading(adopted.terminal_fd or 0).to_end()
    assert before.data + adopted.backlog + rest == expected_lines(count)
    assert (await ended(adopted)).exit_code == 0


async def test_what_does_not_fit_is_dropped_oldest_first_and_counted(site: Site) -> None:
    size = 3 * protocol.RING_MAX_BYTES
    first = site.gateway()
    keeper = await site.keeper(first)
    spec = site.spec(f"stty raw; head -c {size} /dev/zero; printf end", terminal=True)
    program = await keeper.start(spec)
    await first.close()
    os.close(program.terminal_fd or 0)

    second = await site.keeper()
    await eventually(lambda: all_kept_have_ended(second), "it has printed everything")
    adopted = await second.adopt(spec.session_id)
    rest = await Reading(adopted.terminal_fd or 0).to_end()
    assert len(adopted.backlog) == protocol.RING_MAX_BYTES
    assert adopted.backlog_lost_bytes + len(adopted.backlog) + len(rest) == size + 3
    assert (adopted.backlog + rest).endswith(b"\0end")


async def test_a_backlog_is_handed_out_again_until_it_is_confirmed(site: Site) -> None:
    """A gateway may die between the keeper's answer and its own record of it."""
    spec = site.spec("echo hello; cat", terminal=True)
    keeper = await site.keeper()
    output = Reading((await keeper.start(spec)).terminal_fd or 0)
    output.stop()
    await keeper.release(spec.session_id)
    os.close(output.fd)
    await eventually(lambda: _has_ring(keeper), "the keeper has read it")
    for is_confirmed in (False, True):
        program = await keeper.adopt(spec.session_id, until_confirmed=True)
        assert program.backlog == b"hello\r\n"
        if is_confirmed:
            keeper.confirm_backlog(spec.session_id)
        await keeper.release(spec.session_id)
        close_streams(program)
    program = await keeper.adopt(spec.session_id)
    assert program.backlog == b""
    close_streams(program)


async def _has_ring(keeper: KeeperLink) -> bool:
    return (await keeper.stats())["rings_bytes"] > 0


async def test_an_owned_program_cannot_be_adopted_nor_touched_by_another_gateway(site: Site) -> None:
    """Two readers would split the stream in halves."""
    owner, other = await site.keeper(), await site.keeper()
    spec = site.spec("cat", terminal=True)
    program = await owner.start(spec)
    (kept,) = await other.list()
    assert kept.is_owned and kept.is_terminal and kept.exit is None
    for attempt in (
        other.adopt(spec.session_id),
        other.signal(spec.session_id, "KILL"),
        other.hang_up(spec.session_id),
        other.release(spec.session_id),
    ):
        with pytest.raises(KeeperRefused):
            await attempt
    assert not program.exited.done()
    close_streams(program)


async def test_an_exit_is_kept_until_it_is_forgotten(site: Site) -> None:
    """A gateway killed just after it heard of an exit has not written it down yet."""
    first = site.gateway()
    keeper = await site.keeper(first)
    specs = [site.spec("exit 42", terminal=True), site.spec("kill -TERM $$"), site.spec("sleep 0.05; exit 43")]
    for spec in specs:
        close_streams(await keeper.start(spec))
    await first.close()

    second = await site.keeper()
    await eventually(lambda: all_kept_have_ended(second), "the last has ended")
    found = {kept.session_id: kept for kept in await second.list()}
    assert not any(kept.is_owned for kept in found.values())
    ends = []
    for spec in specs:
        program = await second.adopt(spec.session_id)
        ends.append(await ended(program))
        assert ends[-1] == found[spec.session_id].exit
        close_streams(program)
        await second.forget(spec.session_id)
    assert [end.exit_code or end.signal for end in ends] == [42, "TERM", 43]
    assert await second.list() == []


async def test_a_running_program_on_pipes_cannot_be_adopted(site: Site) -> None:
    """Its streams went with the gateway that had them; it is told by the end of its input."""
    first = site.gateway()
    spec = site.spec("cat; exit 9")
    program = await (await site.keeper(first)).start(spec)
    second = await site.keeper()
    await first.close()
    with pytest.raises(KeeperRefused):
        await second.adopt(spec.session_id)
    close_streams(program)
    await eventually(lambda: all_kept_have_ended(second), "it has read its end of input")
    assert (await ended(await second.adopt(spec.session_id))).exit_code == 9


async def test_two_gateways_that_come_at_once_share_one_keeper(site: Site) -> None:
    gateways = [site.gateway() for _ in range(4)]
    keepers = await asyncio.gather(*(site.keeper(gateway) for gateway in gateways for _ in range(3)))
    assert len({id(keeper) for keeper in keepers}) == len(gateways)
    pids = {await site.output(keeper, "echo $PPID") for keeper in keepers}
    assert len(pids) == 1
    for keeper in keepers:
        assert [kept.exit for kept in await keeper.list()] == []


async def test_looking_for_keepers_again_finds_new_ones_and_keeps_the_connections_there_are(site: Site) -> None:
    """Looked for every few seconds beside a gateway that was replaced: a connection each time would have used up those
    that a keeper takes, and then no gateway could have reached its programs."""
    first, second = site.gateway(), site.gateway()
    await site.keeper(first)
    (found,) = await second.find()
    program = await found.start(site.spec("read line; exit 4", terminal=True))
    again = await asyncio.gather(*(second.find() for _ in range(5)))
    assert [keepers == [found] for keepers in again] == [True] * 5
    assert (await (await site.keeper(second)).stats())["clients"] == 2
    await found.hang_up(program.session_id)
    assert (await ended(program)).signal == "HUP"
    close_streams(program)


async def test_keepers_looked_for_by_several_at_once_are_connected_to_once(site: Site) -> None:
    await site.keeper(site.gateway())
    gateway = site.gateway()
    found = await asyncio.gather(gateway.find(), gateway.find(), site.keeper(gateway))
    assert found[0] == found[1] == [found[2]]
    assert (await found[2].stats())["clients"] == 2


async def test_a_killed_keeper_ends_its_sessions_at_once_and_the_next_login_starts_another(site: Site) -> None:
    gateway = site.gateway()
    keeper = await site.keeper(gateway)
    programs = [await keeper.start(site.spec("sleep 1000", terminal=terminal)) for terminal in (True, False, True)]
    site.place().kill()
    assert [await ended(program) for program in programs] == [ProgramExit()] * 3
    assert keeper.closed.is_set()
    assert gateway.running() == []
    with pytest.raises(KeeperGone):
        await keeper.start(site.spec("true"))
    for program in programs:
        close_streams(program)
    assert await site.output(await site.keeper(gateway), "echo alive") == "alive"


async def test_an_unused_keeper_ends_by_itself(site: Site) -> None:
    gateway = site.gateway(keeper_idle_seconds=0.3)
    keeper = await site.keeper(gateway)
    assert await site.output(keeper, "echo used") == "used"
    async with asyncio.timeout(DEADLINE_SECONDS):
        await keeper.closed.wait()

    async def is_gone() -> bool:
        lock = site.place().try_lock()
        if lock is not None:
            os.close(lock)
        return lock is not None

    await eventually(is_gone, "the lock is free")
    assert await site.gateway().find() == []
    assert not site.place().directory.exists()
    assert await site.output(await site.keeper(gateway), "echo again") == "again"


async def test_a_keeper_with_a_background_child_or_an_untold_exit_stays(site: Site) -> None:
    keeper = await site.keeper(keeper_idle_seconds=0.2)
    pid = await site.output(keeper, "sleep 1000 >/dev/null 2>&1 & echo $!")
    assert await keeper.process_count() == 1, "a program of no session counts, or its workspace could be archived"
    spec = site.spec("exit 3")
    program = await keeper.start(spec)
    close_streams(program)
    await ended(program)
    with pytest.raises(TimeoutError):  # the one wait for time there must be: that something does not happen
        async with asyncio.timeout(1.5):
            await keeper.closed.wait()
    assert await site.output(keeper, f"kill {pid}; echo there") == "there"
    await keeper.forget(spec.session_id)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await keeper.closed.wait()


async def test_terminate_ends_everything_also_what_hides(site: Site) -> None:
    """A daemon that left its session and ignores signals holds a pipe; its end is the proof."""
    keeper = await site.keeper()
    program = await keeper.start(
        site.spec("setsid sh -c 'trap \"\" HUP TERM; echo hidden; sleep 1000; sleep 1000' & wait")
    )
    output = Reading(program.stdout_fd or 0)
    await output.until(b"hidden")
    await keeper.terminate()
    assert keeper.closed.is_set()
    await output.to_end()
    os.close(program.stdin_fd or 0)
    os.close(program.stderr_fd or 0)


async def test_a_stopped_keeper_is_ended_by_force(site: Site) -> None:
    keeper = await site.keeper(keeper_answer_seconds=0.2)
    pid = site.place()._sandboxed_pid() or site.place().read_note().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(KeeperGone):
        await keeper.stats()
    await keeper.terminate()
    assert keeper.closed.is_set()


async def test_programs_behind_another_wall_are_not_joined(site: Site, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """After a change of the setting no new program may start behind the old wall."""

    class Other(NoneLauncher):
        name = "other"

    keeper = await site.keeper()
    spec = site.spec("cat")
    program = await keeper.start(spec)
    changed = site.gateway(launcher=Other(site.launcher._interpreter))  # type: ignore[attr-defined]
    with pytest.raises(LauncherUnavailable, match="stop --all"):
        await changed.keeper_for(site.workspace)
    close_streams(program)
    await ended(program)
    await keeper.forget(spec.session_id)
    fresh = await changed.keeper_for(site.workspace)  # the old one had nothing left: it was ended
    assert keeper.closed.is_set()
    assert isinstance(fresh, KeeperLink) and fresh.launcher_name == "other"


async def test_tcp_sockets_come_unconnected_and_of_the_family_asked_for(site: Site) -> None:
    keeper = await site.keeper()
    for family in (socket.AF_INET, socket.AF_INET6):
        with await keeper.tcp_socket(family) as made:
            assert (made.family, made.type, made.getblocking()) == (family, socket.SOCK_STREAM, False)
    with socket.create_server(("127.0.0.1", 0)) as server, await keeper.tcp_socket(socket.AF_INET) as made:
        await asyncio.get_running_loop().sock_connect(made, server.getsockname())
        accepted, _ = server.accept()
        accepted.close()


async def test_unix_paths_are_those_of_the_workspace(site: Site) -> None:
    keeper = await site.keeper()
    path = b"/tmp/homeport-%d.sock" % os.getpid()  # short: a socket's path ends at 107 bytes
    loop = asyncio.get_running_loop()
    with pytest.raises(KeeperRefused):
        await keeper.unix_connection(path)
    with await keeper.unix_listener(path) as listener:
        with pytest.raises(KeeperRefused):
            await keeper.unix_listener(path)
        client = await keeper.unix_connection(path)
        accepted, _ = await loop.sock_accept(listener)
        with client, accepted:
            await loop.sock_sendall(client, b"hello")
            assert await loop.sock_recv(accepted, 100) == b"hello"
        keeper.unlisten(path)
        keeper.unlisten(path)
    assert await site.output(keeper, f"test -e {path.decode()}", status=1) == ""


async def test_a_gateway_that_goes_takes_its_listeners_along(site: Site) -> None:
    first, second = site.gateway(), await site.keeper()
    path = b"/tmp/homeport-%d.sock" % os.getpid()  # short: a socket's path ends at 107 bytes
    (await (await site.keeper(first)).unix_listener(path)).close()
    assert await site.output(second, f"test -S {path.decode()}") == ""
    await first.close()

    async def is_gone() -> bool:
        return (await site.output(second, f"test -e {path.decode()} || echo gone")) == "gone"

    await eventually(is_gone, "the path is removed")


async def test_no_more_terminals_than_allowed(site: Site) -> None:
    keeper = await site.keeper(terminals_per_workspace_max=2)
    for _ in range(2):
        close_streams(await keeper.start(site.spec("cat", terminal=True)))
    with pytest.raises(KeeperRefused, match="limit"):
        await keeper.start(site.spec("cat", terminal=True))
    assert await site.output(keeper, "echo pipes are no terminals") != ""
