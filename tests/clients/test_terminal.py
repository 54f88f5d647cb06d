"""A person's terminal through stock ssh: modes, sizes, keys, pastes, every byte, and programs that paint the screen."""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.support.installed import DEADLINE_SECONDS, free_port, until
from tests.support.pty_client import PtyClient
from tests.support.server import Server
from tests.support.terminal import Terminal

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
EVERY_BYTE = bytes(range(256))
ENTER = b"\r"

# Each the opposite of what a new terminal has, so that with "as new" both values of every mode are seen (RFC 4254 §8).
MODES = {
    "as new": "",
    "input": "ignpar parmrk inpck istrip inlcr igncr -icrnl iuclc -ixon ixany ixoff imaxbel iutf8",
    "local": "-isig -icanon xcase -echo -echoe -echok echonl noflsh tostop -iexten -echoctl -echoke",
    "output": "-onlcr ocrnl onocr onlret",
    "output off": "-opost",
    "characters": "intr ^X quit undef erase ^H kill ^K eof ^E eol ^A eol2 ^B start ^P stop ^O susp ^Y rprnt ^G "
    "werase ^F lnext ^N discard undef",
    "speed": "9600",
}
_NOT_IN_SSH = re.compile(
    r"^-?(cs\d|parenb|parodd|cmspar|hupcl|cstopb|cread|clocal|crtscts|ignbrk|brkint|echoprt|flusho|extproc|ofill|ofdel|"
    r"[a-z]+\d)$"
)


@contextmanager
def on_terminal(server: Server, *words: str | bytes, **options: object) -> Iterator[PtyClient]:
    environment = {**server.environment, "TERM": "xterm-256color"}
    with PtyClient(server.ssh_command(*words), environment=environment, **options) as client:  # type: ignore[arg-type]
        yield client


# ---------------------------------------------------------------------------------------------- modes and sizes


@pytest.mark.parametrize("name", MODES)
def test_modes_of_the_client_s_terminal_are_those_of_the_program_s(server: Server, name: str) -> None:
    here = server.scratch / "stty"
    words = ["sh", "-c", f'stty -a > {here}; exec "$@"', "sh", *server.ssh_command("-tt", "--", "stty -a")]
    with PtyClient(words, environment=server.environment, stty=MODES[name].split()) as client:
        assert client.wait_ended() == 0
    assert modes_in(client.printed) == modes_in(here.read_bytes())


def modes_in(shown: bytes) -> set[str]:
    """What `stty -a` shows of what SSH carries. Upper case may come of `olcuc`, and odd line ends of the modes."""
    text = re.sub(r"[\r\n]+", ";", shown.decode().strip().lower())
    parts = {part.strip() for part in text.split(";")} - {""}
    named = {part for part in parts if " = " in part and not part.startswith(("line", "min", "time"))}
    speed = {part for part in parts if part.startswith("speed")}
    flags = {word for part in parts if " = " not in part and not part.startswith(("speed", "rows", "columns"))
             for word in part.split() if not _NOT_IN_SSH.match(word)}  # fmt: skip
    return named | speed | flags


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 1), (24, 80), (200, 500)])
def test_size_of_the_client_s_terminal_is_that_of_the_program_s(server: Server, rows: int, columns: int) -> None:
    with on_terminal(server, "-tt", "--", "stty size", rows=rows, columns=columns) as client:
        assert client.wait_ended() == 0
    assert client.printed == b"%d %d\r\n" % (rows, columns)


def test_200_resizes_in_a_burst_end_with_the_last_size(server: Server) -> None:
    with on_terminal(server, "-tt", "--", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done") as client:
        client.wait(b"ready")
        for number in range(200):
            client.resize(rows=10 + number, columns=300 - number)
        client.resize(rows=57, columns=123)
        client.wait(b"57 123\r\n")
        client.type(b"\x03")
        assert client.wait_ended() == 255


def test_size_is_known_to_a_program_that_asks_at_once_after_a_resize(server: Server) -> None:
    with on_terminal(server, "-tt", "--", "stty -echo; echo ready; while read line; do stty size; done") as client:
        client.wait(b"ready")
        for rows in (30, 31, 32):
            client.resize(rows=rows, columns=90)

            def is_told(size: bytes = b"%d 90" % rows) -> bool:
                client.type(ENTER)
                client.wait(b"90")
                return size in client.printed

            until(is_told, f"{rows} rows")


# ------------------------------------------------------------------------------------------------------- bytes


def test_every_byte_typed_reaches_a_raw_program(server: Server) -> None:
    program = "stty raw -echo; printf ready; head -c 256 | sha256sum"
    with on_terminal(server, "-tt", "-e", "none", "--", program) as client:
        client.wait(b"ready")
        client.type(EVERY_BYTE)
        assert client.wait_ended() == 0
    assert client.after(b"ready").split()[0].decode() == hashlib.sha256(EVERY_BYTE).hexdigest()


def test_every_byte_printed_by_a_raw_program_arrives(server: Server) -> None:
    octal = "".join(f"\\{code:o}" if code > 7 else f"\\00{code}" for code in EVERY_BYTE)
    with on_terminal(server, "-tt", "--", f"stty raw -echo; printf '{octal.replace('%', '%%')}'") as client:
        assert client.wait_ended() == 0
    assert client.printed == EVERY_BYTE


@pytest.mark.parametrize("mode", ["raw", "canonical"])
def test_paste_of_64_kibibytes_arrives_whole(server: Server, mode: str) -> None:
    """More than terminal, pipe and channel window take at once. A canonical line may have 4095 bytes (termios(3))."""
    pasted = b"".join(b"%05d %s\n" % (number, b"\xe2\x82\xac" * 40) for number in range(600))[: 64 * 1024 - 1] + b"\n"
    stty = "stty raw -echo" if mode == "raw" else "stty -echo"
    with on_terminal(
        server, "-tt", "-e", "none", "--", f"{stty}; printf ready; head -c {len(pasted)} | sha256sum"
    ) as client:
        client.wait(b"ready")
        client.type(pasted)
        assert client.wait_ended() == 0
    assert client.after(b"ready").split()[0].decode() == hashlib.sha256(pasted).hexdigest()


def test_a_mebibyte_printed_on_a_terminal_arrives_whole(server: Server) -> None:
    with on_terminal(server, "-tt", "--", "seq -w 150000; exit 5") as client:
        assert client.wait_ended() == 5
    assert client.printed == b"".join(b"%06d\r\n" % number for number in range(1, 150001))


# -------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("key", [b"\x03", b"\x1c"], ids=["^C", "^\\"])
def test_control_keys_end_the_program_in_front(server: Server, key: bytes) -> None:
    program = "exec sh -c 'echo ready; exec sleep 300'"  # bash itself ignores QUIT
    with on_terminal(server, "-tt", "--", program) as client:
        client.wait(b"ready")
        client.type(key)
        assert client.wait_ended() == 255, "death by signal, not an exit code"


def test_control_z_stops_the_program_in_front_and_its_shell_goes_on(server: Server) -> None:
    program = "set -m; sh -c 'echo ready; exec sleep 300'; echo code $?; kill %1; exit 7"
    with on_terminal(server, "-tt", "--", program) as client:
        client.wait(b"ready")
        client.type(b"\x1a")
        client.wait(b"code 148")
        assert client.wait_ended() == 7


def test_control_d_is_the_end_of_input(server: Server) -> None:
    with on_terminal(server, "-tt", "--", "echo ready; cat; echo over") as client:
        client.wait(b"ready")
        client.type(b"word\r\x04")
        assert client.wait_ended() == 0
    assert client.printed.endswith(b"word\r\nword\r\nover\r\n")


def test_closed_window_hangs_up_what_ran_in_it(server: Server) -> None:
    marker = f"{server.port}7.5"
    with on_terminal(server, "-tt", "--", f"echo ready; exec sleep {marker}") as client:
        client.wait(b"ready")
        until(lambda: server.ssh(f"pgrep -f '[s]leep {marker}'").returncode == 0, "sleep runs")
        client.hang_up()
        until(lambda: server.ssh(f"pgrep -f '[s]leep {marker}'").returncode == 1, "sleep has ended")


@pytest.mark.slow
def test_program_that_ignores_the_hang_up_reads_the_end_of_its_terminal_and_lives_on(server: Server) -> None:
    """What `nohup make` counts on: the window may go, the work may not."""
    told = f"told-{server.port}"
    program = f"trap '' HUP; echo ready; read -r line; echo $? > {told}; exec sleep {server.port}6.5"
    with on_terminal(server, "-tt", "--", program) as client:
        client.wait(b"ready")
        client.hang_up()
    pid = until(
        lambda: server.ssh(f"cat {told} && pgrep -f '[s]leep {server.port}6.5'").stdout.split(), "it read an end"
    )
    assert pid[0] == b"1", "end of file, and no signal"
    # Where a killer would be due: long after the terminal went.
    assert server.ssh(f"sleep 6; kill {pid[-1].decode()}; rm {told}").returncode == 0


def test_tilde_dot_ends_the_connection(server: Server) -> None:
    with on_terminal(server, "-tt", "--", "echo ready; cat") as client:
        client.wait(b"ready")
        client.type(b"\r~.")
        assert client.wait_ended() == 255


def test_tilde_b_and_tilde_r_do_no_harm(server: Server) -> None:
    """A break, which no program here waits for, and new keys in the middle of a session."""
    with on_terminal(server, "-tt", "--", "echo ready; cat; exit 3") as client:
        client.wait(b"ready")
        client.type(b"\r~B\r~R")
        client.type(b"still here\r\x04")
        assert client.wait_ended() == 3
    assert client.printed.count(b"still here\r\n") == 2, "the echo and what cat made of it"


def test_tilde_c_adds_a_forward_while_the_program_runs(server: Server) -> None:
    port = free_port()
    with on_terminal(server, "-tt", "-o", "EnableEscapeCommandline=yes", "--", "echo ready; cat") as client:
        client.wait(b"ready")
        client.type(b"\r~C")
        client.wait(b"ssh> ")
        client.type(b"-L %d:127.0.0.1:%d\r" % (port, server.port))
        until(lambda: first_bytes(port) == b"SSH-", "the forward answers")
        client.type(b"\x04")
        assert client.wait_ended() == 0


def first_bytes(port: int) -> bytes:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as sock:
        return sock.recv(4)
    return b""


# -------------------------------------------------------------------------------------------------- login shells


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "sh"])
def test_login_shell_runs_commands_and_ends_with_its_code(server: Server, shell: str) -> None:
    if shutil.which(shell, path="/usr/bin:/bin") is None:
        pytest.skip(f"{shell} is not installed")
    with server.login_shell(shell):
        done = server.ssh("touch ~/.zshrc; echo $SHELL; exit 9")  # without that file zsh asks what to do
        assert (done.returncode, done.stdout.decode().strip().rpartition("/")[2]) == (9, shell)
        piped = server.ssh("-T", input=b"echo from a shell\nexit 8\n")
        assert (piped.returncode, piped.stdout) == (8, b"from a shell\n")
        with on_terminal(server, "-tt") as client:
            client.type(b"echo wor''king\r")
            client.wait(b"working")
            client.type(b"exit 41\r")
            assert client.wait_ended() == 41


def test_logout_by_control_d_gives_the_last_command_s_code(server: Server) -> None:
    with on_terminal(server, "-tt") as client:
        client.type(b"PS1='next''> '\r")
        client.wait(b"next> ")
        client.printed = b""
        client.type(b"(exit 43)\r")
        client.wait(b"next> ")
        client.type(b"\x04")
        assert client.wait_ended() == 43


# ----------------------------------------------------------------------------------------------- whole programs


@needs_tmux
def test_vim_edits_and_saves(server: Server) -> None:
    if server.ssh("command -v vim").returncode != 0:
        pytest.skip("vim is not installed")
    path = f"{server.tree}/edited-{server.port}"
    with Terminal(server.ssh_command("-t", "--", f"vim -u NONE -N {path}"), columns=100, rows=30) as terminal:
        terminal.wait("~")
        terminal.type("ione é 日本")
        terminal.press("Escape")
        terminal.resize(columns=60, rows=12)
        terminal.enter(":wq")
        assert terminal.wait_ended() == 0
    assert server.ssh(f"cat {path}; rm {path}").stdout.decode() == "one é 日本\n"


@needs_tmux
def test_less_pages_and_quits(server: Server) -> None:
    with Terminal(server.ssh_command("-t", "--", "seq -f 'row %g' 500 | LESS= less"), columns=80, rows=24) as terminal:
        terminal.wait("row 23")
        terminal.press("G")
        terminal.wait("row 500")
        terminal.press("q")
        assert terminal.wait_ended() == 0


@needs_tmux
def test_tmux_inside_survives_its_client(server: Server) -> None:
    """What people do to keep a shell: start tmux there, lose the line, attach again."""
    try:
        with Terminal(server.ssh_command("-t", "--", "tmux -L t -f /dev/null new -s kept")) as terminal:
            terminal.wait("[kept]")
            terminal.enter("PS1='$ '; clear; echo in''side")
            terminal.wait("inside")
        with Terminal(server.ssh_command("-t", "--", "tmux -L t attach -t kept"), columns=90, rows=20) as terminal:
            terminal.wait("inside")
            terminal.enter("stty size")
            terminal.wait("19 90")
            terminal.enter("exit")
            assert terminal.wait_ended() == 0
    finally:
        server.ssh("tmux -L t kill-server")


def test_script_and_nested_terminals_work(server: Server) -> None:
    if server.ssh("command -v script").returncode != 0:
        pytest.skip("script is not installed")
    done = server.ssh("-tt", "--", "script -qec 'tty; exit 4' /dev/null; echo $?")
    nested, status = done.stdout.split()
    assert nested.startswith(b"/dev/pts/")
    assert (status, done.returncode) == (b"4", 0)


def test_terminals_of_one_connection_are_different_terminals(server: Server) -> None:
    with server.master() as master, ExitStack() as stack:
        clients = []
        names = set()
        for _ in range(16):
            client = stack.enter_context(server.start(server.ssh_command(*master, "-tt", "--", "tty; read line")))
            assert client.stdout is not None
            names.add(client.stdout.readline())
            clients.append(client)
        assert len(names) == 16
        for client in clients:
            client.communicate(b"\n", timeout=DEADLINE_SECONDS)
            assert client.returncode == 0
