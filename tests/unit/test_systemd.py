"""The shipped units: accepted by systemd, hardened as far as walls inside allow, and keepers outlive a restart."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
EXPOSURE_MAX = 55  # tenths; a gateway that starts walls itself cannot reach the 16 of a fully closed unit
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


class _Unit(configparser.RawConfigParser):
    """Names keep their case; a repeated name keeps its last value, which is all these tests read."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def service() -> configparser.SectionProxy:
    unit = _Unit(strict=False)
    unit.read(UNITS / "homeport.service")
    return unit["Service"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with a command that exists and an account that exists: verify looks at both."""
    for name in ("homeport.service", "homeport.socket"):
        text = (UNITS / name).read_text().replace("/opt/homeport/bin/homeport", "/bin/true")
        (tmp_path / name).write_text(re.sub(r"(?m)^(User|Group)=homeport$", r"\1=daemon", text))
    return tmp_path


@needs_systemd
def test_systemd_accepts_the_units(installed: Path) -> None:
    paths = [str(installed / name) for name in ("homeport.service", "homeport.socket")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *paths], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_the_service_stays_as_closed_as_it_is(installed: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}"]
    done = subprocess.run([*command, str(installed / "homeport.service")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@needs_systemd
def test_the_account_and_the_directories_are_declared_in_a_form_systemd_reads(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None:
        pytest.skip("systemd-sysusers or systemd-tmpfiles is not installed")
    (tmp_path / "etc").mkdir()
    users = ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "homeport.sysusers.conf")]
    done = subprocess.run(users, capture_output=True, text=True)
    if "Operation not permitted" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("this account may not write another root's passwd")
    assert done.returncode == 0, done.stderr
    assert "homeport" in (tmp_path / "etc/passwd").read_text()
    files = ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(UNITS / "homeport.tmpfiles.conf")]
    assert subprocess.run(files, capture_output=True).returncode == 0
    assert (tmp_path / "var/lib/homeport").stat().st_mode & 0o777 == 0o700


def test_keepers_outlive_a_restart_of_the_gateway(service: configparser.SectionProxy) -> None:
    """Their processes are in the unit's control group, and their sockets in its runtime directory."""
    assert service["KillMode"] == "process"
    assert service["RuntimeDirectoryPreserve"] == "yes"


@pytest.mark.parametrize(
    "name",
    ["RestrictNamespaces", "PrivateUsers", "ProtectProc", "ProcSubset", "MemoryDenyWriteExecute", "PrivateDevices",
     "ProtectKernelTunables", "ProtectControlGroups", "ProtectKernelLogs", "ProtectHostname", "ProtectClock"],
)  # fmt: skip
def test_nothing_is_closed_that_bubblewrap_or_a_workspace_needs(service: configparser.SectionProxy, name: str) -> None:
    assert name not in service


def test_no_capability_comes_along_for_bubblewrap_would_refuse_to_start(service: configparser.SectionProxy) -> None:
    assert (service["AmbientCapabilities"], service["CapabilityBoundingSet"]) == ("", "")


def test_the_gateway_never_runs_as_root(service: configparser.SectionProxy) -> None:
    assert (service["User"], service["NoNewPrivileges"]) == ("homeport", "yes")
