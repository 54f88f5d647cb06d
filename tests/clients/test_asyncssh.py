"""The asyncssh client: everything SSH can do on one connection, and much of it at once.

The gateway's server is of the same library, so that a misunderstanding could be mutual: sshd judges here, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncssh
import pytest

from tests.support.installed import DEADLINE_SECONDS, free_port
from tests.support.server import Server, openssh
from tests.support.streams import asked_inside, shouting, shouting_inside

pytestmark = pytest.mark.slow

SIZE_BYTES = 8 * 1024 * 1024 + 1
SESSION_COUNT = 50
CONNECTION_COUNT = 10
HELLO = b"hello" * 9999


@asynccontextmanager
async def connected(server: Server, **more: object) -> AsyncIterator[asyncssh.SSHClientConnection]:
    login: dict[str, object] = {"client_keys": [str(server.key)], "known_hosts": str(server.known_hosts), **more}
    login.setdefault("username", server.user)
    async with asyncio.timeout(2 * DEADLINE_SECONDS), asyncssh.connect(
        server.host, server.port, agent_path=None, config=[], **login
    ) as connection:  # fmt: skip
        yield connection


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def ask(reader: asyncio.StreamReader | asyncssh.SSHReader[bytes], writer: object, data: bytes = HELLO) -> bytes:
    writer.write(data)  # type: ignore[attr-defined]
    writer.write_eof()  # type: ignore[attr-defined]
    answer = await reader.read()
    writer.close()  # type: ignore[attr-defined]
    return answer


# ------------------------------------------------------------------------------------------------- programs


async def test_command_has_its_streams_apart_and_its_exit_code_or_signal(server: Server) -> None:
    async with connected(server) as connection:
        done = await connection.run("echo out; echo err >&2; exit 7")
        assert (done.stdout, done.stderr, done.exit_status) == ("out\n", "err\n", 7)
        done = await connection.run("kill -SEGV $$")
        assert done.exit_signal is not None
        assert (done.exit_signal[0], done.exit_status) == ("SEGV", -1)


async def test_megabytes_pass_both_ways_while_new_keys_are_made(server: Server) -> None:
    noise = os.urandom(SIZE_BYTES)
    async with connected(server, rekey_bytes=1024 * 1024) as connection:
        done = await connection.run("cat", input=noise, encoding=None)
        assert isinstance(done.stdout, bytes)
        assert digest(done.stdout) == digest(noise)


async def test_signal_reaches_the_program_and_what_it_started(server: Server) -> None:
    async with connected(server) as connection, connection.create_process(
        "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    ) as program:  # fmt: skip
        assert await program.stdout.readline() == "ready\n"
        program.send_signal("INT")
        assert (await program.stdout.read(), (await program.wait()).exit_status) == ("caught\n", 3)


async def test_terminal_grows_with_its_window_and_is_hung_up_at_its_close(server: Server) -> None:
    async with connected(server, username=server.passing_user) as connection:
        async with connection.create_process(term_type="vt100", term_size=(93, 17)) as shell:
            shell.stdin.write("echo $TERM:$(stty size)\n")
            await shell.stdout.readuntil("vt100:17 93")
            shell.change_terminal_size(101, 33)
            shell.stdin.write("echo grown:$(stty size)\n")
            await shell.stdout.readuntil("grown:33 101")
            shell.stdin.write("trap 'touch hung-up; exit' HUP; echo rea''dy; while :; do sleep 0.05; done\n")
            await shell.stdout.readuntil("ready\r\n")
            shell.close()
        waiting = "until [ -e hung-up ]; do sleep 0.05; done; rm hung-up"
        assert (await connection.run(waiting)).exit_status == 0


@contextmanager
def wide(server: Server) -> Iterator[Server]:
    """The server itself; sshd, whose default is ten sessions, is asked for more."""
    if server.is_sshd:
        with openssh(MaxSessions=SESSION_COUNT) as server:
            yield server
    else:
        yield server


async def test_50_sessions_at_once_on_one_connection(server: Server) -> None:
    async def one(connection: asyncssh.SSHClientConnection, number: int) -> bool:
        text = f"{number} " * 20_000
        done = await connection.run(f"cat; exit {number}", input=text)
        return (done.stdout, done.exit_status) == (text, number)

    with wide(server) as wide_server:
        async with connected(wide_server) as connection:
            assert all(await asyncio.gather(*(one(connection, number) for number in range(SESSION_COUNT))))


async def test_connections_at_once_are_all_let_in(server: Server) -> None:
    async def one(number: int) -> str | bytes | None:
        async with connected(server) as connection:
            return (await connection.run(f"echo {number}")).stdout

    said = await asyncio.gather(*(one(number) for number in range(CONNECTION_COUNT)))
    assert said == [f"{number}\n" for number in range(CONNECTION_COUNT)]


# ---------------------------------------------------------------------------------------------------- files


async def test_sftp_carries_files_and_folders_both_ways(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "noise").write_bytes(os.urandom(SIZE_BYTES))
    (folder / "sub/small é").write_text("small")
    (folder / "link").symlink_to("sub/small é")
    async with connected(server) as connection, connection.start_sftp_client() as sftp:
        assert await sftp.realpath(".") == server.tree
        await sftp.put(str(folder), "carried", recurse=True)
        assert await sftp.readlink("carried/link") == "sub/small é"
        assert (await connection.run("cat carried/link")).stdout == "small"
        await sftp.get("carried", str(tmp_path / "back"), recurse=True)
        await sftp.rmtree("carried")
    back = tmp_path / "back"
    assert (back / "noise").read_bytes() == (folder / "noise").read_bytes()
    assert (os.readlink(back / "link"), (back / "sub/small é").read_text()) == ("sub/small é", "small")


async def test_sftp_links_point_the_right_way_round(server: Server) -> None:
    """The client takes the order of the arguments from the server's version, and sftp-server from nothing."""
    async with connected(server) as connection, connection.start_sftp_client() as sftp:
        async with sftp.open("target", "w") as file:
            await file.write("target")
        await sftp.symlink("target", "soft")
        await sftp.link("target", "hard")
        told = await connection.run("readlink soft; stat -c %h target; rm soft hard target")
        assert told.stdout == "target\n2\n"


async def test_sftp_failures_are_told_by_their_kind(server: Server) -> None:
    async with connected(server) as connection, connection.start_sftp_client() as sftp:
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.stat("nothing-here")
        with pytest.raises(asyncssh.SFTPPermissionDenied):
            await sftp.open("/etc/shadow")
        assert (await sftp.statvfs(".")).bavail > 0, "and the channel lives on"


async def test_scp_carries_a_folder_both_ways(server: Server, tmp_path: Path) -> None:
    """asyncssh's scp is the old protocol, of which only the words are OpenSSH's."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "noise with space").write_bytes(os.urandom(SIZE_BYTES))
    async with connected(server) as connection:
        await asyncssh.scp(str(folder), (connection, "carried"), recurse=True, preserve=True)
        await asyncssh.scp((connection, "carried"), str(tmp_path / "back"), recurse=True, preserve=True)
        with pytest.raises(asyncssh.SFTPError, match="No such file"):
            await asyncssh.scp((connection, "nothing-here"), str(tmp_path / "x"))
        await connection.run("rm -r carried", check=True)
    assert (tmp_path / "back/noise with space").read_bytes() == (folder / "noise with space").read_bytes()


# ------------------------------------------------------------------------------------------------- forwards


async def test_forwards_to_servers_inside_by_port_path_and_socks(server: Server) -> None:
    path = f"{server.home}/s-{free_port()}"
    with shouting_inside(server) as port, shouting_inside(server, path):
        async with connected(server) as connection:
            assert await ask(*await connection.open_connection("127.0.0.1", port)) == HELLO.upper()
            assert await ask(*await connection.open_connection("localhost", port)) == HELLO.upper()
            assert await ask(*await connection.open_unix_connection(path)) == HELLO.upper()
            for listener in (
                await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", port),
                await connection.forward_local_port_to_path("127.0.0.1", 0, path),
            ):
                opened = await asyncio.open_connection("127.0.0.1", listener.get_port())
                assert await ask(*opened) == HELLO.upper()
                listener.close()
            with pytest.raises(asyncssh.ChannelOpenError) as refusal:
                await connection.open_connection("127.0.0.1", free_port())
            assert refusal.value.code == asyncssh.OPEN_CONNECT_FAILED


async def test_forwards_back_by_port_and_path_until_they_are_closed(server: Server) -> None:
    path = f"{server.home}/r-{free_port()}"

    async def asked(*where: object) -> bytes:
        return await asyncio.to_thread(asked_inside, server, *where, data=HELLO)

    with shouting() as own:
        async with connected(server) as connection:
            by_port = await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", own)
            by_path = await connection.forward_remote_path_to_port(path, "127.0.0.1", own)
            ours = (("127.0.0.1", by_port.get_port()), (path,))
            for where in ours:
                assert await asked(*where) == HELLO.upper()
            for listener in (by_port, by_path):
                listener.close()
                await listener.wait_closed()
            for where in ours:
                assert await asked(*where) == b"", "nobody listens any more"
            assert (await connection.run(f"rm -f {path}; echo still")).stdout == "still\n"


async def test_connection_leads_on_to_the_next(server: Server) -> None:
    """ProxyJump: a whole connection in a channel, here to the server itself."""
    async with connected(server) as outer, connected(server, tunnel=outer) as inner:
        assert (await inner.run("echo through")).stdout == "through\n"


# --------------------------------------------------------------------------------------------------- logins


async def test_rsa_key_and_wrong_keys_before_it(server: Server) -> None:
    wrong = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(4)]
    async with connected(server, client_keys=[*wrong, str(server.rsa_key)]) as connection:
        assert (await connection.run("echo in")).stdout == "in\n"


async def test_password_is_refused(server: Server) -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        async with connected(server, client_keys=None, password="secret", preferred_auth="password"):
            pass


async def test_session_answers_probes_and_outlives_a_pause(server: Server) -> None:
    async with connected(server, keepalive_interval=0.1) as connection:
        assert (await connection.run("sleep 1; echo still")).stdout == "still\n"


async def test_vanished_client_leaves_no_program_on_a_terminal(server: Server) -> None:
    async with connected(server) as connection:
        async with connected(server) as vanishing:
            shell = await vanishing.create_process("echo $$; exec cat", term_type="vt100")
            pid = int(await shell.stdout.readline())
            vanishing.abort()
        gone = await connection.run(f"while kill -0 {pid}; do sleep 0.05; done")
        assert gone.exit_status == 0
