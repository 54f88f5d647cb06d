"""Where the gateway is reached: SSH, HTTP and the control socket; opened, passed on, and taken back.

Belongs to the wiring like app.py. Closed, a door is only not answered: as long as somebody has a copy of its socket,
the kernel takes connections and keeps them in its queue, so a reload refuses nobody.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from admin_http import AdminServer, ApiSource
from admin_http.status import StatusSource
from gateway import notify
from gateway.config import Address, Config
from gateway.lobby.control import ControlServer
from gateway.reload import Door, Predecessor
from gateway.ssh.server import SshServer


class Doors:
    """`bind` has the addresses, `open` answers, `shut` stops answering, `leave` lets go of what another has by then."""

    def __init__(
        self, config: Config, *, ssh: SshServer, control: ControlServer, status: StatusSource, api: ApiSource
    ) -> None:
        self._config = config
        self._ssh = ssh
        self._status = status
        self._api = api
        self.control = control
        self._admin = self._new_admin()
        self._kept: dict[str, list[socket.socket]] = {}  # copies, while doors are shut

    @property
    def http_addresses(self) -> list[Address]:
        return self._admin.addresses

    @property
    def ssh_address(self) -> Address:
        host, port = self._ssh.address
        return Address(host=host, port=port)

    async def bind(self, predecessor: Predecessor | None) -> None:
        """Raises StartRefused with the fix."""
        await self._admin.bind(predecessor.sockets("http", self._asked("http")) if predecessor else ())
        inherited = predecessor.sockets("ssh", self._asked("ssh")) if predecessor else _from_systemd()
        await self._ssh.bind(inherited)
        listening = predecessor.sockets("control", "") if predecessor else []
        if listening:
            self.control.inherit(listening[0])
        else:
            self.control.open()

    async def open(self) -> None:
        await self._admin.serve()
        await self._ssh.listen()

    def doors(self) -> list[Door]:
        """To be passed on: copies, which the caller closes."""
        sockets = {"ssh": self._ssh.sockets, "http": self._admin.sockets, "control": [self.control.listening_socket]}
        return [Door(name, self._asked(name), sock) for name, found in sockets.items() for sock in found]

    async def shut(self) -> None:
        """Whoever has come in is served on; whoever comes waits."""
        self._kept = {"ssh": self._ssh.sockets, "http": self._admin.sockets}
        self.control.pause()
        await self._ssh.leave_to_others()
        await self._admin.leave_to_others()

    async def open_again(self) -> None:
        """After `shut`, when nobody else answered. Harmless if they were not shut."""
        kept, self._kept = self._kept, {}
        if not kept:
            return
        await self._admin.stop()
        self._admin = self._new_admin()
        await self._admin.bind(kept["http"])
        await self._ssh.bind(kept["ssh"])
        await self.open()
        self.control.resume()

    async def leave(self) -> None:
        """After `shut`: another gateway has them."""
        self.control.leave()
        self._close_kept()
        await self._admin.stop()

    async def close(self) -> None:
        """At the stop. Twice is harmless, and so is closing what was never opened."""
        self._ssh.stop_listening()
        self._close_kept()
        await self._admin.stop()
        self.control.close()

    def _close_kept(self) -> None:
        for sockets in self._kept.values():
            for sock in sockets:
                sock.close()
        self._kept = {}

    def _new_admin(self) -> AdminServer:
        return AdminServer(self._config.http, self._status, self._api)

    def _asked(self, name: str) -> str:
        """The address in the settings: where it has changed, the new gateway opens a door of its own."""
        return {"ssh": str(self._config.ssh.listen), "http": str(self._config.http.listen), "control": ""}[name]


def _from_systemd() -> Sequence[socket.socket]:
    inherited = notify.passed_listener("ssh")
    return () if inherited is None else (socket.socket(fileno=inherited),)
