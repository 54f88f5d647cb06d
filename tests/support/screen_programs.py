"""Programs that fill a screen in all the ways there are, and what a person types at them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.installed import InstalledGateway

FOLDER = Path(__file__).parent / "kept_programs"
_SHELL = r"PS1='\[\e]2;shell \w\a\]\[\e[1;32m\]kept\[\e[0m\] $ ' exec bash --norc --noprofile"
_VIM = "vim -u ~/kept/vimrc -i NONE -n ~/kept/text"
_MENU = "dialog --colors --title Menu --menu '\\Z1Choose\\Zn' 20 60 12 $(seq 120)"


@dataclass(frozen=True, slots=True)
class Program:
    """What runs, and what a person types at it."""

    name: str
    command: str  # of a POSIX shell, in the workspace
    steps: tuple[bytes, ...]  # what each prints goes on for a while
    begin: bytes = b""  # typed once, at its start
    begun: bytes = b""  # then this was printed
    leave: bytes | None = None  # back to the screen behind it
    left: bytes = rb"kept\x1b\[0m \$ \Z"  # a pattern: the last thing that it prints then
    ends_with: bytes = b""  # a pattern: the last thing that a step prints, if it pauses in between
    end: str = ""  # run in the workspace at the end: what outlives the session
    server: str = ""  # a process of this name, not a child, prints for it
    is_stopped: str = ""  # it moves by itself: SIGSTOP to the processes of this name, while it is compared


_COLOURED_LINES = (
    rb"for i in {1..1500}; do printf '\e[3%dm%04d \e[48;5;%dm \xc3\xa9\xe6\x97\xa5\xe6\x9c\xac \e[0;1;4m%s\e[0m\n' "
    rb"$((i%8)) $i $((i%256)) $RANDOM; done"
)
_VIM_SCROLLS = b'\x1c\x0egg:for i in range(1,80)|exe "norm! 2\\<C-e>"|redraw|endfor\r'
PROGRAMS = (
    Program(
        "bash", _SHELL, (
            _COLOURED_LINES + b"\r",
            b"\x15ls -la --color=always /usr/bin\recho unfinished 'words\x02\x02\x02\x02\x02",
            b"\x05\x15" + _COLOURED_LINES + b"; printf '\\e[2J\\e[5;20Hhere'\recho \xc3\xa9\xe6\x97\xa5 \x12seq",
        ),
        begin=b"kept=$$-kept\r", begun=rb"kept=",
    ),
    Program(
        "vim", _SHELL, (
            _VIM_SCROLLS + b"Vjjjj",
            b"\x1c\x0e:split\r:vsplit\r" + _VIM_SCROLLS + b"/line\r",
            b"\x1c\x0e\x17w" + _VIM_SCROLLS + b"oinserted \xc3\xa9\xe6\x97\xa5",
        ),
        begin=b"clear; seq 15; " + _VIM.encode() + b"\r", begun=rb"1,1.*Top", leave=b"\x1c\x0e:qa!\r",
    ),
    Program(
        "less", _SHELL, (b" " * 30, b"Gbbbbbbbbbbbbbbbbbbbbb/2[0-9]7\rnnnnn", b"g" + b"j" * 150 + b"-N\r"),
        begin=b"clear; seq 7; LESS= less -R -M ~/kept/colours\r", begun=rb"lines 1-", leave=b"q",
    ),
    Program(
        "htop", "exec htop -d 3", (b"\x1bOB" * 10 + b"t", b"\x1bOQ\x1bOB\x1bOB", b"\x1bI/sh"), begun=rb"Load average",
        is_stopped="htop",
    ),
    Program(
        "mc", "exec mc -u ~/kept /usr/bin", (
            b"\t" + b"\x1b[6~" * 12, b"\x1b[20~\x1b[C\x1b[B\x1b[B", b"\x1b\x1b\x1b[5~\x1b[5~" + b"\x1b[B" * 30,
        ),
        begun=rb"Quit",
    ),
    Program(
        "dialog", f"exec {_MENU}", (b"\x1bOB" * 40, b"\x1b[6~\t\t", b"\x1b[5~\x1b[5~" + b"\x1bOB" * 30),
        begun=rb"Cancel",
    ),
    Program(
        "tmux", "exec tmux -L kept -f ~/kept/tmux.conf new-session", (
            _COLOURED_LINES + b"\r",
            b"\x02%" + _COLOURED_LINES + b"\r\x02\"ls --color=always /usr/bin\r",
            b"\x02;" + _COLOURED_LINES + b"\r\x02[\x1b[5~\x1b[5~",
        ),
        begun=rb"inner \$", end="tmux -L kept kill-server", server="tmux: server",
    ),
    Program("progress", "exec python3 ~/kept/progress.py", (b"\r",) * 3, begin=b"\r", begun=rb"0 is over\r\n",
            ends_with=rb"is over\r\n\Z"),
    Program("agent", "exec python3 ~/kept/agent.py", (b"a", b"b", b"c", b"d", b"e", b"f"), begun=rb"\x1b\[2J",
            leave=b"q", left=rb"and after\r\n\Z", ends_with=rb"\x1b\[(\?2004h|2J)\Z"),
)  # fmt: skip
ASKER = Program("asker", "exec python3 ~/kept/asker.py ~/kept/asker.pid", (b"a",), begun=rb"ready")
BY_NAME = {program.name: program for program in PROGRAMS}


def put_programs(gateway: InstalledGateway) -> None:
    """The programs' files, into ~/kept of the workspace; once."""
    if gateway.ssh("test -e ~/kept/text").returncode == 0:
        return
    words = ["the", "line", "of", "a", "text", "that", "somebody", "wrote,", "é日本", "and", "so", "on"]
    text = "".join(f"line {n:04d} {' '.join(words[: n % 12])}\n" for n in range(600))
    colours = "".join(
        f"\x1b[3{n % 8}m{n:04d}\x1b[0m \x1b[1;38;5;{n % 256}m{'=' * (n % 70)}\x1b[0m é\n" for n in range(900)
    )
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in FOLDER.iterdir():
            archive.add(path, path.name)
        for name, data in (("colours", colours), ("text", text)):
            member = tarfile.TarInfo(name)
            member.size = len(data.encode())
            archive.addfile(member, io.BytesIO(data.encode()))
    command = "mkdir -p ~/kept ~/.config/mc && tar -x --no-same-owner -C ~/kept && cp ~/kept/mc.ini ~/.config/mc/ini"
    done = gateway.ssh(command, input=packed.getvalue())
    assert done.returncode == 0, done.stderr
