"""ansible-core: one shared connection, commands on a terminal or modules on standard input, files in three ways."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.installed import Result
from tests.support.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PROGRAMS = Path(sys.prefix) / "bin"  # from requirements-dev.lock
PLAY_SECONDS = 120.0
FORK_COUNT = 5
FILE_BYTES = 300_000

# One play for every way, since most of its time is ansible's own start.
PLAY = """
- hosts: one
  gather_facts: false
  tasks:
    - ansible.builtin.ping:
    - ansible.builtin.command: sh -c 'echo out; echo err >&2; exit 3'
      register: told
      failed_when: told.rc != 3 or told.stdout != 'out' or told.stderr != 'err'
    - ansible.builtin.shell: printf 'caf\\351' | od -An -tx1
      register: odd
      failed_when: "'63 61 66 e9' not in odd.stdout"
    - ansible.builtin.file: {path: "{{ folder }}/a b", state: directory, mode: "0750"}
    - ansible.builtin.copy: {src: "{{ here }}/noise é", dest: "{{ folder }}/a b/noise é", mode: "0640"}
      register: copied
      failed_when: not copied.changed or copied.mode != '0640'
    # A plain name: ansible quotes others, and scp in its SFTP mode takes the quotes for a part of the name.
    - ansible.builtin.command: cp "{{ folder }}/a b/noise é" "{{ folder }}/plain"
    - ansible.builtin.fetch: {src: "{{ folder }}/plain", dest: "{{ here }}/back", flat: true}
    - ansible.builtin.file: {path: "{{ folder }}", state: absent}
"""


@dataclass(frozen=True)
class Ansible:
    server: Server
    inventory: Path
    shared: Path  # where the sockets of shared connections lie, by default
    environment: dict[str, str]

    def run(self, program: str, *words: str | Path, **more: str) -> Result:
        command: list[str | bytes] = [str(PROGRAMS / program), "-i", str(self.inventory), *map(str, words)]
        environment = {**self.environment, **{f"ANSIBLE_{name.upper()}": value for name, value in more.items()}}
        return self.server.run(command, env=environment, timeout=PLAY_SECONDS)


@pytest.fixture
def ansible(server: Server) -> Iterator[Ansible]:
    """At its defaults, ControlPersist among them. The shared connection it leaves behind ends with the test."""
    shared = server.client_home / ".ansible/cp"
    inventory = server.scratch / "inventory.yml"
    login = {"ansible_host": "server", "ansible_ssh_common_args": " ".join(server.ssh_options)}
    hosts = {name: {} for name in ("one", *(f"fork{number}" for number in range(FORK_COUNT)))}
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": login}}))
    environment = {
        **server.environment, "PATH": f"{PROGRAMS}:{server.environment['PATH']}", "LC_ALL": "C.UTF-8",
        "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
    }  # fmt: skip
    yield Ansible(server, inventory, shared, environment)
    for path in shared.glob("*"):
        server.run(["ssh", *server.ssh_options, "-S", str(path), "-O", "exit", "server"])


@pytest.mark.parametrize(
    ("pipelining", "transfer"),
    [("false", "sftp"), ("false", "scp"), ("true", "piped")],
)
def test_play_does_what_it_says(ansible: Ansible, tmp_path: Path, pipelining: str, transfer: str) -> None:
    """Without pipelining a module is copied, then run on a terminal (-tt); with it, it comes on standard input."""
    noise = os.urandom(FILE_BYTES)
    (tmp_path / "noise é").write_bytes(noise)
    (tmp_path / "play.yml").write_text(PLAY)
    done = ansible.run("ansible-playbook", tmp_path / "play.yml", "-e",
                       json.dumps({"here": str(tmp_path), "folder": "made-by-ansible"}), "-vvv",
                       pipelining=pipelining, ssh_transfer_method=transfer)  # fmt: skip
    assert done.returncode == 0, (done.stdout.decode(), done.stderr.decode())
    assert (tmp_path / "back").read_bytes() == noise
    assert (b" -tt " in done.stdout) == (pipelining == "false"), "this is what ansible does, else the case is void"


def test_five_forks_at_once_share_the_connection(ansible: Ansible) -> None:
    done = ansible.run("ansible", "fork*", "-f", str(FORK_COUNT), "-m", "ansible.builtin.command",
                       "-a", "echo of {{ inventory_hostname }}")  # fmt: skip
    assert (done.returncode, len(list(ansible.shared.iterdir()))) == (0, 1), done.stdout
    for number in range(FORK_COUNT):
        assert f"fork{number} | CHANGED | rc=0 >>\nof fork{number}\n".encode() in done.stdout


def test_raw_command_runs_without_python_and_its_failure_is_told(ansible: Ansible) -> None:
    done = ansible.run("ansible", "one", "-m", "ansible.builtin.raw", "-a", "echo said; exit 7")
    assert (done.returncode, b"one | FAILED | rc=7 >>\nsaid\n" in done.stdout.replace(b"\r", b"")) == (2, True), done


def test_refused_login_is_told_as_unreachable(ansible: Ansible) -> None:
    done = ansible.run("ansible", "one", "-m", "ansible.builtin.ping", "--ssh-extra-args=-o PubkeyAuthentication=no")
    assert (done.returncode, b"UNREACHABLE" in done.stdout, b"Permission denied" in done.stdout) == (4, True, True)
