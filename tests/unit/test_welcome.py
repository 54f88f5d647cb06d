"""What `homeport run` prints: lines that can be pasted as they are, whatever the paths and ports."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.caller_keys import CallerKeys
from gateway.config import Address
from gateway.interfaces import Workspace
from gateway.state import Places
from gateway.way_in import config_entry, ssh_command
from gateway.welcome import Trial, farewell, way_into, welcome, write_known_hosts
from tests.support.lobby import session

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2vkY0VbHx7gjUg3L2u1n4Wz0m2ZqFQ3o0l7n7x3n5Q"


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    state = tmp_path / "a state"
    state.mkdir()
    return Trial(
        ssh=Address(host="127.0.0.1", port=2222),
        http=Address(host="127.0.0.1", port=8022),
        places=Places(state, tmp_path / "run"),
        caller=CallerKeys(),
        demo=Workspace("id", "demo", tmp_path, tmp_path),
        tree="/workspaces/demo",
        isolation="bubblewrap",
    )


def as_ssh_reads_it(words: list[str]) -> dict[str, str]:
    """What the real client makes of a command line."""
    done = subprocess.run([words[0], "-G", *words[1:]], capture_output=True, text=True, check=True)
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


def test_the_line_leads_to_our_port_and_our_own_known_hosts(trial: Trial) -> None:
    seen = as_ssh_reads_it(shlex.split(ssh_command(way_into(trial))))
    assert (seen["user"], seen["hostname"], seen["port"]) == ("demo", "127.0.0.1", "2222")
    assert seen["userknownhostsfile"].strip('"') == str(trial.places.known_hosts)


@pytest.mark.parametrize("name", ["plain", "with space", "50%off", "it's"])
def test_a_trial_key_is_the_only_one_offered_wherever_it_lies(trial: Trial, tmp_path: Path, name: str) -> None:
    private = tmp_path / name / "id_ed25519"
    private.parent.mkdir()
    private.touch(0o600)
    trial = replace(trial, caller=CallerKeys(("x",), str(private), is_trial_key=True))
    seen = as_ssh_reads_it(shlex.split(ssh_command(way_into(trial))))
    assert (seen["identityfile"].strip('"').replace("%%", "%"), seen["identitiesonly"]) == (str(private), "yes")


def test_the_editors_entry_is_what_the_line_says(trial: Trial, tmp_path: Path) -> None:
    (tmp_path / "a key").touch(0o600)
    trial = replace(trial, caller=CallerKeys(("x",), str(tmp_path / "a key"), is_trial_key=True))
    config = tmp_path / "config"
    config.write_text(config_entry(way_into(trial)) + "\n")
    by_entry = as_ssh_reads_it(["ssh", "-F", str(config), "homeport-demo"])
    by_line = as_ssh_reads_it(shlex.split(ssh_command(way_into(trial))))
    for key in ("hostname", "port", "user", "identityfile", "identitiesonly", "userknownhostsfile"):
        assert by_entry[key].strip('"') == by_line[key].strip('"'), key


def test_a_gateway_that_listens_everywhere_is_reached_on_loopback(trial: Trial) -> None:
    trial = replace(trial, ssh=Address(host="0.0.0.0", port=22), http=Address(host="::", port=8022))
    assert ssh_command(way_into(trial)).endswith(" demo@127.0.0.1")
    assert " -p " not in ssh_command(way_into(trial))
    assert "http://[::1]:8022/healthz" in welcome(trial)


def test_known_hosts_is_found_by_the_client_under_the_address_of_the_line(trial: Trial) -> None:
    write_known_hosts(trial.places, trial.ssh, [HOST_KEY])
    command = ["ssh-keygen", "-F", "[127.0.0.1]:2222", "-f", str(trial.places.known_hosts)]
    assert HOST_KEY in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_missing_walls_are_said_loudly(trial: Trial) -> None:
    assert "NO WALLS" in welcome(replace(trial, isolation="none"))
    assert "NO WALLS" not in welcome(trial)


def test_notes_about_keys_stand_before_the_line(trial: Trial) -> None:
    text = welcome(replace(trial, caller=CallerKeys(notes=("odd.pub passed over: it is empty",))))
    assert text.index("odd.pub passed over") < text.index("ssh -p 2222")


def test_what_goes_on_is_told_by_the_name_that_leads_back_to_it() -> None:
    at = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
    text = farewell([session("s1", created_at=at), session("s2", name="agent", command="claude", created_at=at)])
    assert "2 shells go on without the gateway:\n  my-app  shell  since 03:04 UTC\n" in text
    assert "  my-app+agent  claude  since 03:04 UTC\n" in text


def test_nothing_left_running_is_said_too() -> None:
    assert "nothing was left running" in farewell([])
