"""A client's X server that knows one cookie, and a program inside that shows it one."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

COOKIE = "00112233445566778899aabbccddeeff"
PROTOCOL = b"MIT-MAGIC-COOKIE-1"
PORT_OF_DISPLAY_0 = 6000
ANSWER = b"this is the client's own server"

# A program inside: finds the cookie as libX11 does, opens the display, prints what the server says.
PROGRAM = """
import os, socket, struct, subprocess
number = os.environ["DISPLAY"].rpartition(":")[2].partition(".")[0]
listed = subprocess.run(["xauth", "list", f"unix:{number}"], capture_output=True, text=True).stdout
cookie = bytes.fromhex(listed.split()[2])
with socket.create_connection(("localhost", 6000 + int(number)), 10) as x:
    name = b"MIT-MAGIC-COOKIE-1"
    x.sendall(struct.pack("<BxHHHHxx", 0x6C, 11, 0, len(name), len(cookie)) + name + bytes(2) + cookie)
    print(x.makefile("rb").read()[8:].rstrip(bytes(1)).decode())
"""


class XServer:
    """Answers each connection with a refusal, whose reason says whether the cookie was right."""

    def __init__(self, directory: Path) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))  # a port far above those of displays
        self.number = self._listener.getsockname()[1] - PORT_OF_DISPLAY_0
        self.cookies: list[bytes] = []
        authority = directory / "client-authority"
        subprocess.run(
            ["xauth", "-q", "-f", str(authority), "add", f"127.0.0.1:{self.number}", PROTOCOL.decode(), COOKIE],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        self.environment = {
            **os.environ, "DISPLAY": f"127.0.0.1:{self.number}", "XAUTHORITY": str(authority),
        }  # fmt: skip
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rb") as stream:
                head = stream.read(12)
                if len(head) < 12:
                    continue  # its client refused the cookie, which it knows better than we do
                name_bytes, cookie_bytes = struct.unpack("<6xHHxx", head)
                name = stream.read(-(-name_bytes // 4) * 4)[:name_bytes]
                self.cookies.append(stream.read(-(-cookie_bytes // 4) * 4)[:cookie_bytes])
                is_right = (name, self.cookies[-1].hex()) == (PROTOCOL, COOKIE)
                reason = ANSWER if is_right else b"wrong cookie"
                padded = reason + bytes(-len(reason) % 4)
                client.sendall(struct.pack("<BBHHH", 0, len(reason), 11, 0, len(padded) // 4) + padded)
