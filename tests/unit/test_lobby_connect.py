"""`connect`: an entry that ssh reads as it is meant, for the address by which clients really come."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config import Address
from gateway.services import own_name, way_into
from gateway.state import Places
from gateway.way_in import WayIn, config_entry
from gateway.welcome import write_known_hosts
from tests.support.lobby import FakeLobby, FakeStore, workspace

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2vkY0VbHx7gjUg3L2u1n4Wz0m2ZqFQ3o0l7n7x3n5Q"


@pytest.fixture
def lobby() -> FakeLobby:
    return FakeLobby(store=FakeStore(workspaces=[workspace("my-app"), workspace("old", is_active=False)]))


def as_ssh_reads_it(*words: str) -> dict[str, str]:
    done = subprocess.run(["ssh", "-G", *words], capture_output=True, text=True, check=True)
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


async def test_all_that_is_printed_may_be_appended_to_the_configuration(lobby: FakeLobby, tmp_path: Path):
    assert await lobby("connect", "My-App") == 0
    config = tmp_path / "config"
    config.write_text("Host *\n  Compression no\n" + lobby.stdout.text)
    seen = as_ssh_reads_it("-F", str(config), "homeport-my-app")
    expected = {"user": "my-app", "hostname": "192.0.2.1", "port": "2222", "serveraliveinterval": "15"}
    assert {name: seen[name] for name in expected} == expected
    assert lobby.stderr.text == ""


async def test_the_line_and_the_entry_lead_to_the_same_place(lobby: FakeLobby):
    await lobby("connect", "my-app", "--json")
    shown = json.loads(lobby.stdout.text)
    assert set(shown) == {
        "workspace", "alias", "host", "port", "user", "tree", "known_hosts", "identity", "config", "ssh", "code",
    }  # fmt: skip
    seen = as_ssh_reads_it("-F", "none", *shlex.split(shown["ssh"])[1:])
    assert (seen["user"], seen["hostname"], seen["port"]) == (shown["user"], shown["host"], str(shown["port"]))
    assert shown["code"] == "code --remote ssh-remote+homeport-my-app /workspaces/my-app"


@pytest.mark.parametrize(
    ("typed", "host"),
    [("gateway.example", "gateway.example"), ("[2001:db8::1]", "2001:db8::1"), ("fe80::1%eth0", "fe80::1%eth0")],
)
async def test_a_host_and_a_port_that_are_given_win(lobby: FakeLobby, tmp_path: Path, typed: str, host: str):
    lobby.way = replace(lobby.way, host="0.0.0.0")
    assert await lobby("connect", "my-app", "--host", typed, "--port", "22") == 0
    (tmp_path / "config").write_text(lobby.stdout.text)
    seen = as_ssh_reads_it("-F", str(tmp_path / "config"), "homeport-my-app")
    assert (seen["hostname"], seen["port"]) == (host, "22")
    assert lobby.stderr.text == ""


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
async def test_a_gateway_that_listens_everywhere_goes_by_the_machines_own_name_and_says_so(
    lobby: FakeLobby, everywhere: str
):
    lobby.way = replace(lobby.way, host=everywhere)
    assert await lobby("connect", "my-app") == 0
    assert "  HostName gateway.example\n" in lobby.stdout.text
    assert "give --host" in lobby.stderr.text


@pytest.mark.parametrize("name", [None, "a b\n  ProxyCommand evil"])
async def test_a_machine_without_a_name_asks_for_one(lobby: FakeLobby, name: str | None):
    lobby.way, lobby.own_name = replace(lobby.way, host="::"), name
    assert await lobby("connect", "my-app") == 1
    assert "say how clients name it, with --host" in lobby.stderr.text
    assert lobby.stdout.text == ""


async def test_a_gateway_on_loopback_says_that_only_this_machine_reaches_it(lobby: FakeLobby):
    lobby.way = replace(lobby.way, host="127.0.0.1")
    assert await lobby("connect", "my-app") == 0
    assert "only this machine reaches it" in lobby.stderr.text


async def test_a_port_that_nobody_knows_yet_is_asked_for(lobby: FakeLobby):
    lobby.way = replace(lobby.way, port=0)
    assert await lobby("connect", "my-app") == 1
    assert "--port" in lobby.stderr.text
    assert await lobby("connect", "my-app", "--port", "2222") == 0


async def test_a_trials_files_hold_for_its_own_address_alone(lobby: FakeLobby):
    lobby.way = replace(lobby.way, host="127.0.0.1", known_hosts="/state/known_hosts", identity="/state/trial/key")
    await lobby("connect", "my-app")
    assert "UserKnownHostsFile /state/known_hosts" in lobby.stdout.text
    assert "IdentityFile /state/trial/key" in lobby.stdout.text
    assert lobby.stderr.text == ""
    for words in (("--host", "gateway.example"), ("--port", "2200")):
        await lobby("connect", "my-app", *words)
        assert "/state/" not in lobby.stdout.text


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("my-ap",), 1, 'did you mean "my-app"?'),
        (("old",), 1, "is archived"),
        (("my-app", "--host", "a\n  ProxyCommand evil"), 2, "is not a host"),
        (("my-app", "--host=-oProxyCommand=evil"), 2, "is not a host"),
        (("my-app", "--host", "a b"), 2, "is not a host"),
        (("my-app", "--host", ""), 2, "is not a host"),
        (("my-app", "--host", "%h"), 2, "is not a host"),
        (("my-app", "--host", "gateway.example:2200"), 2, "a port has an option of its own"),
        (("my-app", "--host", "192.0.2.10:2200"), 2, "a port has an option of its own"),
        (("my-app", "--port", "0"), 2, "is not a port"),
        (("my-app", "--port", "65536"), 2, "is not a port"),
        (("my-app", "--port", "ssh"), 2, "is not a port"),
    ],
)
async def test_what_cannot_be_connected_to_is_refused(lobby: FakeLobby, words: tuple[str, ...], status: int, said: str):
    """What is typed goes into a file that ssh obeys: a line end would make more of it."""
    assert await lobby("connect", *words) == status
    assert said in lobby.stderr.text
    assert lobby.stdout.text == ""


# ------------------------------------------------------------------------------- what the gateway knows of the way


def known(places: Places, address: Address) -> WayIn:
    return way_into(workspace("my-app"), address, tree="/t", places=places, identity="/k")


def test_a_trial_knows_its_clients_files_and_is_reached_on_loopback(tmp_path: Path):
    places, everywhere = Places(tmp_path, tmp_path), Address(host="0.0.0.0", port=2222)
    write_known_hosts(places, everywhere, [HOST_KEY])
    assert known(places, everywhere) == WayIn(
        "my-app", "127.0.0.1", 2222, "/t", known_hosts=str(places.known_hosts), identity="/k"
    )


def test_a_service_knows_where_it_listens_and_nothing_of_clients(tmp_path: Path):
    places, everywhere = Places(tmp_path, tmp_path), Address(host="0.0.0.0", port=2222)
    assert known(places, everywhere) == WayIn("my-app", "0.0.0.0", 2222, "/t")
    write_known_hosts(places, Address(host="127.0.0.1", port=2200), [HOST_KEY])  # of an earlier trial, elsewhere
    assert known(places, everywhere) == WayIn("my-app", "0.0.0.0", 2222, "/t")


@pytest.mark.parametrize(
    ("canonical", "known_as"),
    [
        ("gw.example", "gw.example"),
        ("", "gw"),  # the resolver knows no better
        (None, "gw"),  # nor this one
        ("localhost", None),
        ("localhost.localdomain", None),
    ],
)
async def test_the_machines_own_name_is_the_resolvers_unless_every_machine_has_it(
    monkeypatch: pytest.MonkeyPatch, canonical: str | None, known_as: str | None
):
    def resolve(name: str, port: None, *, flags: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if canonical is None:
            raise OSError("no such name")
        return [(0, 0, 0, canonical, ("127.0.0.1", 0))]

    monkeypatch.setattr("gateway.services.socket.gethostname", lambda: "gw")
    monkeypatch.setattr("gateway.services.socket.getaddrinfo", resolve)
    assert await own_name() == known_as


def test_the_entry_of_a_trial_names_paths_as_ssh_wants_them(tmp_path: Path):
    odd = WayIn("demo", "127.0.0.1", 2222, "/t", known_hosts="/a state/50%/known_hosts", identity="/a b/key")
    (tmp_path / "config").write_text(config_entry(odd))
    seen = as_ssh_reads_it("-F", str(tmp_path / "config"), "homeport-demo")
    assert seen["userknownhostsfile"].strip('"').replace("%%", "%") == "/a state/50%/known_hosts"
    assert seen["identityfile"].strip('"') == "/a b/key"
