"""What systemd is told, and which of its sockets are ours."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway import notify


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.ready()


@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_hears_that_the_gateway_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    address = f"@homeport-test-{os.getpid()}" if is_abstract else f"/tmp/hp-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert notify.ready("serving")
        assert systemd.recv(1024) == b"READY=1\nSTATUS=serving"
    Path(address).unlink(missing_ok=True)


def test_a_systemd_that_went_away_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    assert not notify.stopping()


def test_a_passed_socket_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_FDNAMES", "http:ssh")
    assert (notify.passed_listener("ssh"), notify.passed_listener("other")) == (4, None)


def test_sockets_passed_to_another_process_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "ssh")
    assert notify.passed_listener("ssh") is None


def test_a_replaced_gateway_waits_until_systemd_has_read_who_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd answers a barrier by closing the descriptor that came with it (sd_notify_barrier(3))."""
    path = f"/tmp/hp-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, ThreadPoolExecutor(1) as pool:
        systemd.bind(path)
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        told = pool.submit(notify.replaced_by, 4711)
        assert systemd.recv(1024) == b"MAINPID=4711"
        message, fds, _, _ = socket.recv_fds(systemd, 1024, 4)
        assert message == b"BARRIER=1"
        assert not told.done()
        os.close(fds[0])
        assert told.result(5)
    Path(path).unlink()


def test_without_systemd_a_replaced_gateway_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.replaced_by(4711)
