"""A client's machine of its own: a network namespace with a cable to this one, which can be cut without a word."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from types import TracebackType
from typing import Self

# 198.18.0.0/15 is for tests of networks (RFC 2544 C.2.2), so no machine is reached by it.
_ADDRESSES = "198.18"
# Nobody's: what is sent there is dropped by whoever receives it, as by a firewall, and no error comes back.
_NOBODY = "02:00:00:00:00:01"


def why_no_far_machine() -> str:
    """Why this machine cannot have one; empty if it can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if shutil.which("ip") is None:
        return "ip is not installed; apt install iproute2"
    done = subprocess.run(["unshare", "-n", "true"], capture_output=True)
    return "" if done.returncode == 0 else f"no network namespaces here: {done.stderr.decode(errors='replace')}"


class FarMachine:
    """`with` has it there, connected; `address` is ours as seen from it."""

    def __init__(self) -> None:
        number = secrets.token_hex(3)
        self._name = f"hp-far-{number}"
        self._near, self._far = f"hpn{number}", f"hpf{number}"
        network = f"{_ADDRESSES}.{secrets.randbelow(256)}.{4 * secrets.randbelow(64)}".rsplit(".", 1)
        self.address, self._far_address = (f"{network[0]}.{int(network[1]) + host}" for host in (1, 2))

    def __enter__(self) -> Self:
        self._ip("netns", "add", self._name)
        try:
            self._ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._name)
            self._ip("addr", "add", f"{self.address}/30", "dev", self._near)
            self._ip("link", "set", self._near, "up")
            self._ip("-n", self._name, "addr", "add", f"{self._far_address}/30", "dev", self._far)
            self._ip("-n", self._name, "link", "set", self._far, "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def command(self, *words: str | bytes) -> list[str | bytes]:
        """The same, run there."""
        return ["ip", "netns", "exec", self._name, *words]

    def cut(self) -> None:
        """Nothing passes from now on, in either direction, and nobody is told."""
        self._ip("neigh", "replace", self._far_address, "lladdr", _NOBODY, "dev", self._near, "nud", "permanent")
        far = ("-n", self._name, "neigh", "replace", self.address, "lladdr", _NOBODY, "dev", self._far)
        self._ip(*far, "nud", "permanent")

    def mend(self) -> None:
        self._ip("neigh", "del", self._far_address, "dev", self._near)
        self._ip("-n", self._name, "neigh", "del", self.address, "dev", self._far)

    def _remove(self) -> None:
        self._ip("netns", "del", self._name)  # and with it the cable

    @staticmethod
    def _ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, timeout=20)
        assert done.returncode == 0, (words, done.stderr)
