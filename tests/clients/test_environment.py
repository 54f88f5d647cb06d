"""What a program finds around itself when it starts: variables, descriptors, signals, limits, terminal, session."""

from __future__ import annotations

import re
import resource
import signal

import pytest

from tests.clients.differences import is_different
from tests.support.server import Server

# Of the shell itself, before its start-up files could change anything.
VARIABLES = "tr '\\0' '\\n' </proc/$$/environ"
CLIENT_S = {"LANG": "C", "LC_TIME": "C", "TZ": "UTC", "COLORTERM": "truecolor", "GIT_PROTOCOL": "version=2",
            "TERM_PROGRAM": "test", "EDITOR": "ed"}  # fmt: skip
HOSTILE = {"LD_PRELOAD": "/nonexistent.so", "PATH": "/nowhere", "BASH_ENV": "/tmp/evil", "ENV": "/tmp/evil",
           "HOME": "/nowhere", "SHELL": "/bin/false", "SSH_TTY": "/dev/null", "SSH_AUTH_SOCK": "/tmp/evil", "IFS": "/",
           "LD_LIBRARY_PATH": "/tmp", "PYTHONPATH": "/tmp", "SECRET": "s"}  # fmt: skip
TERMINAL = pytest.mark.parametrize("terminal", ["-T", "-tt"])


def variables(server: Server, *options: str) -> dict[str, str]:
    done = server.ssh(*options, "--", VARIABLES)
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stdout.decode().splitlines())


def set_env(values: dict[str, str]) -> list[str]:
    """One option: ssh heeds the first SetEnv alone (9.2)."""
    return ["-o", "SetEnv=" + " ".join(f"{name}={value}" for name, value in values.items())]


@TERMINAL
def test_variables_are_exactly_these(server: Server, terminal: str) -> None:
    found = variables(server, terminal)
    user = found["USER"]
    address = re.fullmatch(rf"127\.0\.0\.1 (\d+) 127\.0\.0\.1 {server.port}", found.pop("SSH_CONNECTION"))
    assert address is not None
    expected = {
        "HOME": server.home,
        "USER": user,
        "LOGNAME": user,
        "SHELL": found["SHELL"],
        "SSH_CLIENT": f"127.0.0.1 {address[1]} {server.port}",
    }
    if terminal == "-tt":
        expected |= {"SSH_TTY": found["SSH_TTY"]}
        assert re.fullmatch(r"/dev/pts/\d+", found["SSH_TTY"])
    if is_different(server, "variables"):
        standard = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        path = f"{server.home}/.local/bin:{standard}"
        expected |= {"LANG": "C.UTF-8", "PWD": server.tree, "WORKSPACE_NAME": server.user, "PATH": path}
        # Where git is told of the gateway's token.
        expected |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "include.path"}
        expected |= {name: found[name] for name in ("GIT_CONFIG_SYSTEM", "GIT_CONFIG_VALUE_0")}
        if terminal == "-tt":
            expected["TERM"] = "dumb"  # this client has none
        if server.name == "bubblewrap" or "XDG_RUNTIME_DIR" in found:  # without walls: if the account has one
            expected["XDG_RUNTIME_DIR"] = found["XDG_RUNTIME_DIR"]
    else:
        expected |= {"MAIL": f"/var/mail/{user}", "PATH": found["PATH"]}
    assert found == expected
    assert user == server.ssh("id -un").stdout.decode().strip()
    assert server.ssh(f"test -x {found['SHELL']}").returncode == 0


def test_term_is_the_client_s(server: Server) -> None:
    done = server.ssh("-tt", "--", 'echo "$TERM"', env={**server.environment, "TERM": "xterm-kitty"})
    assert done.stdout == b"xterm-kitty\r\n"


@TERMINAL
def test_harmless_variables_of_the_client_arrive_and_all_others_are_dropped(server: Server, terminal: str) -> None:
    plain = variables(server, terminal)
    found = variables(server, terminal, *set_env(CLIENT_S | HOSTILE))
    for changing in ("SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY"):
        plain.pop(changing, None), found.pop(changing, None)
    assert found == plain | CLIENT_S


def test_variables_arrive_by_their_names_from_the_client_s_environment_too(server: Server) -> None:
    words = [word for name in ("LC_TIME", "LD_PRELOAD", "BASH_ENV") for word in ("-o", f"SendEnv={name}")]
    environment = {**server.environment, "LC_TIME": "C", "BASH_ENV": "/tmp/evil", "LD_PRELOAD": ""}
    done = server.ssh(*words, "--", VARIABLES, env=environment)
    assert b"LC_TIME=C\n" in done.stdout
    assert b"BASH_ENV" not in done.stdout + done.stderr
    assert b"LD_PRELOAD" not in done.stdout


def test_runtime_directory_is_private_if_it_is_named(server: Server) -> None:
    """VS Code keeps its lock there; one that others may enter is worse than none."""
    done = server.ssh('[ -z "$XDG_RUNTIME_DIR" ] || { stat -c "%a %u" "$XDG_RUNTIME_DIR"; id -u; }')
    mode, uid, own = done.stdout.split() or (b"700", b"0", b"0")
    assert (mode, uid) == (b"700", own)


@pytest.mark.parametrize(
    ("what", "options", "stdin", "expected"),
    [
        ("a command", ["--", 'echo "$0"; shopt -q login_shell || echo not'], b"", b"bash\nnot\n"),
        ("a shell without a terminal", ["-T"], b'echo "$0"; shopt -q login_shell && echo is\n', b"-bash\nis\n"),
    ],
)  # fmt: skip
def test_shell_knows_what_it_is(server: Server, what: str, options: list[str], stdin: bytes, expected: bytes) -> None:
    """argv[0] with a dash makes a login shell (bash(1) INVOCATION); a command's shell is none."""
    if b"/bash" not in server.ssh('echo "$SHELL"').stdout:
        pytest.skip("the login shell is not bash")
    assert server.ssh(*options, input=stdin).stdout == expected


def test_start_up_files_of_the_account_are_read_as_by_sshd(server: Server) -> None:
    """bash reads .bashrc for a command if SSH_CLIENT is there, as Debian builds it; a login shell reads .profile."""
    server.ssh("echo 'export FROM_RC=rc' > ~/.bashrc; echo 'export FROM_PROFILE=profile' > ~/.profile")
    try:
        command = server.ssh('echo "$FROM_RC $FROM_PROFILE"').stdout
        shell = server.ssh("-T", input=b'echo "$FROM_RC $FROM_PROFILE"\n').stdout
    finally:
        server.ssh("rm ~/.bashrc ~/.profile")
    assert (command, shell) == (b"rc \n", b" profile\n")


def test_ssh_s_own_start_up_file_runs_only_under_sshd(server: Server) -> None:
    server.ssh("mkdir -p ~/.ssh; echo 'echo from-rc >&2' > ~/.ssh/rc")
    done = server.ssh("echo done")
    server.ssh("rm -r ~/.ssh")
    assert done.stdout == b"done\n"
    assert done.stderr == (b"" if is_different(server, "user-rc") else b"from-rc\n")


@TERMINAL
def test_no_descriptor_but_the_usual_three_is_open(server: Server, terminal: str) -> None:
    done = server.ssh(terminal, "--", "exec ls -l /proc/self/fd")
    links = dict(re.findall(r"(\d+) -> (\S+)", done.stdout.decode()))
    assert links.pop("3").endswith("/fd"), "the directory that ls reads"
    kinds = ("/dev/pts/",) if terminal == "-tt" else ("pipe:", "socket:")
    assert set(links) == {"0", "1", "2"}
    assert all(target.startswith(kinds) for target in links.values())


@TERMINAL
def test_signals_are_neither_ignored_nor_blocked(server: Server, terminal: str) -> None:
    """Started with `&`, a server hands on SIGINT ignored, and Ctrl-C does nothing for ever."""
    # An executable of its own: a shell changes some for itself.
    done = server.ssh(terminal, "--", "exec grep -E '^Sig(Blk|Ign)' /proc/self/status")
    blocked, ignored = (int(line.split()[1], 16) for line in done.stdout.decode().splitlines())
    own = {32, 33} if is_different(server, "c-library-signals") else set()
    assert (blocked, signals_in(ignored) - own) == (0, set())


def signals_in(mask: int) -> set[int]:
    return {number for number in range(1, signal.NSIG) if mask >> (number - 1) & 1}


@TERMINAL
def test_limits_and_mask_are_those_of_a_login(server: Server, terminal: str) -> None:
    done = server.ssh(terminal, "--", "umask; ulimit -Sn; ulimit -Sc; ulimit -Ss; ulimit -Su; ulimit -Hn")
    umask, files, core, stack, processes, files_hard = done.stdout.decode().split()
    assert umask == "0022"
    # select(2) fails above 1024 descriptors; who needs more may have them.
    if is_different(server, "open-files"):
        assert files == "1024"
    assert int(files_hard) >= 1024
    for shown, limit in (
        (core, resource.RLIMIT_CORE),
        (stack, resource.RLIMIT_STACK),
        (processes, resource.RLIMIT_NPROC),
    ):
        soft = resource.getrlimit(limit)[0]
        unit = 1 if limit == resource.RLIMIT_NPROC else 512 if limit == resource.RLIMIT_CORE else 1024
        assert shown == ("unlimited" if soft == resource.RLIM_INFINITY else str(soft // unit))


def test_command_without_a_terminal_leads_a_session_of_its_own(server: Server) -> None:
    """Signals from the client go to its group; without one of its own they would reach the server."""
    pid, group, session, terminal = stat_of(server, "-T")
    assert (group, session, terminal) == (pid, pid, 0)


def test_command_on_a_terminal_leads_a_session_and_the_terminal_controls_it(server: Server) -> None:
    pid, group, session, terminal = stat_of(server, "-tt")
    assert (group, session) == (pid, pid)
    assert terminal != 0
    done = server.ssh("-tt", "--", 'tty; echo "$SSH_TTY"; stat -c %U "$SSH_TTY"; id -un; : > /dev/tty && echo mine')
    name, variable, owner, user, mine = done.stdout.split()
    assert (name, owner, mine) == (variable, user, b"mine")


def stat_of(server: Server, *options: str) -> list[int]:
    """pid, process group, session and controlling terminal of the shell that runs a command (proc(5))."""
    done = server.ssh(*options, "--", "cat /proc/$$/stat; true")
    fields = done.stdout.decode().rpartition(")")[2].split()
    return [int(done.stdout.split()[0]), *(int(field) for field in fields[2:5])]


def test_directory_of_the_start_is_the_tree_and_it_is_named_as_it_is(server: Server) -> None:
    done = server.ssh('pwd; pwd -P; echo "$PWD"; ls -d . >/dev/null && echo readable')
    assert done.stdout.decode().split() == [server.tree, server.tree, server.tree, "readable"]
    assert (server.tree != server.home) == is_different(server, "start")
