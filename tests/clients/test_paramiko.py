"""paramiko, on which Fabric, many backup and network tools and much of Python's own automation stand."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import paramiko
import pytest

from tests.support.installed import DEADLINE_SECONDS, until
from tests.support.server import Server
from tests.support.streams import asked_inside, shouting_inside

pytestmark = pytest.mark.slow

SIZE_BYTES = 8 * 1024 * 1024 + 1
WRONG_KEYS = 5  # sshd allows six tries
Client = Any  # paramiko has no types


@contextmanager
def connected(server: Server, **more: object) -> Iterator[Client]:
    """Logged in, the host key held to known_hosts, with nothing of the account that runs the tests."""
    login: dict[str, object] = {
        "key_filename": str(server.key), "allow_agent": False, "look_for_keys": False, "timeout": DEADLINE_SECONDS,
        "auth_timeout": DEADLINE_SECONDS, "banner_timeout": DEADLINE_SECONDS, **more,
    }  # fmt: skip
    with closing(paramiko.SSHClient()) as client:
        client.load_host_keys(str(server.known_hosts))
        client.connect(server.host, server.port, server.user, **login)
        yield client


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with connected(server) as client:
        yield client


@pytest.fixture
def sftp(client: Client) -> Iterator[Any]:
    with closing(client.open_sftp()) as sftp:
        sftp.get_channel().settimeout(DEADLINE_SECONDS)
        yield sftp


def read(sock: Any) -> bytes:
    sock.settimeout(DEADLINE_SECONDS)
    return b"".join(iter(lambda: sock.recv(65536), b""))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ------------------------------------------------------------------------------------------------- programs


def test_command_has_its_streams_apart_and_its_exit_code(client: Client) -> None:
    _, out, err = client.exec_command("echo out; echo err >&2; exit 7", timeout=DEADLINE_SECONDS)
    assert (out.read(), err.read(), out.channel.recv_exit_status()) == (b"out\n", b"err\n", 7)


def test_program_ended_by_a_signal_has_no_exit_code(client: Client) -> None:
    """paramiko knows no exit-signal; -1 is its word for an exit status that never came."""
    _, out, _ = client.exec_command("kill -TERM $$", timeout=DEADLINE_SECONDS)
    assert out.channel.recv_exit_status() == -1


def test_megabytes_pass_both_ways_at_once(client: Client) -> None:
    noise = os.urandom(SIZE_BYTES)
    channel = client.get_transport().open_session(timeout=DEADLINE_SECONDS)
    channel.settimeout(DEADLINE_SECONDS)
    channel.exec_command("cat")

    def send() -> None:
        channel.sendall(noise)
        channel.shutdown_write()

    sender = threading.Thread(target=send, name="sender")
    sender.start()
    echoed = read(channel)
    sender.join()
    assert (digest(echoed), channel.recv_exit_status()) == (digest(noise), 0)


def test_many_commands_share_a_connection(client: Client) -> None:
    """Nine at once: sshd allows ten sessions."""
    running = [client.exec_command(f"cat; exit {number}", timeout=DEADLINE_SECONDS) for number in range(9)]
    for number, (stdin, out, _) in enumerate(running):
        stdin.write(f"{number}")
        stdin.channel.shutdown_write()
        assert (out.read(), out.channel.recv_exit_status()) == (b"%d" % number, number)


def test_shell_grows_with_its_window_and_tells_its_exit_code(client: Client) -> None:
    channel = client.invoke_shell(term="vt100", width=93, height=17)
    channel.settimeout(DEADLINE_SECONDS)
    said = io.BytesIO()

    def expect(words: bytes) -> None:
        while words not in said.getvalue():
            more = channel.recv(4096)
            assert more, said.getvalue()
            said.write(more)

    channel.sendall(b"echo $TERM:$(stty size)\n")
    expect(b"vt100:17 93")
    channel.resize_pty(width=101, height=33)
    channel.sendall(b"echo grown:$(stty size)\n")
    expect(b"grown:33 101")
    channel.sendall(b"exit 4\n")
    assert channel.recv_exit_status() == 4


def test_environment_is_asked_for_and_what_is_not_allowed_is_passed_over(client: Client) -> None:
    asked = {"LC_TEST": "said", "LD_PRELOAD": "/tmp/x.so"}
    _, out, _ = client.exec_command("echo [$LC_TEST] [$LD_PRELOAD]", environment=asked, timeout=DEADLINE_SECONDS)
    assert out.read() == b"[said] []\n"


def test_subsystem_that_nobody_knows_is_refused_and_the_connection_lives_on(client: Client) -> None:
    channel = client.get_transport().open_session(timeout=DEADLINE_SECONDS)
    with pytest.raises(paramiko.SSHException):
        channel.invoke_subsystem("no-such")
    assert client.exec_command("echo still", timeout=DEADLINE_SECONDS)[1].read() == b"still\n"


# ---------------------------------------------------------------------------------------------------- files


def test_sftp_carries_a_file_both_ways(server: Server, sftp: Any, tmp_path: Path) -> None:
    """`get` prefetches: hundreds of reads are under way before the first is answered."""
    noise = os.urandom(SIZE_BYTES)
    (tmp_path / "noise").write_bytes(noise)
    assert sftp.normalize(".") == server.tree
    assert sftp.put(str(tmp_path / "noise"), "carried", confirm=True).st_size == SIZE_BYTES
    sftp.get("carried", str(tmp_path / "back"))
    sftp.get("carried", str(tmp_path / "slow"), prefetch=False)
    sftp.remove("carried")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "slow").read_bytes() == noise


def test_sftp_files_are_read_in_parts_and_appended_to(sftp: Any) -> None:
    with sftp.open("parts", "w") as file:
        file.set_pipelined(True)
        file.write(b"0123456789")
    with sftp.open("parts", "a") as file:
        file.write(b"abc")
    with sftp.open("parts", "r+") as file:
        file.truncate(12)
    with sftp.open("parts") as file:
        assert b"".join(file.readv([(8, 4), (2, 3)])) == b"89ab234"
    sftp.remove("parts")


def test_sftp_links_modes_times_and_names(server: Server, sftp: Any) -> None:
    """Links point the right way round; a name may be any bytes; the old rename refuses one that is taken."""
    sftp.mkdir("made", 0o700)
    sftp.chdir("made")
    with sftp.open("file", "wx") as file:
        file.write(b"x")
    with pytest.raises(OSError):
        sftp.open("file", "wx")
    sftp.chmod("file", 0o640)
    sftp.utime("file", (1_000_000_000, 1_000_000_000))
    sftp.symlink("file", "link")
    with sftp.open(b"caf\xe9", "w") as file:
        file.write(b"second")
    with pytest.raises(OSError):
        sftp.rename(b"caf\xe9", "file")
    told = sftp.stat("file")
    assert (stat.S_IMODE(told.st_mode), told.st_mtime, sftp.readlink("link")) == (0o640, 1_000_000_000, "file")
    sftp.posix_rename(b"caf\xe9", "file")
    assert server.ssh("cd made && ls && cat link; rm -r ../made").stdout == b"file\nlink\nsecond"


@pytest.mark.parametrize(
    ("attempt", "kind"),
    [
        (lambda sftp: sftp.open("nothing-here"), FileNotFoundError),
        (lambda sftp: sftp.open("/etc/shadow"), PermissionError),
        (lambda sftp: sftp.listdir("nothing-here"), FileNotFoundError),
    ],
    ids=["missing", "closed", "folder"],
)
def test_sftp_failures_are_told_by_their_kind(sftp: Any, attempt: Callable[[Any], object], kind: type[OSError]) -> None:
    with pytest.raises(kind):
        attempt(sftp)


# ------------------------------------------------------------------------------------------------- forwards


def test_channel_leads_to_a_server_inside(server: Server, client: Client) -> None:
    with shouting_inside(server) as port, closing(
        client.get_transport().open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), DEADLINE_SECONDS)
    ) as channel:  # fmt: skip
        channel.settimeout(DEADLINE_SECONDS)
        channel.sendall(b"hello" * 9999)
        channel.shutdown_write()
        assert read(channel) == b"HELLO" * 9999


def test_closed_port_is_refused_by_its_reason(client: Client) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, and never listened on
        where = bound.getsockname()
        with pytest.raises(paramiko.ChannelException) as refusal:
            client.get_transport().open_channel("direct-tcpip", where, ("127.0.0.1", 0), DEADLINE_SECONDS)
    assert refusal.value.code == 2, "SSH_OPEN_CONNECT_FAILED"


def test_port_of_the_server_s_choice_leads_back_until_it_is_cancelled(server: Server, client: Client) -> None:
    transport = client.get_transport()
    port = transport.request_port_forward("127.0.0.1", 0)
    answers = threading.Thread(target=answer_one, args=(transport,), name="answers")
    answers.start()
    said = asked_inside(server, "127.0.0.1", port, data=b"hello")
    answers.join()
    transport.cancel_port_forward("127.0.0.1", port)
    assert said == b"HELLO"
    until(lambda: asked_inside(server, "127.0.0.1", port, data=b"hello") == b"", "nobody listens any more")


def answer_one(transport: Any) -> None:
    with closing(transport.accept(DEADLINE_SECONDS)) as channel:
        channel.sendall(read(channel).upper())


# --------------------------------------------------------------------------------------------------- logins


def test_rsa_key_signs_with_sha2(server: Server) -> None:
    """Only if the server names the algorithms in its extension message (RFC 8308); and with either."""
    for other in ("rsa-sha2-256", "rsa-sha2-512"):
        with connected(server, key_filename=str(server.rsa_key), disabled_algorithms={"pubkeys": [other]}) as client:
            assert client.exec_command("echo in", timeout=DEADLINE_SECONDS)[1].read() == b"in\n"


@pytest.mark.parametrize(
    "disabled",
    [
        {"kex": ["curve25519-sha256@libssh.org", "curve25519-sha256"]},
        {"ciphers": ["aes128-ctr", "aes192-ctr", "aes256-ctr"]},
        {"macs": ["hmac-sha2-256", "hmac-sha2-512"]},
        {"keys": ["ssh-ed25519"]},
    ],
    ids=["kex", "ciphers", "macs", "host-keys"],
)
def test_algorithms_that_are_switched_off_leave_enough_in_common(
    server: Server, disabled: dict[str, list[str]]
) -> None:
    with connected(server, disabled_algorithms=disabled) as client:
        assert client.exec_command("echo in", timeout=DEADLINE_SECONDS)[1].read() == b"in\n"


def test_wrong_keys_come_before_the_right_one(server: Server, tmp_path: Path) -> None:
    """paramiko asks for the login service anew before each."""
    wrong = [tmp_path / f"wrong{number}" for number in range(WRONG_KEYS)]
    for path in wrong:
        assert server.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]).returncode == 0
    with connected(server, key_filename=[str(path) for path in (*wrong, server.key)]) as client:
        assert client.exec_command("echo in", timeout=DEADLINE_SECONDS)[1].read() == b"in\n"


def test_passwords_and_questions_are_refused_with_what_would_be_taken(server: Server) -> None:
    with paramiko.Transport((server.host, server.port)) as transport:
        transport.start_client(timeout=DEADLINE_SECONDS)
        for attempt in (
            lambda: transport.auth_none(server.user),
            lambda: transport.auth_password(server.user, "secret"),
            lambda: transport.auth_interactive(server.user, lambda title, words, prompts: []),
        ):
            with pytest.raises(paramiko.BadAuthenticationType) as refusal:
                attempt()
            assert refusal.value.allowed_types == ["publickey"]
        transport.auth_publickey(server.user, paramiko.Ed25519Key(filename=str(server.key)))
        assert transport.is_authenticated()


def test_its_probes_and_new_keys_do_not_disturb_a_session(server: Server) -> None:
    """`keepalive@lag.net` asks for no answer, other requests do; new keys come between the data."""
    with connected(server) as client:
        transport = client.get_transport()
        stdin, out, _ = client.exec_command("cat", timeout=DEADLINE_SECONDS)
        for _ in range(3):
            stdin.write("x" * 100_000)
            transport.renegotiate_keys()
        transport.global_request("keepalive@lag.net", wait=False)
        assert transport.global_request("unknown@example.org", wait=True) is None, "refused"
        stdin.channel.shutdown_write()
        assert len(out.read()) == 300_000
