"""The transport under the sessions: algorithms, new keys under load, host keys, probes, sharing, addresses."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from gateway.ssh import algorithms
from tests.clients.differences import is_different
from tests.support.installed import DEADLINE_SECONDS, free_port, until
from tests.support.server import Server, homeport, openssh

MIB = 1024 * 1024
KEEPALIVE_SECONDS, MISSES_MAX = 1, 2
SLACK_SECONDS = 8  # of a machine that does other things as well


def known_to_client(query: str) -> list[str]:
    return subprocess.run(["ssh", "-Q", query], capture_output=True, check=True).stdout.decode().split()


def offered(ours: tuple[str, ...], query: str) -> list[str]:
    """What we offer and this client knows."""
    return [name for name in ours if name in known_to_client(query)]


# --------------------------------------------------------------------------------------------------- algorithms


@pytest.mark.parametrize("cipher", offered(algorithms.ENCRYPTION, "cipher"))
def test_every_cipher_carries_a_mebibyte_both_ways(server: Server, cipher: str) -> None:
    assert_echoed(server, "-c", cipher, size_bytes=MIB)


@pytest.mark.parametrize("mac", offered(algorithms.MAC, "mac"))
def test_every_mac_carries_a_mebibyte_both_ways(server: Server, mac: str) -> None:
    """With a cipher that needs one: GCM brings its own."""
    assert_echoed(server, "-c", "aes128-ctr", "-m", mac, size_bytes=MIB)


@pytest.mark.parametrize("exchange", offered(algorithms.KEY_EXCHANGE, "kex"))
def test_every_key_exchange_lets_a_client_in(server: Server, exchange: str) -> None:
    done = server.ssh("-v", "-o", f"KexAlgorithms={exchange}", "--", "echo in")
    assert (done.returncode, done.stdout) == (0, b"in\n")


@pytest.mark.parametrize("key_type", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
def test_every_host_key_proves_the_server(server: Server, key_type: str) -> None:
    done = server.ssh("-o", f"HostKeyAlgorithms={key_type}", "--", "echo in")
    assert (done.returncode, done.stdout) == (0, b"in\n")


@pytest.mark.parametrize("signature", ["rsa-sha2-256", "rsa-sha2-512"])
def test_rsa_keys_sign_with_sha2(server: Server, signature: str) -> None:
    identity = ("-o", "IdentityFile=none", "-i", str(server.rsa_key), "-o", f"PubkeyAcceptedAlgorithms={signature}")
    assert server.ssh(*identity, "--", "echo in").stdout == b"in\n"


def test_weak_algorithms_are_not_offered(server: Server) -> None:
    weak = (["-c", "aes128-cbc"], ["-c", "aes128-ctr", "-m", "hmac-sha1"],
            ["-o", "KexAlgorithms=diffie-hellman-group14-sha256"], ["-o", "HostKeyAlgorithms=ssh-rsa"])  # fmt: skip
    done = [server.ssh("-o", "LogLevel=INFO", *options, "--", "echo in") for options in weak]
    refused = [b"no matching" in one.stderr.lower() for one in done]
    assert [one.returncode == 255 for one in done] == refused
    assert refused == [True] * 4 if is_different(server, "algorithms") else False in refused


def test_compression_is_asked_for_in_vain_and_harms_nothing(server: Server) -> None:
    done = server.ssh("-v", "-C", "--", "echo in")
    assert (done.returncode, done.stdout) == (0, b"in\n")
    compression = set(re.findall(rb"compression: (\S+)", done.stderr))
    assert compression == ({b"none"} if is_different(server, "compression") else {b"zlib@openssh.com"})


# ------------------------------------------------------------------------------------------------ new keys


def test_new_keys_under_load_lose_nothing(server: Server) -> None:
    """Every mebibyte, with data under way from both sides (RFC 4253 §9)."""
    assert_echoed(server, "-o", "RekeyLimit=1M", size_bytes=4 * MIB)


@pytest.mark.slow
def test_64_new_keys_under_load_lose_nothing(server: Server) -> None:
    assert_echoed(server, "-o", "RekeyLimit=1M", size_bytes=64 * MIB)


@pytest.mark.slow
@pytest.mark.parametrize("cipher", offered(algorithms.ENCRYPTION, "cipher"))
def test_new_keys_under_load_lose_nothing_with_any_cipher(server: Server, cipher: str) -> None:
    assert_echoed(server, "-c", cipher, "-o", "RekeyLimit=1M", size_bytes=8 * MIB)


@pytest.mark.slow
def test_new_keys_do_not_disturb_the_sessions_beside_them(server: Server) -> None:
    with server.master("-o", "RekeyLimit=1M") as master, ExitStack() as stack:
        clients = [stack.enter_context(server.start(server.ssh_command(*master, "--", "cat"))) for _ in range(5)]
        data = os.urandom(4 * MIB)
        assert [hashlib.sha256(answer).digest() for answer in answers_of(clients, data)] == [
            hashlib.sha256(data).digest()
        ] * 5


def answers_of(clients: Sequence[subprocess.Popen[bytes]], data: bytes) -> list[bytes]:
    """Feed all at once, as they would be."""
    answers = [b""] * len(clients)

    def feed(number: int) -> None:
        answers[number] = clients[number].communicate(data, timeout=60)[0]

    threads = [threading.Thread(target=feed, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def assert_echoed(server: Server, *options: str, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    done = server.ssh(*options, "--", "cat", input=data, timeout=55)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


# ------------------------------------------------------------------------------------------------- host keys


def test_client_that_knows_one_host_key_learns_the_others(server: Server) -> None:
    """hostkeys-00 (OpenSSH's PROTOCOL §2.5): so that keys can be changed without a warning to anybody."""
    learned = server.scratch / "learned"
    all_keys = {line.split()[2] for line in server.known_hosts.read_text().splitlines() if not line.startswith("#")}
    one = next(line for line in server.known_hosts.read_text().splitlines() if " ssh-ed25519 " in line)
    learned.write_text(one + "\n")
    options = ("-o", f"UserKnownHostsFile={learned}", "-o", "UpdateHostKeys=yes")
    with server.start(server.ssh_command(*options, "--", "cat")) as client:
        until(lambda: {line.split()[2] for line in learned.read_text().splitlines()} == all_keys, "all are learned")
        client.communicate(timeout=DEADLINE_SECONDS)
        assert client.returncode == 0


def test_hashed_known_hosts_are_heeded(server: Server) -> None:
    hashed = server.scratch / "hashed"
    hashed.write_bytes(server.known_hosts.read_bytes())
    assert server.run(["ssh-keygen", "-H", "-f", str(hashed)]).returncode == 0
    assert b"127.0.0.1" not in hashed.read_bytes()
    assert server.ssh("-o", f"UserKnownHostsFile={hashed}", "--", "echo in").stdout == b"in\n"


def test_changed_host_key_is_noticed_by_the_client(server: Server) -> None:
    wrong = server.scratch / "wrong"
    key = server.key.with_suffix(".pub").read_text().split()[1]
    wrong.write_text(f"[127.0.0.1]:{server.port} ssh-ed25519 {key}\n")
    done = server.ssh("-o", f"UserKnownHostsFile={wrong}", "-o", "HostKeyAlgorithms=ssh-ed25519", "--", "echo in")
    assert (done.returncode, done.stdout) == (255, b"")


# ------------------------------------------------------------------------------------------------------ probes


@contextmanager
def probing_server(name: str) -> Iterator[Server]:
    if name == "sshd":
        with openssh(ClientAliveInterval=KEEPALIVE_SECONDS, ClientAliveCountMax=MISSES_MAX) as server:
            yield server
        return
    settings = {"ssh_keepalive_interval_seconds": KEEPALIVE_SECONDS, "ssh_keepalive_misses_max": MISSES_MAX}
    with homeport(name, **settings) as server:
        yield server


@pytest.mark.slow
def test_dead_client_is_found_in_the_stated_time_and_its_program_ended(server: Server) -> None:
    """A laptop that sleeps sends nothing. Interval × (misses + 1), and a live one is left alone."""
    with probing_server(server.name) as probing, ExitStack() as stack:
        lively = stack.enter_context(probing.start(probing.ssh_command("echo up; exec cat")))
        dead = stack.enter_context(probing.start(probing.ssh_command("echo up $$; exec cat")))
        assert lively.stdout is not None
        assert lively.stdout.readline() == b"up\n"
        assert dead.stdout is not None
        pid = int(dead.stdout.readline().split()[1])
        dead.send_signal(signal.SIGSTOP)
        try:
            until(lambda: probing.ssh(f"kill -0 {pid}").returncode != 0, "its program ended",
                  seconds=KEEPALIVE_SECONDS * (MISSES_MAX + 1) + SLACK_SECONDS)  # fmt: skip
        finally:
            dead.send_signal(signal.SIGKILL)
        assert lively.communicate(b"here", timeout=DEADLINE_SECONDS)[0] == b"here"


@pytest.mark.slow
def test_client_s_own_probes_are_answered(server: Server) -> None:
    """One unanswered second would end it (ServerAliveCountMax 1)."""
    options = ("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1")
    assert server.ssh(*options, "--", "sleep 3.5; echo still").stdout == b"still\n"


# -------------------------------------------------------------------------------------------- one connection


def test_20_sessions_share_one_connection(server: Server) -> None:
    with server.master() as master, ExitStack() as stack:
        clients = []
        for number in range(20):
            command = server.ssh_command(*master, "--", f"echo {number}; cat; exit {number}")
            clients.append(stack.enter_context(server.start(command)))
        for number, client in enumerate(clients):
            assert client.stdout is not None
            assert client.stdout.readline() == b"%d\n" % number
        answers = [(client.communicate(b"bye", timeout=DEADLINE_SECONDS)[0], client.returncode) for client in clients]
        assert answers == [(b"bye", number) for number in range(20)]


def test_session_whose_reader_stopped_holds_up_nobody_else(server: Server) -> None:
    """Its own window is full; the connection's is not (RFC 4254 §5.2)."""
    with server.master() as master, ExitStack() as stack:
        stalled = stack.enter_context(
            server.start(server.ssh_command(*master, "--", "yes | head -c 67108864"), bufsize=0)
        )
        assert stalled.stdout is not None
        assert stalled.stdout.read(2) == b"y\n"
        stalled.send_signal(signal.SIGSTOP)
        try:
            assert_echoed(server, *master, size_bytes=8 * MIB)
            assert server.ssh(*master, "--", "exit 4").returncode == 4
        finally:
            stalled.send_signal(signal.SIGCONT)
        rest = stalled.communicate(timeout=DEADLINE_SECONDS)[0]
        assert len(rest) == 64 * MIB - 2


def test_forwards_are_added_and_cancelled_on_a_shared_connection(server: Server) -> None:
    local, remote = free_port(), free_port()
    with server.master() as master:
        for option, port, target in (("-L", local, server.port), ("-R", remote, server.port)):
            forward = (option, f"127.0.0.1:{port}:127.0.0.1:{target}")
            assert (
                server.run(["ssh", *server.ssh_options, *master, "-O", "forward", *forward, "server"]).returncode == 0
            )
            assert first_bytes(port) == b"SSH-"
            assert server.run(["ssh", *server.ssh_options, *master, "-O", "cancel", *forward, "server"]).returncode == 0
            until(lambda port=port: first_bytes(port) == b"", "nobody listens any more")  # type: ignore[misc]
        assert server.ssh(*master, "--", "echo alive").stdout == b"alive\n"


def first_bytes(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            return sock.recv(4)
    except OSError:
        return b""


def test_stopped_master_takes_no_new_sessions_and_lets_the_old_one_end(server: Server) -> None:
    with ExitStack() as stack:
        path = str(server.scratch / "persist")
        persist = ("-o", "ControlMaster=auto", "-o", f"ControlPath={path}", "-o", "ControlPersist=60")
        # Its own stderr would be held by the master in the background.
        assert server.ssh(*persist, "--", "true", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode == 0
        session = stack.enter_context(server.start(server.ssh_command("-S", path, "--", "echo up; cat")))
        assert session.stdout is not None
        assert session.stdout.readline() == b"up\n"
        assert server.run(["ssh", *server.ssh_options, "-S", path, "-O", "check", "server"]).returncode == 0
        assert server.run(["ssh", *server.ssh_options, "-S", path, "-O", "stop", "server"]).returncode == 0
        until(lambda: not os.path.exists(path), "the master takes no more")
        assert session.communicate(b"bye", timeout=DEADLINE_SECONDS)[0] == b"bye"


# --------------------------------------------------------------------------------------------------- addresses


def test_ipv6_listener_is_a_listener_like_any_other(server: Server) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with openssh(host="::1") if server.is_sshd else homeport(server.name, host="::1") as other:
        done = other.ssh('echo "$SSH_CONNECTION"')
        assert re.fullmatch(rb"::1 \d+ ::1 %d\n" % other.port, done.stdout), done
