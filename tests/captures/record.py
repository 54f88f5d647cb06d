"""Records the captures anew: `python -m tests.captures.record [NAME…]`. Real programs, in a sandbox where nothing but
themselves is to be seen; a terminal model answers their questions. What they print is kept as it came."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path

import zstandard

from gateway.recording.screen.model import Screen

HERE = Path(__file__).parent
SIZES = ((80, 24), (120, 40))
QUIET_SECONDS = 0.4  # then a program waits for the next key
KEY_SECONDS = 1.0
END_SECONDS = 2.0
BYTES_MAX = 200_000

SOURCE = "\n".join(f"def step_{n}(value: int) -> int:\n    return value * {n} + len('word {n}')\n" for n in range(60))
VIMRC = "set nocompatible ruler number laststatus=2 mouse=a hlsearch termguicolors background=dark\nsyntax on\n"
WIDE = "".join(f"{n} 中文字符 e\u0301 한국어 ภาษาไทย ░▒▓ naïve 😀 done\n" for n in range(120))


@dataclass(frozen=True)
class Program:
    command: str
    keys: tuple[str, ...] = ()


PROGRAMS = {
    "bash": Program(
        "PS1='\\[\\e[1;32m\\]box\\[\\e[0m\\]:\\w\\$ ' exec bash --norc -i",
        (
            "echo one two three",
            "\x01\x06\x06\x06\x06\x06X\x05\x17\x17",
            "four\r",
            "ls --color=always -C /usr/bin | head -40\r",
            "for i in $(seq 60); do printf '\\e[3%dm%s\\e[0m line\\n' $((i%8)) $i; done\r",
            "echo " + "long " * 40,
            "\x01\x0b\x19\x15",
            "\x12seq",
            "\x1b[C\x03",
            "cat <<EOF\rabc\rEOF\r",
            "echo $((6*7))",
        ),
    ),
    "vim": Program(
        "exec vim -u /home/me/vimrc /home/me/source.py",
        (
            "10j",
            "v5jw",
            "\x1b",
            ":split\r",
            "/word\r",
            "nn",
            "\x17v",
            "G",
            "Osome new text\x1b",
            ":set list\r",
            "\x17w",
            "dd",
            "u",
            ":terminal echo hi\r",
            "\x04",
            ":e /home/me/cjk.txt\r",
            "i中文\x1b",
            "gg\x16jjj$",
            "\x1b:qa!\r",
        ),
    ),
    "less": Program("exec less -R /home/me/wide.txt", (" ", " ", "/naïve\r", "n", "G", "g", "\x1b[C", "-S\r", "q")),
    "top": Program("exec top -d 0.3", ("", "", "1", "c", "z", "x", "q")),
    "htop": Program("exec htop -d 3", ("", "\x1b[B\x1b[B", "\x1bOQ\x1b", "t", "\x1bOR" + "sh", "\r", "q")),
    "mc": Program(
        "exec mc -u --nosubshell /usr/lib /etc",
        (
            "\x1b[B\x1b[B\x1b[B",
            "\t",
            "\x1b[6~",
            "\x1bOS",
            "\x1b[6~",
            "\x1b[21~",
            "\x1b[19~",
            "\x1b\x1b",
            "\x1b[21~",
            "\r",
        ),
    ),
    "dialog": Program(
        "dialog --menu Choose 15 50 6 a Apple b Pear c Plum; dialog --gauge Working 8 50 <<< '10\n50\n90';"
        " dialog --checklist Some 15 50 5 1 one on 2 two off 3 three off; dialog --msgbox done 6 30",
        ("\x1b[B", "\x1b[B", "\r", " ", "\x1b[B ", "\r", "\r"),
    ),
    "tmux": Program(
        "exec tmux -f /dev/null -L x new-session 'exec bash --norc -i'",
        (
            "seq 50\r",
            "\x02%",
            "ls -C --color=always /usr/lib | head -50\r",
            '\x02"',
            "printf '\\e[44mblue\\e[K\\e[0m'\r",
            "\x02o",
            "\x02[\x1b[5~\x1b[5~",
            "q",
            "\x02z",
            "\x02z",
            "\x02c",
            "vim -u NONE\r",
            "i hello\x1b",
            ":q!\r",
            "\x02&y",
            "\x02&y",
        ),
    ),
    "progress": Program("exec python3 /home/me/progress.py"),
    "agent": Program("exec python3 /home/me/agent.py"),
    "page": Program("exec python3 /home/me/page.py"),
}


def sandbox(command: str, home: Path) -> list[str]:
    names = ("usr", "bin", "lib", "lib64", "etc/alternatives", "etc/mc", "etc/terminfo")
    binds = [word for name in names if Path("/", name).exists() for word in ("--ro-bind", f"/{name}", f"/{name}")]
    return [
        "bwrap", *binds, "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--bind", str(home), "/home/me",
        "--unshare-all", "--hostname", "box", "--uid", "1000", "--gid", "1000", "--die-with-parent", "--clearenv",
        "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/home/me", "--setenv", "TERM", "xterm-256color",
        "--setenv", "LANG", "C.UTF-8", "--setenv", "SHELL", "/bin/sh", "--chdir", "/home/me", "bash", "-c", command,
    ]  # fmt: skip


def record(program: Program, home: Path, columns: int, rows: int) -> bytes:
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        words = sandbox(program.command, home)
        os.execvp(words[0], words)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    screen = Screen(columns, rows, history_lines=0)
    printed = bytearray()
    keys = list(program.keys)
    waiting_since = time.monotonic()
    while len(printed) < BYTES_MAX:
        readable, _, _ = select.select([master], [], [], QUIET_SECONDS if keys else END_SECONDS)
        if not readable and not keys:
            break
        if keys and (not readable or time.monotonic() - waiting_since > KEY_SECONDS):  # some are never quiet
            os.write(master, keys.pop(0).encode())
            waiting_since = time.monotonic()
        if not readable:
            continue
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        printed += data
        screen.feed(data)
        if replies := screen.take_replies():
            os.write(master, replies)
    os.close(master)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return bytes(printed)


def main(names: list[str]) -> None:
    home = Path("/tmp/captures-home")
    home.mkdir(exist_ok=True)
    home.chmod(0o777)
    for name, text in {
        "source.py": SOURCE,
        "vimrc": VIMRC,
        "wide.txt": WIDE,
        "cjk.txt": WIDE.replace(" 😀", ""),
    }.items():
        (home / name).write_text(text)
    for script in ("agent.py", "page.py", "progress.py"):
        (home / script).write_text((HERE / script).read_text())
    for name in names or PROGRAMS:
        for columns, rows in SIZES:
            printed = record(PROGRAMS[name], home, columns, rows)
            packed = zstandard.compress(printed, 19)
            (HERE / f"{name}-{columns}x{rows}.zst").write_bytes(packed)
            print(f"{name} {columns}x{rows}: {len(printed)} bytes, {len(packed)} packed")


if __name__ == "__main__":
    main(sys.argv[1:])
